"""Gradients that are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def learns(*tensors: torch.Tensor | None) -> bool:
    """Whether one of these is to have a gradient."""
    wanted = any(t is not None and t.requires_grad for t in tensors)
    return wanted and torch.is_grad_enabled()


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For `backward` of a function that has no second derivative: RuntimeError where one is asked.

    torch's `once_differentiable` takes the first derivative for a constant where the loss is
    linear in the result, and says nothing.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # by create_graph=True
            raise RuntimeError(
                "this gradient is written by hand and has none itself: leave out create_graph, or "
                "compute in float64, in which all is torch's own"
            )
        return backward(ctx, *gradients)

    return checked
