"""The distance of LPIPS between two feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sg2cli.ops import jit
from sg2cli.ops.tensors import any_requires_grad, first_order, saved

# So that vectors of zeros have a gradient: added to the square of a length, and to the length.
LEAST_SQUARE, LEAST_LENGTH = 1e-20, 1e-10


def unit_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """The mean over pixels of the weighed square of a / |a| - b / |b| (Zhang et al. 2018, eq. 1).

    a [N,C,H,W], b [N|1,C,H,W], lengths over channels, weight [1,C,1,1] -> [N]. Without gradients
    in b and weight, on a CPU, in two passes over memory and three for the gradient: torch's own
    operations take some twenty.
    """
    channels = a.shape[1]
    fits = a.ndim == b.ndim == 4 and a.shape[1:] == b.shape[1:] and len(b) in (1, len(a))
    fits = fits and weight.shape == (1, channels, 1, 1)
    if fits and jit.serves(a, b, weight, channels=[channels]) and not any_requires_grad(b, weight):
        return _UnitDistance.apply(a, b, weight)
    difference = _unit(a) - _unit(b)
    return (difference * difference * weight).sum(dim=(1, 2, 3)) / a[0, 0].numel()


def _unit(x: Tensor) -> Tensor:
    squares = x.square().sum(dim=1, keepdim=True)
    return x / ((squares + LEAST_SQUARE).sqrt() + LEAST_LENGTH)


class _UnitDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        a, b = (t.contiguous(memory_format=jit.LAST) for t in (a, b))
        weight = weight.flatten().contiguous()
        n, _, height, width = a.shape
        sums, lengths = a.new_empty(n, height), a.new_empty(n, height, width, 2)
        ctx.save_for_backward(a, b, weight, lengths)
        jit.compiled("layer_code", "distance")(**_given(a, b, weight, lengths), sums=sums)
        return sums.sum(dim=1) / (height * width)

    @staticmethod
    @first_order
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        a, b, weight, lengths = saved(ctx)
        da, factor = torch.empty_like(a), (d / a[0, 0].numel()).contiguous()
        jit.compiled("layer_code", "distance_back")(
            **_given(a, b, weight, lengths), **jit.map_of("da", da), factor=factor
        )
        return da, None, None


def _given(a: Tensor, b: Tensor, weight: Tensor, lengths: Tensor) -> dict[str, jit.Argument]:
    given = {
        **jit.sizes(a),
        **jit.map_of("a", a),
        **jit.map_of("b", b),
        "weight": weight,
        "lengths": lengths,
    }
    return given | ({} if len(b) == len(a) else {"b_picture": 0})
