"""NVIDIA's TensorFlow pickles: stylegan2 and stylegan2-ada."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.canonical_names import CONST, conv_name
from sg2cli.checkpoints.config import MAX_TAPS, Checkpoint, LazyTensor, first
from sg2cli.checkpoints.numpy_arrays import PickledArray
from sg2cli.checkpoints.stand_ins import TensorFlowNetwork, plain
from sg2cli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def _layer(name: str) -> str:
    return {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}[name]


PLACES = ("2", "Gs", "", "G", "0")  # of the generator: in (G, D, Gs), in a dict, or alone
BLOCK = r"synthesis/(\d{1,4})x(\d{1,4})/"
MAX_BLOCKS = 12

# Each rule has a new name, and a change of axes or values that applies to shapes as well.
Rule = tuple[str, Callable[..., str], str]
RENAMES: list[Rule] = [
    (r"dlatent_avg", lambda: "mapping.w_avg", "as is"),
    (r"mapping/Dense(\d+)/weight", lambda i: f"mapping.fc{i}.weight", "transpose"),
    (r"mapping/Dense(\d+)/bias", lambda i: f"mapping.fc{i}.bias", "as is"),
    (r"mapping/LabelEmbed/weight", lambda: "mapping.embed.weight", "transpose"),
    (r"mapping/LabelEmbed/bias", lambda: "mapping.embed.bias", "as is"),
    (r"synthesis/4x4/Const/const", lambda: CONST, "first"),
    (
        r"synthesis/(\d+)x\d+/Conv0_up/weight",
        lambda r: f"synthesis.b{r}.conv0.weight",
        "kernel flipped",
    ),
    (r"synthesis/(\d+)x\d+/Skip/weight", lambda r: f"synthesis.b{r}.skip.weight", "kernel flipped"),
    (
        r"synthesis/(\d+)x\d+/(Conv|Conv1|ToRGB)/weight",
        lambda r, n: f"synthesis.b{r}.{_layer(n)}.weight",
        "kernel",
    ),
    (
        r"synthesis/(\d+)x\d+/(Conv|Conv0_up|Conv1|ToRGB)/mod_weight",
        lambda r, n: f"synthesis.b{r}.{_layer(n)}.affine.weight",
        "transpose",
    ),
    (
        r"synthesis/(\d+)x\d+/(Conv|Conv0_up|Conv1|ToRGB)/mod_bias",
        lambda r, n: f"synthesis.b{r}.{_layer(n)}.affine.bias",
        "plus one",
    ),
    (
        r"synthesis/(\d+)x\d+/(Conv|Conv0_up|Conv1|ToRGB)/(bias|noise_strength)",
        lambda r, n, kind: f"synthesis.b{r}.{_layer(n)}.{kind}",
        "as is",
    ),
    (r"synthesis/noise(\d{1,2})", lambda i: f"{conv_name(int(i))}.noise_const", "map"),
]
CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[Tensor], Tensor]]] = {
    "as is": (lambda s: s, lambda t: t),
    "transpose": (lambda s: s[::-1], lambda t: t.T),
    "first": (lambda s: s[1:], lambda t: t[0]),
    "map": (lambda s: s[2:], lambda t: t[0, 0]),
    "plus one": (lambda s: s, lambda t: t + 1),
    "kernel": (lambda s: (s[3], s[2], s[0], s[1]), lambda t: t.permute(3, 2, 0, 1)),
    "kernel flipped": (
        lambda s: (s[3], s[2], s[0], s[1]),
        lambda t: t.permute(3, 2, 0, 1).flip(2, 3),
    ),
}
DIMENSIONS = {"transpose": 2, "first": 4, "map": 4, "kernel": 4, "kernel flipped": 4}
NOT_TENSORS = {"lod"}  # of networks with progressive growing
DECIDING = {  # static_kwargs that are read, or determined by the shapes of tensors
    *("latent_size", "dlatent_size", "label_size", "label_fmaps", "resolution", "num_channels"),
    *("mapping_layers", "mapping_fmaps", "mapping_lrmul", "mapping_nonlinearity", "fmap_base"),
    *("fmap_max", "fmap_min", "fmap_decay", "architecture", "nonlinearity", "use_noise"),
    *("resample_kernel", "num_fp16_res", "conv_clamp", "normalize_latents"),
}


def read(networks: Mapping[str, TensorFlowNetwork]) -> Checkpoint:
    """The network Gs of a (G, D, Gs), of a dict, or alone; G where there is no Gs.

    `networks`: those of a file, by their place in it.
    """
    place = next((place for place in PLACES if place in networks), None)
    if place is None:
        raise CheckpointError("it holds TensorFlow networks, but no generator")
    network = networks[place]
    components = network.state.get("components")
    parts = {"": network}
    for name in ("mapping", "synthesis"):
        part = components.get(name) if isinstance(components, dict) else None
        if isinstance(part, TensorFlowNetwork):
            parts[f"{name}/"] = part
    variables, kwargs = _by_doublings(_variables(parts)), _kwargs(parts)
    if any("StyleMod" in name for name in variables):
        raise CheckpointError("a network of the first StyleGAN, which sg2 does not support")
    if not any(name.startswith("synthesis/") for name in variables):
        raise CheckpointError("a TensorFlow network, but not a StyleGAN2 (a ProGAN?)")
    if any("LabelConcat" in name for name in variables):
        raise CheckpointError("a conditional network with LabelConcat, which sg2 does not support")
    if kwargs.get("normalize_latents") is False:
        raise CheckpointError("its normalize_latents is False, which sg2 does not support")
    activation = _number(kwargs.get("nonlinearity", "lrelu"))
    if _number(kwargs.get("mapping_nonlinearity", "lrelu")) != activation:
        raise CheckpointError("its mapping_nonlinearity differs from its nonlinearity")
    kernel = kwargs.get("resample_kernel") or [1, 3, 3, 1]
    fields: dict[str, Any] = {
        "architecture": _number(kwargs.get("architecture", "skip")),
        "activation": activation,
        "lr_multiplier": _number(kwargs.get("mapping_lrmul", 0.01)),
        "conv_clamp": _number(kwargs.get("conv_clamp")),
        "num_fp16_res": _number(kwargs.get("num_fp16_res", 0)),
        "resample_filter": [_number(tap) for tap in _listed(kernel)],
    }
    tensors: dict[str, LazyTensor] = {}
    for name, array in variables.items():
        if name not in NOT_TENSORS:
            key, lazy = _rename(name, array)
            tensors[key] = lazy
    ignored = sorted(set(kwargs) - DECIDING)
    notes = (
        [f"ignored settings, which do not affect images: {first(ignored, 30)}"] if ignored else []
    )
    if place in ("0", "G"):
        notes.append("read G, as there is no network of averaged weights (Gs)")
    left_out = [name for name in ("G", "D") if len(networks) > 1 and name != place]
    return Checkpoint(
        "NVIDIA TensorFlow pickle", fields, tensors, left_out, notes=notes, is_recorded=True
    )


def _by_doublings(variables: Mapping[str, PickledArray]) -> dict[str, PickledArray]:
    """The variables with blocks called 4x4, 8x8, ... by doublings, whatever the smallest one is.

    Networks for images that are not square begin with 5x3 or the like.
    """
    sizes = {(int(m[1]), int(m[2])) for name in variables if (m := re.match(BLOCK, name))}
    if len(sizes) > MAX_BLOCKS:
        raise CheckpointError("it has more blocks than any network")
    names = {f"{h}x{w}": f"{4 << k}x{4 << k}" for k, (h, w) in enumerate(sorted(sizes))}
    return {
        re.sub(BLOCK, lambda m: f"synthesis/{names[f'{int(m[1])}x{int(m[2])}']}/", name): array
        for name, array in variables.items()
    }


def _rename(name: str, array: PickledArray) -> tuple[str, LazyTensor]:
    for pattern, new_name, change in RENAMES:
        if match := re.fullmatch(pattern, name):
            if len(array.shape) != DIMENSIONS.get(change, len(array.shape)):
                raise CheckpointError(f"its variable {name[:60]} has {len(array.shape)} dimensions")
            return new_name(*match.groups()), _changed(array, *CHANGES[change])
    raise CheckpointError(f"unknown TensorFlow variable {name[:60]!r}")


def _changed(
    array: PickledArray, reshape: Callable[[Any], Any], turn: Callable[[Tensor], Tensor]
) -> LazyTensor:
    return LazyTensor(tuple(reshape(array.shape)), lambda: turn(array.tensor()))


def _variables(parts: Mapping[str, TensorFlowNetwork]) -> dict[str, PickledArray]:
    found: dict[str, PickledArray] = {}
    for prefix, part in parts.items():
        variables = part.state.get("variables")
        for item in variables if isinstance(variables, list) else []:
            if not (
                isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], PickledArray)
            ):
                raise CheckpointError("its variables are not pairs of a name and an array")
            found[f"{prefix}{plain(item[0], 'a name')}"] = item[1]
    return found


def _kwargs(parts: Mapping[str, TensorFlowNetwork]) -> dict[str, Any]:
    """The static_kwargs of the network and its components, merged."""
    found: dict[str, Any] = {}
    for part in parts.values():
        kwargs = part.state.get("static_kwargs")
        if isinstance(kwargs, dict):
            found.update({str(name): value for name, value in kwargs.items()})
    return found


def _listed(value: Any) -> list[Any]:
    if isinstance(value, PickledArray) and math.prod(value.shape) <= MAX_TAPS**2:
        value = value.tensor().tolist()
    if not isinstance(value, list | tuple) or len(value) > MAX_TAPS:
        raise CheckpointError("its resample_kernel is not a short list")
    return list(value)


def _number(value: Any) -> Any:
    """A plain value, or a number in a NumPy array."""
    if isinstance(value, PickledArray) and math.prod(value.shape) == 1:
        return value.tensor().reshape(()).item()
    return plain(value, "a setting")
