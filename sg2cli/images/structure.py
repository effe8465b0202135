"""What a picture file is made of, counted before Pillow decodes it.

A small file can ask for hours or gigabytes: by thousands of scans, directories that lie on one
another, a canvas that is never filled. Here the parts are visited once, in time that grows with the
file, and charged to a budget; no pixel is decoded.
"""

from __future__ import annotations

import re
import struct

from sg2cli.images.cursor import Cursor
from sg2cli.images.jpeg2000 import count_j2k, count_jp2
from sg2cli.images.tiff import count_tiff
from sg2cli.storage.budget import (
    MAX_CODE_BLOCKS,
    MAX_METADATA,
    MAX_PACKETS,
    MAX_PARTS,
    MAX_SCANNED,
    MAX_SCANS,
    MAX_STRIPS,
    MAX_TAGS,
    MIB,
    Budget,
)
from sg2cli.storage.reading import Source

PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
# Of a segment or the end; libjpeg passes restarts, and markers that mean nothing, byte by byte.
JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
SOS, EOI = 0xDA, 0xD9


def budget_of(size: int) -> Budget:
    """For a picture file of so many bytes."""
    return Budget(
        parts=MAX_PARTS + size // 1024,
        bytes_of_metadata=MAX_METADATA,
        scans=MAX_SCANS,
        pixels_of_scans=MAX_SCANNED,
        tags=MAX_TAGS,
        bytes_of_tags=size + MIB,
        strips=MAX_STRIPS,
        packets=MAX_PACKETS,
        code_blocks=MAX_CODE_BLOCKS,
        tags_read=8 * MAX_TAGS,
        bytes_of_tags_read=4 * size + MIB,
        reads=4 * MAX_PARTS + size // 64,
        bytes_read=4 * size + 16 * MIB,
    )


def count_pictures(source: Source, budget: Budget, sized: bool = True) -> int:
    """How many pictures are in the file, as far as its structure says so: 1, or 2 for several.

    LimitExceeded for a file that asks for more than its budget, or, if it is to be `sized`, that
    has too many pixels to decode. A damaged file is left to Pillow, which says what is wrong.
    """
    start = bytes(source.read(min(16, source.size)))
    count = next((count for magic, count in COUNTERS.items() if start.startswith(magic)), None)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        count = _webp
    if count is None:
        return 1
    try:
        return count(Cursor(source, sized), budget)
    except (struct.error, IndexError, ZeroDivisionError):
        return 1  # cut off, or nonsense


def _png(cursor: Cursor, budget: Budget) -> int:
    """PNG specification, section 5: chunks of a length, a kind, content and a checksum."""
    pictures = 1
    cursor.take(8)
    while cursor.at < cursor.size:
        length, kind = cursor.unpack(">I4s")
        begin = cursor.at
        budget.charge("parts")
        if kind in PNG_TEXTS:
            budget.charge("bytes_of_metadata", length)
        if kind == b"acTL" and cursor.unpack(">I")[0] > 1:
            pictures = 2
        cursor.at = begin + length + 4
        if kind == b"IEND":
            break
    return pictures


def _jpeg(cursor: Cursor, budget: Budget) -> int:
    """ITU T.81, annex B: segments, and behind some of them scans, each of which has all pixels."""
    pixels = 0
    cursor.take(2)
    while (marker := cursor.find(JPEG_MARKER)) != EOI:
        begin = cursor.at
        budget.charge("parts")
        (length,) = cursor.unpack(">H")
        if marker in SOF:
            _, height, width = cursor.unpack(">B2H")
            pixels = max(pixels, height * width)
            if marker in PROGRESSIVE:
                cursor.check_pixels("progressive JPEG", width, height)
        elif marker == SOS:
            budget.charge("scans")
            budget.charge("pixels_of_scans", pixels)
        elif marker >= 0xE0:
            budget.charge("bytes_of_metadata", length)
        cursor.at = begin + max(length, 2)
    return 1  # further ones, of phones, are previews


def _gif(cursor: Cursor, budget: Budget) -> int:
    """GIF89a: extensions and images, each in blocks of up to 255 bytes."""
    _, flags, _ = cursor.unpack("<10sB2s")
    cursor.at += 3 << (flags & 7) + 1 if flags & 0x80 else 0
    pictures = 0
    while pictures < 2:
        kind = cursor.take(1)
        budget.charge("parts")
        if kind == b"!":
            cursor.take(1)
        elif kind == b",":
            pictures += 1
            flags = cursor.take(9)[8]
            cursor.at += 3 << (flags & 7) + 1 if flags & 0x80 else 0
            cursor.take(1)
        elif kind == b";":
            break
        else:
            continue
        while size := cursor.take(1)[0]:
            if kind == b"!":
                budget.charge("bytes_of_metadata", size)
            cursor.at += size
            if cursor.at > cursor.size:
                return max(pictures, 1)
    return max(pictures, 1)


def _webp(cursor: Cursor, budget: Budget) -> int:
    """The container of WebP: chunks in a RIFF; VP8X has the canvas, and ANMF is a frame."""
    frames = 0
    cursor.take(12)
    while cursor.at + 8 <= cursor.size:
        kind, length = cursor.unpack("<4sI")
        begin = cursor.at
        budget.charge("parts")
        if kind == b"VP8X":
            w0, w1, h0, h1 = cursor.unpack("<4xHBHB")
            cursor.check_pixels("WEBP", (w0 | w1 << 16) + 1, (h0 | h1 << 16) + 1)
        elif kind in (b"EXIF", b"XMP ", b"ICCP"):
            budget.charge("bytes_of_metadata", length)
        frames += kind == b"ANMF"
        cursor.at = begin + length + length % 2
    return 2 if frames > 1 else 1


COUNTERS = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"II*\0": count_tiff,
    b"MM\0*": count_tiff,
    b"II+\0": count_tiff,
    b"MM\0+": count_tiff,
    b"\0\0\0\x0cjP  ": count_jp2,
    b"\xff\x4f\xff\x51": count_j2k,
}
