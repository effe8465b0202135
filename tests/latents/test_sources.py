"""Latents from seeds and files, in order, checked against the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator
from safetensors.numpy import save_file

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents import opening as latents_module
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.notation import parse_latents
from sg2cli.latents.opening import open_latents
from sg2cli.latents.sources import LatentList
from sg2cli.storage.reading import Source

G = random_generator()  # z 12, w 16, 6 ws
WS = np.random.RandomState(1).randn(3, 6, 16).astype(np.float32)


def opened(text: str) -> LatentList:
    return open_latents(parse_latents(text), G.config)


def names(text: str) -> list[str]:
    return [latent.name for latent in opened(text)]


def test_millions_of_seeds_are_counted_without_making_them() -> None:
    latents = opened("0-9999999,5")
    assert len(latents) == 10_000_001
    assert next(iter(latents)).name == "seed0000"


def save_as(name: str, **arrays: np.ndarray) -> None:
    if name.endswith(".npz"):
        np.savez(name, **arrays)  # type: ignore[arg-type]
    elif name.endswith(".npy"):
        np.save(name, *arrays.values())
    else:
        save_file(arrays, name)


@pytest.mark.parametrize("name", ["f.safetensors", "f.npz", "f.npy"])
@pytest.mark.parametrize(
    ("key", "array", "ws"),
    [
        ("ws", WS, WS),
        ("w", WS, WS),  # NVIDIA's projected_w.npz
        ("w", WS[:, 0], np.broadcast_to(WS[:, :1], WS.shape)),
        ("w", WS[0, 0], np.broadcast_to(WS[:1, :1], (1, 6, 16))),
        ("ws", WS.astype(np.float64), WS),
    ],
    ids=["ws", "w-is-ws", "w", "one-w", "float64"],
)
def test_files_of_w(in_tmp: Path, name: str, key: str, array: np.ndarray, ws: np.ndarray) -> None:
    save_as(name, **{key: np.ascontiguousarray(array)})
    found = to_ws(G, list(opened(name)))
    torch.testing.assert_close(found, torch.from_numpy(ws.copy()), rtol=0, atol=0)


def test_a_single_ws_needs_no_batch_dimension(in_tmp: Path) -> None:
    save_as("f.npz", ws=WS[0])
    torch.testing.assert_close(to_ws(G, list(opened("f.npz"))), torch.from_numpy(WS[:1]))


def test_z_in_a_file_is_the_seeds_z(in_tmp: Path) -> None:
    z = np.random.RandomState(85).randn(1, 12)
    save_as("f.npz", z=z)
    save_as("f.safetensors", z=z)
    np.save("f.npy", z)
    expected = to_ws(G, list(opened("85")), psi=0.5)
    for text in ("f.npz", "f.safetensors", "f.npy:z"):
        torch.testing.assert_close(to_ws(G, list(opened(text)), psi=0.5), expected, rtol=0, atol=0)


def test_rows_are_chosen(in_tmp: Path) -> None:
    np.save("f.npy", WS)
    latents = list(opened("f.npy[1-2]"))
    torch.testing.assert_close(to_ws(G, latents), torch.from_numpy(WS[1:]))
    assert [latent.provenance["row"] for latent in latents] == [1, 2]
    with pytest.raises(UsageError, match="row 3 of .* is out of range: it has rows 0 to 2"):
        opened("f.npy[3]")


def test_stdin_is_a_file(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("f.npy", "f.npz", "f.safetensors"):
        save_as(name, ws=WS)
        with Path(name).open() as file:
            monkeypatch.setattr("sys.stdin", file)
            latents = list(opened("-"))
        assert [latent.name for latent in latents] == ["stdin-0000", "stdin-0001", "stdin-0002"]
        torch.testing.assert_close(to_ws(G, latents), torch.from_numpy(WS), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ws": np.zeros((1, 6, 32), "f4")}, "w of dimension 32, this network has 16"),
        ({"ws": np.zeros((1, 8, 16), "f4")}, "ws of 8 rows, this network has 6"),
        ({"z": np.zeros((1, 16), "f4")}, "z of dimension 16, this network has 12"),
        ({"ws": np.zeros((0, 6, 16), "f4")}, "shape"),
        ({"ws": np.zeros((1, 1, 6, 16), "f4")}, "shape"),
        ({"w": np.zeros((1, 16), "i8")}, "holds (int64|I64), not float16, float32 or float64"),
        (
            {"one": np.zeros((1, 16), "f4"), "other": np.zeros((1, 16), "f4")},
            "holds 'one', 'other', of which none is named z, w, .*: choose one, such as f.*:one",
        ),
        ({"ws": WS, "synthesis.b64.conv0.noise_const": np.zeros((64, 64), "f4")}, "no layer"),
        ({"ws": WS, "synthesis.b4.conv0.noise_const": np.zeros((4, 4), "f4")}, "no layer"),
        ({"ws": WS, "synthesis.b8.conv0.noise_const": np.zeros((4, 4), "f4")}, r"not \[8, 8\]"),
        (
            {"ws": WS, "synthesis.b4.conv1.noise_const": np.full((4, 4), np.nan, "f4")},
            "NaN or infinity",
        ),
    ],
)
@pytest.mark.parametrize("name", ["f.safetensors", "f.npz"])
def test_latents_of_another_network_are_refused(
    in_tmp: Path, name: str, arrays: dict[str, np.ndarray], message: str
) -> None:
    save_as(name, **arrays)
    with pytest.raises(Sg2Error, match=message):
        opened(name)


def test_a_row_that_is_not_finite_is_refused(in_tmp: Path) -> None:
    ws = WS.copy()
    ws[1, 2, 3] = np.nan
    np.save("f.npy", ws)
    with pytest.raises(Sg2Error, match="row 1 of f holds NaN"):
        list(opened("f.npy"))
    names = [latent.name for latent in opened("f.npy").unchecked()]
    assert names == ["f-0000", "f-0001", "f-0002"]


def test_the_description_of_a_long_list_is_short() -> None:
    short, long = opened("0-3,7,avg"), opened(",".join(map(str, range(0, 9999, 2))))
    assert short.describe() == ["0-3", "7", "avg"]
    assert len(json.dumps(long.describe())) < 500
    assert long.describe() != opened(",".join(map(str, range(0, 9997, 2)))).describe()


def test_latents_from_a_pipe(in_tmp: Path) -> None:
    import os
    import threading

    np.save("f.npy", WS)
    content = Path("f.npy").read_bytes()
    os.mkfifo("pipe.npy")
    writer = threading.Thread(target=Path("pipe.npy").write_bytes, args=[content])
    writer.start()
    latents = list(opened("pipe.npy"))
    writer.join()
    assert latents[0].name == "pipe-0000"
    torch.testing.assert_close(to_ws(G, latents), torch.from_numpy(WS))


def test_noise_for_a_network_without_noise_is_refused(in_tmp: Path) -> None:
    quiet = random_generator(use_noise=False)
    save_file({"ws": WS, "synthesis.b8.conv0.noise_const": np.zeros((8, 8), "f4")}, "f.safetensors")
    with pytest.raises(UsageError, match="no layer"):
        open_latents(parse_latents("f.safetensors"), quiet.config)


def test_a_file_of_which_single_rows_are_asked_for_is_read_once(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("a.npy", np.random.RandomState(0).randn(50, G.config.w_dim))
    opened: list[Path] = []
    read = latents_module.read_latents

    def counted(file: Path, name: str, key: str | None) -> Any:
        opened.append(file)
        return read(file, name, key)

    monkeypatch.setattr(latents_module, "read_latents", counted)
    found = list(open_latents(parse_latents(",".join(f"a.npy[{i}]" for i in range(50))), G.config))
    assert [latent.name for latent in found] == [f"a-{i:04d}" for i in range(50)]
    assert len(opened) == 1


def test_rows_that_lie_all_over_a_file_are_read_once(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array in Fortran's order, of which a row is a number here and a number there."""
    values = np.random.RandomState(0).randn(300_000, 16).astype("f4")
    np.save("f.npy", np.asfortranarray(values))
    latents = open_latents(parse_latents("f.npy[0-99]"), G.config)
    filled = 0
    fill = Source.fill

    def counted(self: Source, buffer: Any, offset: int) -> None:
        nonlocal filled
        filled += memoryview(buffer).nbytes
        fill(self, buffer, offset)

    monkeypatch.setattr(Source, "fill", counted)
    found = [latent.values for latent in latents]
    assert np.array_equal(np.stack(found), values[:100])  # type: ignore[arg-type]
    assert filled == values.nbytes
