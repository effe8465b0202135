"""The verdict on projections: words that a person would choose, and no useless advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_generator

import sg2cli
from sg2cli.images.photos import Region
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.targets import Target
from sg2cli.inversion.verdict import (
    OWN_SAMPLES,
    OwnScale,
    Verdict,
    advice,
    own_scale,
    provenance_of,
    verdict_in,
)
from sg2cli.storage.ownership import OwnedFolder

SCALE = OwnScale(np.linspace(0.2, 0.4, 5), np.full(5, 15.0))  # median 0.3
CROPPED = Region((400, 600), (0, 100, 400, 400), (128, 128))
MADE = {"preset": "paper", "space": "w", "tune": None}


def target(word: str, region: Region | None = None, **made: Any) -> Target:
    figures = {**MADE, **made, "verdict": word, "own_ratio": 1.0, "own_percentile": 50.0}
    return Target(Path("me.png"), OwnedFolder(Path("me"), ()), "done", region, figures)


@pytest.mark.parametrize(
    ("lpips", "word", "ratio", "percentile"),
    [
        (0.0, "close", 0.0, 0),
        (0.09, "close", 0.3, 0),
        (0.11, "recognisable", 0.3667, 0),
        (0.22, "recognisable", 0.7333, 20),
        (0.29, "outside", 0.9667, 40),
        (0.9, "outside", 3.0, 100),
    ],
)
def test_lpips_is_judged_on_the_scale_of_the_network(
    lpips: float, word: str, ratio: float, percentile: float
) -> None:
    verdict = SCALE.judge(lpips, 14.0)
    assert (verdict.word, verdict.percentile) == (word, percentile)
    assert verdict.ratio == pytest.approx(ratio, abs=1e-4)
    assert verdict_in(provenance_of(verdict)) == Verdict(verdict.word, ratio, percentile)


def test_the_same_distance_counts_less_where_samples_differ_more() -> None:
    psnr = np.array([14.0, 16.0])
    assert OwnScale(np.array([0.7, 0.9]), psnr).judge(0.25, 14).word == "close"
    assert OwnScale(np.array([0.1, 0.2]), psnr).judge(0.25, 14).word == "outside"
    alike = OwnScale(np.zeros(2), np.full(2, np.inf))
    assert alike.judge(0.0, 40).word == "close" and alike.judge(0.1, 40).word == "outside"


def test_pixels_count_where_lpips_exaggerates() -> None:
    """As on a plain patch: a trace of structure is far from none, though hardly visible."""
    assert SCALE.judge(0.46, 21.0).word == "recognisable"
    assert SCALE.judge(0.46, 19.0).word == "outside"
    assert SCALE.judge(0.01, 5.0).word == "close"


def test_the_scale_is_the_distance_of_samples_from_the_most_similar_of_the_others() -> None:
    G = random_generator(conv_clamp=1.0)
    spread = spread_of_w(G)
    scale = own_scale(G, spread)
    assert scale is not None and scale.lpips.shape == scale.psnr.shape == (OWN_SAMPLES,)
    rows = spread.samples[-OWN_SAMPLES:, None].expand(-1, G.config.num_ws, -1)
    images = G.synthesis(rows).clamp(-1, 1)
    lpips = LPIPS("vgg")
    expected = min(lpips(images[:1], images[i : i + 1]).item() for i in range(1, OWN_SAMPLES))
    assert scale.lpips[0] == pytest.approx(expected, abs=2e-3)  # it compares 8 bits
    error = (images[1:] - images[:1]).square().mean(dim=(1, 2, 3)).min().item()
    assert scale.psnr[0] == pytest.approx(10 * np.log10(4 / error), abs=0.1)
    same = own_scale(G, spread)
    assert same is not None and (same.lpips == scale.lpips).all()


def test_a_network_that_cannot_draw_its_samples_has_no_scale() -> None:
    G = random_generator()
    spread = spread_of_w(G)
    spread.samples.fill_(float("nan"))
    assert own_scale(G, spread) is None
    assert verdict_in(provenance_of(None)) is None


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"verdict": "outside"},
        {"verdict": "fine", "own_ratio": 1, "own_percentile": 1},
        {"verdict": ["close"], "own_ratio": 1, "own_percentile": 1},
        {"verdict": "close", "own_ratio": "x", "own_percentile": 1},
        {"verdict": "close", "own_ratio": float("nan"), "own_percentile": 1},
        {"verdict": "close", "own_ratio": 1, "own_percentile": 101},
    ],
)
def test_metadata_that_hold_no_verdict(made: dict[str, Any]) -> None:
    assert verdict_in(made) is None


def test_only_options_that_are_not_set_are_suggested() -> None:
    (text,) = advice([target("recognisable"), target("close"), target("recognisable")])
    assert text.startswith("2 results are recognisable, but not close: ")
    assert "`preset` best or `space` w+ or `tune`" in text
    for made, missing in (({"preset": "best"}, "preset"), ({"space": "w+"}, "space")):
        assert missing not in next(advice([target("recognisable", **made)]))
    everything = {"preset": "best", "space": "w+", "tune": {"steps": 350}}
    assert not list(advice([target("recognisable", **everything), target("close")]))


def test_another_part_of_a_photo_is_suggested_only_if_some_was_cut_off() -> None:
    (text,) = advice([target("outside", CROPPED), target("close", CROPPED)])
    assert text.startswith("1 photo outside was cropped to the centre: `crop` ")
    whole = Region((400, 400), (0, 0, 400, 400), (128, 128))
    chosen = Region((400, 600), (0, 10, 400, 400), (128, 128))
    assert not list(advice([target("outside", whole), target("outside", chosen)]))


def test_own_samples_are_close_and_noise_is_outside(in_tmp: Path) -> None:
    """On the bundled network, after a few steps."""
    G = sg2cli.load(device="cpu")
    (own,) = sg2cli.generate(G, "900")
    noise = np.random.RandomState(0).randint(0, 256, (128, 128, 3), np.uint8)
    found = [sg2cli.project(G, image, "fast", steps=12) for image in (own.pixels, noise)]
    assert [each.verdict and each.verdict.word for each in found] == ["close", "outside"]
    for each in found:
        assert each.verdict and each.provenance["verdict"] == each.verdict.word
        assert each.verdict.ratio == pytest.approx(each.lpips / 0.338, rel=0.02)
