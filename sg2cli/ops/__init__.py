"""The tensor operations of the synthesis network."""
