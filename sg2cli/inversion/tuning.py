"""Pivotal tuning (Roich et al. 2021, arXiv:2106.05744).

The projected latent stays fixed, and the synthesis weights are tuned until it reproduces the photo
(eq. 3); images of random latents nearby are kept unchanged (locality regularisation, eq. 4-6).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sg2cli.errors import Sg2Error
from sg2cli.images.pixels import to_tensor
from sg2cli.inversion.adam import adam
from sg2cli.inversion.losses import LPIPS, pixel_distance
from sg2cli.inversion.start import Spread
from sg2cli.inversion.state import Found
from sg2cli.settings import TuneSettings

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.photos import Photo

Weights = Mapping[str, Tensor]  # of the synthesis network, by name


@dataclass(frozen=True)
class TuneState:
    """The immutable state of a tuning."""

    step: int
    weights: Weights
    moment1: Weights
    moment2: Weights
    randomness: Tensor  # [bytes], state of the generator

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by unique names; the inverse of `with_tensors`."""
        kinds = {"weights": self.weights, "moment1": self.moment1, "moment2": self.moment2}
        found = {f"{kind}.{name}": t for kind, ts in kinds.items() for name, t in ts.items()}
        return {**found, "randomness": self.randomness}

    def with_tensors(self, step: int, tensors: Mapping[str, Tensor]) -> TuneState:
        """A state at this step with these tensors, named as in `tensors`."""
        weights, moment1, moment2 = (
            {name: tensors[f"{kind}.{name}"] for name in self.weights}
            for kind in ("weights", "moment1", "moment2")
        )
        return TuneState(step, weights, moment1, moment2, tensors["randomness"])


class Tuning:
    """Tunes a copy of G on photos at their latents, one photo per step, in turns.

    Call `step` until `over`, as `snapshots.tune` does. `state` can be saved and set.
    """

    def __init__(
        self,
        G: Generator,
        found: Sequence[tuple[Found, Photo]],
        settings: TuneSettings,
        spread: Spread,
        lpips: LPIPS,
    ) -> None:
        self.G, self.settings, self.spread, self.lpips = G, settings, spread, lpips
        self.tuned = copy.deepcopy(G)
        self._params = dict(self.tuned.synthesis.named_parameters(prefix="synthesis"))
        for param in self._params.values():
            param.requires_grad_()
        self._pivots = [_Pivot(projection, photo, lpips) for projection, photo in found]
        self.steps = settings.steps * len(found)
        weights = {name: param.detach().clone() for name, param in self._params.items()}
        zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        numbers = torch.Generator().manual_seed(settings.seed)
        self.state = TuneState(0, weights, zeros, zeros, numbers.get_state())

    @property
    def over(self) -> bool:
        return self.state.step >= self.steps

    def step(self) -> float:
        """One step for the next photo; returns its LPIPS. Sg2Error if the loss is not finite."""
        old, settings, lpips = self.state, self.settings, self.lpips
        for name, param in self._params.items():
            param.data = old.weights[name]
        numbers = torch.Generator()
        numbers.set_state(old.randomness.clone())  # set_state ignores strides
        pivot = self._pivots[old.step % len(self._pivots)]
        image = pivot.draw(self.tuned)
        distance = lpips.distance(lpips.features(image), pivot.wanted).sum()
        loss = distance + settings.pixel_weight * pixel_distance(image, pivot.target).sum()
        if settings.locality_weight:
            near = _near(pivot.ws, self.spread, settings.locality_radius, numbers)
            with torch.no_grad():
                before = self.G.synthesis(near, pivot.noise)
            now = self.tuned.synthesis(near, pivot.noise)
            change = lpips(now, before).sum() + pixel_distance(now, before).sum()
            loss = loss + settings.locality_weight * change
        if not loss.isfinite():
            raise Sg2Error(
                "the loss of tuning became NaN or infinite: the result is kept without tuning"
            )
        gradients = torch.autograd.grad(loss, list(self._params.values()), materialize_grads=True)
        step = old.step + 1
        new = adam(old.weights, gradients, old.moment1, old.moment2, settings.lr, step)
        self.state = TuneState(step, *new, numbers.get_state())
        return distance.item()

    def differences(self) -> dict[str, Tensor]:
        """Tuned weights minus those of G, in float16."""
        own = dict(self.G.synthesis.named_parameters(prefix="synthesis"))
        return {name: (w - own[name]).half() for name, w in self.state.weights.items()}


class _Pivot:
    """A latent with its noise [1,...], and its photo."""

    def __init__(self, found: Found, photo: Photo, lpips: LPIPS) -> None:
        self.ws = found.ws[None]
        self.noise = dict(found.noise) or "const"
        self.target = to_tensor(photo.pixels[None], self.ws)
        self.mask = None if photo.mask is None else torch.from_numpy(photo.mask).to(self.ws)
        with torch.no_grad():
            self.wanted = lpips.features(self.target)

    def draw(self, G: Generator) -> Tensor:
        image = G.synthesis(self.ws, self.noise)
        return image if self.mask is None else self.target.lerp(image, self.mask)


def _near(ws: Tensor, spread: Spread, radius: float, numbers: torch.Generator) -> Tensor:
    """Move ws [1,num_ws,w_dim] by `radius` standard deviations towards a random w (eq. 4)."""
    index = int(torch.randint(len(spread.samples), (), generator=numbers))
    offset = spread.samples[index] - ws
    return ws + offset * (radius * spread.std / offset.norm(dim=2, keepdim=True).clamp_min(1e-8))
