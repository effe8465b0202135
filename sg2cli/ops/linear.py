"""Products of a few rows, one a picture, with a frozen matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.ops import jit
from sg2cli.ops.tensors import any_requires_grad, first_order, saved


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear`: x [N,I], weight [O,I] -> [N,O]. On a CPU, without a gradient in weight, a row
    comes out the same in any batch: libraries of linear algebra round it by how many there are."""
    fits = (
        x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[1]
    )  # otherwise torch says what is wrong
    if fits and jit.serves(x, weight, channels=[x.shape[1]]) and not any_requires_grad(weight):
        return _Linear.apply(x, weight)
    return F.linear(x, weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, len(weight), back=False)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (weight,) = saved(ctx)
        return _product(dy, weight, weight.shape[1], back=True), None


def _product(x: Tensor, weight: Tensor, size: int, back: bool) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    y = x.new_empty(len(x), size)
    jit.compiled("layer_code", "linear_back" if back else "linear")(
        n=len(x), inputs=weight.shape[1], outputs=len(weight), x=x, weight=weight, y=y
    )
    return y
