"""rosinality's stylegan2-pytorch (.pt), and pSp and e4e files, which hold the same generator."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from sg2cli.checkpoints.config import Checkpoint, LazyTensor, check_kernel, taps_of
from sg2cli.checkpoints.numpy_arrays import NUMPY
from sg2cli.checkpoints.stand_ins import Opaque
from sg2cli.checkpoints.torch_tensors import PickledTensor
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import Budget

GLOBALS: dict[str, object] = {
    **NUMPY,
    "argparse Namespace": Opaque,
    "torch device": Opaque,
    "torch Size": Opaque,
}


def _conv(index: int) -> str:
    return f"synthesis.b{8 << index // 2}.conv{index % 2}"


def _noise(index: int) -> str:
    return "synthesis.b4.conv1" if index == 0 else _conv(index - 1)


PARTS = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_CONV = r"conv\.weight|conv\.modulation\.weight|conv\.modulation\.bias"
_PART = rf"({_CONV}|noise\.weight|activate\.bias)"

_RGB = rf"({_CONV}|bias)"
RENAMES: list[tuple[str, Callable[..., str]]] = [
    (r"style\.(\d{1,3})\.(weight|bias)", lambda i, kind: f"mapping.fc{int(i) - 1}.{kind}"),
    (r"input\.input", lambda: "synthesis.b4.const"),
    (rf"conv1\.{_PART}", lambda part: f"synthesis.b4.conv1.{PARTS[part]}"),
    (rf"convs\.(\d{{1,2}})\.{_PART}", lambda i, part: f"{_conv(int(i))}.{PARTS[part]}"),
    (rf"to_rgb1\.{_RGB}", lambda part: f"synthesis.b4.torgb.{PARTS[part]}"),
    (
        rf"to_rgbs\.(\d{{1,2}})\.{_RGB}",
        lambda k, part: f"synthesis.b{8 << int(k)}.torgb.{PARTS[part]}",
    ),
    (r"noises\.noise_(\d{1,2})", lambda i: f"{_noise(int(i))}.noise_const"),
]
FILTER = r"(convs\.\d{1,2}\.conv\.blur|to_rgbs\.\d{1,2}\.upsample)\.kernel"


def read(pickled: Mapping[str, Any], budget: Budget) -> Checkpoint:
    """The network g_ema of what `torch_tensors.read_torch` read."""
    tensors_of, latent_avg = pickled.get("g_ema"), pickled.get("latent_avg")
    name = "rosinality stylegan2-pytorch"
    if tensors_of is None and isinstance(pickled.get("state_dict"), dict):
        name = "pSp or e4e, with rosinality's generator"
        whole = pickled["state_dict"].items()
        tensors_of = {key[8:]: value for key, value in whole if str(key).startswith("decoder.")}
    if not isinstance(tensors_of, dict) or not tensors_of:
        raise CheckpointError("a file of torch.save, but without g_ema or a decoder")
    stored = {str(key): value for key, value in tensors_of.items()}
    if odd := [key for key, value in stored.items() if not isinstance(value, PickledTensor)]:
        raise CheckpointError(f"its {odd[0][:60]!r} is not a tensor")
    filters = {key: value for key, value in stored.items() if re.fullmatch(FILTER, key)}
    budget.charge("resample_filters", len(filters))
    tensors = {}
    for key, tensor in stored.items():
        if key in filters:
            check_kernel(tensor.shape)
        else:
            new_name = rename(key)
            tensors[new_name] = _reshaped(key, new_name, tensor)
    if isinstance(latent_avg, PickledTensor) and latent_avg.shape:
        width = latent_avg.shape[-1]
        tensors["mapping.w_avg"] = LazyTensor(
            (width,), lambda: latent_avg.tensor().reshape(-1, width).float().mean(dim=0)
        )
    taps = [1, 3, 3, 1]
    if filters:
        kernels = [kernel.tensor() for kernel in filters.values()]
        taps = taps_of(*(kernel / kernel.sum() for kernel in kernels))
    fields: dict[str, Any] = {
        "architecture": "skip",
        "activation": "lrelu",
        "conv_clamp": None,
        "num_fp16_res": 0,
        "lr_multiplier": 0.01,
        "resample_filter": taps,
    }
    left_out = [str(key) for key in pickled if key not in ("g_ema", "latent_avg", "state_dict")]
    return Checkpoint(name, fields, tensors, left_out)


def rename(key: str) -> str:
    """Our name for one of theirs; CheckpointError for an unknown name."""
    for pattern, name in RENAMES:
        if match := re.fullmatch(pattern, key):
            return name(*match.groups())
    raise CheckpointError(f"unknown rosinality key {key[:60]!r}")


def _reshaped(key: str, name: str, tensor: PickledTensor) -> LazyTensor:
    """Remove dimensions of 1: [1,O,I,3,3], [1,C,4,4], [1,3,1,1], [1,1,H,W]."""
    shape = tensor.shape
    if name.endswith((".const", "torgb.weight")) or (name.endswith(".weight") and len(shape) == 5):
        shape = shape[1:]
    elif name.endswith(".noise_const"):
        shape = shape[-2:]
    elif name.endswith(".noise_strength"):
        shape = ()
    elif name.endswith("torgb.bias"):
        shape = shape[1:2]
    if math.prod(shape) != math.prod(tensor.shape):
        raise CheckpointError(f"its {key[:60]!r} has the shape {list(tensor.shape)}")
    return LazyTensor(shape, lambda: tensor.tensor().reshape(shape))
