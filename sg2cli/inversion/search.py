"""Projection into W and W+ by gradient descent (StyleGAN2 appendix D), many images at once.

Images do not affect each other: each has its own row of the state, losses, random numbers and
end.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sg2cli.images.pixels import to_tensor
from sg2cli.inversion.adam import adam
from sg2cli.inversion.losses import (
    LPIPS,
    Features,
    noise_penalty,
    pixel_distance,
    row_spread,
    whiten,
)
from sg2cli.inversion.schedule import learning_rate, search_at
from sg2cli.inversion.start import Init, Spread, initial_state
from sg2cli.inversion.state import WS, Ended, Found, Params, Record, State, where
from sg2cli.ops import Replayed
from sg2cli.settings import ProjectSettings

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.photos import Photo

LEAST_GAIN = 0.001  # relative decrease of the score that counts as an improvement
SCORE_EVERY = 25  # steps, while noise on w makes the loss unusable as a score


class Saving:
    """Hooks to save the state of a running search; see `SearchSnapshot`. This one saves nothing."""

    def save(self) -> None:
        """Save now: results are about to be yielded."""

    def save_when_due(self) -> None:
        """Save if the last time was long ago; called after each step."""

    def __enter__(self) -> None:
        """Called when the search begins or continues."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Called when the search ends or is interrupted."""


UNSAVED = Saving()


def optimise(
    search: Search,
    on_step: Callable[[Search], object] = lambda search: None,
    seconds: float | None = None,
    saving: Saving = UNSAVED,
) -> Iterator[Found]:
    """Project the photos of a search; yields the result of each when it ends.

    With `seconds`, the schedule is compressed to end within that time.
    """
    start = monotonic()
    with saving:
        while search.state.members:
            part = (monotonic() - start) / max(seconds, 1e-3) if seconds is not None else 0
            found, others = search.ended(part)  # done, on a plateau, out of time or not finite
            if found:
                saving.save()  # with these results, so that an interrupted run yields them again
                search.restore(others)
                yield from found
            else:
                search.step(part)  # draw, compare with the photos, and one step of Adam
                on_step(search)
                saving.save_when_due()


class Search:
    """Photos that are projected together, and their state, which `optimise` advances."""

    def __init__(
        self,
        G: Generator,
        photos: Sequence[Photo],
        settings: ProjectSettings,
        spread: Spread,
        lpips: LPIPS | None = None,
        inits: Sequence[Init] = (),
        estimate: bool = True,
    ) -> None:
        """`inits`: a start for each photo. `estimate`: false if a state is restored afterwards."""
        self.G, self.settings, self.spread = G, settings, spread
        self.lpips = (lpips or LPIPS(settings.lpips)).to(G.device)
        dtype = G.mapping.w_avg.dtype
        pixels = np.stack([photo.pixels for photo in photos])
        self.targets = to_tensor(pixels, G.mapping.w_avg)  # [N,C,H,W]
        self.masks: Tensor | None = None  # [N,1,H,W]
        if any(photo.mask is not None for photo in photos):
            ones = np.ones(pixels.shape[1:3], np.float32)
            masks = [ones if photo.mask is None else photo.mask for photo in photos]
            self.masks = torch.from_numpy(np.stack(masks))[:, None].to(G.device, dtype)
        with torch.no_grad():
            self.wanted = self.lpips.features(self.targets)
        self.history: list[list[Record]] = [[] for _ in photos]
        self.inits = inits
        self._whiten = Replayed(lambda *maps: tuple(map(whiten, maps)))
        self.restore(self._start(settings.start_samples if estimate else 0))

    def _start(self, samples: int) -> State:
        return initial_state(
            self.G, self.targets, self.masks, self.settings, self.spread, self.inits, samples
        )

    def restore(self, state: State) -> None:
        """Continue from a state of a search for the same photos."""
        self.state = state
        index = torch.tensor(state.members, dtype=torch.long, device=self.targets.device)
        self._targets = self.targets[index]
        self._masks = None if self.masks is None else self.masks[index]
        self._wanted: Features = tuple(stage[index] for stage in self.wanted)
        self._replayed = functools.lru_cache(maxsize=1)(self._replayed_gradients)

    def draw(self, params: Params) -> Tensor:
        """Draw images [N,C,H,W]; outside of a mask they have the pixels of the target."""
        ws = params[WS].expand(-1, self.G.config.num_ws, -1)
        maps = {name: param for name, param in params.items() if name != WS}
        image = self.G.synthesis(ws, maps or "const")
        return image if self._masks is None else self._targets.lerp(image, self._masks)

    def loss(
        self,
        params: Params,
        jitter: Tensor | float = 0,
        settings: ProjectSettings | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Total loss, LPIPS and noise penalty, each [N]; `jitter` is added to ws."""
        settings, ws = settings or self.settings, params[WS]
        image = self.draw({**params, WS: ws + jitter})
        if settings.shown:
            image = image.clamp(-1, 1)
        distance = self.lpips.distance(self.lpips.features(image), self._wanted)
        maps = [param for name, param in params.items() if name != WS]
        penalty = noise_penalty(maps) if maps else torch.zeros_like(distance)
        total = distance + settings.noise_weight * penalty
        if settings.pixel_weight:
            total = total + settings.pixel_weight * pixel_distance(image, self._targets)
        if settings.wplus_weight:
            total = total + settings.wplus_weight * row_spread(ws, self.spread.std)
        return total, distance, penalty

    def score(self, params: Params) -> Tensor:
        """LPIPS [N] of the images as they would be saved."""
        with torch.inference_mode():
            image = self.draw(params).clamp(-1, 1)
            return self.lpips.distance(self.lpips.features(image), self._wanted)

    def step(self, part: float = 0) -> None:
        """One step for all photos; `part`: the elapsed fraction of the time limit."""
        whole = max(self.state.step / self.settings.steps, part)
        number, settings, t = search_at(self.settings, whole)
        if number > self.state.searches:
            self._restart(number, settings.start_samples)
        old = self.state
        lr = learning_rate(settings, t)
        scale = self.spread.std * settings.w_noise * max(0, 1 - t / settings.w_noise_ramp) ** 2
        jitter, randomness = old.draw_jitter()
        evaluate = self._replayed(settings, tuple(old.params))
        total, distance, penalty, *gradients = evaluate(jitter * scale, *old.params.values())

        with torch.no_grad():
            exact = scale == 0 and settings.shown  # the loss is a score
            scored = settings.keep_best and (exact or old.step % SCORE_EVERY == 0)
            if scored:
                score = distance.detach() if exact else self.score(old.params)
                better = score < old.score
            else:
                score = old.score
                better = total.isfinite() & (not settings.keep_best)
            moved, moment1, moment2 = adam(
                old.params, gradients, old.moment1, old.moment2, lr, old.step - old.began_at + 1
            )
            params = self._whitened(moved)
            measured = torch.stack(
                [distance, penalty, self.spread.distance(old.params[WS])]
            ).tolist()
        for row, member in enumerate(old.members):
            record = Record(old.step, lr, *(values[row] for values in measured))
            del self.history[member][old.step :]  # left by an interrupted step
            self.history[member].append(record)
        much_better = score < (1 - LEAST_GAIN) * old.baseline
        self.state = State(
            step=old.step + 1,
            scored_at=old.step if scored else old.scored_at,
            searches=old.searches,
            began_at=old.began_at,
            members=old.members,
            params=params,
            moment1=moment1,
            moment2=moment2,
            kept=where(better, old.params, old.kept),
            score=torch.where(better, score, old.score),
            baseline=torch.where(much_better, score, old.baseline),
            improved_at=torch.where(much_better, old.step, old.improved_at),
            randomness=randomness,
        )

    def _replayed_gradients(self, settings: ProjectSettings, names: tuple[str, ...]) -> Replayed:
        """jitter, params -> total, LPIPS and noise penalty, each [N], and the total's gradients."""

        def evaluate(jitter: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
            leaves = [value.detach().requires_grad_() for value in values]
            losses = self.loss(dict(zip(names, leaves, strict=True)), jitter, settings)
            gradients = torch.autograd.grad(losses[0].sum(), leaves)
            return *(loss.detach() for loss in losses), *gradients

        return Replayed(evaluate)

    def _whitened(self, params: Params) -> Params:
        """Params with whitened noise maps."""
        names = [name for name in params if name != WS]
        maps = self._whiten(*(params[name] for name in names)) if names else ()
        return {**params, **dict(zip(names, maps, strict=True))}

    def _restart(self, number: int, samples: int | None) -> None:
        """Restart from the best so far, or from a start estimated from `samples` images."""
        old = self.state
        last = self.score(old.params)
        better = last < old.score
        kept, score = where(better, old.params, old.kept), torch.where(better, last, old.score)
        params, baseline = kept, score
        if samples is not None:
            params = self._start(samples).only(old.members).params
            baseline = torch.full_like(score, math.inf)  # `patience` counts anew
        zeros = {name: torch.zeros_like(param) for name, param in params.items()}
        self.state = replace(
            old,
            scored_at=old.step,
            searches=number,
            began_at=old.step,
            params=params,
            moment1=zeros,
            moment2=zeros,
            kept=kept,
            score=score,
            baseline=baseline,
            improved_at=torch.full_like(old.improved_at, old.step),
        )

    def ended(self, part: float = 0) -> tuple[list[Found], State]:
        """The results of photos that have ended, and the state of the others, for `restore`."""
        state, settings = self.state, self.settings
        all_over = state.step >= settings.steps or part >= 1
        kept = state.kept
        if all_over:
            score = self.score(state.params)
            better = score < state.score if settings.keep_best else score.isfinite()
            kept = where(better, state.params, kept)
        improved_at = state.improved_at.tolist()
        ended: dict[int, Ended] = {}
        finite = torch.stack([x.flatten(1).isfinite().all(dim=1) for x in state.params.values()])
        for row, is_finite in enumerate(finite.all(dim=0).tolist()):
            if not is_finite:
                ended[row] = "not finite"
            elif all_over:
                ended[row] = "done" if state.step >= settings.steps else "time"
            elif settings.patience and state.scored_at - improved_at[row] >= settings.patience:
                ended[row] = "plateau"
        found = []
        for row, why in ended.items():
            member = state.members[row]
            ws = kept[WS][row].expand(self.G.config.num_ws, -1).clone()
            noise = {name: param[row, 0].clone() for name, param in kept.items() if name != WS}
            history = self.history[member][: state.step]
            found.append(Found(member, ws, noise, state.step, why, history))
        others = [row for row in range(len(state.members)) if row not in ended]
        return found, state.only(others) if ended else state
