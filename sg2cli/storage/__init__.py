"""Files as they lie on the disk: read with limits, without trust in what they say."""
