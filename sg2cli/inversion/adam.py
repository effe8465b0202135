"""The optimiser Adam (Kingma and Ba 2015, algorithm 1), as a function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
Tensors = dict[str, Tensor]


def adam(
    params: Mapping[str, Tensor],
    gradients: Iterable[Tensor],
    moment1: Mapping[str, Tensor],
    moment2: Mapping[str, Tensor],
    lr: float,
    step: int,
) -> tuple[Tensors, Tensors, Tensors]:
    """A step of Adam, the `step`-th from 1: the parameters and their moments, by name.

    torch's foreach operations take one launch each on a GPU, and round as single ones do.
    """
    old, gradients = list(params.values()), list(gradients)
    first = torch._foreach_lerp([moment1[name] for name in params], gradients, 1 - BETA1)
    second = torch._foreach_mul([moment2[name] for name in params], BETA2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - BETA2)
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, math.sqrt(1 - BETA2**step))
    torch._foreach_add_(scale, EPSILON)
    new = torch._foreach_addcdiv(old, first, scale, -lr / (1 - BETA1**step))
    named = [dict(zip(params, tensors, strict=True)) for tensors in (new, first, second)]
    return named[0], named[1], named[2]
