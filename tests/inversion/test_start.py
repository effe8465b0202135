"""What a search starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import golden, random_generator

from sg2cli.images.photos import Photo
from sg2cli.images.pixels import to_pixels
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.search import Search
from sg2cli.inversion.start import START_PSI, spread_of_w
from sg2cli.inversion.state import WS

from .test_search import SHORT, photos, start


def test_the_start_is_estimated_from_pictures() -> None:
    """Nearer to a picture of the network itself than the mean is, in w and in LPIPS."""
    G, _, _ = golden("uncond-64")
    spread, lpips = spread_of_w(G), LPIPS("vgg")
    w = spread.samples[-3:]
    own = [Photo(x) for x in to_pixels(G.synthesis(w[:, None].expand(-1, G.config.num_ws, -1)))]
    runs = [
        Search(G, own, replace(SHORT, start_samples=count), spread, lpips) for count in (0, 500)
    ]
    errors = [(run.state.params[WS][:, 0] - w).norm(dim=1) for run in runs]
    assert (errors[1] < errors[0]).all()
    scores = [run.score(run.state.params) for run in runs]
    assert scores[1].mean() < scores[0].mean()


@pytest.mark.parametrize("count", [1, 2])
def test_few_samples_give_a_start(count: int) -> None:
    """One of them settles nothing: its w is the start."""
    run = start(replace(SHORT, start_samples=count))
    ws = run.state.params["ws"]
    assert ws.isfinite().all()
    if count == 1:
        sample = run.spread.mean.lerp(run.spread.samples[0], START_PSI)
        torch.testing.assert_close(ws[0, 0], sample)


def test_the_start_does_not_see_what_is_masked() -> None:
    G = random_generator()
    (photo,) = photos(1)
    mask = np.zeros((16, 16), np.float32)
    mask[:, :8] = 1
    changed = photo.pixels.copy()
    changed[:, 8:] = 255 - changed[:, 8:]
    settings, spread = replace(SHORT, start_samples=50), spread_of_w(G)
    starts = [
        Search(G, [Photo(pixels, mask)], settings, spread).state.params[WS]
        for pixels in (photo.pixels, changed)
    ]
    assert torch.equal(*starts)
    assert not torch.equal(starts[0][0, 0], spread.mean)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_start_is_taken_as_it_is(space: Any) -> None:
    G = random_generator()
    ws = torch.randn(G.config.num_ws, G.config.w_dim)
    name = "synthesis.b8.conv1.noise_const"
    noise = {name: np.full((8, 8), 2.0, np.float32)}
    settings = replace(SHORT, space=space)
    run = Search(G, photos(1), settings, spread_of_w(G), inits=[(ws, noise)])
    expected = ws.mean(dim=0, keepdim=True) if space == "w" else ws
    torch.testing.assert_close(run.state.params[WS][0], expected)
    assert (run.state.params[name] == 2).all()


def test_the_spread_of_w_is_that_of_its_class() -> None:
    G, _, _ = golden("cond-32")
    first, second = spread_of_w(G, 0), spread_of_w(G, 7)
    assert (first.mean - second.mean).norm() > 0.05 * first.std
    samples = first.samples
    assert samples.shape == (10_000, G.config.w_dim)
    torch.testing.assert_close(first.mean, samples.mean(dim=0), rtol=1e-4, atol=1e-5)
    expected = (samples - samples.mean(dim=0)).square().sum(dim=1).mean().sqrt().item()
    assert first.std == pytest.approx(expected, rel=1e-4)
    distances = first.distance(samples[:, None])
    assert distances.square().mean().sqrt().item() == pytest.approx(1, rel=1e-4)
