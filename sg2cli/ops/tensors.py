"""Which tensors compiled code accepts, and helpers for its gradients."""

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
    """Whether these are plain CPU memory, and operations are not intercepted.

    Not plain are fake, functional, batched, dual, and lazily negated or conjugated tensors, sparse,
    nested and quantized layouts, subclasses, and all tensors under a tracer, mode or transform.
    """
    return not is_intercepted() and all(t is None or has_plain_memory(t) for t in tensors)


def has_plain_memory(t: Tensor) -> bool:
    """`is_plain`, if operations are not intercepted."""
    return type(t) in PLAIN and torch._C._dispatch_keys(t).raw_repr() in _plain_keys()


def is_intercepted() -> bool:
    """Whether torch passes operations to a tracer, a mode or a transform.

    Then only operations of torch may be used, and their results must not be cached.
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
    """Whether there is a mode other than `torch.set_default_device`, which is harmless."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return any(not isinstance(mode, DeviceContext) for mode in modes)


@cache
def _plain_keys() -> tuple[int, int]:
    """The dispatch keys of plain tensors, outside and inside of inference mode."""
    keys = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            keys.append(torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return keys[0], keys[1]


def constant(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """A CPU tensor that may be cached: usable with gradients, independent of torch's defaults."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(values, dtype=dtype, device="cpu")


def saved(ctx: Any) -> tuple[Tensor, ...]:
    """The tensors saved by `forward`; RuntimeError if hooks changed them."""
    tensors: tuple[Tensor, ...] = ctx.saved_tensors
    if not all(t is None or (t.dtype == torch.float32 and has_plain_memory(t)) for t in tensors):
        raise RuntimeError(CHANGED)
    return tensors


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether a gradient is required for one of these tensors."""
    wanted = any(t is not None and t.requires_grad for t in tensors)
    return wanted and torch.is_grad_enabled()


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a `backward` without second derivative: RuntimeError if one is requested.

    torch's `once_differentiable` silently treats the first derivative as a constant if the loss is
    linear in the result.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # by create_graph=True
            raise RuntimeError(SECOND_DERIVATIVE)
        if any(g is not None and g.device.type == "cpu" and not is_plain(g) for g in gradients):
            raise RuntimeError(TRANSFORMED_GRADIENT)
        return backward(ctx, *gradients)

    return checked
