"""Image files: pixels, and what made them, there and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images import codecs
from sg2cli.provenance import HASH_KEY

RNG = np.random.RandomState(0)
SIZE = (8, 8)
PROVENANCE = {"checkpoint": "ab", "seed": 5, "psi": 1.0, "class": None, "note": "ü", "version": "1"}


def noise(channels: int, size: int = 8) -> Any:
    return RNG.randint(0, 256, (size, size, channels)).astype(np.uint8)


def without_hash(provenance: Any) -> Any:
    return {key: value for key, value in provenance.items() if key != HASH_KEY}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_gives_pixels_and_account_back(tmp_path: Path, channels: int) -> None:
    path, image = tmp_path / "a.png", noise(channels)
    path.write_bytes(codecs.encode(image, "png", PROVENANCE))
    np.testing.assert_array_equal(codecs.read_image(path, image.shape), image)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    size, found, provenance = codecs.inspect_image(path)
    assert (size, found) == (SIZE, mode)
    assert provenance and without_hash(provenance) == PROVENANCE


@pytest.mark.parametrize(("format", "pillow"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_every_format_is_what_it_says_and_holds_its_provenance(
    tmp_path: Path, format: str, pillow: str
) -> None:
    path = tmp_path / "misnamed"
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    path.write_bytes(codecs.encode(smooth, format, PROVENANCE))
    with PIL.Image.open(path) as image:
        assert image.format == pillow
        found = np.asarray(image.convert("RGB")).astype(int)
    assert abs(found - smooth).mean() < 3
    provenance = codecs.inspect_image(path)[2]
    assert provenance and without_hash(provenance) == PROVENANCE


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_webp_takes_all_channels(channels: int) -> None:
    content = codecs.encode(noise(channels), "webp", {})
    assert PIL.Image.open(io.BytesIO(content)).size == (8, 8)


def test_formats_that_cannot_hold_an_image_are_refused() -> None:
    with pytest.raises(UsageError, match="alpha"):
        codecs.check_format("jpg", 4, 64, 64)
    with pytest.raises(UsageError, match="beyond"):
        codecs.check_format("webp", 3, 16384, 64)
    codecs.check_format("jpg", 1, 65535, 64)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", codecs.encode(noise(3), "png", {})[:40]]
)
def test_other_files_are_refused_with_a_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for call in (codecs.inspect_image, lambda p: codecs.read_image(p, (8, 8, 3))):
        with pytest.raises(Sg2Error, match=r"a\.png"):
            call(path)


@pytest.mark.parametrize("text", ["no json", "[1]", "[" * 100_000])
def test_an_account_that_is_not_ours_is_none(tmp_path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("sg2", text)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert codecs.inspect_image(tmp_path / "a.png")[2] is None


def test_kept_is_what_the_same_settings_made(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert not codecs.is_kept(path, PROVENANCE, SIZE)
    path.write_bytes(codecs.encode(noise(3), "png", PROVENANCE))
    assert codecs.is_kept(path, PROVENANCE, SIZE)
    assert codecs.is_kept(path, {**PROVENANCE, "version": "2"}, SIZE)
    with pytest.raises(Sg2Error, match="other settings"):
        codecs.is_kept(path, {**PROVENANCE, "psi": 0.5}, SIZE)


def test_a_damaged_chunk_shows_no_objects_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = bytearray(codecs.encode(np.zeros((8, 8, 3), np.uint8), "png", {"seed": 1}))
    content[content.index(b"tEXt") + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(Sg2Error) as error:
        codecs.inspect_image(path)
    assert str(error.value) == f"{path} is damaged, or not an image that sg2 can read"
