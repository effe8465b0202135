"""Projection: NVIDIA's numbers, gradients by the reference, and one image apart from another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import GOLDEN, golden, random_generator
from reference import Reference
from safetensors.torch import load_file
from torch import Tensor

from sg2cli import checkpoints, ops
from sg2cli.generator import Generator
from sg2cli.images.photos import Photo, read_photo
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.search import Search, optimise
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.state import WS, Found
from sg2cli.settings import PRESETS, ProjectSettings, Restart

from .test_losses import TARGETS, authors_lpips

SHORT = ProjectSettings(steps=8)


def photos(count: int, size: int = 16, channels: int = 3) -> list[Photo]:
    """Smooth images, each another."""
    found = []
    for seed in range(count):
        coarse = np.random.RandomState(seed).rand(4, 4, channels) * 255
        pixels = np.kron(coarse, np.ones((size // 4, size // 4, 1))).astype(np.uint8)
        found.append(Photo(pixels))
    return found


def projected(run: Search) -> list[Found]:
    """All of a run, in order."""
    return sorted(optimise(run), key=lambda found: found.member)


def few_samples(settings: ProjectSettings) -> ProjectSettings:
    """The same, with a start that is soon estimated."""
    restarts = tuple(
        replace(restart, start_samples=restart.start_samples and 16)
        for restart in settings.restarts
    )
    return replace(settings, start_samples=settings.start_samples and 16, restarts=restarts)


def score_of(run: Search, projection: Found) -> float:
    noise = {name: x[None, None] for name, x in projection.noise.items()}
    return run.score({WS: projection.ws[None], **noise}).item()


def start(settings: ProjectSettings, count: int = 1, **more: Any) -> Search:
    G = random_generator()
    return Search(G, photos(count), settings, spread_of_w(G), **more)


def test_the_golden_run_of_nvidias_projector() -> None:
    expected = load_file(GOLDEN / "projection-uncond-64.safetensors")
    G, _, _ = golden("uncond-64")
    photo = read_photo(TARGETS / "avatar-dev00.png", (64, 64), 3)
    assert torch.equal(torch.from_numpy(photo.pixels).permute(2, 0, 1), expected["target"])
    settings = replace(PRESETS["paper"], steps=60, seed=303)
    run = Search(G, [photo], settings, spread_of_w(G))
    for step in range(60):
        run.step()
        record = run.history[0][-1]
        total = record.lpips + settings.noise_weight * record.noise_penalty
        distance, loss = expected["dist_loss"][step].tolist()
        assert record.lpips == pytest.approx(distance, abs=0.01)
        assert total == pytest.approx(loss, rel=0.01)
        w, expected_w = run.state.params[WS][0, 0], expected["w"][step]
        error = ((w - expected_w).norm() / expected_w.norm()).item()
        assert error < (1e-2 if step < 5 else 5e-2)
    (projection,) = projected(run)
    assert projection.ended == "done" and projection.steps == 60
    assert torch.equal(projection.ws[3], run_w(projection))


def run_w(projection: Found) -> Tensor:
    """The w of a projection into W, of which all rows are."""
    assert (projection.ws == projection.ws[:1]).all()
    return projection.ws[0]


@pytest.mark.parametrize("name", ["gray-16", "random"])
@pytest.mark.parametrize("space", ["w", "w+"])
def test_gradients_are_those_of_the_reference(name: str, space: Any, randn: Any) -> None:
    G = random_generator() if name == "random" else golden(name)[0]
    G = G.double()
    config = G.config
    photo = photos(1, config.img_resolution, config.img_channels)[0]
    settings = replace(SHORT, space=space, noise_weight=1e3, pixel_weight=0.5, wplus_weight=0.25)
    spread = spread_of_w(G)
    run = Search(G, [photo], settings, spread, LPIPS("vgg").double())
    params = {
        name: (param + 0.1 * randn(*param.shape)).requires_grad_()
        for name, param in run.state.params.items()
    }
    jitter = 0.1 * randn(*params[WS].shape)
    total, _, _ = run.loss(params, jitter)
    found = torch.autograd.grad(total.sum(), list(params.values()))

    reference, lpips = Reference(config, G.state_dict()), authors_lpips("vgg").double()
    ws = (params[WS] + jitter).expand(-1, config.num_ws, -1)
    maps = {name: param[0, 0] for name, param in params.items() if name != WS}
    image = reference.synthesis(ws, maps)
    target = torch.from_numpy(photo.pixels).permute(2, 0, 1)[None].double() / 127.5 - 1
    loss = lpips(image.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1)).sum()
    for x in maps.values():
        while True:
            across, down = (x * x.roll(1, 1)).mean(), (x * x.roll(1, 0)).mean()
            loss = loss + 1e3 * (across**2 + down**2)
            if len(x) <= 8:
                break
            x = x.view(len(x) // 2, 2, len(x) // 2, 2).mean(dim=(1, 3))
    loss = loss + 0.5 * ((image - target) ** 2).mean()
    rows = params[WS][0]
    spreads = ((rows - rows.mean(dim=0)) ** 2).sum() / len(rows)
    loss = loss + 0.25 * spreads / spread.std**2
    assert total.item() == pytest.approx(loss.item(), rel=1e-10)
    for a, b in zip(found, torch.autograd.grad(loss, list(params.values())), strict=True):
        assert (a - b).norm() <= 1e-9 * max(1e-6, b.norm())


def gradients(G: Generator, some: Sequence[Photo], settings: ProjectSettings) -> list[Tensor]:
    """Of a second step, in all parameters, a row a photo."""
    run = Search(G, some, settings, spread_of_w(G), LPIPS("vgg").double())
    run.step()
    params = {name: param.requires_grad_() for name, param in run.state.params.items()}
    total, _, _ = run.loss(params)
    return list(torch.autograd.grad(total.sum(), list(params.values())))


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_batch_has_the_gradients_of_single_runs(space: Any) -> None:
    G = random_generator().double()
    settings = replace(SHORT, space=space, wplus_weight=0.1, pixel_weight=0.1)
    some = photos(3)
    some[1] = replace(some[1], mask=np.tri(16, dtype=np.float32))
    together = gradients(G, some, settings)
    for i, photo in enumerate(some):
        for batch, single in zip(together, gradients(G, [photo], settings), strict=True):
            assert (batch[i] - single[0]).norm() <= 1e-9 * single[0].norm()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_photo_among_others_ends_as_it_does_alone(preset: str) -> None:
    """In float64, for channels of any number, which torch's own operations compute."""
    settings = few_samples(replace(PRESETS[preset], steps=40))
    G, lpips = random_generator().double(), LPIPS("vgg").double()
    some, scores = photos(3), []
    for few in (some, some[2:]):
        run = Search(G, few, settings, spread_of_w(G), lpips)
        projection = projected(run)[-1]
        fresh = Search(G, some[2:], settings, spread_of_w(G), lpips)
        scores.append(score_of(fresh, projection))
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="torch's own operations round by the batch")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_photo_among_others_ends_with_the_same_bits(set_threads: Any, preset: str) -> None:
    """In float32, too, and whatever the search makes of a bit."""
    settings = few_samples(replace(PRESETS[preset], steps=9))
    G, lpips = checkpoints.load(device="cpu"), LPIPS("vgg")
    some = [read_photo(TARGETS / f"avatar-dev{i:02d}.png", (128, 128), 3) for i in range(4)]
    some[1] = replace(some[1], mask=np.tri(128, dtype=np.float32))
    set_threads(2)
    together = projected(Search(G, some, settings, spread_of_w(G), lpips))
    for i, expected in list(enumerate(together))[1::2]:
        (found,) = projected(Search(G, some[i : i + 1], settings, spread_of_w(G), lpips))
        assert torch.equal(found.ws, expected.ws) and found.history == expected.history
        assert all(torch.equal(found.noise[name], expected.noise[name]) for name in found.noise)


def test_the_best_is_kept_and_paper_keeps_the_last() -> None:
    wild = replace(SHORT, steps=30, lr=2.0, lr_rampdown=1e-9, w_noise=0.0, shown=True)
    kept, ended = (
        projected(start(replace(wild, keep_best=keep), count=3)) for keep in (True, False)
    )
    gained, G = [], random_generator()
    for best, last, photo in zip(kept, ended, photos(3), strict=True):
        run = Search(G, [photo], wild, spread_of_w(G))
        seen = [record.lpips for record in best.history]
        assert score_of(run, best) == pytest.approx(min(*seen, score_of(run, last)), rel=1e-4)
        assert last.history == best.history
        gained.append(score_of(run, last) - score_of(run, best))
    assert max(gained) > 0.01


def test_a_score_is_that_of_the_image_as_it_is_shown() -> None:
    """Not of values that no file can hold."""
    run = start(replace(SHORT, keep_best=True))
    run.restore(replace(run.state, params={**run.state.params, WS: 5 * run.state.params[WS]}))
    image = run.draw(run.state.params)
    assert image.abs().max() > 1.5
    with torch.no_grad():
        expected = run.lpips(image.clamp(-1, 1), run.targets).item()
    assert run.score(run.state.params).item() == pytest.approx(expected, rel=1e-5)
    shown, paper = (
        run.loss(run.state.params, 0, replace(run.settings, shown=shown))[1].item()
        for shown in (True, False)
    )
    assert shown == pytest.approx(expected, rel=1e-5)
    assert paper != pytest.approx(expected, rel=1e-2)


def test_a_restart_is_a_search_from_the_best_of_those_before() -> None:
    first = replace(SHORT, steps=20, w_noise=0.0)
    restart = Restart(at=0.5, lr=0.4, w_noise=0.0, pixel_weight=0.1, shown=False)
    both = replace(first, steps=40, keep_best=True, restarts=(restart,))
    (one,), (two,) = projected(start(first)), projected(start(both))
    assert two.history[:20] == one.history  # which is the paper's
    run = start(first)
    end = score_of(run, one)
    assert score_of(run, two) <= end
    assert (two.history[20].lr, two.history[25].lr) == (0, 0.4)
    assert two.history[20].w_distance > 0
    assert two.history[30].lpips != two.history[20].lpips  # it does search


def test_a_restart_from_an_estimate_begins_as_a_run_does() -> None:
    restart = Restart(at=0.5, lr=0.4, w_noise=0.0, pixel_weight=0.1, start_samples=50)
    after = replace(restart, at=0.8, start_samples=None)
    settings = replace(SHORT, steps=20, keep_best=True, restarts=(restart, after))
    for inits in ([], [(torch.zeros(6, 16), {})]):
        run = start(settings, inits=inits)
        assert run.G.config.num_ws == 6 and run.G.config.w_dim == 16
        for _ in range(10):
            run.step()
        kept = run.state.score.item()
        fresh = start(replace(SHORT, start_samples=50), inits=inits)
        run.step()
        assert run.history[0][10].lpips == pytest.approx(fresh.score(fresh.state.params).item())
        assert run.state.searches == 1 and run.state.began_at == 10
        best = run.state.score.item()
        assert best <= kept  # nothing is lost
        while run.state.step < 16:
            run.step()
        best = run.state.score.item()
        run.step()
        assert run.state.searches == 2
        assert run.history[0][16].lpips == pytest.approx(run.state.score.item(), rel=1e-4)
        assert run.state.score.item() <= best
        assert score_of(fresh, projected(run)[0]) <= best + 1e-6


def test_scores_exclude_the_noise_on_w() -> None:
    settings = replace(SHORT, steps=30, w_noise=3.0, w_noise_ramp=1.0, keep_best=True)
    run = start(settings)
    first = run.score(run.state.params).item()
    run.step()
    assert run.state.score.item() == pytest.approx(first, rel=1e-6)
    assert run.history[0][0].lpips != pytest.approx(first, rel=1e-3)


def test_a_plateau_ends_a_photo_and_not_the_others() -> None:
    settings = replace(
        SHORT, steps=60, keep_best=True, patience=5, w_noise=0.0, noise_maps=False, shown=True
    )
    run = start(settings, count=2)
    stuck = run.state.params[WS].clone()
    while len(run.state.members) == 2 and run.state.step < 60:
        params = {**run.state.params}
        params[WS] = torch.stack([stuck[0], params[WS][1]])  # the first does not move
        run.restore(replace(run.state, params=params))
        run.step()
        ended, others = run.ended()
        run.restore(others)
    assert [(p.member, p.ended) for p in ended] == [(0, "plateau")]
    assert run.state.members == (1,)
    assert ended[0].steps == 6 and len(ended[0].history) == 6
    run.step()  # the other goes on
    assert len(run.history[1]) == 7


def test_slow_progress_is_not_a_plateau() -> None:
    """Steps that gain less than counts, but together more."""
    slow = replace(SHORT, steps=60, keep_best=True, patience=20, w_noise=0.0, noise_maps=False)
    (projection,) = projected(start(replace(slow, lr=0.003, lr_rampup=0.0)))
    first, last = (projection.history[i].lpips for i in (0, -1))
    assert last < first * 0.995
    assert projection.ended == "done"


def test_time_that_is_over_hastens_the_schedule_and_ends_the_run() -> None:
    settings = replace(SHORT, steps=1000)
    run = start(settings)
    run.step()
    for part in (0.3, 0.9, 0.999):
        run.step(part)
    rates = [record.lr for record in run.history[0]]
    assert rates[:2] == [0.0, settings.lr] and 0 < rates[3] < rates[2] < settings.lr
    assert not run.ended(0.999)[0]
    (projection,) = run.ended(1.0)[0]
    assert projection.ended == "time" and projection.steps == 4


def test_a_loss_that_is_not_finite_ends_its_photo_with_what_was_good() -> None:
    for keep_best in (False, True):
        run = start(replace(SHORT, keep_best=keep_best), count=2)
        for _ in range(3):
            run.step()
        good = run.state.params[WS][0].clone()
        run.targets[0] = math.nan
        run.wanted = run.lpips.features(run.targets)
        run.restore(run.state)
        run.step()
        ended, others = run.ended()
        assert [(p.member, p.ended) for p in ended] == [(0, "not finite")]
        assert ended[0].ws.isfinite().all()
        if not keep_best:  # the last whose loss was finite
            assert (ended[0].ws - good).norm() < 0.5 * good.norm()
        run.restore(others)
        (other,) = projected(run)
        assert other.member == 1 and other.ended == "done" and other.ws.isfinite().all()


def test_without_noise_maps_the_checkpoints_own_are_drawn() -> None:
    settings = replace(SHORT, noise_maps=False, keep_best=True)
    run = start(settings)
    expected = run.G.synthesis(run.state.params[WS].expand(-1, run.G.config.num_ws, -1), "const")
    assert torch.equal(run.draw(run.state.params), expected)
    (projection,) = projected(run)
    assert projection.noise == {} and projection.history[0].noise_penalty == 0


def test_optimised_noise_is_white_after_every_step() -> None:
    run = start(SHORT)
    run.step()
    for name, param in run.state.params.items():
        if name != WS:
            assert param.mean().abs() < 1e-5
            assert param.square().mean().item() == pytest.approx(1, abs=1e-5)


def test_outside_of_a_mask_nothing_counts() -> None:
    """Pixels of the target outside of the mask change nothing but themselves."""
    G = random_generator()
    (photo,) = photos(1)
    mask = np.zeros((16, 16), np.float32)
    mask[:, :8] = 1
    run = Search(G, [replace(photo, mask=mask)], SHORT, spread_of_w(G))
    image = run.draw(run.state.params)
    assert torch.equal(image[..., 8:], run.targets[..., 8:])
    params = {name: param.requires_grad_() for name, param in run.state.params.items()}
    total, _, _ = run.loss(params)
    noise = params["synthesis.b16.conv1.noise_const"]
    image = run.draw(params)
    inside = torch.autograd.grad(image[..., :8].sum(), noise, retain_graph=True)[0]
    outside = torch.autograd.grad(image[..., 8:].sum(), noise)[0]
    assert inside.abs().sum() > 0 and outside.abs().sum() == 0
    assert total.isfinite().all()
