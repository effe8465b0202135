"""The hash inside a file: any change of its data shows, and its provenance does not count."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sg2cli.errors import Sg2Error
from sg2cli.images import codecs
from sg2cli.latents.files import Stream, inspect_latents, save_latents
from sg2cli.provenance import HASH_KEY, is_unchanged, payload_sha256, same_settings

RNG = np.random.RandomState(0)
PROVENANCE = {"seed": 5, "psi": 0.7}
SIZE = (16, 8)
FORMATS = ["png", "jpg", "webp"]


def image(channels: int = 3) -> Any:
    return RNG.randint(0, 256, (SIZE[1], SIZE[0], channels)).astype(np.uint8)


def written(path: Path, pixels: Any = None) -> bytes:
    content = codecs.encode(image() if pixels is None else pixels, path.suffix[1:], PROVENANCE)
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_file_is_kept(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    written(path)
    assert codecs.is_kept(path, PROVENANCE, SIZE)


@pytest.mark.parametrize("format", FORMATS)
def test_the_hash_covers_the_data_and_not_the_provenance(tmp_path: Path, format: str) -> None:
    pixels = image()
    first, second = (
        payload_sha256(io.BytesIO(codecs.encode(pixels, format, provenance)))
        for provenance in (PROVENANCE, {"b": "ü" * 50})
    )
    assert first == second
    assert first != payload_sha256(io.BytesIO(codecs.encode(image(), format, PROVENANCE)))


@pytest.mark.parametrize("format", FORMATS)
def test_every_byte_of_the_image_data_counts(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"a.{format}"
    content = written(path)
    provenance = codecs.inspect_image(path)[2]
    assert provenance
    start = content.index(b'"payload_sha256"') + 100  # the image data follow the provenance
    start = start if format != "webp" else 40
    end = len(content) if format != "webp" else content.index(b"EXIF")
    for at in range(start, end, 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert is_unchanged(path, provenance) is False, at


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", ["half", "painted", "resized", "longer"])
def test_a_changed_file_is_not_kept(tmp_path: Path, format: str, damage: str) -> None:
    """Though it says that the same settings made it."""
    path = tmp_path / f"a.{format}"
    content = written(path)
    if damage == "half":
        cut = content.index(b'"payload_sha256"') + 120 if format != "webp" else len(content) - 1
        path.write_bytes(content[: max(cut, len(content) // 2)])
    elif damage == "longer":
        path.write_bytes(content + b"more")
    else:
        with PIL.Image.open(path) as image:
            text = image.info.get("sg2") or image.getexif()[0x010E]
            exif = image.getexif()
            changed = image.resize((9, 9)) if damage == "resized" else image.copy()
        if damage == "painted":
            changed.paste("red", (0, 0, 16, 8))
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("sg2", text)
        changed.save(path, **({"pnginfo": info} if format == "png" else {"exif": exif}))
    with pytest.raises(Sg2Error, match=f"a.{format} "):
        codecs.is_kept(path, PROVENANCE, SIZE)


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_older_versions_are_decoded(tmp_path: Path, format: str) -> None:
    """They have no hash: they are kept if they decode and have the right size."""
    from PIL.PngImagePlugin import PngInfo

    path = tmp_path / f"a.{format}"
    info, exif = PngInfo(), PIL.Image.Exif()
    info.add_text("sg2", json.dumps(PROVENANCE))
    exif[0x010E] = json.dumps(PROVENANCE)
    PIL.Image.fromarray(image()).save(
        path, **({"pnginfo": info} if format == "png" else {"exif": exif})
    )
    assert codecs.is_kept(path, PROVENANCE, SIZE)
    with pytest.raises(Sg2Error, match="is 16x8 pixels instead of 8x8"):
        codecs.is_kept(path, PROVENANCE, (8, 8))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(Sg2Error, match=f"a.{format} "):
        codecs.is_kept(path, PROVENANCE, SIZE)


def test_latents_know_whether_they_were_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    ws = np.ones((2, 6, 16), np.float32)
    save_latents(path, {"ws": Stream(ws.shape, list(ws))}, PROVENANCE)
    provenance = inspect_latents(path)[1]
    assert same_settings(provenance, PROVENANCE) and provenance.keys() == {*PROVENANCE, HASH_KEY}
    assert is_unchanged(path, provenance)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x41")
    assert is_unchanged(path, provenance) is False
    assert is_unchanged(path, PROVENANCE) is None
