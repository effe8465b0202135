"""The structure of an image file, checked before Pillow decodes it.

A small file can take hours or gigabytes to decode: thousands of scans, overlapping directories, a
canvas that is never filled. Here each part is visited once, in time proportional to the file, and
charged to a budget; no pixel is decoded.
"""

from __future__ import annotations

import re
import struct

from sg2cli.images.avif import count_avif
from sg2cli.images.cursor import BLOCK, Cursor
from sg2cli.images.jpeg import count_jpeg
from sg2cli.images.jpeg2000 import count_j2k, count_jp2
from sg2cli.images.png import PNG, count_ico, count_png
from sg2cli.images.tiff import count_tiff
from sg2cli.storage.budget import MAX_TEXT, Budget, LimitExceeded
from sg2cli.storage.reading import Source

HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
NOT_READ = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
}


def count_images(source: Source, budget: Budget, sized: bool = True) -> int:
    """The number of images in the file, by its structure: 1, or 2 for several.

    LimitExceeded for a file that exceeds its budget or, if `sized`, has too many pixels to decode.
    A damaged file counts as 1; Pillow reports what is wrong.
    """
    start = bytes(source.read(min(16, source.size)))
    count = next((count for magic, count in COUNTERS.items() if start.startswith(magic)), None)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        count = _webp
    if start[4:8] == b"ftyp":
        count = count_avif
    if not_read := _not_read(start):
        raise ValueError(
            f"it is a {not_read} file, which sg2 does not read: save it as a JPEG or PNG"
        )
    if count is None:
        return 1
    try:
        return count(Cursor(source, sized), budget)
    except (struct.error, IndexError, ZeroDivisionError):
        return 1  # truncated or invalid


def _not_read(start: bytes) -> str | None:
    """The name of a common format that sg2 does not read."""
    if start[4:8] == b"ftyp":
        return "HEIC" if start[8:12] in HEIC else None
    return next((name for magic, name in NOT_READ.items() if start.startswith(magic)), None)


def _gif(cursor: Cursor, budget: Budget) -> int:
    """GIF89a: extensions and images, each in blocks of up to 255 bytes."""
    _, flags, _ = cursor.unpack("<10sB2s")
    cursor.at += 3 << (flags & 7) + 1 if flags & 0x80 else 0
    images = 0
    while images < 2:
        kind = cursor.take(1)
        budget.charge("parts")
        if kind == b"!":
            cursor.take(1)
        elif kind == b",":
            images += 1
            flags = cursor.take(9)[8]
            cursor.at += 3 << (flags & 7) + 1 if flags & 0x80 else 0
            cursor.take(1)
        elif kind == b";":
            break
        else:
            continue
        while size := cursor.take(1)[0]:
            budget.charge("blocks")
            if kind == b"!":
                budget.charge("bytes_of_metadata", size)
            cursor.at += size
            if cursor.at > cursor.size:
                return max(images, 1)
    return max(images, 1)


def _webp(cursor: Cursor, budget: Budget) -> int:
    """The WebP container: chunks in a RIFF; VP8X has the canvas size, ANMF is a frame."""
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


def _ppm_text(cursor: Cursor, budget: Budget) -> int:
    """A PBM, PGM or PPM as text: Pillow copies a block for each of its comments."""
    if cursor.size > MAX_TEXT:
        raise LimitExceeded(f"it has more than {MAX_TEXT:,} bytes as text: save it as a PNG")
    while cursor.at < cursor.size:
        block = cursor.take(min(BLOCK, cursor.size - cursor.at))
        budget.charge("comments", len(re.findall(rb"#[^\r\n]*", block)))
    return 1


COUNTERS = {
    PNG: count_png,
    b"\xff\xd8\xff": count_jpeg,
    b"GIF8": _gif,
    b"II*\0": count_tiff,
    b"MM\0*": count_tiff,
    b"II\0*": count_tiff,  # invalid, but Pillow reads them
    b"MM*\0": count_tiff,
    b"II+\0": count_tiff,
    b"MM\0+": count_tiff,
    b"\0\0\0\x0cjP  ": count_jp2,
    b"\xff\x4f\xff\x51": count_j2k,
    b"\0\0\1\0": count_ico,
    **dict.fromkeys((b"P1", b"P2", b"P3"), _ppm_text),
}
