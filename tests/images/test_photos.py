"""Users' images of every kind: right, or refused in one line."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.limits import budget_of
from sg2cli.images.photos import FORMATS, read_photo
from sg2cli.images.pillow import _guarded, opened
from sg2cli.storage.reading import Source

SIZE = 32
RAMP = np.stack(
    np.broadcast_arrays(np.linspace(0, 255, SIZE)[:, None], np.linspace(255, 0, SIZE)[None], 128.0),
    axis=2,
).astype(np.uint8)


def saved(tmp_path: Path, image: Any, name: str = "photo.png", **options: Any) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def rgb() -> Any:
    return PIL.Image.fromarray(RAMP)


def near(pixels: Any, expected: Any, within: float = 1) -> bool:
    return bool(abs(pixels.astype(float) - expected).max() <= within)


MODES: dict[str, tuple[Callable[[], Any], str, float]] = {
    "rgb": (rgb, "png", 0),
    "jpeg": (rgb, "jpg", 12),
    "webp": (rgb, "webp", 30),
    "tiff": (rgb, "tiff", 0),
    "bmp": (rgb, "bmp", 0),
    "cmyk": (lambda: rgb().convert("CMYK"), "tiff", 2),
    "palette": (lambda: rgb().quantize(256), "png", 40),
    "opaque alpha": (lambda: rgb().convert("RGBA"), "png", 0),
    "ycbcr": (lambda: rgb().convert("YCbCr"), "tiff", 3),
    "compressed ycbcr": (lambda: rgb().convert("YCbCr"), "lzw.tiff", 3),
}
# Pillow reads these without compression since 13, which Python 3.10 has not.
OLD_PILLOW = int(PIL.__version__.partition(".")[0]) < 13


@pytest.mark.parametrize("kind", MODES)
def test_images_of_any_mode_are_read_as_they_look(tmp_path: Path, kind: str) -> None:
    make, suffix, within = MODES[kind]
    options = {"compression": "tiff_lzw"} if suffix == "lzw.tiff" else {}
    path = saved(tmp_path, make(), f"photo.{suffix}", **options)
    if kind == "ycbcr" and OLD_PILLOW:
        with pytest.raises(Sg2Error, match="truncated"):
            read_photo(path, (SIZE, SIZE), 3)
    else:
        assert near(read_photo(path, (SIZE, SIZE), 3).pixels, RAMP, within)


GREY = np.linspace(0, 255, SIZE * SIZE).reshape(SIZE, SIZE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PIL.Image.fromarray(GREY.astype(np.uint8)),
        lambda: PIL.Image.fromarray((GREY * 257).round().astype(np.uint16)),
        lambda: PIL.Image.fromarray((GREY / 255).astype(np.float32)),
    ],
    ids=["8 bits", "16 bits", "float"],
)
def test_grey_of_any_depth_has_the_same_brightness(tmp_path: Path, make: Any) -> None:
    path = saved(tmp_path, make(), "photo.tiff")
    assert near(read_photo(path, (SIZE, SIZE), 1).pixels[:, :, 0], GREY)
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, GREY[:, :, None])


def tiff(pixels: Any, bits: int, kind: int = 1, white_is_zero: bool = False) -> bytes:
    """Grey pixels [32,32] in a TIFF: of kind 1 unsigned, 2 signed, 3 floating point."""
    data = pixels.tobytes()
    fields = {256: 32, 257: 32, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 277: 1, 278: 32}
    fields |= {273: 8, 279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, fields[tag]) for tag in sorted(fields))
    start = b"II*\0" + struct.pack("<I", 8 + len(data))
    return start + data + struct.pack("<H", len(fields)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("dtype", "bits", "kind", "highest"),
    [("u1", 8, 1, 255), ("<u2", 16, 1, 65535), ("<f4", 32, 3, 1)],
)
def test_tiffs_whose_zero_is_white(
    tmp_path: Path, dtype: str, bits: int, kind: int, highest: float
) -> None:
    values = GREY / 255 * highest
    stored = values if kind == 3 else values.round()
    for white in (False, True):
        content = tiff((highest - stored if white else stored).astype(dtype), bits, kind, white)
        assert near(read_photo(content, (SIZE, SIZE), 3).pixels, GREY[:, :, None])


def test_tiffs_of_12_bits(tmp_path: Path) -> None:
    """Two pixels in three bytes; 4095 is white."""
    pairs = (GREY / 255 * 4095).round().astype(int).reshape(-1, 2)
    first, second = pairs.T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    content = tiff(packed.astype(np.uint8), 12)
    assert near(read_photo(content, (SIZE, SIZE), 3).pixels, GREY[:, :, None])


@pytest.mark.parametrize("dtype", ["i1", "<i2"])
def test_numbers_below_zero_are_refused(dtype: str) -> None:
    """Of which nobody knows what is black."""
    content = tiff((GREY - 128).astype(dtype), 8 * np.dtype(dtype).itemsize, kind=2)
    with pytest.raises(Sg2Error, match="stdin"):
        read_photo(content, (SIZE, SIZE), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 2.0])
def test_floats_that_are_no_brightness_are_refused(tmp_path: Path, value: float) -> None:
    values = np.full((SIZE, SIZE), 0.5, np.float32)
    values[3, 4] = value
    with pytest.raises(Sg2Error, match="photo.tiff"):
        read_photo(saved(tmp_path, PIL.Image.fromarray(values), "photo.tiff"), (SIZE, SIZE), 3)


@pytest.mark.parametrize(
    ("background", "colour"),
    [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("black", (0, 0, 0))],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, mode: str, background: str, colour: Any
) -> None:
    image = PIL.Image.new("RGBA", (SIZE, SIZE), (90, 90, 90, 255))
    image.paste((200, 0, 0, 0), (0, 0, SIZE // 2, SIZE))
    path = saved(tmp_path, image.convert(mode))
    pixels = read_photo(path, (SIZE, SIZE), 3, background=background).pixels
    assert near(pixels[:, : SIZE // 2 - 2], np.array(colour))
    assert near(pixels[:, SIZE // 2 + 2 :], 90)


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    path = saved(tmp_path, PIL.Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 128)))
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, 127)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_read_upright(tmp_path: Path, orientation: int) -> None:
    """The camera turned the pixels, and says how to turn them back."""
    back = {
        1: None,
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90,  # the undoing of 270
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }[orientation]
    turned = rgb() if back is None else rgb().transpose(back)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, turned, exif=exif)
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, RAMP, 0)


def test_an_icc_profile_is_applied(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path, rgb(), icc_profile=profile)
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, RAMP, 2)


def swapped_profile() -> bytes:
    """sRGB in which red and blue change places: their tags point at one another."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize(
    ("make", "suffix", "within"),
    [
        (rgb, "png", 4),
        (rgb, "jpg", 14),
        (lambda: rgb().convert("RGBA"), "png", 4),
        (lambda: rgb().quantize(256), "png", 40),
        (lambda: rgb().quantize(256), "tiff", 40),
    ],
    ids=["rgb", "jpeg", "alpha", "palette", "palette in tiff"],
)
def test_an_icc_profile_counts_in_any_mode(
    tmp_path: Path, make: Callable[[], Any], suffix: str, within: float
) -> None:
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(tmp_path, make(), f"a.{suffix}", icc_profile=swapped_profile(), **options)
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, RAMP[:, :, ::-1], within)


def test_a_profile_of_grey_counts_with_alpha(tmp_path: Path) -> None:
    """Grey of linear light is shown brighter than its numbers, transparent or not."""
    profile = bytearray(swapped_profile())
    profile[16:20] = b"GRAY"
    at = profile.index(b"rTRC")
    profile[at : at + 4] = b"kTRC"
    curve = int.from_bytes(profile[at + 4 : at + 8], "big")
    profile[curve : curve + 14] = b"curv" + bytes(4) + b"\0\0\0\1" + b"\1\0"  # gamma 1
    grey = PIL.Image.fromarray(RAMP[:, :, 0])
    shown = [
        read_photo(saved(tmp_path, image, icc_profile=bytes(profile)), (SIZE, SIZE), 1).pixels
        for image in (grey, grey.convert("LA"))
    ]
    assert near(shown[0], shown[1])
    assert 180 < shown[0][SIZE // 2, 0, 0] < 195  # half of the light


def test_a_transparent_colour_and_a_profile(tmp_path: Path) -> None:
    """The colour is one of the file's own, before the profile means anything."""
    hidden = tuple(map(int, RAMP[5, 5]))
    path = saved(tmp_path, rgb(), transparency=hidden, icc_profile=swapped_profile())
    expected = RAMP[:, :, ::-1].copy()
    expected[5, 5] = 255
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, expected, 4)


def test_lab_is_read_as_it_looks(tmp_path: Path) -> None:
    spaces = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    muted = PIL.Image.fromarray((RAMP * 0.4 + 70).astype(np.uint8))
    lab = ImageCms.profileToProfile(muted, *spaces, outputMode="LAB")
    assert near(
        read_photo(saved(tmp_path, lab, "a.tiff"), (SIZE, SIZE), 3).pixels, np.asarray(muted), 8
    )


def test_a_broken_icc_profile_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, rgb(), icc_profile=b"nonsense")
    assert near(read_photo(path, (SIZE, SIZE), 3).pixels, RAMP, 0)


def test_the_largest_square_is_cropped_from_the_middle_and_reduced(tmp_path: Path) -> None:
    wide = PIL.Image.new("RGB", (100, 40), "red")
    wide.paste((0, 0, 255), (30, 0, 70, 40))
    path = saved(tmp_path, wide)
    blue = np.array((0, 0, 255))
    assert near(read_photo(path, (16, 16), 3).pixels, blue, 0)
    assert near(read_photo(path, (16, 16), 3, crop=(30, 0, 40, 40)).pixels, blue, 0)
    assert near(read_photo(path, (16, 16), 3, crop=(0, 0, 20, 20)).pixels, np.array((255, 0, 0)), 0)
    squeezed = read_photo(path, (20, 20), 3, crop="none").pixels
    assert near(squeezed[:, 8:12], blue) and near(squeezed[:, :4], np.array((255, 0, 0)))


def test_a_target_is_reduced_as_nvidias_projector_does(tmp_path: Path) -> None:
    noise = PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 70, 3), np.uint8))
    expected = noise.crop((10, 0, 60, 50)).resize((16, 16), PIL.Image.Resampling.LANCZOS)
    found = read_photo(saved(tmp_path, noise), (16, 16), 3).pixels
    assert near(found, np.array(expected), 0)


def test_a_box_beyond_the_photo_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, rgb())
    with pytest.raises(UsageError, match="reaches beyond .* 32 x 32"):
        read_photo(path, (16, 16), 3, crop=(10, 10, 30, 10))


def test_a_mask_lies_on_its_photo(tmp_path: Path) -> None:
    photo = saved(tmp_path, PIL.Image.new("RGB", (64, 32), "red"))
    mask = PIL.Image.new("L", (64, 32), 0)
    mask.paste(255, (16, 0, 32, 32))
    mask.paste(51, (32, 0, 40, 32))
    path = saved(tmp_path, mask, "mask.png")
    weights = read_photo(photo, (32, 32), 3, mask=path).mask
    assert weights is not None and weights.dtype == np.float32
    assert near(weights[:, :16], 1, 0) and near(weights[:, 16:24], 0.2, 1e-6)
    assert near(weights[:, 24:], 0, 0)
    first, second = (read_photo(photo, (32, 32), 3, mask=m) for m in (path, None))
    assert first.sha256 != second.sha256


def test_a_mask_of_another_size_or_of_nothing_is_refused(tmp_path: Path) -> None:
    photo = saved(tmp_path, rgb())
    with pytest.raises(UsageError, match="10 x 10 pixels, .* is 32 x 32"):
        read_photo(photo, (16, 16), 3, mask=saved(tmp_path, PIL.Image.new("L", (10, 10)), "m.png"))
    with pytest.raises(UsageError, match="is black everywhere"):
        read_photo(photo, (16, 16), 3, mask=saved(tmp_path, PIL.Image.new("L", (32, 32)), "m.png"))


def test_whole_numbers_of_32_bits_are_refused(tmp_path: Path) -> None:
    """They may be of 0 to 255, to 65535 or to anything."""
    values = np.full((SIZE, SIZE), 200, np.int32)
    with pytest.raises(Sg2Error, match="32 bits per pixel"):
        read_photo(saved(tmp_path, PIL.Image.fromarray(values), "photo.tiff"), (SIZE, SIZE), 3)


def test_a_transparent_shade_of_16_bits(tmp_path: Path) -> None:
    values = np.full((SIZE, SIZE), 1000, np.uint16)
    values[:, SIZE // 2 :] = 51400
    path = saved(tmp_path, PIL.Image.fromarray(values), transparency=1000)
    pixels = read_photo(path, (SIZE, SIZE), 3, background="black").pixels
    assert near(pixels[:, : SIZE // 2 - 2], 0) and near(pixels[:, SIZE // 2 + 2 :], 200)


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = tmp_path / "gs"
    ghost.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\nexit 1\n")
    ghost.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "photo.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(Sg2Error, match="a PostScript file, which sg2 does not read"):
        read_photo(path, (16, 16), 3)
    assert not (tmp_path / "canary").exists()


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe, content = tmp_path / "pipe", saved(tmp_path, rgb()).read_bytes()
    os.mkfifo(pipe)
    thread = threading.Thread(target=pipe.write_bytes, args=(content,))
    thread.start()
    assert near(read_photo(pipe, (SIZE, SIZE), 3).pixels, RAMP, 0)
    thread.join()


def bomb() -> bytes:
    """A PNG of a few bytes that unpacks to 10 gigapixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">2I5B", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def icon_bomb() -> bytes:
    """An icon that says 256 x 256, of a PNG with 17000 x 17000 pixels."""
    file = io.BytesIO()
    PIL.Image.new("1", (17_000, 17_000)).save(file, "png")
    content = file.getvalue()
    return struct.pack("<3H4B2H2I", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(content), 22) + content


def animated(format: str) -> bytes:
    file = io.BytesIO()
    frames = [PIL.Image.new("RGB", (32, 32), colour) for colour in ("red", "green")]
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


def one_pixel() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"just some words\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (one_pixel(), "1 x 1 pixels: too few"),
        (bomb(), "more than 256 million pixels"),
        (icon_bomb(), "an icon of 17,000 x 17,000 pixels"),
        (animated("gif"), "holds several images"),
        (animated("png"), "holds several images"),
        (animated("webp"), "holds several images"),
        (animated("tiff"), "holds several images"),
    ],
    ids=["empty", "text", "svg", "one pixel", "bomb", "icon", "gif", "apng", "webp", "tiff"],
)
def test_files_that_are_not_photos_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(Sg2Error, match=says):
            read_photo(source, (32, 32), 3)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff", "gif"])
def test_a_truncated_photo_is_refused_at_every_tenth(tmp_path: Path, format: str) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, format)
    whole = file.getvalue()
    assert read_photo(whole, (32, 32), 3).pixels.shape == (32, 32, 3)
    for tenth in range(10):
        with pytest.raises(Sg2Error, match="stdin"):
            read_photo(whole[: len(whole) * tenth // 10], (32, 32), 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Sg2Error, match="cannot read .*gone.png: no such file"):
        read_photo(tmp_path / "gone.png", (32, 32), 3)


def png_of_zeros(side: int) -> bytes:
    """A black square of one bit a pixel."""
    file = io.BytesIO()
    PIL.Image.new("1", (side, side)).save(file, "png")
    return file.getvalue()


def test_the_limit_of_pillow_is_neither_changed_nor_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png_of_zeros(200))
    # Older releases apply it to crops as well, which are strips of a few megapixels here.
    monkeypatch.setattr("sg2cli.images.photos.STRIP", 2000)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 2000)
    with Source(path) as source, opened(source, FORMATS):
        assert PIL.Image.MAX_IMAGE_PIXELS == 2000
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no DecompressionBombWarning
        assert not read_photo(path, (32, 32), 3).pixels.any()
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(path)


def test_a_photo_beyond_the_limit_of_pillow_is_read() -> None:
    assert read_photo(png_of_zeros(14_000), (32, 32), 1).pixels.shape == (32, 32, 1)  # 196 million


def test_tags_that_another_thread_reads_are_not_counted(tmp_path: Path) -> None:
    theirs = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(theirs, "tiff")
    ours = tmp_path / "photo.tiff"
    ours.write_bytes(theirs.getvalue())
    budget = budget_of(1)
    with _guarded(budget):
        thread = threading.Thread(target=lambda: PIL.Image.open(theirs).load())
        thread.start()
        thread.join()
        assert budget.used["tags_read"] == 0
        PIL.Image.open(ours)
        assert budget.used["tags_read"] > 0


@pytest.mark.parametrize(
    ("photo", "crop", "text"),
    [
        ((400, 600), "center", "cropped 400x600 to its centre 400x400, scaled to 128x128"),
        ((128, 600), "center", "cropped 128x600 to its centre 128x128"),
        ((401, 300), (5, 6, 150, 150), "cropped 401x300 to 150x150 at 5,6, scaled to 128x128"),
        ((400, 300), (5, 6, 200, 100), "cropped 400x300 to 200x100 at 5,6, stretched to 128x128"),
        ((400, 600), "none", "stretched from 400x600 to 128x128"),
        ((256, 256), "center", "scaled from 256x256 to 128x128"),
        ((64, 64), "center", "scaled from 64x64 to 128x128"),
        ((128, 128), "center", ""),
    ],
)
def test_the_part_of_a_photo_that_is_used_is_stated(
    tmp_path: Path, photo: tuple[int, int], crop: Any, text: str
) -> None:
    path = saved(tmp_path, PIL.Image.new("RGB", photo, "red"))
    assert str(read_photo(path, (128, 128), 3, crop=crop).region) == text


def test_a_centre_rounded_to_whole_pixels_is_not_stretched(tmp_path: Path) -> None:
    path = saved(tmp_path, PIL.Image.new("RGB", (401, 301), "red"))
    region = read_photo(path, (16, 24), 3).region
    assert str(region) == "cropped 401x301 to its centre 401x267, scaled to 24x16"


def test_a_photo_turned_by_the_camera_is_described_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, PIL.Image.new("RGB", (60, 40), "red"), exif=exif)
    region = read_photo(path, (40, 40), 3).region
    assert str(region) == "cropped 40x60 to its centre 40x40"
