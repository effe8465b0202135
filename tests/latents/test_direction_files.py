"""Files of directions of other tools, and of hostile ones."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator
from safetensors.torch import save_file

import sg2cli
from sg2cli.errors import Sg2Error
from sg2cli.latents.directions import find_direction
from tests.conftest import one_line

CASES = Path(__file__).parents[1] / "cases"
NETWORK = CASES / "network.safetensors"
ROWS = list(range(6))
GANSPACE = {"lat_comp": 12, "lat_mean": 1, "lat_stdev": 12}


@pytest.fixture(scope="module")
def G() -> Any:
    return sg2cli.load(NETWORK, device="cpu")


def unit(step: torch.Tensor) -> torch.Tensor:
    return step.double() / step.double().norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("name", ["age.pt", "d_rows.npy", "pca.pt:3", "ganspace.npz:11"])
def test_the_samples_make_an_edit(sg2: Any, name: str) -> None:
    args = ("-n", NETWORK, "--direction", CASES / name, "--amount", "-2..2", "--steps", "3")
    result = sg2("edit", "0", *args)
    assert result.code == 0 and len(result.lines) == 4, result.err
    images = [Path(line).read_bytes() for line in result.lines[:3]]
    assert len(set(images)) == 3


def test_the_step_of_interfacegan_is_a_standard_deviation_of_w(G: Any) -> None:
    vector = torch.load(CASES / "age.pt", weights_only=True)[0]
    step = find_direction(str(CASES / "age.pt"), G, ROWS).step
    torch.testing.assert_close(unit(step), unit(vector))
    z = torch.from_numpy(np.random.RandomState(0).randn(10_000, 16).astype("f4"))
    deviation = (G.mapping(z) @ unit(vector).float()).std().item()
    assert step.norm().item() == pytest.approx(deviation, rel=0.01)


@pytest.mark.parametrize("index", [0, 5, 11])
def test_the_steps_of_ganspace_are_its_deviations(G: Any, index: int) -> None:
    stored = np.load(CASES / "ganspace.npz")
    expected = stored["lat_comp"][index, 0] * stored["lat_stdev"][index]
    for name in ("ganspace.npz", "pca.pt"):
        step = find_direction(f"{CASES / name}:{index}", G, ROWS).step
        torch.testing.assert_close(step, torch.from_numpy(expected))


Write = Callable[[str, np.ndarray], str]
VECTOR = np.random.RandomState(0).randn(16)


def as_npy(name: str, vector: np.ndarray) -> str:
    np.save(f"{name}.npy", vector)
    return f"{name}.npy"


def as_npz(name: str, vector: np.ndarray) -> str:
    np.savez(f"{name}.npz", **{name: vector})
    return f"{name}.npz"


def as_pt(name: str, vector: np.ndarray) -> str:
    torch.save(torch.from_numpy(vector.copy()), f"{name}.pt")
    return f"{name}.pt"


def as_old_pt(name: str, vector: np.ndarray) -> str:
    tensor = torch.nn.Parameter(torch.from_numpy(vector.copy()))
    torch.save(tensor, f"{name}.pth", _use_new_zipfile_serialization=False)
    return f"{name}.pth"


def as_wrapped_pt(name: str, vector: np.ndarray) -> str:
    wrapped = {"state": OrderedDict({name: torch.from_numpy(vector.copy())}), "epoch": 3}
    torch.save(wrapped, f"{name}.bin")
    return f"{name}.bin"


def as_pickle(name: str, vector: np.ndarray) -> str:
    Path(f"{name}.pkl").write_bytes(pickle.dumps({"name": name, "vector": vector}))
    return f"{name}.pkl"


@pytest.mark.parametrize("shape", [(16,), (1, 16), (1, 1, 16), (16, 1), (1, 16, 1)])
@pytest.mark.parametrize("write", [as_npy, as_npz, as_pt, as_old_pt, as_wrapped_pt, as_pickle])
def test_a_direction_of_w(G: Any, in_tmp: Path, write: Write, shape: tuple[int, ...]) -> None:
    file = write("smile", VECTOR.reshape(shape))
    for text in (file, f"{file}:0"):
        found = find_direction(text, G, ROWS).step
        torch.testing.assert_close(unit(found), unit(torch.from_numpy(VECTOR)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 16), (1, 6, 16), (6, 1, 16), (1, 1, 6, 16)])
@pytest.mark.parametrize("write", [as_npy, as_npz, as_pt, as_wrapped_pt])
def test_a_direction_of_w_plus(G: Any, in_tmp: Path, write: Write, shape: tuple[int, ...]) -> None:
    rows = np.random.RandomState(1).randn(6, 16)
    found = find_direction(write("smile", rows.reshape(shape)), G, ROWS).step
    torch.testing.assert_close(unit(found), unit(torch.from_numpy(rows)), rtol=0, atol=1e-6)


def test_several_directions_of_w_plus(G: Any, in_tmp: Path) -> None:
    several = np.random.RandomState(1).randn(3, 6, 16)
    found = find_direction(as_npy("several", several) + ":2", G, ROWS).step
    torch.testing.assert_close(unit(found), unit(torch.from_numpy(several[2])), rtol=0, atol=1e-6)
    with pytest.raises(Sg2Error, match="has 3 directions: select one, such as several.npy:0"):
        find_direction("several.npy", G, ROWS)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_types_of_numbers(G: Any, in_tmp: Path, dtype: str) -> None:
    found = find_direction(as_npy("a", VECTOR.astype(dtype)), G, ROWS).step
    torch.testing.assert_close(unit(found), unit(torch.from_numpy(VECTOR)), rtol=0, atol=1e-3)
    torch.save({"comp": torch.from_numpy(VECTOR)[None, None].bfloat16()}, "b.pt")
    found = find_direction("b.pt:0", G, ROWS).step
    torch.testing.assert_close(unit(found), unit(torch.from_numpy(VECTOR)), rtol=0, atol=1e-2)


def components(count: int) -> dict[str, np.ndarray]:
    numbers = np.random.RandomState(2)
    vectors = np.linalg.qr(numbers.randn(16, 16))[0][:count, None].astype("f4")
    return {"comp": vectors, "mean": numbers.randn(1, 16), "std": numbers.rand(count) + 1}


@pytest.mark.parametrize("shape", [(-1, 1, 16), (-1, 16), (1, -1, 16)])
@pytest.mark.parametrize("count", [1, 6, 16])
def test_components_are_always_a_list(
    G: Any, in_tmp: Path, count: int, shape: tuple[int, ...]
) -> None:
    """Six of them are not a direction of W+, as six rows of an array without a name are."""
    stored = components(count)
    vectors, deviations = stored["comp"][:, 0], stored["std"]
    named = {"lat_comp": vectors.reshape(shape), "lat_stdev": deviations[:, None]}
    np.savez("a.npz", unrelated=np.arange(3), **named)
    torch.save({"pca": {**stored, "comp": vectors.reshape(shape)}}, "a.pt")
    save_file({"comp": torch.from_numpy(vectors), "std": torch.tensor(deviations)}, "a.safetensors")
    for name in ("a.npz", "a.pt", "a.safetensors"):
        step = find_direction(f"{name}:{count - 1}", G, ROWS).step
        expected = torch.from_numpy(vectors[-1] * deviations[-1]).float()
        torch.testing.assert_close(step, expected)
        if count > 1:
            with pytest.raises(Sg2Error, match=f"has {count} directions: select one"):
                find_direction(name, G, ROWS)
        with pytest.raises(Sg2Error):
            find_direction(f"{name}:{count}", G, ROWS)


@pytest.mark.parametrize("count", [5, 16])
def test_eigenvectors_are_columns(G: Any, in_tmp: Path, count: int) -> None:
    vectors = np.linalg.qr(np.random.RandomState(3).randn(16, 16))[0][:, :count].astype("f4")
    torch.save({"ckpt": "x.pt", "eigvec": torch.from_numpy(vectors)}, "factor.pt")
    torch.save({"a": [{"eigvec": torch.from_numpy(vectors)[None]}]}, "deep.pt")
    np.savez("factor.npz", eigvec=vectors)
    for name in ("factor.pt", "deep.pt", "factor.npz"):
        found = find_direction(f"{name}:4", G, ROWS).step
        expected = torch.from_numpy(vectors[:, 4])
        torch.testing.assert_close(unit(found), unit(expected), rtol=0, atol=1e-6)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("canary"),))


def npy_header(shape: str, content: bytes = bytes(64)) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


def saved(found: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(found, file, **options)
    return file.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "code": (saved({"comp": Evil()}), "unsafe"),
    "code beside": (saved({"comp": torch.eye(16), "std": torch.ones(16), "x": Evil()}), "unsafe"),
    "code in an old file": (saved(Evil(), _use_new_zipfile_serialization=False), "unsafe"),
    "code in a pickle": (pickle.dumps({"vector": Evil()}), "unsafe"),
    "code in an array": (pickle.dumps(np.array([Evil()], dtype=object)), "holds no directions"),
    "no arrays": (saved({"comp": 3}), "it has no arrays"),
    "a shape": (saved({"comp": torch.zeros(3, 2, 2, 16)}), "this network has 6 rows of ws"),
    "a width": (saved({"comp": torch.zeros(3, 17)}), "W of this network has 16 numbers"),
    "none": (saved({"comp": torch.zeros(0, 16)}), "has no directions"),
    "deviations": (saved({"comp": torch.eye(16), "std": torch.ones(3)}), "one deviation for each"),
    "integers": (saved({"comp": torch.eye(16).long()}), "it holds int64, not floating-point"),
    "NaN": (saved({"comp": torch.full((1, 16), torch.nan)}), "zero, NaN or infinite"),
    "several": (saved({"a": torch.ones(16), "b": torch.ones(16)}), "it has several arrays"),
    "a network": (saved({"g_ema": {"convs.0.weight": torch.ones(16)}}), "is a network"),
    "a vast array": (zipped({"lat_comp.npy": npy_header("(99999999, 16)")}), "too short"),
    "a bomb": (zipped({"lat_comp.npy": bytes(1 << 25)}, zipfile.ZIP_DEFLATED), "unpacks from"),
    "no members": (zipped({}), "it has no arrays"),
    "text": (b"just some words, and a few more", "neither a pickle"),
    "a web page": (b"<!DOCTYPE html><html>", "a web page"),
    "nothing": (b"", "holds no directions"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("suffix", ["pt", "npz"])
def test_hostile_files_are_refused(G: Any, in_tmp: Path, name: str, suffix: str) -> None:
    content, message = HOSTILE[name]
    Path(f"a.{suffix}").write_bytes(content)
    with pytest.raises(Sg2Error, match=message):
        find_direction(f"a.{suffix}:0", G, ROWS)
    assert not Path("canary").exists()


def test_a_refusal_is_a_sentence(sg2: Any) -> None:
    for name, (content, _) in HOSTILE.items():
        Path("a.pt").write_bytes(content)
        result = sg2("edit", "-n", NETWORK, "0", "--direction", "a.pt:0")
        assert result.code in (1, 2), name
        assert "a.pt" in one_line(result.err)
    assert not Path("out").exists()


def test_a_file_that_is_longer_than_its_limit(
    G: Any, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sg2cli.latents.direction_files.MAX_DIRECTIONS", 100)
    torch.save({"comp": torch.ones(7, 16)}, "a.pt")
    with pytest.raises(Sg2Error, match="more than 100 numbers"):
        find_direction("a.pt:0", random_generator(), ROWS)
