"""Directions that are learned from two sets of latents, or from scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator
from safetensors.torch import save_file

import sg2cli
from sg2cli import checkpoints
from sg2cli.latents.mapping import seed_to_z
from sg2cli.latents.regression import FOLDS, discriminant, folds_of, ridge
from tests.conftest import one_line


@pytest.fixture(scope="module")
def G() -> Any:
    return sg2cli.load(device="cpu")


def w_of(G: Any, seeds: range) -> torch.Tensor:
    z = np.stack([seed_to_z(seed, G.config.z_dim) for seed in seeds])
    w: torch.Tensor = G.mapping(torch.from_numpy(z)).double()
    return w


def sides(G: Any, count: int) -> tuple[list[int], list[int], torch.Tensor]:
    """Seeds on either side of a plane through the mean of W, and its unit normal."""
    w = w_of(G, range(count))
    normal = torch.linalg.qr(torch.randn(256, 1, generator=torch.manual_seed(0)).double())[0][:, 0]
    heights = (w - w.mean(dim=0)) @ normal
    above = [seed for seed in range(count) if heights[seed] > 0]
    return above, [seed for seed in range(count) if heights[seed] <= 0], normal


def test_two_sets_are_told_apart_by_the_plane_between_them(G: Any) -> None:
    above, below, normal = sides(G, 600)
    found = sg2cli.learn_direction(G, above, below)
    assert found.held_out["accuracy"] > 0.9 and not found.warnings
    step = found.steps["learned"].double()
    assert torch.equal(step[0], step[11])
    unseen = w_of(G, range(1000, 1400))
    heights = (unseen - w_of(G, range(600)).mean(dim=0)) @ normal
    middle = (w_of(G, range(600))[above].mean(0) + w_of(G, range(600))[below].mean(0)) / 2
    accuracy = (((unseen - middle) @ step[0] > 0) == (heights > 0)).double().mean().item()
    assert accuracy == pytest.approx(found.held_out["accuracy"], abs=0.06)


def test_a_unit_is_the_difference_of_the_means_along_the_direction(G: Any) -> None:
    above, below, _ = sides(G, 100)
    w = w_of(G, range(100))
    step = sg2cli.learn_direction(G, above, below).steps["learned"][0].double()
    difference = w[above].mean(dim=0) - w[below].mean(dim=0)
    assert step @ (difference - step) == pytest.approx(0, abs=1e-4 * step.norm().item() ** 2)


def test_the_discriminant_is_that_of_its_closed_form(randn: Any) -> None:
    """S^-1 of the difference of means, S being the covariance within the classes."""
    spread = randn(6, 6)
    w = torch.cat([randn(4000, 6) @ spread + randn(6), randn(1000, 6) @ spread])
    y = torch.cat([torch.ones(4000), -torch.ones(1000)]).double()
    within = sum(torch.cov(part.T) * (len(part) - 1) for part in (w[:4000], w[4000:])) / 4998
    expected = torch.linalg.solve(within, w[:4000].mean(dim=0) - w[4000:].mean(dim=0))
    found = discriminant(w, y).slope
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999
    assert (discriminant(w, y)(w).sign() == y).double()[4000:].mean() > 0.5


@pytest.mark.parametrize(("members", "dim"), [(40, 6), (30, 100)])
def test_the_penalty_of_a_regression_is_chosen_by_leaving_one_out(
    randn: Any, members: int, dim: int
) -> None:
    """Found another way: each member is predicted by a fit to all others, for every penalty."""
    from sg2cli.latents.regression import PENALTIES

    w = randn(members, dim)
    y = w @ randn(dim) + 2 * randn(members) + 5

    def fit(w: torch.Tensor, y: torch.Tensor, strength: float) -> Any:
        x, mean = w - w.mean(dim=0), y.mean()
        A = x.T @ x + strength * torch.eye(dim, dtype=torch.float64)
        slope = torch.linalg.solve(A, x.T @ (y - mean))
        return slope, lambda row: mean + (row - w.mean(dim=0)) @ slope

    scale = (w - w.mean(dim=0)).square().sum() / dim
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for i in range(members):
            others = torch.arange(members) != i
            _, predict = fit(w[others], y[others], float(penalty * scale))
            error += float(predict(w[i]) - y[i]) ** 2
        errors.append(error)
    best = PENALTIES[int(np.argmin(errors))]
    slope, _ = fit(w, y, float(best * scale))
    torch.testing.assert_close(ridge(w, y).slope, slope)
    assert ridge(w, y)(w).mean() == pytest.approx(float(y.mean()))


def test_scores_are_predicted(G: Any) -> None:
    w = w_of(G, range(400))
    _, _, normal = sides(G, 10)
    scores = {seed: float(w[seed] @ normal) + 7 for seed in range(400)}
    found = sg2cli.learn_direction(G, scores=scores, name="height")
    assert found.held_out["r2"] > 0.9
    step = found.steps["height"][0].double()
    deviation = np.std(list(scores.values()))
    assert (w @ step).std() > 0
    assert step @ normal == pytest.approx(deviation, rel=0.1)  # a unit raises the score by it
    assert f"{deviation:.4g}" in found.descriptions["height"]


def test_what_chance_could_do_is_said(G: Any) -> None:
    found = sg2cli.learn_direction(G, range(0, 60, 2), range(1, 60, 2))
    assert abs(found.held_out["accuracy"] - 0.5) < 0.25
    assert "chance" in found.warnings[0]
    random = np.random.RandomState(0).randn(50)
    found = sg2cli.learn_direction(G, scores=dict(enumerate(random)))
    assert found.held_out["r2"] < 0.2


def test_only_the_layers_are_looked_at_and_move(G: Any) -> None:
    """Two sets of W+ latents that differ in rows 3 to 6 only."""
    ws = w_of(G, range(60)).float()[:, None].repeat(1, 12, 1)
    vector = torch.zeros(256)
    vector[5] = 30.0
    changed = ws.clone()
    changed[:, 3:7] += vector
    found = sg2cli.learn_direction(G, changed[::2], ws[1::2], layers="3-6")
    step = found.steps["learned"]
    assert found.held_out["accuracy"] == 1
    assert step[3:7].any() and not step[[*range(3), *range(7, 12)]].any()
    assert torch.cosine_similarity(step[3], vector, dim=0) > 0.7


def test_members_are_spread_evenly_over_the_folds() -> None:
    folds = folds_of([1] * 23 + [-1] * 11)
    for group in (folds[:23], folds[23:]):
        counts = torch.bincount(group, minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(folds, folds_of([1] * 23 + [-1] * 11))
    assert folds_of([1, 1, -1, -1, -1]).max() == 1  # of two members, one is left to learn from


def test_a_repeated_latent_counts_once(G: Any) -> None:
    once = sg2cli.learn_direction(G, "0-9", "10-19")
    twice = sg2cli.learn_direction(G, "0-9,0-9", "10-19")
    assert torch.equal(once.steps["learned"], twice.steps["learned"])
    assert once.held_out == twice.held_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "from `positive` and `negative`, or from `scores`"),
        ({"positive": "0-3"}, "from `positive` and `negative`, or from `scores`"),
        ({"positive": "0-3", "negative": "4-7", "scores": {0: 1}}, "give either"),
        ({"positive": "0", "negative": "4-7"}, "`positive` has 1 different latent"),
        ({"positive": "0-5", "negative": "4-7"}, "2 of the latents are in both"),
        ({"positive": "0-5", "negative": "6-9", "name": "sefa"}, "sefa is reserved"),
        ({"positive": "0-5", "negative": "6-9", "layers": "12"}, "row 12 is out of range"),
        ({"positive": "0-5", "negative": "6-9", "class_index": 1}, "has no classes"),
        ({"scores": {0: 1, 1: 2, 2: 3}}, "at least 4 latents"),
        ({"scores": dict.fromkeys(range(9), 1)}, "not be all the same"),
        ({"scores": {0: 1, 1: 2, 2: "a", 3: 4}}, "a score is not a number"),
        ({"scores": {0: 1, 1: 2, 2: float("nan"), 3: 4}}, "a score is NaN"),
        ({"scores": {"0-1": 1, 2: 2, 3: 3, 4: 4}}, "'0-1' is 2 latents"),
        ({"scores": [("5", n) for n in range(9)]}, "all latents with scores are the same"),
    ],
)
def test_examples_that_do_not_fit(G: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sg2cli.UsageError, match=message):
        sg2cli.learn_direction(G, **arguments)


def test_the_command(sg2: Any, G: Any) -> None:
    above, below, _ = sides(G, 80)
    np.savez("above.npz", w=w_of(G, range(80))[above].float().numpy())
    for seed in below[:3]:
        sg2cli.generate(G, seed)[0].save(f"seed{seed:04d}.png")
    images = ",".join(f"seed{seed:04d}.png" for seed in below[:3])
    others = ",".join(str(seed) for seed in below[3:])
    sets = ("--positive", "above.npz", "--negative", others, "--negative", images)
    result = sg2("directions", *sets, "--json")
    assert result.code == 0, result.err
    made = json.loads(result.out)
    expected = sg2cli.learn_direction(G, above, below)
    assert made["path"] == "directions.safetensors"
    assert made["held_out"]["accuracy"] == pytest.approx(expected.held_out["accuracy"], abs=0.03)
    assert "held-out accuracy" in result.err
    assert "--direction directions.safetensors:learned" in result.err
    edited = sg2("edit", "5", "--direction", "directions.safetensors:learned=1", "-o", "e")
    assert edited.code == 0, edited.err
    named = ("--name", "height", "-o", "directions.safetensors", "--add")
    assert sg2("directions", *sets, *named).code == 0
    assert sg2cli.info("directions.safetensors")["directions"].keys() == {"height", "learned"}


def test_a_learned_name_goes_beside_the_network(sg2: Any) -> None:
    checkpoints.save_generator(random_generator(), Path("net.safetensors"), {})
    args = ("-n", "net.safetensors", "--positive", "0-9", "--negative", "10-19", "--name", "x")
    assert sg2("directions", *args).lines == ["net.directions.safetensors"]
    assert sg2("edit", "-n", "net.safetensors", "0", "--direction", "x").code == 0


def test_scores_in_a_file(sg2: Any, G: Any) -> None:
    w = w_of(G, range(40))
    Path("data").mkdir()
    save_file({"w": w[39:].float()}, "data/mine.safetensors")
    lines = ["name,score", *(f" {seed} ,{w[seed, 0]}" for seed in range(20)), ""]
    lines += [f"seed{seed:04d}.png,{w[seed, 0]}" for seed in range(20, 39)]
    lines += [f"mine.safetensors,{w[39, 0]}"]
    Path("data/scores.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    result = sg2(
        "directions", "--scores", "data/scores.csv", "--name", "first", "-o", "d.safetensors"
    )
    assert result.code == 0, result.err
    scores = {seed: float(w[seed, 0]) for seed in range(40)}
    expected = sg2cli.learn_direction(G, scores=scores)
    found = sg2cli.info("d.safetensors")
    assert found["held_out"]["r2"] == pytest.approx(expected.held_out["r2"], abs=1e-3)
    assert "one unit raises the score by" in found["directions"]["first"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1\n1,x\n", "line 2 of s.csv: 'x' is not a finite number"),
        ("0,1\n1,nan\n", "line 2 of s.csv: 'nan' is not a finite number"),
        ("0,1\n1\n", "line 2 of s.csv is not a name or seed, a comma and a number"),
        ("0,1\n1,2,3\n", "line 2 of s.csv is not a name or seed, a comma and a number"),
        ("0,1\n,2\n", "line 2 of s.csv is not a name or seed"),
        ("0,1\nnobody.npz,2\n", "no file nobody.npz"),
        ("0,1\n", "at least 4 latents"),
        ("", "at least 4 latents"),
        ('0,"' + "1" * 200_000 + '"\n', "is not CSV"),
    ],
)
def test_files_of_scores_that_are_wrong(sg2: Any, text: str, message: str) -> None:
    Path("s.csv").write_text(text)
    result = sg2("directions", "--scores", "s.csv", "-o", "d.safetensors")
    assert result.code == 2 and message in one_line(result.err)
    assert not Path("d.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--positive", "0-3"], "learned from --positive and --negative: give both"),
        (["--positive", "0-3", "--scores", "s.csv"], "give either"),
        (["--positive", "0-3", "--negative", "4-7", "--samples", "5"], "together with --samples"),
        (["--positive", "0-3", "--negative", "4-7", "--name", "a=sefa:0"], "has one --name"),
        (["--positive", "0-3", "--negative", "4-7", "--name", "a"], "--out my.safetensors"),
        (["--positive", "0", "--negative", "4-7"], "--positive has 1 different latent"),
        (["--list", "--scores", "s.csv"], "--list cannot be used together with --scores"),
        (["--scores", "s.csv"], "no file 's.csv'"),
        (["--name", "smile"], "as in smile=sefa:3"),
    ],
)
def test_options_that_do_not_fit(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("directions", *args)
    assert result.code == 2 and message in one_line(result.err)
    assert list(Path().iterdir()) == []


def test_scores_from_stdin_and_what_is_not_text(shell: Any) -> None:
    scores = "\n".join(f"{seed},{seed % 3}" for seed in range(12)).encode()
    result = shell("directions", "--scores", "-", "-o", "d.safetensors", input=scores)
    assert result.returncode == 0, result.stderr
    Path("s.csv").write_bytes(b"0,1\n\xff\xfe,2\n")
    result = shell("directions", "--scores", "s.csv", "-o", "e.safetensors")
    assert result.returncode == 2
    assert "is not text in UTF-8" in one_line(result.stderr.decode())


def test_the_file_of_scores_is_not_replaced(sg2: Any) -> None:
    Path("s.safetensors").write_text("0,1\n")
    args = ("--scores", "s.safetensors", "-o", "s.safetensors", "--overwrite")
    result = sg2("directions", *args)
    assert result.code == 2 and "is an input" in one_line(result.err)
