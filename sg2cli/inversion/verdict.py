"""Whether a network can draw a photo: the distance of its projection, on the network's own scale.

A network's own samples are reached almost exactly (avatars-128: an LPIPS-VGG of 0.003), so what a
search reaches on them is no scale for photos. The scale is how similar samples are to one another:
the distance of each from the most similar of the others. A projection that is no closer to its
photo than that shows something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from sg2cli.errors import Sg2Error
from sg2cli.images.pixels import to_tensor
from sg2cli.inversion.losses import LPIPS
from sg2cli.sampling import Point, default_batch, try_render

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.inversion.start import Spread
    from sg2cli.inversion.targets import Target

Word = Literal["close", "recognisable", "outside"]
TEXTS: dict[Word, str] = {
    "close": "close",
    "recognisable": "recognisable",
    "outside": "outside what this network can draw",
}

KEYS = ("verdict", "own_ratio", "own_percentile")  # in provenance and tables
OWN_SAMPLES = 16  # their median distance is within 5% of that of 32, in a quarter of the time
# Largest ratios, chosen by eye on avatars-128 (docs/inversion.md): drawings of its kind up to 0.24
# have all attributes, at 0.47 to 0.54 a moustache or half of the hair is missing; what begins at
# 0.93 has lost its outlines.
CLOSE, RECOGNISABLE = 1 / 3, 3 / 4
# LPIPS exaggerates the little structure of a result where the photo has none: a plain patch with a
# faint face has a ratio of 1.35. So pixels this much closer than those of similar samples are
# recognisable at any LPIPS: 20 dB on avatars-128, where photos that it cannot draw end at 5 to 16.
CLEARLY_CLOSER = 5.0  # dB
INVISIBLE = 0.001  # LPIPS; a smaller median, of samples that look alike, counts as this


@dataclass(frozen=True)
class Verdict:
    """How close a projection is to its photo, compared with samples of the network."""

    word: Word
    ratio: float  # of its LPIPS-VGG to the samples' median distance from their nearest neighbours
    percentile: float  # of the samples, those closer to their nearest neighbours: 0 is the best

    def __post_init__(self) -> None:
        """ValueError for values that no projection has: they may be read from a file."""
        if self.word not in TEXTS or not (self.ratio >= 0 <= self.percentile <= 100):
            raise ValueError(f"not a verdict: {self.word!r}, {self.ratio}, {self.percentile}")

    @property
    def text(self) -> str:
        return TEXTS[self.word]


@dataclass(frozen=True)
class OwnScale:
    """LPIPS-VGG [N] and PSNR [N] of samples of a network and the most similar of the others."""

    lpips: np.ndarray[Any, np.dtype[np.float64]]
    psnr: np.ndarray[Any, np.dtype[np.float64]]

    def judge(self, lpips: float, psnr: float) -> Verdict:
        """The verdict on the LPIPS-VGG and the PSNR of a projection and its photo."""
        ratio = lpips / max(float(np.median(self.lpips)), INVISIBLE)
        word: Word = "close"
        if ratio > CLOSE:
            word = "recognisable"
        if ratio > RECOGNISABLE and psnr < np.median(self.psnr) + CLEARLY_CLOSER:
            word = "outside"
        return Verdict(word, ratio, 100 * float((self.lpips < lpips).mean()))


def own_scale(G: Generator, spread: Spread) -> OwnScale | None:
    """Draw the last samples of the spread, without truncation, and compare all of them.

    It takes as long as a few steps of a search; so it need not be stored with networks. None for a
    network that cannot draw its own samples. Sg2Error if the weights of LPIPS are missing.
    """
    samples = spread.samples[-OWN_SAMPLES:]
    points = [Point(w.expand(G.config.num_ws, -1)) for w in samples]
    drawn = try_render(G, points, "const", min(len(points), default_batch(G)))
    images = [image for image in drawn if not isinstance(image, Sg2Error)]
    if len(images) < 2:
        return None
    network = LPIPS("vgg").to(G.device)
    lpips, error = (np.full((len(images), len(images)), np.inf) for _ in range(2))
    with torch.inference_mode():
        features = [network.features(to_tensor(image[None], samples.float())) for image in images]
        for i, one in enumerate(features):
            for j, other in enumerate(features[:i]):
                lpips[i, j] = lpips[j, i] = network.distance(one, other).item()
                difference = images[i].astype(np.float64) - images[j]
                error[i, j] = error[j, i] = np.square(difference).mean()
    with np.errstate(divide="ignore"):  # of equal samples
        psnr = 10 * np.log10(255**2 / error.min(axis=1))
    return OwnScale(lpips.min(axis=1), psnr)


def provenance_of(verdict: Verdict | None) -> dict[str, Any]:
    """The verdict for the metadata of a result; all None if there is none."""
    if verdict is None:
        return dict.fromkeys(KEYS)
    return dict(zip(KEYS, (verdict.word, round(verdict.ratio, 4), verdict.percentile), strict=True))


def verdict_in(provenance: Mapping[str, Any]) -> Verdict | None:
    """The verdict in the metadata of a result; None if it has none, as from older versions."""
    values: list[Any] = [provenance.get(key) for key in KEYS]
    word, ratio, percentile = values
    try:
        return Verdict(word, float(ratio), float(percentile))
    except (TypeError, ValueError):
        return None


def advice(targets: Iterable[Target]) -> Iterator[str]:
    """Which options may improve the results of a batch: only those that are not set yet."""
    judged = [(target, verdict_in(target.figures)) for target in targets]
    near = [target for target, verdict in judged if verdict and verdict.word == "recognisable"]
    far = [target for target, verdict in judged if verdict and verdict.word == "outside"]
    if near and (unset := _unset(near[0].figures)):
        which = "1 result is" if len(near) == 1 else f"{len(near)} results are"
        yield f"{which} recognisable, but not close: {' or '.join(unset)} may improve that"
    if cropped := [target for target in far if target.region and target.region.is_centre]:
        which = (
            "1 photo outside was" if len(cropped) == 1 else f"{len(cropped)} photos outside were"
        )
        yield f"{which} cropped to the centre: `crop` chooses another part"


def _unset(provenance: Mapping[str, Any]) -> list[str]:
    """The settings that bring results closer and that this one was not made with."""
    unset = {
        "`preset` best": provenance.get("preset") in ("paper", "fast"),
        "`space` w+": provenance.get("space") == "w",
        "`tune`": provenance.get("tune") is None,
    }
    return [name for name, is_unset in unset.items() if is_unset]
