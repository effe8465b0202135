"""Cached transforms of frozen weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sg2cli.ops.cpu.runtime import LANES

# For small images a transform takes longer than the convolution. Keyed by weight and transform; the
# version detects changes in place, the memory detects `.data = ...`.
_TRANSFORMS = WeakTensorKeyDictionary()
# Larger results are not cached in inference mode, where they would take a tenth of the memory and
# save a hundredth of the time; a search uses them at each step.
MAX_KEPT = 1 << 20


def cached_transform(weight: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """transform(weight), cached.

    Changes of a weight are detected, except those in place of its `.data`.
    """
    if weight.is_inference():  # has no version; lasting weights are not of this kind
        return transform(weight)
    known = _TRANSFORMS.setdefault(weight, {})  # type: ignore[no-untyped-call]
    if transform in known:
        version, before, made = known[transform]
        if version == weight._version and before.data_ptr() == weight.data_ptr():
            return made
    with torch.inference_mode(False), torch.no_grad():  # usable with gradients as well
        made = transform(weight)
    keep = made.numel() <= MAX_KEPT or not torch.is_inference_mode_enabled()
    if made is not weight and keep:
        known[transform] = weight._version, weight.detach(), made
    return made


def energy(weight: Tensor) -> Tensor:
    """The sum of squares of each kernel: [O,I,3,3] -> [O,I]."""
    return weight.square().sum(dim=(2, 3))


def pad_both(weight: Tensor) -> Tensor:
    """Pad outputs and inputs to multiples of LANES."""
    return pad(pad(weight, 0), 1)


def pad(t: Tensor, dim: int) -> Tensor:
    """Pad with zeros to a multiple of LANES."""
    missing = -t.shape[dim] % LANES
    return F.pad(t, (*[0] * 2 * (t.ndim - 1 - dim), 0, missing)) if missing else t
