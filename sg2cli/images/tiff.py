"""What the first directory of a TIFF claims, counted before Pillow decodes it."""

from __future__ import annotations

import struct

from sg2cli.images.cursor import Cursor
from sg2cli.storage.budget import Budget, LimitExceeded

TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_SIZES |= {16: 8, 17: 8, 18: 8}


def count_tiff(cursor: Cursor, budget: Budget) -> int:
    """TIFF 6.0, and BigTIFF: the first directory, with what its tags claim."""
    start = cursor.take(8)
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
    (cursor.at,) = cursor.unpack(order + "Q") if big else struct.unpack(order + "I", start[4:])
    (count,) = cursor.unpack(order + ("Q" if big else "H"))
    budget.charge("tags", count)
    values: dict[int, int] = {}
    counts: dict[int, int] = {}
    for _ in range(count):
        tag, kind, number, value = cursor.unpack(order + ("2HQ8s" if big else "2HI4s"))
        size = number * TIFF_SIZES.get(kind, 1)
        if size > len(value):
            budget.charge("bytes_of_tags", size)
        counts[tag] = number
        if kind in (3, 4, 16) and number:
            values[tag] = struct.unpack_from(order + {3: "H", 4: "I", 16: "Q"}[kind], value)[0]
    (following,) = cursor.unpack(order + ("Q" if big else "I"))
    _check_strips(values, counts, budget)
    return 2 if following else 1


def _check_strips(values: dict[int, int], counts: dict[int, int], budget: Budget) -> None:
    """LimitExceeded for more strips or tiles than cover the picture: each is decoded."""
    strips = max(counts.get(273, 0), counts.get(324, 0))
    budget.charge("strips", strips)
    width, height = values.get(256, 1), values.get(257, 1)
    across, down = width, values.get(278, height)
    if 324 in counts and 273 not in counts:
        across, down = values.get(322, width), values.get(323, height)
    needed = -(-width // across) * -(-height // min(down, max(height, 1)))
    needed *= max(1, values.get(277, 1)) if values.get(284) == 2 else 1
    if strips > needed:
        raise LimitExceeded(f"it has {strips:,} strips or tiles, and its picture needs {needed:,}")
