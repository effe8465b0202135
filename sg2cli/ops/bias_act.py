"""Bias, leaky ReLU, gain and clamp: what ends every layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bias_act(
    x: Tensor, b: Tensor, slope: float = 1.0, gain: float = 1.0, clamp: float | None = None
) -> Tensor:
    """clamp(gain * leaky_relu(x + b)): x [N,C,...], b [C] -> [N,C,...].

    Slope 0.2 is the leaky ReLU, 0 the ReLU, 1 no activation. The gain comes before the clamp,
    which cuts at -clamp and clamp.
    """
    x = x + b.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if slope != 1:
        x = F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
