"""Samples of W: seeded z through the mapping network, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

PROJECTOR_SEED, PROJECTOR_SAMPLES = 123, 10_000  # of NVIDIA's projector


def sample_w(
    G: Generator, count: int, seed: int, batch: int, class_index: int | None = None
) -> Iterator[Tensor]:
    """Map `count` z of RandomState(seed), in order: w [batch,w_dim] each time, fewer at the end.

    Of one class, or of all classes in turn. The batch affects the last digits of w.
    """
    import numpy as np
    import torch

    random = np.random.RandomState(seed)
    for start in range(0, count, batch):
        size = min(batch, count - start)
        z = torch.from_numpy(random.randn(size, G.config.z_dim)).float().to(G.mapping.w_avg)
        c = None
        if G.config.c_dim:
            turns = torch.arange(start, start + size, device=G.device) % G.config.c_dim
            classes = turns if class_index is None else torch.full_like(turns, class_index)
            c = torch.nn.functional.one_hot(classes, G.config.c_dim).to(z)
        with torch.inference_mode():
            w = G.mapping(z, c)
        yield w


def mean_w(G: Generator) -> Tensor:
    """The mean [w_dim] of W in float64, over all classes alike: w_avg, for files that lack it."""
    batches = sample_w(G, PROJECTOR_SAMPLES, PROJECTOR_SEED, batch=500)
    first = next(batches).double().sum(dim=0)
    return sum((w.double().sum(dim=0) for w in batches), first) / PROJECTOR_SAMPLES
