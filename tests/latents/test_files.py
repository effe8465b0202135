"""Files of latents: written, read, and refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.files import Stream, inspect_latents, is_latents, save_latents
from sg2cli.latents.mapping import to_ws

from .test_sources import WS, G, opened, save_as


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("canary"),)


def test_pickles_in_arrays_are_never_loaded(in_tmp: Path) -> None:
    np.save("f.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez("f.npz", w=np.array([Evil()], dtype=object))
    for name in ("f.npy", "f.npz"):
        with pytest.raises(Sg2Error, match=f"{name} holds pickled Python objects"):
            opened(name)
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.safetensors"])
def test_a_file_cut_at_any_byte_is_refused(in_tmp: Path, name: str) -> None:
    save_as(name, ws=WS[:1])
    content = Path(name).read_bytes()
    for length in range(0, len(content), 1 if len(content) < 700 else 7):
        Path(name).write_bytes(content[:length])
        with pytest.raises(Sg2Error):
            list(opened(name))


def test_an_archive_that_unpacks_to_too_much_is_refused(in_tmp: Path) -> None:
    np.savez_compressed("f.npz", w=np.zeros((1 << 20, 16), "f4"))
    with pytest.raises(
        Sg2Error, match="unpacks from .* to 67,108,992 bytes, more than 20 times its size"
    ):
        opened("f.npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy"])
def test_saved_latents_come_back(in_tmp: Path, suffix: str) -> None:
    path = Path(f"saved{suffix}")
    streams = {"ws": Stream(WS.shape, iter(WS))}
    noise = np.random.RandomState(2).randn(3, 8, 8).astype("f4")
    if suffix != ".npy":
        streams["synthesis.b8.conv1.noise_const"] = Stream(noise.shape, iter(noise))
    save_latents(path, streams, {"checkpoint": "abc"})
    latents = opened(str(path))
    torch.testing.assert_close(to_ws(G, list(latents)), torch.from_numpy(WS), rtol=0, atol=0)
    if suffix != ".npy":
        found = [latent.noise["synthesis.b8.conv1.noise_const"] for latent in latents]
        np.testing.assert_array_equal(np.stack(found), noise)
    if suffix == ".safetensors":
        assert inspect_latents(path)[1].items() >= {"checkpoint": "abc"}.items()
        assert "another network" in latents.warnings("other")[0]
        assert latents.warnings("abc") == []
    assert is_latents(path)


def test_noise_does_not_go_into_an_npy(in_tmp: Path) -> None:
    streams = {"ws": Stream(WS.shape, WS), "noise": Stream(WS.shape, WS)}
    with pytest.raises(UsageError, match="cannot hold noise"):
        save_latents(Path("f.npy"), streams, {})
    with pytest.raises(UsageError, match="are saved as"):
        save_latents(Path("f.txt"), streams, {})
    assert list(in_tmp.iterdir()) == []


def test_other_files_are_not_latents(in_tmp: Path) -> None:
    Path("f.txt").write_text(json.dumps({"ws": 1}))
    save_as("other.npz", other=WS)
    save_as("other.safetensors", other=WS)
    assert not is_latents(Path("f.txt"))
    assert is_latents(Path("other.npz"))  # `open_latents` says what it lacks
    assert not is_latents(Path("other.safetensors"))


def test_arrays_of_bfloat16_are_refused_in_words(in_tmp: Path) -> None:
    from safetensors.torch import save_file as save_torch

    tensors: dict[str, Any] = {"ws": torch.zeros(1, 6, 16, dtype=torch.bfloat16)}
    save_torch(tensors, "f.safetensors")
    with pytest.raises(Sg2Error, match="BF16"):
        list(opened("f.safetensors"))


@pytest.mark.parametrize(
    "metadata", ["[" * 100_000, '{"checkpoint": 5}', "[]", "{", '{"checkpoint": null}']
)
def test_metadata_of_latents_that_is_not_ours(in_tmp: Path, metadata: str) -> None:
    save_file({"ws": WS}, "f.safetensors", {"sg2": metadata})
    with pytest.raises(Sg2Error, match="damaged or holds no latents"):
        opened("f.safetensors")


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.safetensors"])
def test_a_file_with_any_byte_changed_is_read_or_refused(in_tmp: Path, name: str) -> None:
    """Never another error, whatever the byte; the numbers themselves have no checksum."""
    save_as(name, ws=WS[:1])
    content = Path(name).read_bytes()
    for at in range(min(len(content), 300)):
        for flip in (0x01, 0x80, 0xFF):
            Path(name).write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            with suppress(Sg2Error):
                list(opened(name))


def test_versions_of_npy(in_tmp: Path) -> None:
    for version in ((1, 0), (2, 0), (3, 0)):
        with Path("w.npy").open("wb") as file:
            np.lib.format.write_array(file, WS[:, 0], version=version)
        torch.testing.assert_close(
            to_ws(G, list(opened("w.npy")))[:, 0], torch.from_numpy(WS[:, 0]), rtol=0, atol=0
        )
    content = bytearray(Path("w.npy").read_bytes())
    content[6] = 4
    Path("w.npy").write_bytes(content)
    with pytest.raises(Sg2Error, match=r"unknown .npy version \(4, 0\)|cannot be read"):
        opened("w.npy")


def test_numbers_of_128_bits_are_called_so(in_tmp: Path) -> None:
    np.save("w.npy", WS[:, 0].astype(np.longdouble))
    name = np.dtype(np.longdouble).name
    if name == "float64":
        pytest.skip("numbers of 128 bits are not known here")
    with pytest.raises(Sg2Error, match=f"holds {name}, not float16, float32 or float64"):
        opened("w.npy")
