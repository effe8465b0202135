"""The decoding cost of a JPEG 2000, counted before Pillow decodes it."""

from __future__ import annotations

import struct

from sg2cli.images.cursor import Cursor
from sg2cli.storage.budget import Budget, LimitExceeded

J2K_SIZ, J2K_COD, J2K_SOT, J2K_SOD, J2K_EOC = 0xFF51, 0xFF52, 0xFF90, 0xFF93, 0xFFD9
J2K_OTHERWISE = (0xFF53, 0xFF5F)  # COC and POC


def count_jp2(cursor: Cursor, budget: Budget) -> int:
    """JPEG 2000, annex I: boxes, one of which holds the codestream."""
    while True:
        begin = cursor.at
        length, kind = cursor.unpack(">I4s")
        budget.charge("parts")
        if length == 1:
            (length,) = cursor.unpack(">Q")
        if kind == b"jp2c":
            return count_j2k(cursor, budget)
        if kind == b"jp2h":  # made of boxes
            budget.charge("bytes_of_metadata", max(begin + length - cursor.at, 0))
            continue
        if begin + length < cursor.at:  # 0: up to the end
            return 1
        cursor.at = begin + length


def count_j2k(cursor: Cursor, budget: Budget) -> int:
    """JPEG 2000, annex A: the main header; tiles and components must not override it.

    A decoder visits every packet (a layer of a precinct of a resolution of a component of a tile),
    and keeps a record of every code block.
    """
    cursor.take(2)
    size: tuple[int, ...] = ()
    counted, end = False, 0
    while True:
        begin = cursor.at
        marker, length = cursor.unpack(">2H")
        budget.charge("parts")
        if marker in J2K_OTHERWISE or (counted and marker == J2K_COD):
            raise LimitExceeded("it has tiles or components that override the coding of the others")
        if marker == J2K_SIZ:
            size = cursor.unpack(">2x8IH")
            cursor.check_pixels("JPEG2000", size[0] - size[2], size[1] - size[3])
            budget.charge("tiles", _tiles(size))
        elif marker == J2K_COD:
            _charge_packets(size, cursor.take(length - 2), budget)
        elif marker == J2K_SOT:
            counted = True
            (part,) = cursor.unpack(">2xI")
            if not part:  # up to the end
                return 1
            end = begin + part
        elif marker == J2K_SOD:
            cursor.at = max(end, cursor.at)
            continue
        elif marker == J2K_EOC:
            return 1
        cursor.at = begin + 2 + length


def _charge_packets(size: tuple[int, ...], coding: bytes, budget: Budget) -> None:
    if len(size) != 9:
        raise ValueError("its coding style comes before its size")
    x1, y1, x0, y0, tile_width, tile_height, _, _, components = size
    style, _, layers, _, levels, block_x, block_y = struct.unpack_from(">2BH4B", coding)
    tiles = _tiles(size)
    width, height = min(tile_width, x1), min(tile_height, y1)
    for level in range(levels + 1):
        precinct = coding[10 + levels - level] if style & 1 else 0xFF
        across = -(-width // (1 << level + (precinct & 15))) + 1
        down = -(-height // (1 << level + (precinct >> 4))) + 1
        budget.charge("packets", tiles * across * down * components * layers)
    block = 1 << (block_x & 15) + (block_y & 15) + 4
    budget.charge("code_blocks", (x1 - x0) * (y1 - y0) * components // block)


def _tiles(size: tuple[int, ...]) -> int:
    x1, y1, _, _, tile_width, tile_height, tile_x, tile_y, _ = size
    return -(-(x1 - tile_x) // tile_width) * -(-(y1 - tile_y) // tile_height)
