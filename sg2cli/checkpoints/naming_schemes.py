"""Tensor names of the PyTorch ports of StyleGAN2, mapped to ours.

Sizes are read off the tensors. What a file does not say is what these ports have by default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sg2cli.checkpoints.canonical_names import CONST, conv_name, last_mapping_bias
from sg2cli.checkpoints.config import Checkpoint, LazyTensor, check_kernel, taps_of
from sg2cli.checkpoints.tensor_tree import Stored
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import Budget

if TYPE_CHECKING:
    from torch import Tensor

NEVER = r"(?!)"  # a pattern that matches nothing
Rules = dict[str, Callable[..., str]]  # pattern -> our name, made of the pattern's groups


@dataclass(frozen=True)
class NamingScheme:
    """The names of one port."""

    label: str
    mark: str  # the constant input, by whose name a generator is found
    rules: Rules
    filters: str  # a pattern of resample filters, which may be scaled
    ignored: str = NEVER  # a pattern of tensors that do not affect images
    flips_conv0: bool = False  # kernels of upsampling convolutions are stored as TensorFlow's
    affine_adds_one: bool = False  # to the bias of the styles
    note: str = ""

    def rename(self, key: str) -> str | None:
        """Our name for one of theirs; None for what is no layer's, such as `epoch`.

        CheckpointError for an unknown name of a layer, which has dots.
        """
        for pattern, name in self.rules.items():
            if match := re.fullmatch(pattern, key):
                return name(*match.groups())
        if "." not in key or key.endswith(".num_batches_tracked"):
            return None
        raise CheckpointError(f"unknown {self.label} key {key[:60]!r}")

    def read(self, stored: Mapping[str, Stored], budget: Budget) -> Checkpoint:
        """The network of these tensors, whose names have no prefix."""
        filters = {key: value for key, value in stored.items() if re.fullmatch(self.filters, key)}
        budget.charge("resample_filters", len(filters))
        left_out: list[str] = []
        tensors = {}
        for key, tensor in stored.items():
            if key in filters:
                check_kernel(_without_ones(tensor.shape))
            elif re.fullmatch(self.ignored, key):
                continue
            elif name := self.rename(key):
                tensors[name] = self._changed(name, _reshaped(key, name, tensor))
            else:
                left_out.append(key)
        _refuse_lost_embedding(tensors)
        taps = [1, 3, 3, 1]
        if filters:
            kernels = [x.tensor().reshape(_without_ones(x.shape)) for x in filters.values()]
            taps = taps_of(*(kernel / kernel.sum() for kernel in kernels))
        fields = {
            "architecture": "skip" if f"{_torgb(0)}.weight" in tensors else "orig",
            "activation": "lrelu",
            "conv_clamp": None,
            "num_fp16_res": 0,
            "lr_multiplier": 0.01,
            "resample_filter": taps,
        }
        notes = [self.note] if self.note else []
        return Checkpoint(self.label, fields, tensors, left_out, notes=notes)

    def _changed(self, name: str, lazy: LazyTensor) -> LazyTensor:
        if self.flips_conv0 and name.endswith("conv0.weight"):
            return LazyTensor(lazy.shape, lambda: lazy.read().flip(2, 3))
        if self.affine_adds_one and name.endswith("affine.bias"):
            return LazyTensor(lazy.shape, lambda: lazy.read() + 1)
        return lazy


def _torgb(index: int) -> str:
    return f"synthesis.b{4 << index}.torgb"


def _any(parts: Mapping[str, str]) -> str:
    return "(" + "|".join(map(re.escape, parts)) + ")"


def _rosinality_rules(convs: Mapping[str, str], torgb: Mapping[str, str], style: str) -> Rules:
    """The rules of rosinality's code and its descendants; `style` comes before conv1 and convs."""
    torgb = {**torgb, **BIAS}
    return {
        rf"{style}conv1\.{_any(convs)}": lambda part: f"{conv_name(0)}.{convs[part]}",
        rf"{style}convs\.(\d{{1,2}})\.{_any(convs)}": (
            lambda i, part: f"{conv_name(int(i) + 1)}.{convs[part]}"
        ),
        rf"to_rgb1\.{_any(torgb)}": lambda part: f"{_torgb(0)}.{torgb[part]}",
        rf"to_rgbs\.(\d{{1,2}})\.{_any(torgb)}": (
            lambda k, part: f"{_torgb(int(k) + 1)}.{torgb[part]}"
        ),
    }


def _mapping(layer: int, part: str) -> str:
    return f"mapping.fc{layer}.{part.rpartition('.')[2].removesuffix('_orig')}"


def _noise(index: str) -> str:
    return f"{conv_name(int(index))}.noise_const"


# The names in a ToRGB, most without its bias, and what a convolution has beside them.
BIAS = {"bias": "bias"}
ROSINALITY_RGB = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
}
ROSINALITY_CONV = ROSINALITY_RGB | {"noise.weight": "noise_strength", "activate.bias": "bias"}
BASICSR_RGB = {f"modulated_{theirs}": ours for theirs, ours in ROSINALITY_RGB.items()}
BASICSR_CONV = BASICSR_RGB | {"weight": "noise_strength", "activate.bias": "bias"}
MMGEN_RGB = {
    "conv.weight_orig": "weight",
    "conv.style_modulation.linear.weight_orig": "affine.weight",
    "conv.style_modulation.bias": "affine.bias",
}
MMGEN_CONV = MMGEN_RGB | {"noise_injector.weight": "noise_strength", "activate.bias": "bias"}
GENFORCE_RGB = {
    "weight": "weight",
    "style.weight": "affine.weight",
    "style.bias": "affine.bias",
    **BIAS,
}
GENFORCE_CONV = GENFORCE_RGB | {"noise_strength": "noise_strength", "noise": "noise_const"}
SAHLMAN = {
    "layer.weight": "weight",
    "layer.dense.layer.weight": "affine.weight",
    "layer.dense.bias": "affine.bias",
}
SAHLMAN_CONV = {  # a wrapper more, for the noise
    **{f"layer.{theirs}": ours for theirs, ours in SAHLMAN.items()},
    "layer.weight": "noise_strength",
    **BIAS,
}
SAHLMAN_RGB = SAHLMAN | BIAS
BLURS = r"(convs\.\d{1,2}\.conv\.blur|to_rgbs\.\d{1,2}\.upsample)\.kernel"

ROSINALITY = NamingScheme(
    label="rosinality stylegan2-pytorch",
    mark="input.input",
    rules={
        r"style\.(\d{1,3})\.(weight|bias)": lambda i, part: _mapping(int(i) - 1, part),
        r"input\.input": lambda: CONST,
        **_rosinality_rules(ROSINALITY_CONV, ROSINALITY_RGB, ""),
        r"noises\.noise_(\d{1,2})": _noise,
    },
    filters=BLURS,
)
SCHEMES = (
    ROSINALITY,
    NamingScheme(
        label="BasicSR",
        mark="constant_input.weight",
        rules={
            r"style_mlp\.(\d{1,3})\.(weight|bias)": lambda i, part: _mapping(int(i) - 1, part),
            r"constant_input\.weight": lambda: CONST,
            **_rosinality_rules(BASICSR_CONV, BASICSR_RGB, "style_"),
            r"noises\.noise(\d{1,2})": _noise,
        },
        filters=NEVER,
    ),
    NamingScheme(
        label="MMGeneration",
        mark="constant_input.input",
        rules={
            r"style_mapping\.(\d{1,3})\.(linear\.weight_orig|bias)": (
                lambda i, part: _mapping(int(i) - 1, part)
            ),
            r"constant_input\.input": lambda: CONST,
            **_rosinality_rules(MMGEN_CONV, MMGEN_RGB, ""),
            r"injected_noise_(\d{1,2})": _noise,
        },
        filters=BLURS,
        note="networks trained with MMGeneration may have red and blue swapped (BGR)",
    ),
    NamingScheme(
        label="genforce",
        mark="synthesis.early_layer.const",
        rules={
            r"mapping\.dense(\d{1,3})\.(weight|bias)": lambda i, part: _mapping(int(i), part),
            r"truncation\.w_avg": lambda: "mapping.w_avg",
            r"synthesis\.early_layer\.const": lambda: CONST,
            rf"synthesis\.layer(\d{{1,2}})\.{_any(GENFORCE_CONV)}": (
                lambda i, part: f"{conv_name(int(i))}.{GENFORCE_CONV[part]}"
            ),
            rf"synthesis\.output(\d{{1,2}})\.{_any(GENFORCE_RGB)}": (
                lambda k, part: f"{_torgb(int(k))}.{GENFORCE_RGB[part]}"
            ),
        },
        filters=r"synthesis\.(layer\d{1,2}\.filter|upsample)\.kernel",
        flips_conv0=True,
        affine_adds_one=True,
    ),
    NamingScheme(
        label="adriansahlman's stylegan2_pytorch",
        mark="G_synthesis.state_dict.const",
        rules={
            r"G_mapping\.state_dict\.main\.(\d{1,3})\.(layer\.weight|bias)": (
                lambda i, part: _mapping(int(i), part)
            ),
            r"state_dict\.dlatent_avg": lambda: "mapping.w_avg",
            r"G_synthesis\.state_dict\.const": lambda: CONST,
            rf"G_synthesis\.state_dict\.conv_blocks\.(\d{{1,2}})\.conv_block\.([01])\."
            rf"{_any(SAHLMAN_CONV)}": (
                lambda b, j, part: (
                    f"{conv_name(max(2 * int(b) - 1, 0) + int(j))}.{SAHLMAN_CONV[part]}"
                )
            ),
            rf"G_synthesis\.state_dict\.to_data_layers\.(\d{{1,2}})\.{_any(SAHLMAN_RGB)}": (
                lambda k, part: f"{_torgb(int(k))}.{SAHLMAN_RGB[part]}"
            ),
        },
        filters=r"G_synthesis\.state_dict\.(conv_blocks\..{1,40}|upsample\.)filter\.filter_kernel",
        ignored=r"G_synthesis\.state_dict\.upsample\.weight|state_dict\.layer_psi",
    ),
)


# The constant inputs by the name of the code. NVIDIA's is ours, but for a prefix.
MARKS = {scheme.label: scheme.mark for scheme in SCHEMES} | {"NVIDIA PyTorch": CONST}


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[2:] if len(shape) == 4 and shape[:2] == (1, 1) else shape


def _reshaped(key: str, name: str, stored: Stored) -> LazyTensor:
    """Remove dimensions of 1: [1,O,I,3,3], [1,C,4,4], [1,3,1,1], [1,1,H,W]."""
    shape = stored.shape
    if (name.endswith(".const") and len(shape) == 4) or len(shape) == 5:
        shape = shape[1:]
    elif name.endswith(".noise_const"):
        shape = shape[-2:]
    elif name.endswith(".noise_strength"):
        shape = ()
    elif name.endswith(".bias") and len(shape) == 4:
        shape = shape[1:2]
    if math.prod(shape) != math.prod(stored.shape):
        raise CheckpointError(f"its {key[:60]!r} has the shape {list(stored.shape)}")

    def read() -> Tensor:
        return stored.tensor().reshape(shape)

    return LazyTensor(shape, read)


def _refuse_lost_embedding(tensors: Mapping[str, LazyTensor]) -> None:
    """In these ports z is as wide as w, unless the label's embedding comes beside z."""
    first = tensors.get("mapping.fc0.weight")
    last = tensors.get(last_mapping_bias(tensors))
    if first and last and len(first.shape) == 2 and last.shape and first.shape[1] > last.shape[0]:
        raise CheckpointError(
            f"its first mapping layer has {first.shape[1]} inputs, but w has {last.shape[0]}: a "
            "conditional network that was exported without its label embedding; convert the "
            "original .pkl instead"
        )
