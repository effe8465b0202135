"""States in files: a run goes on from them, and hostile ones are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from sg2cli.errors import Sg2Error
from sg2cli.inversion import snapshots
from sg2cli.inversion.search import Search, optimise
from sg2cli.inversion.state import WS
from sg2cli.settings import PRESETS

from .test_search import SHORT, few_samples, projected, start
from .test_tuning import tuning


@pytest.mark.parametrize("space", ["w", "w+"])
@pytest.mark.parametrize(
    ("preset", "steps"), [("paper", 11), ("best", 11), ("best", 18), ("best", 25)]
)
def test_a_run_goes_on_from_a_snapshot_to_the_same_bits(
    tmp_path: Path, space: Any, preset: str, steps: int
) -> None:
    settings = few_samples(replace(PRESETS[preset], steps=30, space=space, patience=8))
    unbroken = projected(start(settings, count=2))
    first = start(settings, count=2)
    for _ in range(steps):
        first.step()
        assert not first.ended()[0]
    snapshots.save_state(tmp_path / "s.safetensors", first, {"a": (1,)})
    again = start(settings, count=2)
    assert not snapshots.load_state(tmp_path / "other.safetensors", again, {"a": (1,)})
    with pytest.raises(Sg2Error, match="other settings"):
        snapshots.load_state(tmp_path / "s.safetensors", again, {"a": (2,)})
    assert snapshots.load_state(tmp_path / "s.safetensors", again, {"a": (1,)})
    assert again.state.step == steps
    for found, expected in zip(projected(again), unbroken, strict=True):
        assert torch.equal(found.ws, expected.ws)
        assert found.noise.keys() == expected.noise.keys()
        assert all(torch.equal(found.noise[name], expected.noise[name]) for name in found.noise)
        assert found.history == expected.history and found.ended == expected.ended


def test_an_interrupted_run_leaves_a_snapshot_and_a_finished_one_none(tmp_path: Path) -> None:
    path, run = tmp_path / "s.safetensors", start(SHORT)

    def interrupt(run: Search) -> None:
        if run.state.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(optimise(run, interrupt, saving=snapshots.SearchSnapshot(path, run, {})))
    run = start(SHORT)
    assert snapshots.load_state(path, run, {}) and run.state.step == 5
    (found,) = optimise(run, saving=snapshots.SearchSnapshot(path, run, {}))
    assert torch.equal(found.ws, projected(start(SHORT))[0].ws)
    assert not path.exists()


def test_a_snapshot_of_a_photo_that_is_not_finite_any_more_has_its_best(tmp_path: Path) -> None:
    path, run = tmp_path / "s.safetensors", start(replace(SHORT, keep_best=True), count=2)
    run.step()
    run.state.params[WS][1] = torch.nan
    snapshots.save_state(path, run, {})
    again = start(replace(SHORT, keep_best=True), count=2)
    assert snapshots.load_state(path, again, {})
    (found,), _ = again.ended()
    assert (found.member, found.ended) == (1, "not finite")
    assert found.ws.isfinite().all()


def rewritten(
    path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
) -> None:
    """A snapshot with other fields and tensors."""
    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["sg2"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(fields, tensors)
    path.write_bytes(save(tensors, {"sg2": json.dumps(fields)}))


def set_randomness(tensors: dict[str, torch.Tensor], at: int, *content: int) -> None:
    tensors["randomness"] = tensors["randomness"].clone()
    tensors["randomness"][..., at : at + len(content)] = torch.tensor(content, dtype=torch.uint8)


def replaced(name: str, new: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def change(fields: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = new(tensors[name].clone())

    return change


HOSTILE_SNAPSHOTS: dict[str, Any] = {
    "infinity in a history": replaced("history.0", lambda t: t.fill_(math.inf)),
    "NaN in a history": replaced("history.0", lambda t: t.fill_(math.nan)),
    "a history that jumps": replaced("history.0", lambda t: t + 1),
    "a history of float32": replaced("history.0", lambda t: t.float()),
    "a history of more lines": replaced("history.0", lambda t: t.repeat(2, 1)),
    "numbers used beyond their end": lambda f, t: set_randomness(
        t, 8, 112, 2, 0, 0, 1, 0, 0, 0, 200, 2
    ),
    "more numbers left than there are": lambda f, t: set_randomness(t, 8, 255, 255, 0, 0),
    "fewer than none left": lambda f, t: set_randomness(t, 8, 255, 255, 255, 255),
    "not seeded": lambda f, t: set_randomness(t, 12, 0),
    "a number of more than 32 bits": lambda f, t: set_randomness(t, 24 + 4, 1),
    "a normal number that is NaN": lambda f, t: set_randomness(t, 5024, *[255] * 8),
    "no truth": lambda f, t: set_randomness(t, 5052, 7),
    "fewer bytes of randomness": replaced("randomness", lambda t: t[..., :-8].contiguous()),
    "improved in the future": replaced("improved_at", lambda t: t + 1000),
    "improved before the beginning": replaced("improved_at", lambda t: t - 1000),
    "steps of truth": lambda f, t: f.update(step=True),
    "steps below zero": lambda f, t: f.update(began_at=-1),
    "members of text": lambda f, t: f.update(members=["0"]),
    "members as text": lambda f, t: f.update(members="01"),
    "members of truth": lambda f, t: f.update(members=[False, True]),
    "members without end": lambda f, t: f.update(members=list(range(100_000))),
    "weights in half": replaced("params.ws", lambda t: t.half()),
}


@pytest.mark.parametrize("name", HOSTILE_SNAPSHOTS)
def test_a_hostile_snapshot_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    path, run = tmp_path / "s.safetensors", start(SHORT, count=2)
    run.step()
    snapshots.save_state(path, run, {})
    rewritten(path, lambda fields, tensors: None)
    assert snapshots.load_state(path, start(SHORT, count=2), {})
    rewritten(path, HOSTILE_SNAPSHOTS[name])
    with pytest.raises(Sg2Error, match=r"s\.safetensors is damaged \(its .*\): remove it"):
        snapshots.load_state(path, start(SHORT, count=2), {})


def test_a_hostile_snapshot_of_tuning_is_refused(tmp_path: Path) -> None:
    path, run = tmp_path / "t.safetensors", tuning()
    run.step()
    snapshots.save_tuning(path, run, {})
    rewritten(path, HOSTILE_SNAPSHOTS["numbers used beyond their end"])
    with pytest.raises(Sg2Error, match="position is out of range"):
        snapshots.load_tuning(path, run, {})


@pytest.mark.parametrize("drawn", [0, 1, 623, 624, 625, 2000])
def test_any_state_of_a_generator_is_taken(drawn: int) -> None:
    numbers = torch.Generator().manual_seed(drawn)
    for kind in (torch.rand, torch.randn):
        for dtype in (torch.float32, torch.float64):
            kind(drawn, generator=numbers, dtype=dtype)
            snapshots._check_randomness(numbers.get_state())


@pytest.mark.parametrize("damage", ["cut", "shape", "step", "members", "key"])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, damage: str) -> None:
    path, run = tmp_path / "s.safetensors", start(SHORT, count=2)
    run.step()
    snapshots.save_state(path, run, {})
    content = path.read_bytes()
    if damage == "cut":
        content = content[:-5]
    else:
        old, new = {
            "shape": (b"[2,1,16]", b"[1,2,16]"),
            "step": (b'step\\":', b'step\\":9'),
            "members": (b"[0, 1]", b"[1, 7]"),
            "key": (b'"score"', b'"scorn"'),
        }[damage]
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)
    with pytest.raises(Sg2Error, match="remove it"):
        snapshots.load_state(path, start(SHORT, count=2), {})
