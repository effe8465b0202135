"""Where w lies, and what a search starts from: the mean of w, or an estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.inversion.state import WS, Params, State
from sg2cli.sampling import default_batch
from sg2cli.settings import ProjectSettings
from sg2cli.w_samples import PROJECTOR_SAMPLES, PROJECTOR_SEED, sample_w

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.storage.array_files import Array

START_PSI = 0.7  # of the samples for a start: most photos are nearer to the mean than samples are
FEW = 4  # of them are drawn at once: their feature maps stay in the processor's cache
LEAST_RIDGE = 1e-100
RIDGE = 5e-4  # of the variance in the pictures
Init = tuple[Tensor, "Mapping[str, Array]"]  # ws [num_ws,w_dim], noise maps [H,W]


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
    count, seed = PROJECTOR_SAMPLES, PROJECTOR_SEED
    mapped = sample_w(G, count, seed, batch=1000, class_index=class_index or 0)
    samples = torch.cat([*mapped]).cpu().numpy()
    mean = samples.mean(axis=0)
    std = float(np.sqrt(((samples - mean) ** 2).sum() / count))
    on_device = [torch.from_numpy(array).to(G.device) for array in (samples, mean)]
    return Spread(on_device[0], on_device[1], std)


def initial_state(
    G: Generator,
    targets: Tensor,
    masks: Tensor | None,
    settings: ProjectSettings,
    spread: Spread,
    inits: Sequence[Init] = (),
    samples: int = 0,
) -> State:
    """Before the first step, for targets [N,C,H,W] and their masks [N,1,H,W].

    From `inits`; where there are none, from an estimate by so many samples of w.
    """
    count = len(targets)
    rows = 1 if settings.space == "w" else G.config.num_ws
    own = torch.Generator().manual_seed(settings.seed)
    maps: Params = {}
    if settings.noise_maps:
        for layer in G.synthesis.layers:
            if layer.use_noise:
                drawn = torch.randn(layer.noise_const.shape, generator=own)
                every = drawn.to(layer.noise_const).expand(count, 1, -1, -1)
                maps[layer.noise_name] = every.clone()
    start = _estimate(G, targets, masks, spread, 0 if inits else samples)
    ws = start[:, None].expand(-1, rows, -1).clone()
    for i, (init, noise) in enumerate(inits):
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


def _estimate(
    G: Generator, targets: Tensor, masks: Tensor | None, spread: Spread, count: int
) -> Tensor:
    """A start [N,w_dim] for each target: the mean of w, or a linear estimate of its w.

    Ridge regression of w on pictures of 16 pixels a side, over the first `count` samples of
    the spread, in its dual form (Saunders et al. 1998): it costs nothing beside drawing them.
    """
    mean = spread.mean
    if not count:
        return mean.expand(len(targets), -1)
    samples = mean.lerp(spread.samples[:count], START_PSI)
    with torch.inference_mode():
        pictures = [
            _small(G.synthesis(w[:, None].expand(-1, G.config.num_ws, -1)))
            for w in torch.split(samples, min(FEW, default_batch(G)))
        ]
    x = torch.cat(pictures).double()
    centre_x, centre_w = x.mean(dim=0), samples.double().mean(dim=0)
    x, w = x - centre_x, samples.double() - centre_w
    weights = torch.ones_like(x[:1]) if masks is None else _small(masks).double()
    estimates = []
    for i, target in enumerate(_small(targets).double() - centre_x):
        weighed = (x * weights[i % len(weights)]).flatten(1)  # what is masked does not count
        kernel = weighed @ x.flatten(1).T
        ridge = (RIDGE * kernel.trace()).clamp_min(LEAST_RIDGE)  # 0 if all samples look alike
        kernel += ridge * torch.eye(count).to(kernel)
        estimates.append(torch.linalg.solve(kernel, weighed @ target.flatten()) @ w)
    return (centre_w + torch.stack(estimates)).to(mean)


def _small(pictures: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,C,16,16], or as many pixels as there are."""
    height, width = pictures.shape[-2:]
    return F.adaptive_avg_pool2d(pictures, (min(16, height), min(16, width)))
