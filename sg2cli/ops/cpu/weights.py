"""What is computed of frozen weights, once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sg2cli.ops.cpu.runtime import LANES

# For small images a transform takes longer than the convolution. By weight and transform; with the
# weight's version, as a change makes it stale, and the weight's memory, as another tensor may take
# its place (`.data = ...`).
_TRANSFORMS = WeakTensorKeyDictionary()
# What is larger is not kept in inference mode, in which images are generated: for large ones it
# would be a tenth of the memory and save a hundredth of the time. A search uses it at each step.
MAX_KEPT = 1 << 20


def cached_transform(weight: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """transform(weight), from memory if that was asked for before.

    Changes of a weight are noticed, all but those in place of its `.data`.
    """
    if weight.is_inference():  # has no version; none that lasts is one
        return transform(weight)
    known = _TRANSFORMS.setdefault(weight, {})  # type: ignore[no-untyped-call]
    if transform in known:
        version, before, made = known[transform]
        if version == weight._version and before.data_ptr() == weight.data_ptr():
            return made
    with torch.inference_mode(False), torch.no_grad():  # to do for gradients, too
        made = transform(weight)
    keep = made.numel() <= MAX_KEPT or not torch.is_inference_mode_enabled()
    if made is not weight and keep:
        known[transform] = weight._version, weight.detach(), made
    return made


def energy(weight: Tensor) -> Tensor:
    """The sum of squares of each kernel: [O,I,3,3] -> [O,I]."""
    return weight.square().sum(dim=(2, 3))


def pad_both(weight: Tensor) -> Tensor:
    """Outputs and inputs to multiples of LANES."""
    return pad(pad(weight, 0), 1)


def pad(t: Tensor, dim: int) -> Tensor:
    """Zeros up to a multiple of LANES."""
    missing = -t.shape[dim] % LANES
    return F.pad(t, (*[0] * 2 * (t.ndim - 1 - dim), 0, missing)) if missing else t
