"""NVIDIA's PyTorch generators: stylegan2-ada-pytorch, and the StyleGAN2 of stylegan3.

Our names are theirs. Modules record the whole configuration, state dicts only what their tensors
show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sg2cli.checkpoints.config import Checkpoint, LazyTensor, check_kernel, taps_of
from sg2cli.checkpoints.native import sg2_fields
from sg2cli.checkpoints.numpy_arrays import PickledArray
from sg2cli.checkpoints.stand_ins import plain
from sg2cli.checkpoints.tensor_tree import Stored, TensorTree
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import Budget

USED_FILTERS = (
    r"synthesis\.b\d+\.(conv0|skip)\.resample_filter"  # conv1 stores one, but does not use it
)
ASSUMED: dict[str, Any] = {
    "conv_clamp": None,
    "activation": "lrelu",
    "lr_multiplier": 0.01,
    "num_fp16_res": 0,
}


def read(tree: TensorTree, prefix: str, budget: Budget) -> Checkpoint:
    """The generator whose names begin with the prefix."""
    stored = tree.below(prefix)
    modules = tree.modules_below(prefix)
    root = tree.modules.get(prefix.rstrip("."), {})
    tensors = {
        name: LazyTensor(tensor.shape, tensor.tensor)
        for name, tensor in stored.items()
        if not name.endswith(".resample_filter")
    }
    notes: list[str] = []
    written = tree.modules.get(prefix.removesuffix("tensors.").rstrip("."), {}).get("sg2")
    if isinstance(written, str):  # by `nvidia_pickle`, beside the tensors
        label, fields = "NVIDIA PyTorch pickle written by sg2", sg2_fields({"sg2": written})
    elif "synthesis" in modules and "mapping" in modules:
        label, fields = "NVIDIA PyTorch pickle", _recorded(root, modules)
    else:
        label, fields = "NVIDIA PyTorch state dict", dict(ASSUMED)
        notes = [
            "the file does not record conv_clamp, activation, lr_multiplier or num_fp16_res; "
            "assuming none, lrelu, 0.01 and 0"
        ]
    fields.setdefault("resample_filter", _taps(stored, budget))
    return Checkpoint(label, fields, tensors, notes=notes, is_recorded=not notes)


def _recorded(root: Mapping[str, Any], modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration that the attributes of modules record."""
    layers = [m for path, m in modules.items() if re.search(r"\.conv[01]$", path)]
    blocks = [m for path, m in modules.items() if re.fullmatch(r"synthesis\.b\d+", path)]
    dense = [m for path, m in modules.items() if re.fullmatch(r"mapping\.fc\d+", path)]
    same = {
        "conv_clamp": {_number(layer.get("conv_clamp")) for layer in layers},
        "activation": {_number(layer.get("activation", "lrelu")) for layer in layers + dense},
        "architecture": {_number(block.get("architecture", "skip")) for block in blocks},
        "lr_multiplier": {_number(fc.get("bias_gain", 0.01)) for fc in dense},
    }
    fields: dict[str, Any] = {}
    for name, values in same.items():
        if len(values) != 1:
            raise CheckpointError(f"its layers differ in {name}, which sg2 does not support")
        (fields[name],) = values
    for name in ("z_dim", "c_dim", "w_dim", "img_channels"):
        if name in root:
            fields[name] = _number(root[name])
    # Forks for images that are not square record a list: the blocks tell it as well.
    if isinstance(root.get("img_resolution"), int | PickledArray):
        fields["img_resolution"] = _number(root["img_resolution"])
    fields["num_fp16_res"] = sum(block.get("use_fp16") is True for block in blocks)
    return fields


def _taps(stored: Mapping[str, Stored], budget: Budget) -> list[Any]:
    filters = [tensor for name, tensor in stored.items() if re.fullmatch(USED_FILTERS, name)]
    budget.charge("resample_filters", len(filters))
    for kernel in filters:
        check_kernel(kernel.shape)
    return taps_of(*(kernel.tensor() for kernel in filters)) if filters else [1, 3, 3, 1]


def _number(value: object) -> Any:
    """A plain value, or a number that numpy wrapped."""
    if isinstance(value, PickledArray) and value.shape == ():
        return value.tensor().item()
    return plain(value, "a setting")
