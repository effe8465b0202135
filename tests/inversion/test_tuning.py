"""Pivotal tuning: it goes on from a snapshot, and ends when its time is over."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from networks import random_generator

from sg2cli.errors import Sg2Error
from sg2cli.inversion import snapshots
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.state import Found
from sg2cli.inversion.tuning import Tuning
from sg2cli.settings import TuneSettings

from .test_search import photos


def tuning(count: int = 2) -> Tuning:
    G, some = random_generator(), photos(count)
    found = [
        (Found(i, torch.zeros(G.config.num_ws, G.config.w_dim), {}, 0, "done", []), photo)
        for i, photo in enumerate(some)
    ]
    return Tuning(G, found, TuneSettings(steps=4), spread_of_w(G), LPIPS("vgg"))


def test_tuning_goes_on_from_a_snapshot_to_the_same_bits(tmp_path: Path) -> None:
    path, whole, first = tmp_path / "t.safetensors", tuning(), tuning()
    snapshots.tune(whole, tmp_path / "whole.safetensors", {})
    assert whole.over and whole.state.step == 8

    def interrupt(lpips: float) -> None:
        if first.state.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        snapshots.tune(first, path, {"a": (1,)}, interrupt)
    again = tuning()
    with pytest.raises(Sg2Error, match="other settings"):
        snapshots.load_tuning(path, again, {})
    assert snapshots.load_tuning(path, again, {"a": (1,)}) and again.state.step == 3
    snapshots.tune(again, path, {"a": (1,)})
    differences = whole.differences()
    assert any(difference.abs().max() > 0 for difference in differences.values())
    for name, difference in again.differences().items():
        assert torch.equal(difference, differences[name])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Sg2Error, match="remove it"):
        snapshots.load_tuning(path, again, {"a": (1,)})


def test_tuning_ends_when_its_time_is_over_or_its_loss_not_finite(tmp_path: Path) -> None:
    path, run = tmp_path / "t.safetensors", tuning()
    snapshots.tune(run, path, {}, seconds=0)
    assert run.state.step == 0
    run.step()
    run._pivots[1].target[:] = math.nan
    with pytest.raises(Sg2Error, match="NaN or infinite"):
        snapshots.tune(run, path, {})
    assert run.state.step == 1 and all(w.isfinite().all() for w in run.state.weights.values())
