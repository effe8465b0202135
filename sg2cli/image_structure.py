"""What a picture file is made of, counted before Pillow decodes it.

A small file can ask for hours or gigabytes: by thousands of scans, directories that lie on one
another, a canvas that is never filled. Here the parts are walked once, in time that grows with the
file, and charged to a budget; no pixel is decoded.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from contextlib import suppress
from typing import Any

from sg2cli.budget import (
    MAX_BLOCKS,
    MAX_BYTES_OF_ITEMS,
    MAX_CODE_BLOCKS,
    MAX_COEFFICIENTS,
    MAX_COMMENTS,
    MAX_EXIF_SEGMENTS,
    MAX_ICON_SIDE,
    MAX_ICONS,
    MAX_METADATA,
    MAX_PACKETS,
    MAX_PARTS,
    MAX_PARTS_IN_ALL,
    MAX_PIXELS,
    MAX_PIXELS_OF_FORMAT,
    MAX_SCANNED,
    MAX_SCANS,
    MAX_STRIPS,
    MAX_TAGS,
    MAX_TEXT,
    MAX_TILE,
    MAX_TILES,
    MIB,
    Budget,
    LimitExceeded,
)
from sg2cli.storage.reading import Source

BLOCK = 1 << 16
PNG = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IDAT", b"fdAT")  # Pillow keeps all other chunks, also those that it does not know
# Of a segment or the end; libjpeg passes restarts, and markers that mean nothing, byte by byte.
JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
SOS, EOI = 0xDA, 0xD9
J2K_SIZ, J2K_COD, J2K_SOT, J2K_SOD, J2K_EOC = 0xFF51, 0xFF52, 0xFF90, 0xFF93, 0xFFD9
J2K_OTHERWISE = (0xFF53, 0xFF5F)  # COC and POC
TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TIFF_SIZES |= {16: 8, 17: 8, 18: 8}
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
TIFF_TAGS = (256, 257, 258, 259, 273, 277, 278, 279, 284, 322, 323, 324, 325)
JPEG_IN_TIFF = (6, 7)
AVIF_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # and how many bytes precede their boxes
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
NOT_READ = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
}
AVIF_LISTS = (b"iinf", b"iloc", b"ipma", b"iref", b"grpl")


def budget_of(size: int) -> Budget:
    """For a picture file of so many bytes."""
    return Budget(
        parts=min(MAX_PARTS + size // 64, MAX_PARTS_IN_ALL),
        blocks=MAX_BLOCKS,
        comments=MAX_COMMENTS,
        exif_segments=MAX_EXIF_SEGMENTS,
        icons=MAX_ICONS,
        bytes_of_items=MAX_BYTES_OF_ITEMS,
        bytes_of_metadata=MAX_METADATA,
        scans=MAX_SCANS,
        pixels_of_scans=MAX_SCANNED,
        tags=MAX_TAGS,
        bytes_of_tags=size + MIB,
        strips=MAX_STRIPS,
        bytes_of_strips=size + MIB,
        tiles=MAX_TILES,
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
    walk = next((walk for magic, walk in WALKS.items() if start.startswith(magic)), None)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        walk = _webp
    if start[4:8] == b"ftyp":
        walk = _avif
    if not_read := _not_read(start):
        raise ValueError(
            f"it is a {not_read} file, which sg2 does not read: save it as a JPEG or PNG"
        )
    if walk is None:
        return 1
    try:
        return walk(_Cursor(source, sized), budget)
    except (struct.error, IndexError, ZeroDivisionError):
        return 1  # cut off, or nonsense


def _not_read(start: bytes) -> str | None:
    """The name of a common format that sg2 does not read."""
    if start[4:8] == b"ftyp":
        return "HEIC" if start[8:12] in HEIC else None
    return next((name for magic, name in NOT_READ.items() if start.startswith(magic)), None)


class _Cursor:
    """Reads onwards in small pieces, from a place on; IndexError at the end."""

    def __init__(self, source: Source, sized: bool, begin: int = 0, end: int | None = None) -> None:
        self.source, self.sized, self.at = source, sized, begin
        self.size = source.size if end is None else min(end, source.size)
        self._block, self._begin = b"", 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if self.at + count > self.size:
            raise IndexError("the end of the file")
        first = self.at - self._begin
        if first < 0 or first + count > len(self._block):
            self._fill(count)
            first = 0
        self.at += count
        return self._block[first : first + count]

    def part(self, begin: int, size: int) -> _Cursor:
        """A cursor of its own for so many bytes."""
        return _Cursor(self.source, self.sized, begin, begin + size)

    def check_pixels(self, format: str, width: int, height: int, coefficients: int = 0) -> None:
        if self.sized:
            check_pixels(format, width, height, coefficients)

    def _fill(self, count: int) -> None:
        size = min(max(BLOCK, count), self.size - self.at)
        self._block, self._begin = bytes(self.source.read(size, self.at)), self.at

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def find(self, pattern: re.Pattern[bytes]) -> int:
        """Go behind the next match of two bytes, and give the second."""
        while self.at + 2 <= self.size:
            first = self.at - self._begin
            if not 0 <= first <= len(self._block) - 2:
                self._fill(2)
                first = 0
            if match := pattern.search(self._block, first):
                self.at = self._begin + match.end()
                return match[1][0]
            self.at = self._begin + len(self._block) - 1
        raise IndexError("the end of the file")


def _png(cursor: _Cursor, budget: Budget, max_side: int = 1 << 31) -> int:
    """PNG specification, section 5: chunks of a length, a kind, content and a checksum."""
    pictures, pixels, data = 1, 0, 0
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
            if data > 16 * pixels + MIB:  # a pixel has up to eight bytes; Pillow reads the rest
                raise LimitExceeded(f"it has more than {data - 1:,} bytes for {pixels:,} pixels")
        else:
            budget.charge("bytes_of_metadata", length)
        if kind == b"acTL" and cursor.unpack(">I")[0] > 1:
            pictures = 2
        cursor.at = begin + length + 4
        if kind == b"IEND":
            break
    return pictures


def _jpeg(cursor: _Cursor, budget: Budget) -> int:
    """ITU T.81, annex B: segments, and behind some of them scans, each of which has all pixels."""
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
    return 1  # further ones, of phones, are previews


def _gif(cursor: _Cursor, budget: Budget) -> int:
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
            budget.charge("blocks")
            if kind == b"!":
                budget.charge("bytes_of_metadata", size)
            cursor.at += size
            if cursor.at > cursor.size:
                return max(pictures, 1)
    return max(pictures, 1)


def _webp(cursor: _Cursor, budget: Budget) -> int:
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


def _tiff(cursor: _Cursor, budget: Budget) -> int:
    """TIFF 6.0, and BigTIFF: the first directory, with what its tags claim."""
    start = cursor.take(8)
    if start[:4] == b"MM\0+":  # libtiff and Pillow take it for different things
        raise LimitExceeded("it is a BigTIFF of big-endian numbers: save it as a PNG")
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
        if tag in counts and tag in TIFF_TAGS:  # of which libtiff takes the first, Pillow the last
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


def _charge_jpegs(cursor: _Cursor, lists: dict[int, tuple[str, int]], budget: Budget) -> None:
    """Walk the JPEG of each strip or tile; many may be one and the same, and each is decoded."""
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
            _jpeg(cursor.part(begin, length), own)
        budget.charge("pixels_of_scans", times * own.used["pixels_of_scans"])


def _check_strips(values: dict[int, int], counts: dict[int, int], budget: Budget) -> None:
    """LimitExceeded for more strips or tiles than cover the picture: each is decoded.

    And for tiles that are far larger than the picture, as each is decoded as a whole.
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
            f"its tiles have {tile_width:,} x {tile_height:,} pixels, far more than its picture, "
            f"{width:,} x {height:,}"
        )
    if min(across, down) < 1:
        raise LimitExceeded("its strips or tiles have no size")
    needed = -(-width // across) * -(-height // min(down, max(height, 1)))
    needed *= max(1, values.get(277, 1)) if values.get(284) == 2 else 1
    if strips > needed:
        raise LimitExceeded(f"it has {strips:,} strips or tiles, and its picture needs {needed:,}")


def _jp2(cursor: _Cursor, budget: Budget) -> int:
    """JPEG 2000, annex I: boxes, one of which has the codestream."""
    while True:
        length, kind = cursor.unpack(">I4s")
        begin = cursor.at
        budget.charge("parts")
        if length == 1:
            length = cursor.unpack(">Q")[0] - 8
        if kind == b"jp2c":
            return _j2k(cursor, budget)
        if kind == b"jp2h":  # made of boxes
            budget.charge("bytes_of_metadata", max(length - 8, 0))
            continue
        if length < 8:  # 0: up to the end
            return 1
        cursor.at = begin + length - 8


def _j2k(cursor: _Cursor, budget: Budget) -> int:
    """JPEG 2000, annex A: the main header, and that no tile and no component is coded otherwise.

    A decoder visits each packet, a layer of a precinct of a resolution of a component of a tile,
    and keeps a record of each code block.
    """
    cursor.take(2)
    size: tuple[int, ...] = ()
    counted, end = False, 0
    while True:
        begin = cursor.at
        marker, length = cursor.unpack(">2H")
        budget.charge("parts")
        if marker in J2K_OTHERWISE or (counted and marker == J2K_COD):
            raise LimitExceeded("it has tiles or components that are coded otherwise than the rest")
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


def _avif(cursor: _Cursor, budget: Budget) -> int:
    """ISO/IEC 23008-12: boxes in boxes; `meta` lists the items, and `moov` has several pictures.

    A decoder looks for each item in all of them, so that the lists have to be short.
    """
    ends = [cursor.size]  # of the boxes that this place is in
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


def _ico(cursor: _Cursor, budget: Budget) -> int:
    """An icon: a list of small pictures, each a PNG or a BMP, whatever size the list says."""
    (count,) = cursor.unpack("<4xH")
    budget.charge("icons", count)
    places = [cursor.unpack("<12xI")[0] for _ in range(count)]
    for place in places:
        one = cursor.part(place, cursor.size)  # Pillow reads on behind the size that the list says
        with suppress(struct.error, IndexError):  # cut off
            if one.take(8) == PNG:
                one.at = place
                _png(one, budget, MAX_ICON_SIDE)
            else:
                one.at = place
                width, height = one.unpack("<4x2i")
                _check_side(width, abs(height) // 2, MAX_ICON_SIDE)  # with its mask below
    return 1


def _check_side(width: int, height: int, limit: int) -> None:
    if max(width, height) > limit:
        raise LimitExceeded(
            f"it has an icon of {width:,} x {height:,} pixels, and a side of an icon may have "
            f"{limit:,}: save it as a PNG"
        )


def _ppm_text(cursor: _Cursor, budget: Budget) -> int:
    """A PBM, PGM or PPM as text: Pillow copies a block for each of its comments."""
    if cursor.size > MAX_TEXT:
        raise LimitExceeded(f"it has more than {MAX_TEXT:,} bytes as text: save it as a PNG")
    while cursor.at < cursor.size:
        block = cursor.take(min(BLOCK, cursor.size - cursor.at))
        budget.charge("comments", len(re.findall(rb"#[^\r\n]*", block)))
    return 1


WALKS = {
    PNG: _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II\0*": _tiff,  # wrong, and Pillow reads them nevertheless
    b"MM*\0": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"\0\0\0\x0cjP  ": _jp2,
    b"\xff\x4f\xff\x51": _j2k,
    b"\0\0\1\0": _ico,
    **dict.fromkeys((b"P1", b"P2", b"P3"), _ppm_text),
}


def check_pixels(format: str, width: int, height: int, coefficients: int = 0) -> None:
    """LimitExceeded for a picture that has more pixels than are decoded of its format.

    `coefficients`: how many the decoder holds for each pixel.
    """
    limit = MAX_PIXELS_OF_FORMAT.get(format, MAX_PIXELS)
    if coefficients:
        limit = min(limit, MAX_COEFFICIENTS // coefficients)
    if width * height > limit:
        raise LimitExceeded(
            f"it unpacks to more than {limit >> 20} million pixels: reduce it first"
        )
