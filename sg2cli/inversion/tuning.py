"""Pivotal tuning: the generator moves to the photo, where its latent only comes near.

Roich et al. 2021, arXiv:2106.05744: the latent that a projection found stays, and the weights of
the synthesis are tuned until it gives the photo (eq. 3); what random latents around it give is
held where it was (locality regularisation, eq. 4-6).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sg2cli.inversion.losses import LPIPS, pixel_distance
from sg2cli.inversion.project import Projection, Spread
from sg2cli.settings import TuneSettings

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.photos import Photo


def tune(
    G: Generator,
    found: Sequence[tuple[Projection, Photo]],
    settings: TuneSettings,
    spread: Spread,
    lpips: LPIPS,
    on_step: Callable[[float], object] = lambda lpips: None,
) -> dict[str, Tensor]:
    """Tune a copy of G on photos, each at the latent that was found: the differences, float16.

    One step a photo in turns, `settings.steps` for each. `on_step` gets LPIPS before each step.
    """
    tuned = copy.deepcopy(G)
    weights = dict(tuned.synthesis.named_parameters(prefix="synthesis"))
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights.values(), lr=settings.lr)
    numbers = torch.Generator().manual_seed(settings.seed)
    photos = [_Pivot(projection, photo, G, lpips) for projection, photo in found]
    for step in range(settings.steps * len(photos)):
        pivot = photos[step % len(photos)]
        picture = pivot.draw(tuned)
        distance = lpips.distance(lpips.features(picture), pivot.wanted).sum()
        loss = distance + settings.pixel_weight * pixel_distance(picture, pivot.target).sum()
        on_step(distance.item())
        if settings.locality_weight:
            near = _near(pivot.ws, spread, settings.locality_radius, numbers)
            with torch.no_grad():
                before = G.synthesis(near, pivot.noise)
            now = tuned.synthesis(near, pivot.noise)
            change = lpips(now, before).sum() + pixel_distance(now, before).sum()
            loss = loss + settings.locality_weight * change
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    own = dict(G.synthesis.named_parameters(prefix="synthesis"))
    return {name: (weight.detach() - own[name]).half() for name, weight in weights.items()}


class _Pivot:
    """A latent with its noise [1,...], and the photo that it is to give."""

    def __init__(self, projection: Projection, photo: Photo, G: Generator, lpips: LPIPS) -> None:
        self.ws = projection.ws[None]
        self.noise = dict(projection.noise) or "const"
        pixels = torch.from_numpy(photo.pixels).to(self.ws).permute(2, 0, 1)[None]
        self.target = pixels / 127.5 - 1
        self.mask = None if photo.mask is None else torch.from_numpy(photo.mask).to(self.ws)
        with torch.no_grad():
            self.wanted = lpips.features(self.target)

    def draw(self, G: Generator) -> Tensor:
        picture = G.synthesis(self.ws, self.noise)
        return picture if self.mask is None else self.target.lerp(picture, self.mask)


def _near(ws: Tensor, spread: Spread, radius: float, numbers: torch.Generator) -> Tensor:
    """From ws [1,num_ws,w_dim], `radius` standard deviations towards a random w (eq. 4)."""
    index = int(torch.randint(len(spread.samples), (), generator=numbers))
    way = spread.samples[index] - ws
    return ws + way * (radius * spread.std / way.norm(dim=2, keepdim=True).clamp_min(1e-8))
