"""Projection into W and W+ by gradient descent (StyleGAN2 appendix D), many pictures at once.

Nothing of one picture reaches another: all that a step reads and makes anew has a row for each,
every loss is its own, and so are its random numbers and its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.inversion.losses import (
    LPIPS,
    Features,
    noise_penalty,
    pixel_distance,
    row_spread,
    whiten,
)
from sg2cli.latents import class_vectors
from sg2cli.sampling import default_batch
from sg2cli.settings import ProjectSettings

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.latent_files import Array
    from sg2cli.photos import Photo

WS = "ws"
# "ws" [N,1,w_dim] in W, [N,num_ws,w_dim] in W+, and noise maps [N,1,H,W] by their names.
Params = dict[str, Tensor]
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam (Kingma and Ba 2015, algorithm 1)
W_SAMPLES = 10_000
START_PSI = 0.7  # of the samples for a start: most photos are nearer to the mean than samples are
FEW = 4  # of them are drawn at once: their feature maps stay in the processor's cache
LEAST_RIDGE = 1e-100
RIDGE = 5e-4  # of the variance in the pictures
LEAST_GAIN = 0.001  # of the score, that `patience` counts as an improvement
SCORE_EVERY = 25  # steps, as long as noise on w makes the loss of a step no score
Init = tuple[Tensor, "Mapping[str, Array]"]  # ws [num_ws,w_dim], noise maps [H,W]
SINGLE = ("score", "baseline", "improved_at", "randomness")  # tensors of a State, a row a picture
Ended = Literal["done", "plateau", "time", "not finite"]


@dataclass(frozen=True)
class Spread:
    """Where w lies: samples [10000,w_dim], their mean [w_dim], their distance from it (RMS)."""

    samples: Tensor
    mean: Tensor
    std: float

    def distance(self, ws: Tensor) -> Tensor:
        """Of ws [N,rows,w_dim] from the mean, in standard deviations: -> [N]."""
        return ((ws - self.mean) / self.std).square().sum(dim=2).mean(dim=1).sqrt()


def spread_of_w(G: Generator, class_index: int | None = None) -> Spread:
    """What NVIDIA's projector takes for mean and standard deviation; of one class, if there are."""
    z = np.random.RandomState(123).randn(W_SAMPLES, G.config.z_dim)
    with torch.inference_mode():
        mapped = [
            G.mapping(part, class_vectors(G, len(part), class_index or 0))
            for part in torch.split(torch.from_numpy(z).float().to(G.mapping.w_avg), 1000)
        ]
    samples = torch.cat(mapped).cpu().numpy()
    mean = samples.mean(axis=0)
    std = float(np.sqrt(((samples - mean) ** 2).sum() / W_SAMPLES))
    on_device = [torch.from_numpy(array).to(G.device) for array in (samples, mean)]
    return Spread(on_device[0], on_device[1], std)


@dataclass(frozen=True)
class State:
    """All that a step reads and makes anew, a row for each picture that is under way."""

    step: int
    scored_at: int  # the last step at which scores were taken
    searches: int  # restarts so far
    began_at: int  # the step at which this search began: 0, or that of the last restart
    members: tuple[int, ...]  # which of the run's pictures they are
    params: Params
    moment1: Params
    moment2: Params
    kept: Params  # the result, if all ended here
    score: Tensor  # [N], of what is kept
    baseline: Tensor  # [N], the score that `patience` waits to see improved
    improved_at: Tensor  # [N], the step of the baseline
    randomness: Tensor  # [N,bytes], of the generators

    def tensors(self) -> dict[str, Tensor]:
        """Under names that tell them apart; `with_tensors` takes them back."""
        found = {name: getattr(self, name) for name in SINGLE}
        for kind in ("params", "moment1", "moment2", "kept"):
            found |= {f"{kind}.{name}": tensor for name, tensor in getattr(self, kind).items()}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> State:
        """The same with these tensors, of the names that `tensors` gives."""
        fields: dict[str, Any] = {name: tensors[name] for name in SINGLE}
        for kind in ("params", "moment1", "moment2", "kept"):
            fields[kind] = {name: tensors[f"{kind}.{name}"] for name in self.params}
        return replace(self, **fields)

    def only(self, rows: Sequence[int]) -> State:
        """Without the pictures that have ended."""
        index = torch.tensor(rows, dtype=torch.long)
        tensors = {name: t[index.to(t.device)] for name, t in self.tensors().items()}
        members = tuple(self.members[row] for row in rows)
        return replace(self.with_tensors(tensors), members=members)


@dataclass(frozen=True)
class Record:
    """A line of a picture's history."""

    step: int
    lr: float
    lpips: float  # with the noise on w of that step
    noise_penalty: float
    w_distance: float


@dataclass(frozen=True)
class Projection:
    """A latent that was found: ws [num_ws,w_dim], noise maps [H,W] by name."""

    member: int
    ws: Tensor
    noise: dict[str, Tensor]
    steps: int
    ended: Ended
    history: list[Record]


class Run:
    """Pictures that are projected together: `ended` and `step`, in turns.

    `snapshots.project` does that to the end.
    """

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
        """`inits`: for each photo what to start from. `estimate`: not for a state to `restore`."""
        self.G, self.settings, self.spread = G, settings, spread
        self.lpips = (lpips or LPIPS(settings.lpips)).to(G.device)
        dtype = G.mapping.w_avg.dtype
        pixels = np.stack([photo.pixels for photo in photos])
        targets = torch.from_numpy(pixels).to(G.device, dtype).permute(0, 3, 1, 2)
        self.targets = targets / 127.5 - 1  # [N,C,H,W]
        self.masks: Tensor | None = None  # [N,1,H,W]
        if any(photo.mask is not None for photo in photos):
            ones = np.ones(pixels.shape[1:3], np.float32)
            masks = [ones if photo.mask is None else photo.mask for photo in photos]
            self.masks = torch.from_numpy(np.stack(masks))[:, None].to(G.device, dtype)
        with torch.no_grad():
            self.wanted = self.lpips.features(self.targets)
        self.history: list[list[Record]] = [[] for _ in photos]
        self.inits = inits
        self.restore(self._start(settings.start_samples if estimate else 0))

    def _start(self, samples: int) -> State:
        """Before the first step; where nothing is given, from an estimate by so many samples."""
        G, settings, count = self.G, self.settings, len(self.targets)
        rows = 1 if settings.space == "w" else G.config.num_ws
        own = torch.Generator().manual_seed(settings.seed)
        maps: Params = {}
        if settings.noise_maps:
            for layer in G.synthesis.layers:
                if layer.use_noise:
                    drawn = torch.randn(layer.noise_const.shape, generator=own)
                    every = drawn.to(layer.noise_const).expand(count, 1, -1, -1)
                    maps[layer.noise_name] = every.clone()
        start = self._estimate(0 if self.inits else samples)
        ws = start[:, None].expand(-1, rows, -1).clone()
        for i, (init, noise) in enumerate(self.inits):
            ws[i] = init.to(ws).mean(dim=0) if rows == 1 else init
            for name, noise_map in noise.items():
                if name in maps:
                    maps[name][i, 0] = torch.from_numpy(np.array(noise_map))
        params = {WS: ws, **maps}
        zeros = {name: torch.zeros_like(param) for name, param in params.items()}
        unscored = torch.full((count,), math.inf, device=G.device, dtype=ws.dtype)
        return State(
            step=0,
            scored_at=0,
            searches=0,
            began_at=0,
            members=tuple(range(count)),
            params=params,
            moment1=zeros,
            moment2=zeros,
            kept=params,
            score=unscored,
            baseline=unscored,
            improved_at=torch.zeros(count, dtype=torch.long, device=G.device),
            randomness=own.get_state().expand(count, -1).clone(),
        )

    def _estimate(self, count: int) -> Tensor:
        """A start [N,w_dim] for each target: the mean of w, or a linear estimate of its w.

        Ridge regression of w on pictures of 16 pixels a side, over the first `count` samples of
        the spread, in its dual form (Saunders et al. 1998): it costs nothing beside drawing them.
        """
        mean = self.spread.mean
        if not count:
            return mean.expand(len(self.targets), -1)
        samples = mean.lerp(self.spread.samples[:count], START_PSI)
        with torch.inference_mode():
            pictures = [
                _small(self.G.synthesis(w[:, None].expand(-1, self.G.config.num_ws, -1)))
                for w in torch.split(samples, min(FEW, default_batch(self.G)))
            ]
        x = torch.cat(pictures).double()
        centre_x, centre_w = x.mean(dim=0), samples.double().mean(dim=0)
        x, w = x - centre_x, samples.double() - centre_w
        weights = torch.ones_like(x[:1]) if self.masks is None else _small(self.masks).double()
        estimates = []
        for i, target in enumerate(_small(self.targets).double() - centre_x):
            weighed = (x * weights[i % len(weights)]).flatten(1)  # what is masked does not count
            kernel = weighed @ x.flatten(1).T
            ridge = (RIDGE * kernel.trace()).clamp_min(LEAST_RIDGE)  # 0 if all samples look alike
            kernel += ridge * torch.eye(count).to(kernel)
            estimates.append(torch.linalg.solve(kernel, weighed @ target.flatten()) @ w)
        return (centre_w + torch.stack(estimates)).to(mean)

    def restore(self, state: State) -> None:
        """Go on from a state that a run of the same photos has, or had."""
        self.state = state
        index = torch.tensor(state.members, dtype=torch.long, device=self.targets.device)
        self._targets = self.targets[index]
        self._masks = None if self.masks is None else self.masks[index]
        self._wanted: Features = tuple(stage[index] for stage in self.wanted)

    def draw(self, params: Params) -> Tensor:
        """The network's pictures [N,C,H,W]; outside of a mask, the target's own pixels."""
        ws = params[WS].expand(-1, self.G.config.num_ws, -1)
        maps = {name: param for name, param in params.items() if name != WS}
        picture = self.G.synthesis(ws, maps or "const")
        return picture if self._masks is None else self._targets.lerp(picture, self._masks)

    def loss(
        self,
        params: Params,
        jitter: Tensor | float = 0,
        settings: ProjectSettings | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is minimised, LPIPS and the noise penalty, each [N]; `jitter` is added to ws."""
        settings, ws = settings or self.settings, params[WS]
        picture = self.draw({**params, WS: ws + jitter})
        if settings.shown:
            picture = picture.clamp(-1, 1)
        distance = self.lpips.distance(self.lpips.features(picture), self._wanted)
        maps = [param for name, param in params.items() if name != WS]
        penalty = noise_penalty(maps) if maps else torch.zeros_like(distance)
        total = distance + settings.noise_weight * penalty
        if settings.pixel_weight:
            total = total + settings.pixel_weight * pixel_distance(picture, self._targets)
        if settings.wplus_weight:
            total = total + settings.wplus_weight * row_spread(ws, self.spread.std)
        return total, distance, penalty

    def score(self, params: Params) -> Tensor:
        """LPIPS [N] as the result would have it."""
        with torch.inference_mode():
            picture = self.draw(params).clamp(-1, 1)
            return self.lpips.distance(self.lpips.features(picture), self._wanted)

    def search(self, t: float) -> tuple[int, ProjectSettings, float]:
        """Which search the part t of all steps is in, from 0, and where in its own schedule."""
        begins = [0.0, *(restart.at for restart in self.settings.restarts), 1.0]
        number = max(n for n, at in enumerate(begins[:-1]) if n == 0 or at <= t)
        own = (t - begins[number]) / (begins[number + 1] - begins[number])
        if number == 0:
            return 0, self.settings, own
        changes = asdict(self.settings.restarts[number - 1])
        del changes["at"]
        return number, replace(self.settings, **changes), own

    def learning_rate(self, settings: ProjectSettings, t: float) -> float:
        """At the part t of a schedule: up linearly, down as a cosine."""
        down = min(1.0, (1 - t) / settings.lr_rampdown)
        up = min(1.0, t / settings.lr_rampup) if settings.lr_rampup else 1.0
        return settings.lr * (0.5 - 0.5 * math.cos(math.pi * down)) * up

    def step(self, part: float = 0) -> None:
        """One step for all; `part` of the time allowed is over, which hastens the schedule."""
        whole = max(self.state.step / self.settings.steps, part)
        number, settings, t = self.search(whole)
        if number > self.state.searches:
            self._restart(number, settings.start_samples)
        old = self.state
        lr = self.learning_rate(settings, t)
        scale = self.spread.std * settings.w_noise * max(0, 1 - t / settings.w_noise_ramp) ** 2
        jitter, randomness = self._jitter(old)
        params = {name: param.detach().requires_grad_() for name, param in old.params.items()}
        total, distance, penalty = self.loss(params, jitter * scale, settings)
        gradients = torch.autograd.grad(total.sum(), list(params.values()))

        with torch.no_grad():
            exact = scale == 0 and settings.shown  # the loss is a score
            scored = settings.keep_best and (exact or old.step % SCORE_EVERY == 0)
            if scored:
                score = distance.detach() if exact else self.score(old.params)
                better = score < old.score
            else:
                score = old.score
                better = total.isfinite() & (not settings.keep_best)
            new: dict[str, Params] = {"params": {}, "moment1": {}, "moment2": {}}
            for (name, param), gradient in zip(old.params.items(), gradients, strict=True):
                moved, new["moment1"][name], new["moment2"][name] = adam(
                    param,
                    gradient,
                    old.moment1[name],
                    old.moment2[name],
                    lr,
                    old.step - old.began_at + 1,
                )
                new["params"][name] = moved if name == WS else whiten(moved)
            told = torch.stack([distance, penalty, self.spread.distance(old.params[WS])]).tolist()
        for row, member in enumerate(old.members):
            record = Record(old.step, lr, *(values[row] for values in told))
            del self.history[member][old.step :]  # of a step that was interrupted
            self.history[member].append(record)
        much_better = score < (1 - LEAST_GAIN) * old.baseline
        self.state = State(
            step=old.step + 1,
            scored_at=old.step if scored else old.scored_at,
            searches=old.searches,
            began_at=old.began_at,
            members=old.members,
            **new,
            kept=_where(better, old.params, old.kept),
            score=torch.where(better, score, old.score),
            baseline=torch.where(much_better, score, old.baseline),
            improved_at=torch.where(much_better, old.step, old.improved_at),
            randomness=randomness,
        )

    def _restart(self, number: int, samples: int | None) -> None:
        """Begin a search: from the best so far, or from the start by so many samples."""
        old = self.state
        last = self.score(old.params)
        better = last < old.score
        kept, score = _where(better, old.params, old.kept), torch.where(better, last, old.score)
        params, baseline = kept, score
        if samples is not None:
            params = self._start(samples).only(old.members).params
            baseline = torch.full_like(score, math.inf)  # it is patient with what begins afresh
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

    def ended(self, part: float = 0) -> tuple[list[Projection], State]:
        """Those that are at their end, and the state without them, for `restore`."""
        state, settings = self.state, self.settings
        all_over = state.step >= settings.steps or part >= 1
        kept = state.kept
        if all_over:
            score = self.score(state.params)
            better = score < state.score if settings.keep_best else score.isfinite()
            kept = _where(better, state.params, kept)
        improved_at = state.improved_at.tolist()
        ended: dict[int, Ended] = {}
        for row in range(len(state.members)):
            if not all(param[row].isfinite().all() for param in state.params.values()):
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
            found.append(Projection(member, ws, noise, state.step, why, history))
        others = [row for row in range(len(state.members)) if row not in ended]
        return found, state.only(others) if ended else state

    def _jitter(self, state: State) -> tuple[Tensor, Tensor]:
        """Normal numbers in the shape of ws, a picture's from its own generator; their states."""
        drawn, states = [], []
        shape = (1, *state.params[WS].shape[1:])
        for own in state.randomness:
            generator = torch.Generator()
            generator.set_state(own.clone())  # it reads a whole storage
            drawn.append(torch.randn(shape, generator=generator))
            states.append(generator.get_state())
        return torch.cat(drawn).to(state.params[WS]), torch.stack(states)


def _small(pictures: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,C,16,16], or as they are if they are smaller."""
    return F.adaptive_avg_pool2d(pictures, min(16, pictures.shape[-1]))


def adam(
    param: Tensor, gradient: Tensor, moment1: Tensor, moment2: Tensor, lr: float, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A step of Adam, the `step`-th from 1: the parameter and its moments."""
    moment1 = moment1.lerp(gradient, 1 - BETA1)
    moment2 = (moment2 * BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    scale = (moment2.sqrt() / math.sqrt(1 - BETA2**step)).add_(EPSILON)
    return param.addcdiv(moment1, scale, value=-lr / (1 - BETA1**step)), moment1, moment2


def _where(rows: Tensor, these: Params, others: Params) -> Params:
    """These for the rows [N] that are true, the others else."""
    if rows.all():
        return these
    return {
        name: torch.where(rows.view(-1, *[1] * (param.ndim - 1)), param, others[name])
        for name, param in these.items()
    }
