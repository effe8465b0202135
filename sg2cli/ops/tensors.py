"""What compiled code may be given, and gradients that are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

SECOND_DERIVATIVE = (
    "compiled code has no second derivative: leave out create_graph, convert the network to "
    "float64 with G.double(), or set SG2_BACKEND=reference"
)

TRANSFORMED_GRADIENT = (
    "compiled code cannot compute gradients under a transform (vmap, is_grads_batched, a fake or "
    "traced tensor) of images that were computed without it: compute both inside it, or set "
    "SG2_BACKEND=reference"
)

CHANGED = (
    "a saved_tensors_hook changed what compiled code saved for its gradient: set "
    "SG2_BACKEND=reference to use such hooks"
)
PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether these are memory on a CPU and nothing else, and nobody looks at the operations.

    What is left out: tensors that stand for something else (fake, functional, batched, dual,
    lazily negated or conjugated), other layouts (sparse, nested, quantized), subclasses, and all
    tensors under a tracer, a mode or a transform.
    """
    return not is_intercepted() and all(t is None or has_plain_memory(t) for t in tensors)


def has_plain_memory(t: Tensor) -> bool:
    """`is_plain`, where nobody looks at the operations."""
    return type(t) in PLAIN and torch._C._dispatch_keys(t).raw_repr() in _plain_keys()


def is_intercepted() -> bool:
    """Whether torch hands operations to a tracer, a mode or a transform.

    Only operations of torch itself are right then, and nothing that they make may be kept.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
        or (torch._C._len_torch_function_stack() and _has_function_mode())
    )


def _has_function_mode() -> bool:
    """Other than that of `torch.set_default_device`, which compiled code need not mind."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return any(not isinstance(mode, DeviceContext) for mode in modes)


@cache
def _plain_keys() -> tuple[int, int]:
    """Under which torch dispatches operations on plain tensors, without and in inference mode."""
    keys = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            keys.append(torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return keys[0], keys[1]


def constant(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on the CPU that may be kept: fit for gradients, whatever torch's defaults are."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(values, dtype=dtype, device="cpu")


def saved(ctx: Any) -> tuple[Tensor, ...]:
    """What `forward` saved, which hooks may have changed on its way."""
    tensors: tuple[Tensor, ...] = ctx.saved_tensors
    if not all(t is None or (t.dtype == torch.float32 and has_plain_memory(t)) for t in tensors):
        raise RuntimeError(CHANGED)
    return tensors


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether a gradient is to be computed for one of these."""
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
            raise RuntimeError(SECOND_DERIVATIVE)
        if any(g is not None and g.device.type == "cpu" and not is_plain(g) for g in gradients):
            raise RuntimeError(TRANSFORMED_GRADIENT)
        return backward(ctx, *gradients)

    return checked
