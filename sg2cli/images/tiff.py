"""The decoding cost of a TIFF, by its first directory, before Pillow decodes it."""

from __future__ import annotations

import struct
from collections import Counter
from contextlib import suppress

from sg2cli.images.cursor import Cursor
from sg2cli.images.jpeg import count_jpeg
from sg2cli.images.limits import budget_of
from sg2cli.storage.budget import MAX_TILE, Budget, LimitExceeded

TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
TIFF_TAGS = (256, 257, 258, 259, 273, 277, 278, 279, 284, 322, 323, 324, 325)
JPEG_IN_TIFF = (6, 7)


def count_tiff(cursor: Cursor, budget: Budget) -> int:
    """TIFF 6.0 and BigTIFF: the tags of the first directory."""
    start = cursor.take(8)
    if start[:4] == b"MM\0+":  # libtiff and Pillow interpret it differently
        raise LimitExceeded("it is a big-endian BigTIFF: save it as a PNG")
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] == b"+\0"
    (cursor.at,) = cursor.unpack(order + "Q") if big else struct.unpack(order + "I", start[4:])
    (count,) = cursor.unpack(order + ("Q" if big else "H"))
    budget.charge("tags", count)
    values: dict[int, int] = {}
    counts: dict[int, int] = {}
    lists: dict[int, tuple[str, int]] = {}  # the layout of all its numbers, and where they are
    for _ in range(count):
        tag, kind, number, value = cursor.unpack(order + ("2HQ8s" if big else "2HI4s"))
        size = number * TIFF_SIZES.get(kind, 1)
        if size > len(value):
            budget.charge("bytes_of_tags", size)
        if tag in counts and tag in TIFF_TAGS:  # libtiff uses the first, Pillow the last
            raise LimitExceeded(f"it has two tags {tag}: save it as a PNG")
        counts[tag] = number
        if kind in TIFF_NUMBERS and number:
            values[tag] = struct.unpack_from(order + TIFF_NUMBERS[kind], value)[0]
            place = cursor.at - len(value)
            if size > len(value):
                (place,) = struct.unpack(order + ("Q" if big else "I"), value)
            lists[tag] = (f"{order}{number}{TIFF_NUMBERS[kind]}", place)
    (following,) = cursor.unpack(order + ("Q" if big else "I"))
    _check_strips(values, counts, budget)
    if values.get(259) in JPEG_IN_TIFF:
        _charge_jpegs(cursor, lists, budget)
    return 2 if following else 1


def _charge_jpegs(cursor: Cursor, lists: dict[int, tuple[str, int]], budget: Budget) -> None:
    """Count the JPEG of each strip or tile; several may share data, but each is decoded."""
    found: list[tuple[int, ...]] = []
    for tags in ((273, 279), (324, 325)):
        if all(tag in lists for tag in tags):
            numbers = []
            for layout, cursor.at in (lists[tag] for tag in tags):
                numbers.append(cursor.unpack(layout))
            found += zip(*numbers, strict=False)
    for (begin, length), times in Counter(found).items():
        budget.charge("bytes_of_strips", length)
        own = budget_of(length)
        with suppress(struct.error, IndexError):  # cut off
            count_jpeg(cursor.part(begin, length), own)
        budget.charge("pixels_of_scans", times * own.used["pixels_of_scans"])


def _check_strips(values: dict[int, int], counts: dict[int, int], budget: Budget) -> None:
    """LimitExceeded for more strips or tiles than the image needs, as each is decoded.

    And for tiles far larger than the image, as each is decoded completely.
    """
    strips = max(counts.get(273, 0), counts.get(324, 0))
    budget.charge("strips", strips)
    width, height = values.get(256, 1), values.get(257, 1)
    across, down = width, values.get(278, height)
    if 324 in counts and 273 not in counts:
        across, down = values.get(322, width), values.get(323, height)
    tile_width, tile_height = values.get(322, 0), values.get(323, 0)
    if tile_width * tile_height > max(MAX_TILE, 2 * width * height):
        raise LimitExceeded(
            f"its tiles have {tile_width:,} x {tile_height:,} pixels, far more than its image, "
            f"{width:,} x {height:,}"
        )
    if min(across, down) < 1:
        raise LimitExceeded("its strips or tiles have no size")
    needed = -(-width // across) * -(-height // min(down, max(height, 1)))
    needed *= max(1, values.get(277, 1)) if values.get(284) == 2 else 1
    if strips > needed:
        raise LimitExceeded(f"it has {strips:,} strips or tiles, but its image needs {needed:,}")
