"""The common form of all checkpoints: canonical names, shapes and a configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.canonical_names import CONST
from sg2cli.errors import CheckpointError
from sg2cli.settings import ACTIVATIONS, ARCHITECTURES, GeneratorConfig, ResampleFilter

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

MAX_SHOWN = 100  # characters of a name in a message
MAX_BASE = 64  # pixels a side of the constant input: 4, or some more
MAX_TAPS = 64  # real filters have 4 to 12
FIELDS = {  # of the metadata; the rest of the configuration follows from the tensors
    *("format_version", "z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "num_layers"),
    *("lr_multiplier", "architecture", "activation", "conv_clamp", "num_fp16_res"),
    *("resample_filter", "base", "source"),
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of another format, with a known shape and data that are read on demand."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass
class Checkpoint:
    """A network in another format, with canonical names, and fields as in our metadata."""

    format: str
    fields: dict[str, Any]
    tensors: dict[str, LazyTensor]
    left_out: list[str] = field(default_factory=list)  # names of other contents of the file
    made_up: list[str] = field(default_factory=list)  # what it lacks and was added
    notes: list[str] = field(default_factory=list)
    is_recorded: bool = False  # whether the file has the fields, or they are assumed

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


@dataclass(frozen=True)
class _Reader:
    """Reads fields of a configuration and sides of tensors; CheckpointError if invalid."""

    fields: Mapping[str, Any]
    shapes: Shapes

    def number(self, name: str, default: float, low: float, high: float = math.inf) -> float:
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"its {name} is {value!r}, not a number")
        if not low <= value <= min(high, 1e15):
            raise CheckpointError(f"its {name} is {value!r}, out of range")
        return value

    def integer(self, name: str, default: int, low: int, high: float = math.inf) -> int:
        value = self.number(name, default, low, high)
        if value != int(value):
            raise CheckpointError(f"its {name} is {value!r}, not a whole number")
        return int(value)

    def choice(self, name: str, default: str, choices: Sequence[str]) -> Any:
        value = self.fields.get(name, default)
        if value not in choices:
            raise CheckpointError(f"its {name} is {value!r}; supported are {', '.join(choices)}")
        return value

    def base(self) -> tuple[int, int]:
        """Height and width of the constant input."""
        sides = self.fields.get("base", list(self.shapes[CONST][1:]))
        valid = isinstance(sides, list) and len(sides) == 2
        if not valid or not all(type(side) is int and 1 <= side <= MAX_BASE for side in sides):
            raise CheckpointError(
                f"its base is {str(sides)[:40]}, not a height and width from 1 to {MAX_BASE}"
            )
        return sides[0], sides[1]

    def side(self, key: str, axis: int) -> int:
        if len(self.shapes.get(key, ())) <= axis:
            raise CheckpointError(f"it has no tensor {key} with {axis + 1} or more dimensions")
        if not self.shapes[key][axis]:
            raise CheckpointError(
                f"its tensor {key} is empty: it has the shape {list(self.shapes[key])}"
            )
        return self.shapes[key][axis]


def read_config(fields: Mapping[str, Any], shapes: Shapes) -> GeneratorConfig:
    """The configuration of a checkpoint, from its metadata and the shapes of its tensors.

    CheckpointError for fields that this version does not support, and if tensors are missing. See
    `check_shapes` for whether they fit.
    """
    if CONST not in shapes:
        raise CheckpointError(f"not a StyleGAN2 generator: it has no tensor {CONST}")
    if unknown := sorted(fields.keys() - FIELDS):
        raise CheckpointError(
            f"its metadata has a field that this version of sg2 does not support: {unknown[0]!r}"
        )
    if fields.get("format_version", 1) != 1:
        raise CheckpointError(
            f"it has format_version {fields['format_version']!r}, and this sg2 reads 1: upgrade sg2"
        )

    read = _Reader(fields, shapes)
    found = [int(m[1]) for key in shapes if (m := re.fullmatch(r"synthesis\.b(\d{1,9})\..*", key))]
    img_resolution = read.integer("img_resolution", max(found), 4)
    if img_resolution & (img_resolution - 1):
        raise CheckpointError(f"its img_resolution is {img_resolution}, not a power of two")
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", key) is not None for key in shapes)
    embed = read.side("mapping.embed.weight", 0) if "mapping.embed.weight" in shapes else 0
    c_dim = read.integer("c_dim", read.side("mapping.embed.weight", 1) if embed else 0, 0)
    if c_dim and not embed:
        raise CheckpointError(f"it has c_dim {c_dim}, but no tensor mapping.embed.weight")
    architecture = "orig"
    if "synthesis.b4.torgb.weight" in shapes:
        architecture = "skip"
    elif "synthesis.b8.skip.weight" in shapes:
        architecture = "resnet"
    clamp = fields.get("conv_clamp")
    blocks = img_resolution.bit_length() - 2
    return GeneratorConfig(
        z_dim=read.integer("z_dim", read.side("mapping.fc0.weight", 1) - embed, 1),
        c_dim=c_dim,
        w_dim=read.integer("w_dim", read.side("mapping.w_avg", 0), 1),
        img_resolution=img_resolution,
        img_channels=read.integer(
            "img_channels", read.side(f"synthesis.b{img_resolution}.torgb.weight", 0), 1, 4
        ),
        channels=tuple(read.side(f"synthesis.b{4 << i}.conv1.weight", 0) for i in range(blocks)),
        mapping_features=tuple(
            read.side(f"mapping.fc{i}.weight", 0)
            for i in range(read.integer("num_layers", layers, 1))
        ),
        embed_features=embed if c_dim else 0,
        use_noise=any(".noise_" in key for key in shapes),
        lr_multiplier=read.number("lr_multiplier", 0.01, 1e-9),
        architecture=read.choice("architecture", architecture, ARCHITECTURES),
        activation=read.choice("activation", "lrelu", ACTIVATIONS),
        conv_clamp=None if clamp is None else read.number("conv_clamp", 0, 1e-9),
        num_fp16_res=read.integer("num_fp16_res", 0, 0),
        resample_filter=read_filter(fields.get("resample_filter", [1, 3, 3, 1])),
        base=read.base(),
    )


def expected_shapes(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a generator by canonical name, without filters."""
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (config.w_dim,)}

    def fully_connected(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    def convolution(
        name: str, inputs: int, outputs: int, size: tuple[int, int], kernel: int = 3
    ) -> None:
        fully_connected(f"{name}.affine", config.w_dim, inputs)
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        shapes[f"{name}.bias"] = (outputs,)
        if config.use_noise and kernel == 3:
            shapes[f"{name}.noise_const"] = size
            shapes[f"{name}.noise_strength"] = ()

    inputs = config.z_dim
    if config.c_dim:
        fully_connected("mapping.embed", config.c_dim, config.embed_features)
        inputs += config.embed_features
    for i, outputs in enumerate(config.mapping_features):
        fully_connected(f"mapping.fc{i}", inputs, outputs)
        inputs = outputs
    below = config.channels[0]
    for resolution, size, channels in zip(
        config.resolutions, config.sizes, config.channels, strict=True
    ):
        block = f"synthesis.b{resolution}"
        if resolution == 4:
            shapes[f"{block}.const"] = (channels, *config.base)
        else:
            convolution(f"{block}.conv0", below, channels, size)
            if config.architecture == "resnet":
                shapes[f"{block}.skip.weight"] = (channels, below, 1, 1)
        convolution(f"{block}.conv1", channels, channels, size)
        if config.architecture == "skip" or resolution == config.img_resolution:
            convolution(f"{block}.torgb", channels, config.img_channels, size, kernel=1)
        below = channels
    return shapes


def check_shapes(config: GeneratorConfig, found: Shapes) -> None:
    """CheckpointError naming tensors that are missing, unexpected or of a wrong shape."""
    expected = expected_shapes(config)
    complaints = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of a wrong shape": [
            f"{key} is {list(found[key])}, not {list(shape)}"
            for key, shape in expected.items()
            if key in found and found[key] != shape
        ],
    }
    messages = [f"{what}: {first(keys)}" for what, keys in complaints.items() if keys]
    if messages:
        raise CheckpointError("its tensors do not fit its configuration; " + "; ".join(messages))


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor is finite; `isfinite` would make two copies of it."""
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in tensor.aminmax())


def check_finite(name: str, tensor: Tensor, stored: Tensor) -> None:
    """CheckpointError for a float32 tensor that is not finite; `stored`: the original."""
    if not is_finite(tensor):
        what = "numbers beyond the range of float32" if is_finite(stored) else "NaN or infinity"
        raise CheckpointError(f"its tensor {name} holds {what}")


def parameters(shapes: Shapes) -> int:
    """The number of learned parameters, without noise maps and w_avg."""
    not_learned = (".noise_const", ".w_avg")
    return sum(math.prod(s) for name, s in shapes.items() if not name.endswith(not_learned))


def first(keys: Sequence[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(key[:MAX_SHOWN] for key in keys[:count]) + more


def read_filter(taps: Any) -> ResampleFilter:
    """A filter from JSON: [f] numbers, or [f][f] if it is not separable."""
    if not isinstance(taps, list) or not 1 <= len(taps) <= MAX_TAPS:
        raise CheckpointError(f"its resample_filter is not a list of 1 to {MAX_TAPS} numbers")
    nested = isinstance(taps[0], list)
    rows = taps if nested else [taps]
    for row in rows:
        if not isinstance(row, list) or len(row) != len(taps):
            raise CheckpointError("its resample_filter has rows, but is not square")
        for tap in row:
            if isinstance(tap, bool) or not isinstance(tap, int | float) or not abs(tap) < 1e15:
                raise CheckpointError(f"its resample_filter holds {tap!r}, not a number")
    if abs(sum(map(sum, rows))) < 1e-6:
        raise CheckpointError("its resample_filter sums to 0")
    return tuple(map(tuple, rows)) if nested else tuple(taps)


def config_fields(config: GeneratorConfig) -> dict[str, Any]:
    """The fields for the metadata that do not follow from the tensors."""
    names = sorted(FIELDS - {"format_version", "source", "base"})
    fields = {"format_version": 1, **{name: getattr(config, name) for name in names}}
    return fields if config.base == (4, 4) else fields | {"base": config.base}


def check_kernel(shape: tuple[int, ...]) -> None:
    """CheckpointError for an unusually large filter; call this before reading it."""
    if len(shape) not in (1, 2) or not 0 < max(shape) <= MAX_TAPS:
        raise CheckpointError(f"its resample_filter has the shape {list(shape)}")


def taps_of(kernel: Any, *others: Any) -> list[Any]:
    """The filter of stored kernels: [f] numbers if the kernel is their outer product.

    CheckpointError if the kernels of layers differ.
    """
    for other in others:
        if other.shape != kernel.shape or not (abs(other - kernel) < 1e-3).all():
            raise CheckpointError(
                "its layers differ in resample_filter, which sg2 does not support"
            )
    stored: list[Any] = kernel.tolist()
    if len(kernel.shape) == 1:
        return stored
    rows = [math.fsum(row) for row in stored]  # the taps, as the kernel sums to 1
    is_product = all(
        math.isclose(value, a * b, abs_tol=1e-6)
        for a, row in zip(rows, stored, strict=True)
        for b, value in zip(rows, row, strict=False)
    )
    return rows if is_product else stored
