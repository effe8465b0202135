"""The decoding cost of a PNG, and of an icon, which is a list of them."""

from __future__ import annotations

import struct
from contextlib import suppress

from sg2cli.images.cursor import Cursor
from sg2cli.storage.budget import MAX_ICON_SIDE, MIB, Budget, LimitExceeded

PNG = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IDAT", b"fdAT")  # Pillow keeps all other chunks, known or not


def count_png(cursor: Cursor, budget: Budget, max_side: int = 1 << 31) -> int:
    """PNG specification, section 5: chunks of a length, a kind, content and a checksum."""
    images, pixels, data = 1, 0, 0
    cursor.take(8)
    while cursor.at < cursor.size:
        length, kind = cursor.unpack(">I4s")
        begin = cursor.at
        budget.charge("parts")
        if kind == b"IHDR":
            width, height = cursor.unpack(">2I")
            _check_side(width, height, max_side)
            pixels = width * height
        if kind in PNG_PIXELS:
            data += length
            if data > 16 * pixels + MIB:  # pixels have up to 8 bytes; Pillow reads the rest
                raise LimitExceeded(f"it has more than {data - 1:,} bytes for {pixels:,} pixels")
        else:
            budget.charge("bytes_of_metadata", length)
        if kind == b"acTL" and cursor.unpack(">I")[0] > 1:
            images = 2
        cursor.at = begin + length + 4
        if kind == b"IEND":
            break
    return images


def count_ico(cursor: Cursor, budget: Budget) -> int:
    """An icon: a list of small images, each a PNG or a BMP of any size."""
    (count,) = cursor.unpack("<4xH")
    budget.charge("icons", count)
    places = [cursor.unpack("<12xI")[0] for _ in range(count)]
    for place in places:
        one = cursor.part(place, cursor.size)  # Pillow reads beyond the size in the list
        with suppress(struct.error, IndexError):  # cut off
            if one.take(8) == PNG:
                one.at = place
                count_png(one, budget, MAX_ICON_SIDE)
            else:
                one.at = place
                width, height = one.unpack("<4x2i")
                _check_side(width, abs(height) // 2, MAX_ICON_SIDE)  # with its mask below
    return 1


def _check_side(width: int, height: int, limit: int) -> None:
    if max(width, height) > limit:
        raise LimitExceeded(
            f"it has an icon of {width:,} x {height:,} pixels, more than {limit:,} per side: "
            "save it as a PNG"
        )
