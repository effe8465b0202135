"""The decoding cost of an AVIF: the lists of its items."""

from __future__ import annotations

from sg2cli.images.cursor import Cursor
from sg2cli.storage.budget import Budget

AVIF_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # and how many bytes precede their boxes
AVIF_LISTS = (b"iinf", b"iloc", b"ipma", b"iref", b"grpl")


def count_avif(cursor: Cursor, budget: Budget) -> int:
    """ISO/IEC 23008-12: boxes in boxes; `meta` lists the items, and `moov` has several images.

    A decoder searches all lists for each item, so they must be short.
    """
    ends = [cursor.size]  # of the enclosing boxes
    while ends:
        if cursor.at + 8 > ends[-1]:
            cursor.at = ends.pop()
            continue
        begin = cursor.at
        length, kind = cursor.unpack(">I4s")
        budget.charge("parts")
        if length == 1:
            (length,) = cursor.unpack(">Q")
        end = begin + length if length else cursor.size
        if kind == b"moov":
            return 2
        if kind in AVIF_LISTS:
            budget.charge("bytes_of_items", min(end, cursor.size) - begin)
        if kind in AVIF_CONTAINERS and begin + 8 < end <= ends[-1]:
            cursor.take(AVIF_CONTAINERS[kind])
            ends.append(end)
        elif end < cursor.at:
            return 1
        else:
            cursor.at = end
    return 1
