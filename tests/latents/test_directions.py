"""Directions of W: found, read from files, applied."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator, relative
from safetensors.torch import load_file, save_file

from sg2cli import checkpoints, sampling
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.directions import edit, find_direction
from sg2cli.latents.discovery import directions, moments, pca, sefa
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.notation import parse_seeds
from sg2cli.latents.opening import open_latents

AVATARS = checkpoints.load(device="cpu")
ALL = list(range(AVATARS.config.num_ws))


def samples_of_w(G: Any, count: int, seed: int = 0) -> torch.Tensor:
    z = np.random.RandomState(seed).randn(count, G.config.z_dim).astype("f4")
    w: torch.Tensor = G.mapping(torch.from_numpy(z))
    return w.double()


def test_moments_are_those_of_the_samples() -> None:
    found = moments(AVATARS, 10_000, seed=3)
    w = samples_of_w(AVATARS, 10_000, seed=3)
    torch.testing.assert_close(found.mean, w.mean(dim=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.covariance, torch.cov(w.T, correction=0), rtol=1e-4, atol=1e-7)


LAYERS = ["b4.conv1", *(f"b{r}.conv{i}" for r in (8, 16, 32, 64, 128) for i in (0, 1))]
LAYERS += ["b128.torgb"]  # which alone reads the last row of ws


def reference_sefa(rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """SeFa from its paper (section 3.2), as its authors compute it: eigenvalues in any order.

    For the k directions that change the projection A n most, they maximise the sum of |A n_i|^2
    under |n_i| = 1, and solve A^T A n_i = lambda_i n_i. The weights of the style channels, as
    columns, have norm 1.
    """
    state = AVATARS.state_dict()
    columns = [state[f"synthesis.{LAYERS[row]}.affine.weight"].numpy().T for row in rows]
    weight = np.concatenate(columns, axis=1).astype(np.float64)  # [w_dim, style channels]
    weight = np.stack([column / np.sqrt((column**2).sum()) for column in weight.T], axis=1)
    values, vectors = np.linalg.eig(weight @ weight.T)
    return values.real, vectors.real.T


@pytest.mark.parametrize("rows", [ALL, [0, 1], [11], [3, 4, 5, 6], [2, 11]])
def test_sefa_finds_the_directions_of_its_paper(rows: list[int]) -> None:
    """As sets, up to their signs; ours are sorted, and where eigenvalues are equal, free."""
    found = sefa(AVATARS, rows)
    torch.testing.assert_close(found @ found.T, torch.eye(256, dtype=torch.float64))
    values, vectors = reference_sefa(rows)
    order = np.argsort(-values)
    gaps = -np.diff(values[order], prepend=np.inf, append=-np.inf)
    alone = [k for k in range(256) if min(gaps[k], gaps[k + 1]) > 1e-6 * values.max()]
    assert len(alone) >= (2 if rows == [11] else 20)
    similarity = np.abs(found.numpy() @ vectors.T)
    for k in alone:
        assert similarity[k].argmax() == order[k]
        assert similarity[k].max() == pytest.approx(1, abs=1e-6)


def test_sefa_ignores_style_channels_that_do_not_depend_on_w() -> None:
    G = random_generator()
    with torch.no_grad():
        G.synthesis.layers[0].affine.weight[0] = 0
    assert sefa(G, [0, 1]).isfinite().all()


def test_pca_agrees_with_a_singular_value_decomposition() -> None:
    found = moments(AVATARS, 20_000)
    w = samples_of_w(AVATARS, 20_000)
    _, values, vectors = torch.linalg.svd(w - w.mean(dim=0), full_matrices=False)
    components = pca(found)
    for k in range(5):
        assert abs(components[k] @ vectors[k]) == pytest.approx(1, abs=1e-5)
    deviations = values / 20_000**0.5
    torch.testing.assert_close(found.deviation(components)[:20], deviations[:20], rtol=1e-4, atol=0)


def test_signs_are_settled() -> None:
    for vectors in (sefa(AVATARS, ALL), pca(moments(AVATARS, 1000))):
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        assert (largest > 0).all()


def test_the_unit_is_a_standard_deviation_of_w(tmp_path: Path) -> None:
    """Whatever the length of a direction in a file, amount 1 moves W by its deviation along it."""
    vector = np.random.RandomState(0).randn(256).astype("f4")
    w = samples_of_w(AVATARS, 10_000)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).double()
    expected = (w @ unit).std()
    for scale in (1, 1000):
        np.save(tmp_path / "d.npy", scale * vector)
        step = find_direction(str(tmp_path / "d.npy"), AVATARS, ALL).step
        assert step.norm().item() == pytest.approx(expected.item(), rel=1e-3)
        assert (step.double() / step.double().norm()) @ unit == pytest.approx(1, abs=1e-6)


def test_an_edit_by_zero_changes_no_pixel() -> None:
    ws = to_ws(AVATARS, list(open_latents(parse_seeds("0-1"), AVATARS.config)))
    direction = find_direction("sefa:0", AVATARS, ALL)
    edited = [sampling.Point(edit(row, direction, 0, ALL)) for row in ws]
    points = [sampling.Point(row) for row in ws]
    pairs = zip(
        sampling.render(AVATARS, edited, "const", 2),
        sampling.render(AVATARS, points, "const", 2),
        strict=True,
    )
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)


def test_an_edit_moves_only_the_given_rows() -> None:
    ws = torch.zeros(12, 256)
    direction = find_direction("pca:2", AVATARS, ALL)
    moved = edit(ws, direction, -1.5, [1, 4])
    torch.testing.assert_close(moved[1], -1.5 * direction.step)
    assert moved[[0, 2, 3]].abs().max() == 0


def test_directions_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    w = moments(AVATARS)
    directions(AVATARS).save(path)
    for name in ("sefa:3", "pca:0", "pca:20"):
        stored = find_direction(f"{path}:{name}", AVATARS, ALL).step
        assert relative(stored, find_direction(name, AVATARS, ALL).step) < 0.02
    first = find_direction(f"{path}:0", AVATARS, ALL).step
    torch.testing.assert_close(first, find_direction(f"{path}:sefa:0", AVATARS, ALL).step)
    deviations = load_file(path)["pca_std"]
    torch.testing.assert_close(deviations, pca_deviations(w), rtol=1e-4, atol=1e-6)


def pca_deviations(w: Any) -> torch.Tensor:
    return torch.linalg.eigvalsh(w.covariance).flip(0).clamp_min(0).sqrt().float()


def test_files_of_other_tools(tmp_path: Path) -> None:
    vectors = np.linalg.qr(np.random.RandomState(0).randn(256, 256))[0].astype("f4")
    # rosinality's closed_form_factorization.py: directions are the columns
    torch.save({"ckpt": "x.pt", "eigvec": torch.from_numpy(vectors)}, tmp_path / "factor.pt")
    np.save(tmp_path / "one.npy", vectors[:, 7])
    np.save(tmp_path / "rows.npy", np.repeat(vectors[None, :, 7], 12, axis=0))
    np.save(tmp_path / "many.npy", vectors.T)
    expected = find_direction(str(tmp_path / "one.npy"), AVATARS, ALL).step
    for name in ("factor.pt:7", "many.npy:7", "rows.npy"):
        found = find_direction(str(tmp_path / name), AVATARS, ALL).step
        torch.testing.assert_close(found.expand(12, -1), expected.expand(12, -1))


def test_no_pickle_is_run(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor torch.load asked, which had holes even for weights only."""
    for new_format in (True, False):
        options = {"_use_new_zipfile_serialization": new_format}
        eigvec = torch.nn.Parameter(torch.eye(256).double().T)
        torch.save({"ckpt": "x.pt", "eigvec": eigvec}, "factor.pt", **options)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "load", None)
            direction = find_direction("factor.pt:5", AVATARS, ALL).step
        assert direction.nonzero()[:, -1].unique().tolist() == [5]


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("canary"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no direction ''"),
        ("sefa", "sefa has several directions"),
        ("sefa:256", "there are 256 directions, 0 to 255"),
        ("lda:0", "no direction 'lda:0'"),
        ("missing.npy", "no direction 'missing.npy'"),
        ("wide.npy", "W of this network has 256 numbers"),
        ("deep.npy", "has 3 directions: select one"),
        ("npz.npy", "holds no directions"),
        ("complex.npy", "holds no directions"),
        ("list.pt:0", "holds no directions"),
        ("other.safetensors", "named directions .other.: give one, as in other.safetensors:other"),
        ("pca.safetensors:sefa:0", "no directions of sefa, but pca"),
        ("zero.npy", "is zero"),
        ("nan.npy", "is zero, NaN"),
        ("pickle.npy", "holds no directions"),
        ("evil.pt:0", "holds no directions"),
        ("other.pt:0", "holds no directions"),
        ("squeezed.pt:0", "missing, or compressed"),
        ("endless.npy", "holds no directions"),
        ("twice.safetensors:0", "'pca' twice"),
        ("text.safetensors:0", "damaged"),
        ("one.npy:1", "remove :1"),
    ],
)
def test_invalid_directions_are_refused(in_tmp: Path, text: str, message: str) -> None:
    np.save("wide.npy", np.ones(64))
    np.save("deep.npy", np.ones((3, 256)))
    np.save("zero.npy", np.zeros(256))
    np.save("nan.npy", np.full(256, np.nan))
    np.save("one.npy", np.ones(256))
    np.save("pickle.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    torch.save({"eigvec": Evil()}, "evil.pt")
    torch.save({"other": 1}, "other.pt")
    np.save("complex.npy", np.ones(256) * 1j)
    np.savez("npz", a=np.ones(256), b=np.ones(256))
    Path("npz.npz").rename("npz.npy")
    torch.save({"eigvec": [1, 2]}, "list.pt")
    torch.save({"eigvec": torch.zeros(1000, 256)}, "whole.pt")
    with (
        zipfile.ZipFile("whole.pt") as whole,
        zipfile.ZipFile("squeezed.pt", "w", zipfile.ZIP_DEFLATED) as squeezed,
    ):
        for name in whole.namelist():
            squeezed.writestr(name, whole.read(name))
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999, 256)}\n"
    Path("endless.npy").write_bytes(
        b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
    )
    field = '{"dtype": "F32", "shape": [256], "data_offsets": [0, 1024]}'
    text_twice = f'{{"pca": {field}, "pca": {field}}}'.encode()
    Path("twice.safetensors").write_bytes(
        struct.pack("<Q", len(text_twice)) + text_twice + bytes(512)
    )
    save_file({"other": torch.ones(256)}, "other.safetensors")
    save_file({"pca": torch.eye(256), "pca_std": torch.ones(256)}, "pca.safetensors")
    Path("text.safetensors").write_text("some text in a file")
    with pytest.raises(Sg2Error, match=message):
        find_direction(text, AVATARS, ALL)
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors", "a.pt"])
def test_directions_without_number_are_refused_unread(
    in_tmp: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sg2cli.latents.direction_files.MAX_DIRECTIONS", 256 * 100)
    vectors = torch.ones(101, 256)
    np.save("a.npy", vectors.numpy())
    save_file({"sefa": vectors, "sefa_std": torch.ones(101)}, "a.safetensors")
    torch.save({"eigvec": vectors.T}, "a.pt")
    monkeypatch.setattr("sg2cli.storage.array_files.StoredArray.whole", None)
    with pytest.raises(Sg2Error, match="more than 25,600 numbers"):
        find_direction(f"{name}:0", AVATARS, ALL)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_deviations_that_are_no_numbers_are_refused(in_tmp: Path, value: float) -> None:
    save_file({"sefa": torch.eye(256), "sefa_std": torch.full((256,), value)}, "a.safetensors")
    with pytest.raises(Sg2Error, match="is NaN, or too large"):
        find_direction("a.safetensors:0", AVATARS, ALL)


def test_classes_have_their_own_deviation() -> None:
    C = random_generator(c_dim=3, embed_features=5)
    a, b = (moments(C, 500, class_index=index) for index in (0, 1))
    assert not torch.allclose(a.covariance, b.covariance)
    with pytest.raises(UsageError):
        find_direction("pca:99", C, [0])
