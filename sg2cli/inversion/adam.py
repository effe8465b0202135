"""The optimiser Adam (Kingma and Ba 2015, algorithm 1), as a function."""

from __future__ import annotations

import math

from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def adam(
    param: Tensor, gradient: Tensor, moment1: Tensor, moment2: Tensor, lr: float, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A step of Adam, the `step`-th from 1: the parameter and its moments."""
    moment1 = moment1.lerp(gradient, 1 - BETA1)
    moment2 = (moment2 * BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    scale = (moment2.sqrt() / math.sqrt(1 - BETA2**step)).add_(EPSILON)
    return param.addcdiv(moment1, scale, value=-lr / (1 - BETA1**step)), moment1, moment2
