"""Pivotal tuning: the generator moves to the photo, where its latent only comes near.

Roich et al. 2021, arXiv:2106.05744: the latent that a projection found stays, and the weights of
the synthesis are tuned until it gives the photo (eq. 3); what random latents around it give is
held where it was (locality regularisation, eq. 4-6).
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
    """All that a step reads and makes anew."""

    step: int
    weights: Weights
    moment1: Weights
    moment2: Weights
    randomness: Tensor  # [bytes], of the generator

    def tensors(self) -> dict[str, Tensor]:
        """Under names that tell them apart; `with_tensors` takes them back."""
        kinds = {"weights": self.weights, "moment1": self.moment1, "moment2": self.moment2}
        found = {f"{kind}.{name}": t for kind, ts in kinds.items() for name, t in ts.items()}
        return {**found, "randomness": self.randomness}

    def with_tensors(self, step: int, tensors: Mapping[str, Tensor]) -> TuneState:
        """The same at this step with these tensors, of the names that `tensors` gives."""
        weights, moment1, moment2 = (
            {name: tensors[f"{kind}.{name}"] for name in self.weights}
            for kind in ("weights", "moment1", "moment2")
        )
        return TuneState(step, weights, moment1, moment2, tensors["randomness"])


class Tuning:
    """A copy of G that is tuned on photos, each at the latent that was found, in turns.

    `step` until `over`; `snapshots.tune` does that. `state` is all of it, and can be set.
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
        """One step for the next photo; its LPIPS before. Sg2Error when the loss is not finite."""
        old, settings, lpips = self.state, self.settings, self.lpips
        for name, param in self._params.items():
            param.data = old.weights[name]
        numbers = torch.Generator()
        numbers.set_state(old.randomness.clone())  # it reads a whole storage
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
            raise Sg2Error("the loss of tuning is not finite any more: the latent is kept untuned")
        gradients = torch.autograd.grad(loss, list(self._params.values()), materialize_grads=True)
        step = old.step + 1
        new = adam(old.weights, gradients, old.moment1, old.moment2, settings.lr, step)
        self.state = TuneState(step, *new, numbers.get_state())
        return distance.item()

    def differences(self) -> dict[str, Tensor]:
        """Of the weights from those of G, float16."""
        own = dict(self.G.synthesis.named_parameters(prefix="synthesis"))
        return {name: (w - own[name]).half() for name, w in self.state.weights.items()}


class _Pivot:
    """A latent with its noise [1,...], and the photo that it is to give."""

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
    """From ws [1,num_ws,w_dim], `radius` standard deviations towards a random w (eq. 4)."""
    index = int(torch.randint(len(spread.samples), (), generator=numbers))
    way = spread.samples[index] - ws
    return ws + way * (radius * spread.std / way.norm(dim=2, keepdim=True).clamp_min(1e-8))
