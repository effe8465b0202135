"""The decoding cost of a JPEG: its segments and scans."""

from __future__ import annotations

import re

from sg2cli.images.cursor import Cursor
from sg2cli.storage.budget import Budget

# Markers of segments and the end; libjpeg skips restarts and reserved markers byte by byte.
JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
SOS, EOI = 0xDA, 0xD9


def count_jpeg(cursor: Cursor, budget: Budget) -> int:
    """ITU T.81, annex B: segments, and scans, each of which covers all pixels."""
    pixels = width = height = components = 0
    progressive = False
    cursor.take(2)
    while (marker := cursor.find(JPEG_MARKER)) != EOI:
        begin = cursor.at
        budget.charge("parts")
        (length,) = cursor.unpack(">H")
        if marker in SOF:
            height, width, components = cursor.unpack(">x2HB")
            pixels = max(pixels, height * width)
            progressive = marker in PROGRESSIVE
        elif marker == SOS:
            budget.charge("scans")
            budget.charge("pixels_of_scans", pixels)
            if progressive or cursor.take(1)[0] < components:  # libjpeg holds all coefficients
                cursor.check_pixels("JPEG", width, height, components)
        elif marker >= 0xE0:
            budget.charge("bytes_of_metadata", length)
            if marker == 0xE1 and cursor.at + 6 <= cursor.size and cursor.take(6) == b"Exif\0\0":
                budget.charge("exif_segments")
        cursor.at = begin + max(length, 2)
    return 1  # further images, by phones, are previews
