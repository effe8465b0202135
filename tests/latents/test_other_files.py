"""Latents as other projects save them; the files in golden/latents are samples of each."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator

import sg2cli
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.notation import parse_latents
from sg2cli.latents.opening import open_latents
from sg2cli.latents.sources import LatentList

SAMPLES = Path(__file__).parents[1] / "golden" / "latents"
G = random_generator()  # z 12, w 16, 6 ws
WS = np.random.RandomState(1).randn(3, 6, 16).astype(np.float32)


def opened(text: str) -> LatentList:
    return open_latents(parse_latents(text), G.config)


def ws_of(text: str) -> torch.Tensor:
    return to_ws(G, list(opened(text)))


def same(found: torch.Tensor, expected: np.ndarray[Any, Any]) -> None:
    torch.testing.assert_close(found, torch.from_numpy(expected.copy()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("wplus_2d.npy", 1),
        ("w_pivot_0.pt", 1),
        ("dlatents.npz", 1),
        ("ros_project.pt", 1),
        ("latents.pt", 3),
    ],
)
def test_samples_of_other_projects(file: str, count: int) -> None:
    network = sg2cli.load(SAMPLES / "network.safetensors", device="cpu")
    images = list(sg2cli.generate(network, SAMPLES / file))
    (expected,) = sg2cli.generate(network, np.load(SAMPLES / "wplus_2d.npy"))
    assert len(images) == count
    if file == "ros_project.pt":
        assert images[0].name == "me" and len(images[0].noise) == 5
    elif count == 1:
        assert (images[0].pixels == expected.pixels).all()


def test_rows_that_differ_are_one_latent_in_w_plus(in_tmp: Path) -> None:
    np.save("f.npy", WS[0])
    np.savez("f.npz", w=WS[0])
    torch.save(torch.from_numpy(WS[0]), "f.pt")
    for name in ("f.npy", "f.npz", "f.pt"):
        same(ws_of(name), WS[:1])
        (note,) = opened(name).notes
        assert note.startswith(f"{name} is read as one latent in W+") and f"{name}:w" in note
        same(ws_of(f"{name}:ws"), WS[:1])
        assert opened(f"{name}:ws").notes == [] == opened(f"{name}:w").notes
        same(ws_of(f"{name}:w")[:, 3], WS[0])
        same(ws_of(f"{name}[0]"), WS[:1])
        for text in (f"{name}:w[2]", f"{name}[2]:w"):
            same(ws_of(text)[:, 0], WS[0, 2:3])
        with pytest.raises(UsageError, match=rf"no row 2; {name}:w\[2\] reads its rows"):
            opened(f"{name}[2]")


def test_equal_rows_are_as_many_latents_in_w(in_tmp: Path) -> None:
    np.save("f.npy", np.repeat(WS[0, :1], 6, axis=0))
    assert len(opened("f.npy")) == 6 and opened("f.npy").notes == []
    assert len(opened("f.npy:ws")) == 1


def test_another_number_of_rows_is_no_guess(in_tmp: Path) -> None:
    np.save("f.npy", WS[0, :5])
    assert len(opened("f.npy")) == 5 and opened("f.npy").notes == []
    with pytest.raises(UsageError, match="5 rows, this network has 6"):
        opened("f.npy:ws")


def test_a_kind_may_not_contradict_the_name(in_tmp: Path) -> None:
    np.savez("f.npz", w=WS[0])
    np.savez("z.npz", z=np.zeros((2, 12), "f4"))
    with pytest.raises(UsageError, match="an array named w, so it cannot be read as z"):
        opened("f.npz:z")
    with pytest.raises(UsageError, match="an array named z, so it cannot be read as ws"):
        opened("z.npz:ws")


@pytest.mark.parametrize("name", ["dlatents", "latents", "latent", "w_plus", "arr_0", "w", "ws"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".pth"])
def test_names_of_arrays(in_tmp: Path, name: str, suffix: str) -> None:
    from safetensors.numpy import save_file

    path = f"f{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: WS})  # type: ignore[arg-type]
    elif suffix == ".safetensors":
        save_file({name: WS}, path)
    else:
        torch.save({name: torch.from_numpy(WS)}, path)
    same(ws_of(path), WS)
    same(ws_of(f"{path}[1]"), WS[1:2])


def test_one_of_several_arrays_is_chosen_by_its_name(in_tmp: Path) -> None:
    np.savez("f.npz", **{"me.jpg": WS[:2], "you.jpg": WS[2:]})  # type: ignore[arg-type]
    same(ws_of("f.npz:me.jpg[1]"), WS[1:2])
    same(ws_of("f.npz:you.jpg"), WS[2:])
    with pytest.raises(Sg2Error, match="choose one, such as f.npz:me.jpg"):
        opened("f.npz")
    with pytest.raises(Sg2Error, match="no array named 'him', but 'me.jpg', 'you.jpg'"):
        opened("f.npz:him")


WRAPPED: dict[str, Any] = {
    "tensor": lambda t: t,
    "parameter": torch.nn.Parameter,
    "list": list,
    "list of one": lambda t: [row[None] for row in t],
    "tuple": tuple,
    "dict": lambda t: {"latent": t, "psi": 0.7, "path": "me.jpg"},
    "list in a dict": lambda t: {"latent": list(t)},
    "ordered dict": lambda t: OrderedDict(w=t),
    "nested": lambda t: {"results": {"latents": t}, "args": {"n": 1}},
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "array": lambda t: {"latents": t.numpy()},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappers_in_files_of_torch(in_tmp: Path, wrapper: str, legacy: bool) -> None:
    stored = WRAPPED[wrapper](torch.from_numpy(WS))
    torch.save(stored, "f.pt", _use_new_zipfile_serialization=not legacy)
    same(ws_of("f.pt").detach(), WS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_in_files_of_torch(in_tmp: Path, dtype: torch.dtype) -> None:
    stored = torch.from_numpy(WS).to(dtype)
    torch.save(stored, "f.pt")
    same(ws_of("f.pt"), stored.float().numpy())


def projected(w_plus: bool, names: list[str]) -> dict[str, Any]:
    """As rosinality's projector saves its results."""
    found = {}
    for number, name in enumerate(names):
        ws = torch.from_numpy(WS[number])
        sizes = [4] + [side for side in (8, 16) for _ in range(2)]
        noise = [torch.full((1, 1, side, side), number + i / 8) for i, side in enumerate(sizes)]
        found[name] = {
            "img": torch.zeros(3, 16, 16),
            "latent": ws if w_plus else ws[0],
            "noise": noise,
        }
    return found


@pytest.mark.parametrize("w_plus", [True, False])
@pytest.mark.parametrize("names", [["me.jpg"], ["photos/me.jpg", "you.png", "C:\\her.png"]])
def test_results_of_rosinalitys_projector(in_tmp: Path, w_plus: bool, names: list[str]) -> None:
    torch.save(projected(w_plus, names), "f.pt")
    latents = list(opened("f.pt"))
    assert [latent.name for latent in latents] == ["me", "you", "her"][: len(names)]
    expected = WS if w_plus else np.repeat(WS[:, :1], 6, axis=1)
    same(to_ws(G, latents), expected[: len(names)])
    assert opened("f.pt").notes == []
    order = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    for number, latent in enumerate(latents):
        found = {name: noise_map[0, 0] for name, noise_map in latent.noise.items()}
        assert found == {f"synthesis.{o}.noise_const": number + i / 8 for i, o in enumerate(order)}


def test_noise_of_another_size_is_refused(in_tmp: Path) -> None:
    stored = projected(True, ["me.jpg"])
    stored["me.jpg"]["noise"][1] = torch.zeros(1, 1, 9, 9)
    torch.save(stored, "f.pt")
    with pytest.raises(UsageError, match=r"b8.conv0.* of \[1, 9, 9\], not \[8, 8\]"):
        opened("f.pt")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": torch.zeros(1, 16), "b": torch.zeros(1, 16)}, "holds 'a', 'b', of which none"),
        ({"epoch": 3}, "holds no array"),
        (torch.zeros(6, 16, dtype=torch.int64), "holds int64, not floating point numbers"),
        (torch.zeros(1, 6, 17), "dimension 17, this network has 16"),
        (torch.zeros(1, 9, 16), "ws of 9 rows, this network has 6"),
        (torch.zeros(2, 1, 6, 16), "shape"),
        ([torch.zeros(6, 16), torch.zeros(16)], "different shapes"),
    ],
)
def test_files_of_torch_without_latents(in_tmp: Path, stored: object, message: str) -> None:
    torch.save(stored, "f.pt")
    with pytest.raises(Sg2Error, match=message):
        list(opened("f.pt"))


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("canary"),)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_of_torch_is_run(in_tmp: Path, legacy: bool) -> None:
    torch.save(
        {"latent": torch.from_numpy(WS), "x": Evil()},
        "f.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    Path("g.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Sg2Error, match="unsafe: it"):
        opened("f.pt")
    with pytest.raises(Sg2Error, match="damaged or holds no latents"):
        opened("g.pt")
    assert not Path("canary").exists()


def test_a_dict_that_contains_itself_ends(in_tmp: Path) -> None:
    stored: dict[str, Any] = {}
    inner: list[Any] = [stored] * 5000
    stored |= {str(i): inner for i in range(5000)}
    torch.save(stored, "f.pt")
    with pytest.raises(Sg2Error, match="damaged or holds no latents"):
        opened("f.pt")


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
def test_a_file_of_torch_that_is_cut_off(in_tmp: Path, cut: float) -> None:
    for legacy in (False, True):
        torch.save(torch.from_numpy(WS), "f.pt", _use_new_zipfile_serialization=not legacy)
        content = Path("f.pt").read_bytes()
        Path("f.pt").write_bytes(content[: int(len(content) * cut)])
        with pytest.raises(Sg2Error):
            list(opened("f.pt"))


def test_a_pickled_dict_is_refused_with_a_line_that_saves_its_arrays(in_tmp: Path) -> None:
    content = (SAMPLES / "restyle_latents.npy").read_bytes()  # of NumPy 2, which 1 cannot unpickle
    Path("restyle_latents.npy").write_bytes(content)
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        arrays = {"me.jpg": np.random.RandomState(0).randn(5, 6, 16).astype("f4")}
        np.save("restyle_latents.npy", arrays, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(Sg2Error, match="holds a pickled dict") as raised:
        opened("restyle_latents.npy")
    code = str(raised.value).partition('python -c "')[2].rstrip('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(opened("restyle_latents.npz:me.jpg")) == 5
    assert len(opened("restyle_latents.npz:me.jpg[4]")) == 1
