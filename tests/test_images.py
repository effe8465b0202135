"""Pictures in files, sheets, and the writer beside the network."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from sg2cli import images
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.files import new_file
from sg2cli.provenance import HASH_KEY, is_unchanged

RNG = np.random.RandomState(0)
SIZE = (8, 8)
MADE_BY = {"checkpoint": "ab", "seed": 5, "psi": 1.0, "class": None, "note": "ü", "version": "1"}


def noise(channels: int, size: int = 8) -> Any:
    return RNG.randint(0, 256, (size, size, channels)).astype(np.uint8)


def without_hash(provenance: Any) -> Any:
    return {key: value for key, value in provenance.items() if key != HASH_KEY}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_gives_pixels_and_account_back(tmp_path: Path, channels: int) -> None:
    path, image = tmp_path / "a.png", noise(channels)
    path.write_bytes(images.encode(image, "png", MADE_BY))
    np.testing.assert_array_equal(images.read_image(path, image.shape), image)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    size, found, provenance = images.inspect(path)
    assert (size, found) == (SIZE, mode)
    assert provenance and without_hash(provenance) == MADE_BY


@pytest.mark.parametrize(("format", "pillow"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_every_format_is_what_it_says_and_tells_its_account(
    tmp_path: Path, format: str, pillow: str
) -> None:
    path = tmp_path / "misnamed"
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    path.write_bytes(images.encode(smooth, format, MADE_BY))
    with PIL.Image.open(path) as picture:
        assert picture.format == pillow
        found = np.asarray(picture.convert("RGB")).astype(int)
    assert abs(found - smooth).mean() < 3
    provenance = images.inspect(path)[2]
    assert provenance and without_hash(provenance) == MADE_BY


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_webp_takes_all_channels(channels: int) -> None:
    content = images.encode(noise(channels), "webp", {})
    assert PIL.Image.open(io.BytesIO(content)).size == (8, 8)


def test_rounding_is_that_of_the_field() -> None:
    """(img * 127.5 + 128), cut off at 0 and 255, truncated."""
    values = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.0039, 0.0040, 0.996, 1.0, 9.0])
    found = images.to_images(values.reshape(1, 1, 3, 3)).ravel().tolist()
    assert found == [0, 0, 0, 128, 128, 128, 254, 255, 255]
    assert images.to_images(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(Sg2Error, match="--precision"):
        images.to_images(torch.full((1, 3, 2, 2), value))


def test_formats_that_cannot_hold_a_picture_are_refused() -> None:
    with pytest.raises(UsageError, match="alpha"):
        images.check_format("jpg", 4, 64, 64)
    with pytest.raises(UsageError, match="beyond"):
        images.check_format("webp", 3, 16384, 64)
    images.check_format("jpg", 1, 65535, 64)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", images.encode(noise(3), "png", {})[:40]]
)
def test_what_is_no_picture_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for call in (images.inspect, lambda p: images.read_image(p, (8, 8, 3))):
        with pytest.raises(Sg2Error, match=r"a\.png"):
            call(path)


@pytest.mark.parametrize("text", ["no json", "[1]", "[" * 100_000])
def test_an_account_that_is_not_ours_is_none(tmp_path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("sg2", text)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert images.inspect(tmp_path / "a.png")[2] is None


def test_kept_is_what_the_same_settings_made(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert not images.is_kept(path, MADE_BY, SIZE)
    path.write_bytes(images.encode(noise(3), "png", MADE_BY))
    assert images.is_kept(path, MADE_BY, SIZE)
    assert images.is_kept(path, {**MADE_BY, "version": "2"}, SIZE)
    with pytest.raises(Sg2Error, match="other settings"):
        images.is_kept(path, {**MADE_BY, "psi": 0.5}, SIZE)


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_sheet_has_its_pictures_in_reading_order(
    tmp_path: Path, format: str, channels: int
) -> None:
    if format == "jpg" and channels in (2, 4):
        pytest.skip("jpg has no alpha")
    path = tmp_path / "sheet"
    cells = [np.full((16, 16, channels), 40 * i + 30, np.uint8) for i in range(5)]
    if format == "png":
        cells = [noise(channels, 16) for _ in range(5)]
    header = np.full((3, 48, channels), 200, np.uint8)
    with path.open("w+b") as file:
        sheet = images.Sheet(file, format, 3, 2, (16, 16, channels), MADE_BY, header)
        for cell in [*cells[:4], None, cells[4]]:
            sheet.append(cell)
        sheet.finish()
    size, _, provenance = images.inspect(path)
    assert size == (48, 35)
    assert provenance and without_hash(provenance) == MADE_BY
    assert is_unchanged(path, provenance)
    found = images.read_image(path, (35, 48, channels)).astype(int)
    bar = 0 if format == "png" else 3
    assert abs(found[:3] - 200).max() <= bar
    assert abs(found[3:19, 32:48] - cells[2]).max() <= bar
    assert abs(found[19:, :16] - cells[3]).max() <= bar
    assert abs(found[19:, 16:32] - 255).max() <= bar
    assert abs(found[19:, 32:] - cells[4]).max() <= bar


def test_an_unfinished_sheet_is_white(tmp_path: Path) -> None:
    path = tmp_path / "sheet"
    with path.open("w+b") as file:
        images.Sheet(file, "png", 2, 2, (4, 4, 3), {}).finish()
    assert (images.read_image(path, (8, 8, 3)) == 255).all()


def test_a_sheet_too_large_for_its_format_is_refused() -> None:
    with pytest.raises(UsageError, match="beyond what jpg holds"):
        images.Sheet(io.BytesIO(), "jpg", 2000, 1, (64, 64, 3), {})
    with pytest.raises(UsageError, match="too many"):
        images.Sheet(io.BytesIO(), "jpg", 1000, 1000, (64, 64, 3), {})


def test_a_large_png_sheet_takes_a_row_of_memory() -> None:
    """300 MB of pixels, of which no more than a few rows are held."""
    import tracemalloc

    class Nowhere(io.RawIOBase):
        def write(self, content: Any) -> int:
            return len(content)

        def tell(self) -> int:
            return 0

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

    cell = noise(3, 64)
    tracemalloc.start()
    sheet = images.Sheet(Nowhere(), "png", 100, 250, (64, 64, 3), {})  # type: ignore[arg-type]
    for _ in range(100 * 250):
        sheet.append(cell)
    sheet.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []
    wait = os.fsync

    def fsync(handle: int) -> None:
        wait(handle)
        synced.append(sorted(path.name for path in tmp_path.glob("[a-z]*")))

    monkeypatch.setattr(os, "fsync", fsync)
    with new_file(tmp_path / "a", durable=True) as file:
        file.write(b"whole")
    assert synced == [[], ["a"]]  # its content, and then the folder
    with new_file(tmp_path / "b") as file:
        file.write(b"whole")
    assert len(synced) == 2


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(ZeroDivisionError), new_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    with pytest.raises(Sg2Error, match="exists"), new_file(path) as file:
        file.write(b"two")
    assert path.read_bytes() == b"one"
    with new_file(path, overwrite=True) as file:
        file.write(b"three")
    assert path.read_bytes() == b"three"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_disks_without_links_do_not_lose_files_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    with new_file(tmp_path / "a") as file:
        file.write(b"one")
    with pytest.raises(Sg2Error, match="exists"), new_file(tmp_path / "a") as file:
        file.write(b"two")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_new_files_have_the_users_permissions(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as file:
        file.write(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_damaged_chunk_shows_no_objects_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = bytearray(images.encode(np.zeros((8, 8, 3), np.uint8), "png", {"seed": 1}))
    content[content.index(b"tEXt") + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(Sg2Error) as error:
        images.inspect(path)
    assert str(error.value) == f"{path} is damaged, or not an image that sg2 can read"
