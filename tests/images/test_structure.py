"""Image files that ask for more work than they have bytes: counted, and refused by the count."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sg2cli.errors import Sg2Error
from sg2cli.images.limits import budget_of
from sg2cli.images.photos import STRIP, read_photo
from sg2cli.images.structure import count_images
from sg2cli.storage.budget import (
    MAX_PARTS,
    MAX_PARTS_IN_ALL,
    MAX_PHOTO,
    MAX_SCANS,
    MAX_TAGS,
    Budget,
    LimitExceeded,
)
from sg2cli.storage.reading import CountedFile, Source


def saved(image: Any, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(*shape: int) -> Any:
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


RGB = PIL.Image.fromarray(noise(64, 64, 3))
PALETTE = RGB.quantize(64)
PROGRESSIVE = saved(RGB, "jpeg", progressive=True)


def used(content: bytes) -> dict[str, int]:
    """What a file is charged."""
    budget = budget_of(len(content))
    count_images(Source(content), budget)
    return budget.used


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
    return PROGRESSIVE[:-2] + last * count + b"\xff\xd9"


def hidden_scans(count: int) -> bytes:
    """Behind a marker that means nothing, so that libjpeg reads what looks like its content."""
    last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
    return PROGRESSIVE[:-2] + (b"\xff\x02\xff\xff" + last) * count + b"\xff\xd9"


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunks(*chunks: bytes) -> bytes:
    content = saved(RGB, "png")
    return content[:33] + b"".join(chunks) + content[33:]


Tag = tuple[int, int, int, int]  # tag, kind, how many, value or where they are
GREY: dict[int, int] = {
    256: 32,
    257: 32,
    258: 8,
    259: 1,
    262: 1,
    273: 8,
    277: 1,
    278: 32,
    279: 1024,
}


def directory(tags: list[Tag], following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<2H2I", *tag) for tag in tags)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def tiff(changes: dict[int, Tag] | None = None, following: int = 0, data: bytes = b"") -> bytes:
    """Grey pixels [32,32], with other tags."""
    tags = {tag: (tag, 4, 1, value) for tag, value in GREY.items()} | (changes or {})
    pixels = bytes(1024) + data
    place = struct.pack("<I", 8 + len(pixels))
    return b"II*\0" + place + pixels + directory([tags[tag] for tag in sorted(tags)], following)


def overlapping_directories(count: int) -> bytes:
    """Each begins a few bytes behind the one before, inside of it."""
    first = tiff()
    begin = len(first)
    one = struct.pack("<H2H2I", 1, 256, 4, 1, 32)
    chain = b"".join(one + struct.pack("<I", begin + 18 * (i + 1)) for i in range(count))
    return tiff(following=begin) + chain


def exif(count: int) -> bytes:
    """Tags, each of which claims most of what is there."""
    size = 12 * count
    tags = [(tag, 7, size, 8) for tag in range(1000, 1000 + count)]
    return b"II*\0" + struct.pack("<I", 8) + directory(tags)


def exif_in_segments(content: bytes) -> bytes:
    """A JPEG without a density, for which Pillow looks into EXIF as soon as it opens the file."""
    parts = [content[at : at + 60_000] for at in range(0, len(content), 60_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts]
    return b"\xff\xd8" + b"".join(segments) + saved(RGB, "jpeg")[20:]


def webp_canvas(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sizes + b"VP8L" + struct.pack("<I", 4)
    return b"RIFF" + struct.pack("<I", len(chunks) + 8) + b"WEBP" + chunks + b"abcd"


def gif_with(extensions: bytes) -> bytes:
    content = saved(PALETTE, "gif")
    at = content.index(b",\0\0\0\0")
    return content[:at] + extensions + content[at:]


def j2k(**changes: Any) -> bytes:
    """A JPEG 2000 codestream whose header says something else of tiles, layers or code blocks."""
    content = bytearray(saved(RGB, "jpeg2000", no_jp2=True))
    size, coding = content.index(b"\xff\x51"), content.index(b"\xff\x52")
    if "tile" in changes:
        content[size + 22 : size + 30] = struct.pack(">2I", *[changes["tile"]] * 2)
    if "side" in changes:
        content[size + 6 : size + 14] = struct.pack(">2I", *[changes["side"]] * 2)
    if "layers" in changes:
        content[coding + 6 : coding + 8] = struct.pack(">H", changes["layers"])
    if "block" in changes:
        content[coding + 10 : coding + 12] = bytes([changes["block"]] * 2)
    return bytes(content)


def coded_otherwise() -> bytes:
    """A tile with a header of its own, which could say anything."""
    content = j2k()
    at = content.index(b"\xff\x93")  # where its data begin
    header = content[content.index(b"\xff\x52") :][:14]
    part = content.index(b"\xff\x90")
    length = struct.unpack(">I", content[part + 6 : part + 10])[0]
    start = content[: part + 6] + struct.pack(">I", length + 14) + content[part + 10 : at]
    return start + header + content[at:]


def bmp_that_skips() -> bytes:
    """Run lengths of which one skips 255 rows of 16 million pixels."""
    header = struct.pack("<I2i2H6I", 40, 1 << 24, 16, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<I2HI", 0, 0, 0, 1078) + header + bytes(1024) + b"\0\2\xff\xff" * 50


def exif_segments(count: int) -> bytes:
    content = saved(RGB, "jpeg")
    segment = b"\xff\xe1" + struct.pack(">H", 602) + b"Exif\0\0" + bytes(594)
    return content[:2] + segment * count + content[2:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def avif_of_items(count: int, meta: bytes = b"") -> bytes:
    """`meta` lists so many items, of which each is looked for among all."""
    items = b"".join(
        box(b"infe", b"\3\0\0\0" + struct.pack(">IH", i + 1, 0) + b"av01\0") for i in range(count)
    )
    lists = meta + box(b"iinf", b"\1\0\0\0" + struct.pack(">I", count) + items)
    start = box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")
    return start + box(b"meta", bytes(4) + lists) + box(b"mdat", bytes(100))


def several_scans(components: int, side: int, marker: int = 0xC0) -> bytes:
    """A JPEG whose components lie in scans of their own, so that libjpeg holds them all."""
    frame = b"".join(bytes([i, 0x11, 0]) for i in range(components))
    frame = struct.pack(">B2HB", 8, side, side, components) + frame
    scans = [bytes([1, i, 0, 0, 63, 0]) for i in range(components)]
    parts = [(marker, frame), *((0xDA, scan) for scan in scans)]
    segments = (bytes([0xFF, k]) + struct.pack(">H", len(p) + 2) + p for k, p in parts)
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xd9"


def icon(image: bytes, count: int = 1) -> bytes:
    """Which claims 64 pixels a side, whatever its image has."""
    entry = struct.pack("<4B2H2I", 64, 64, 0, 0, 1, 32, len(image), 6 + 16 * count)
    return struct.pack("<3H", 0, 1, count) + entry * count + image


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + header + chunk(b"IDAT") + chunk(b"IEND")


def dib(width: int, height: int) -> bytes:
    return struct.pack("<I2i2H6I", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)


def jpeg_strips(jpeg: bytes, count: int) -> bytes:
    """A TIFF of 16000 x 16 pixels a strip, of which all are the same JPEG."""
    lists = struct.pack(f"<{count}I", *[8] * count), struct.pack(f"<{count}I", *[len(jpeg)] * count)
    size, at = len(jpeg), 8 + len(jpeg)
    tags = [(256, 4, 1, 16_000), (257, 4, 1, 16 * count), (259, 4, 1, 7), (273, 4, count, at)]
    tags += [(278, 4, 1, 16), (279, 4, count, at + 4 * count)]
    place = struct.pack("<I", 8 + size + 8 * count)
    return b"II*\0" + place + jpeg + b"".join(lists) + directory(tags)


def scans_of_a_strip(count: int) -> bytes:
    frame = b"\xff\xc2" + struct.pack(">HB2HB", 11, 8, 16, 16_000, 1) + b"\1\x11\0"
    return b"\xff\xd8" + frame + (b"\xff\xda\0\10\1\1\0\1\1\0" + bytes(3)) * count + b"\xff\xd9"


def tiled(kind: int = 4, **sizes: int) -> bytes:
    """A TIFF of 64 x 64 pixels in tiles of another size."""
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (259, 4, 1, 8)]
    tags += [(322, kind, 1, sizes["width"]), (323, kind, 1, sizes["height"])]
    tags += [(324, 4, 1, 8), (325, 4, 1, 8)]
    return b"II*\0" + struct.pack("<I", 8) + directory(tags)


def with_magic(magic: bytes) -> bytes:
    """Of a TIFF with far too many strips, in either order."""
    content = tiff({273: (273, 4, 300_000, 1032)}, data=struct.pack("<I", 8) * 300_000)
    (place,) = struct.unpack("<I", content[4:8])
    if magic[:2] == b"II":
        return magic + content[4:]
    tags = [struct.unpack_from("<2H2I", content, place + 2 + 12 * i) for i in range(len(GREY))]
    entries = b"".join(struct.pack(">2H2I", *tag) for tag in tags)
    start = magic + struct.pack(">I", place) + content[8:place]
    return start + struct.pack(">H", len(tags)) + entries + bytes(4)


NEW_ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "comments of a P3": (lambda: b"P3 100 100 255\n" + b"#\n" * 2000, "more than 1,000 comments"),
    "comments of a P2": (lambda: b"P2 100 100 255\n" + b"#\r1 " * 2000, "more than 1,000 comments"),
    "comments of a P1": (lambda: b"P1 100 100\n" + b"#a\n1 " * 2000, "more than 1,000 comments"),
    "exif segments": (lambda: exif_segments(26_000), "more than 100 exif segments"),
    "items": (lambda: avif_of_items(100_000), "more than 131,072 bytes of items"),
    "places of items": (
        lambda: avif_of_items(1, box(b"iloc", bytes(1 << 20))),
        "more than 131,072 bytes of items",
    ),
    "properties of items": (
        lambda: avif_of_items(1, box(b"iprp", box(b"ipma", bytes(1 << 20)))),
        "more than 131,072 bytes of items",
    ),
    "boxes of an avif": (
        lambda: avif_of_items(1, box(b"iprp", box(b"ipco", box(b"free", b"") * 100_000))),
        "parts",
    ),
    "a video": (lambda: box(b"ftyp", b"avis" + bytes(4)) + box(b"moov", b""), "several images"),
    "a large tile": (lambda: tiled(width=26_000, height=26_000), "26,000 x 26,000 pixels"),
    "a large tile of signed numbers": (
        lambda: tiled(9, width=26_000, height=26_000),
        "26,000 x 26,000 pixels",
    ),
    "tiles without size": (lambda: tiled(width=0, height=16), "have no size"),
    "two widths": (
        lambda: b"II*\0" + struct.pack("<I", 8) + directory([(256, 4, 1, 9), (256, 4, 1, 8)]),
        "two tags 256",
    ),
    "a wrong start": (lambda: with_magic(b"II\0*"), "more than 262,144 strips"),
    "a wrong start of the other order": (lambda: with_magic(b"MM*\0"), "more than 262,144 strips"),
    "two meanings": (lambda: with_magic(b"MM\0+"), "big-endian"),
    "cmyk in scans": (lambda: several_scans(4, 16_000), "more than 96 million pixels"),
    "arithmetic in scans": (lambda: several_scans(3, 16_000, 0xC9), "more than 128 million pixels"),
    "scans of strips": (
        lambda: jpeg_strips(scans_of_a_strip(90), 1000),
        "more than 4,294,967,296 pixels of scans",
    ),
    "scans of a strip": (
        lambda: jpeg_strips(scans_of_a_strip(200), 2),
        "more than 100 scans",
    ),
    "tiles of jpeg 2000": (lambda: j2k(side=5000, tile=25), "more than 16,384 tiles"),
    "boxes of a jpeg 2000": (
        lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"jp2h", box(b"abcd", b"") * 100_000),
        "parts",
    ),
    "private chunks": (
        lambda: with_chunks(*[chunk(b"prVt", bytes(1 << 20))] * 65),
        "more than 67,108,864 bytes of metadata",
    ),
    "unknown chunks": (
        lambda: with_chunks(*[chunk(b"prvt", bytes(1 << 20))] * 65),
        "more than 67,108,864 bytes of metadata",
    ),
    "data behind the pixels": (
        lambda: saved(RGB, "png")[:-12] + chunk(b"IDAT", bytes(3 << 20)),
        "for 4,096 pixels",
    ),
    "an icon": (lambda: icon(png_of(16_000, 16_000)), "an icon of 16,000 x 16,000 pixels"),
    "an icon whose header comes late": (
        lambda: icon(png_of(16_000, 16_000, chunk(b"abCd"))),
        "an icon of 16,000 x 16,000 pixels",
    ),
    "an icon without png": (lambda: icon(dib(4_000, 4_000)), "an icon of 4,000 x 4,000 pixels"),
    "icons": (lambda: icon(dib(16, 16), 1000), "more than 256 icons"),
    "chunks of an icon": (
        lambda: icon(png_of(16, 16, chunk(b"abCd") * 100_000)),
        "parts",
    ),
    "blocks of a gif": (
        lambda: gif_with(b"")[:-1] + b",\0\0\0\0\1\0\1\0\0\2" + b"\1a" * 2_200_000 + b"\0;",
        "several images|more than 2,097,152 blocks",
    ),
}


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans": (lambda: scans(3000), "more than 100 scans"),
    "hidden scans": (lambda: hidden_scans(3000), "more than 100 scans"),
    "progressive": (
        lambda: re.sub(rb"(\xff\xc2...)....", rb"\g<1>" + b"\x2e\xe0" * 2, PROGRESSIVE, flags=re.S),
        "more than 128 million pixels",
    ),
    "segments": (
        lambda: PROGRESSIVE[:2] + b"\xff\xfe\0\2" * 50_000 + PROGRESSIVE[2:],
        r"more than \d\d,\d+ parts",
    ),
    "padding": (lambda: b"\xff\xd8" + b"\xff" * 20_000_000, "reads|not an image"),
    "exif in jpeg": (lambda: exif_in_segments(exif(40_000)), "more than 8,000 tags|^read$"),
    "exif in png": (lambda: saved(RGB, "png", exif=exif(40_000)), "more than 8,000 tags"),
    "exif in webp": (lambda: saved(RGB, "webp", exif=exif(40_000)), "more than 8,000 tags"),
    "chunks": (lambda: with_chunks(chunk(b"abCd") * 100_000), r"more than \d\d,\d+ parts"),
    "empty data": (lambda: with_chunks(chunk(b"IDAT") * 100_000), r"more than \d\d,\d+ parts"),
    "texts": (
        lambda: with_chunks(*[chunk(b"tEXt", b"a\0" + bytes(1 << 20))] * 65),
        "more than 67,108,864 bytes of metadata",
    ),
    "directories": (lambda: overlapping_directories(29_000), "several images"),
    "a directory that follows itself": (lambda: tiff(following=1032), "several images"),
    "tags": (
        lambda: tiff({t: (t, 7, 9_000, 8) for t in range(1000, 4000)}),
        "more than 1,000 tags",
    ),
    "tags that have the same size": (
        lambda: tiff({t: (t, 7, 40_000, 8) for t in range(1000, 1900)}, data=bytes(40_000)),
        "bytes of tags",
    ),
    "strips": (
        lambda: tiff({273: (273, 4, 5000, 1032)}, data=struct.pack("<I", 8) * 5000),
        "5,000 strips or tiles, but its image needs 1",
    ),
    "strips without number": (
        lambda: tiff({273: (273, 4, 300_000, 1032)}, data=struct.pack("<I", 8) * 300_000),
        "more than 262,144 strips",
    ),
    "canvas": (lambda: webp_canvas(16_383, 16_383), "more than 48 million pixels"),
    "comment": (
        lambda: gif_with(b"!\xfe" + (b"\xff" + bytes(255)) * 270_000 + b"\0"),
        "more than 67,108,864 bytes of metadata",
    ),
    "comments": (lambda: gif_with(b"!\xfe\1a\0" * 100_000), r"more than \d\d,\d+ parts"),
    "layers": (lambda: j2k(layers=65_535), "more than 4,194,304 packets"),
    "tiles": (lambda: j2k(side=5000, tile=2), "more than 16,384 tiles"),
    "code blocks": (lambda: j2k(side=5000, tile=5000, block=0), "more than 1,048,576 code blocks"),
    "pixels of jpeg 2000": (lambda: j2k(side=30_000), "more than 32 million pixels"),
    "coded otherwise": (coded_otherwise, "override the coding"),
    "a side": (bmp_that_skips, "16777216 x 16 pixels"),
    "decoded in Python": (
        lambda: b"qoif" + struct.pack(">2I", 4000, 4000) + b"\3\0" + b"\xfd" * 260_000,
        "more than 8 million pixels",
    ),
    **NEW_ATTACKS,
    "ascii": (lambda: b"P3 4000 4000 255\n" + b"1 " * 100_000, "more than 8 million pixels"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_images_that_ask_for_too_much_are_refused(name: str) -> None:
    make, message = ATTACKS[name]
    with pytest.raises(Sg2Error, match=message):
        read_photo(make(), (32, 32), 3)
        raise Sg2Error("read")


def test_what_is_counted() -> None:
    assert used(scans(20))["scans"] == PROGRESSIVE.count(b"\xff\xda") + 20 < MAX_SCANS
    assert used(scans(20))["pixels_of_scans"] == 64 * 64 * used(scans(20))["scans"]
    assert used(with_chunks(chunk(b"abCd") * 7))["parts"] == used(with_chunks())["parts"] + 7
    assert used(tiff())["tags"] == len(GREY)
    assert used(tiff({273: (273, 4, 1, 8)}))["strips"] == 1
    assert used(gif_with(b"!\xfe\5abcde\0" * 9))["bytes_of_metadata"] == 45
    assert used(j2k(layers=5))["packets"] == 5 * used(j2k())["packets"]


@pytest.mark.parametrize(
    "content",
    [
        *(saved(RGB, format) for format in ("png", "jpeg", "webp", "tiff", "bmp", "jpeg2000")),
        *(saved(RGB, "tiff", compression="tiff_lzw"), saved(PALETTE, "gif"), PROGRESSIVE),
        saved(
            PIL.Image.fromarray(noise(2000, 3000, 3)),
            "jpeg",
            progressive=True,
            restart_marker_rows=1,
        ),
        saved(PIL.Image.fromarray(noise(1000, 1000, 3)), "png"),
        saved(PIL.Image.fromarray(noise(1000, 1000, 3)), "jpeg2000", tile_size=(128, 128)),
    ],
)
def test_real_images_are_far_from_the_limits(content: bytes) -> None:
    budget = budget_of(len(content))
    assert count_images(Source(content), budget) == 1
    file = CountedFile(Source(content), budget)
    with PIL.Image.open(file) as image:  # type: ignore[arg-type]
        image.load()
    for what, count in budget.used.items():
        assert count <= 0.2 * budget.limits[what] + 1, what


def test_counting_reads_no_more_than_the_file() -> None:
    """Whatever the file says; else counting itself would be the attack."""

    class Counted(Source):
        total = 0

        def read(self, count: int, offset: int = 0) -> bytes | memoryview:
            self.total += count
            return super().read(count, offset)

    contents = [b"\xff\xd8\xff" + b"\xff\x01" * 500_000, b"\xff\xd8\xff" + b"\xff" * 1_000_000]
    contents += [with_chunks(chunk(b"abCd") * 20_000), gif_with(b"!\xfe\1a\0" * 15_000)]
    for content in contents:
        source = Counted(content)
        count_images(source, budget_of(len(content)))
        assert source.total < 2 * len(content) + 100_000


def test_pixels_are_converted_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels are those of the whole, turned and reduced at once."""
    wide = noise(300, 500, 3)
    options = {"exif": PIL.Image.Exif()}
    for orientation in range(1, 9):
        options["exif"][0x0112] = orientation
        content = saved(PIL.Image.fromarray(wide), "png", **options)
        whole = read_photo(content, (32, 32), 3, crop=(20, 30, 260, 170)).pixels
        with monkeypatch.context() as patch:
            patch.setattr("sg2cli.images.photos.STRIP", 260 * 7)
            assert (read_photo(content, (32, 32), 3, crop=(20, 30, 260, 170)).pixels == whole).all()
    assert STRIP < 1 << 24


@pytest.mark.parametrize(
    "start",
    [
        b"GIF89a",
        b"RIFF\xff\xff\xff\xffWEBP",
        b"\xff\xd8\xff\xe0\0\2",
        b"\x89PNG\r\n\x1a\n",
        b"P3 9 9 9\n",
    ],
)
@pytest.mark.parametrize("size", [MAX_PHOTO, MAX_PHOTO + 1, 30 << 30])
def test_little_of_a_sparse_file_is_read(start: bytes, size: int, tmp_path: Path) -> None:
    """Its size says that it has room for many parts."""
    path = tmp_path / "sparse"
    path.write_bytes(start)
    with path.open("rb+") as file:
        file.truncate(size)
    budget = budget_of(size)
    assert budget.limits["parts"] <= MAX_PARTS_IN_ALL
    if size > MAX_PHOTO:
        with pytest.raises(Sg2Error, match=f"more than the limit of {MAX_PHOTO:,} bytes"):
            read_photo(path, (32, 32), 3)
    else:
        with pytest.raises(Sg2Error):
            read_photo(path, (32, 32), 3)


def runs(width: int, height: int) -> bytes:
    """A BMP in run lengths, each of one pixel."""
    header = struct.pack("<I2i2H6I", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    rows = (b"\1\x80" * width + b"\0\0") * height + b"\0\1"
    return b"BM" + struct.pack("<I2HI", 0, 0, 0, 54 + 1024) + header + palette + rows


def small_data(image: Any, size: int) -> bytes:
    """A PNG whose pixels lie in chunks of so many bytes."""
    content = saved(image, "png")
    at, data = 33, b""
    while content[at + 4 : at + 8] == b"IDAT":
        (length,) = struct.unpack(">I", content[at : at + 4])
        data += content[at + 8 : at + 8 + length]
        at += 12 + length
    chunks = [chunk(b"IDAT", data[i : i + size]) for i in range(0, len(data), size)]
    return content[:33] + b"".join(chunks) + content[at:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: saved(PIL.Image.fromarray(noise(480, 640, 3)), "qoi"),
        lambda: runs(640, 480),
        lambda: b"P6 640 480 65535\n" + noise(480, 640, 6).tobytes(),
        lambda: b"P5 640 480 1023\n" + bytes(2 * 640 * 480),
        lambda: b"P2 640 480 255\n# by hand\n" + b"7 " * 640 * 480,
        lambda: small_data(PIL.Image.fromarray(noise(600, 800, 3)), 64),
        lambda: icon(
            png_of(256, 256)[:33] + saved(RGB.resize((256, 256)).convert("RGBA"), "png")[33:]
        ),
    ],
)
def test_images_that_are_decoded_byte_by_byte_are_read(make: Callable[[], bytes]) -> None:
    assert read_photo(make(), (32, 32), 3).pixels.shape == (32, 32, 3)


def test_a_decoder_reads_blocks() -> None:
    """Byte by byte, and a file is read block by block."""

    class Counted(Source):
        reads = 0

        def read(self, count: int, offset: int = 0) -> bytes | memoryview:
            self.reads += 1
            return super().read(count, offset)

    content = bytes(noise(100_000))
    source = Counted(content)
    file = CountedFile(source, Budget(reads=200_000, bytes_read=200_000))
    assert b"".join(iter(lambda: file.read(1), b"")) == content
    assert source.reads < 20
    file.seek(50_000)
    assert file.read(7) == content[50_000:50_007] and file.tell() == 50_007
    file.seek(10)
    assert file.read() == content[10:]


def test_several_images_of_an_avif_are_refused() -> None:
    frames = [PIL.Image.new("RGB", (32, 32), colour) for colour in ("red", "green")]
    content = saved(frames[0], "avif", save_all=True, append_images=frames[1:])
    with pytest.raises(Sg2Error, match="several images"):
        read_photo(content, (32, 32), 3)


def test_a_part_that_is_too_large_is_not_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sparse.avif"
    path.write_bytes(saved(RGB, "avif"))
    with path.open("rb+") as file:
        file.truncate(1 << 30)
    with pytest.raises(Sg2Error, match="more than 268,435,456 bytes at once"):
        read_photo(path, (32, 32), 3)


NOT_READ = {
    "HEIC": box(b"ftyp", b"heic\0\0\0\0mif1heic"),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "Photoshop": b"8BPS\0\1" + bytes(100),
    "PDF": b"%PDF-1.4\n",
}


@pytest.mark.parametrize("name", NOT_READ)
def test_formats_that_are_not_read_are_named(name: str) -> None:
    message = f"it is a {name} file, which sg2 does not read: save it as a JPEG or PNG"
    with pytest.raises(Sg2Error, match=message):
        read_photo(NOT_READ[name], (32, 32), 3)


@pytest.mark.parametrize("start", [b"P3 100 100 255\n", b"P2 9 9 9\n", b"P1 9 9\n"])
def test_no_bytes_are_quoted(start: bytes) -> None:
    with pytest.raises(Sg2Error) as error:
        read_photo(start + bytes(1000), (32, 32), 3)
    assert str(error.value) == "stdin cannot be used: it is damaged"


def test_what_libtiff_prints_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    options = {"compression": "tiff_adobe_deflate"}
    content = bytearray(saved(RGB, "tiff", **options))
    content[60:600] = bytes(540)
    for damaged in (
        bytes(content),
        saved(RGB, "tiff", **options)[:-300],
        bytes(tiled(width=64, height=64)),
    ):
        with pytest.raises(Sg2Error):
            read_photo(damaged, (32, 32), 3)
    assert capfd.readouterr().err == ""
    sys.stderr.write("afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_limits_are_reported() -> None:
    budget = budget_of(0)
    with pytest.raises(LimitExceeded, match=f"more than {MAX_PARTS:,} parts"):
        budget.charge("parts", MAX_PARTS + 1)
    with pytest.raises(LimitExceeded, match=f"more than {MAX_TAGS:,} tags"):
        budget.charge("tags", MAX_TAGS + 1)
