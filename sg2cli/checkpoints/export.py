"""Export networks as state dicts for other code bases."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import UsageError
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.atomic import new_file

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

TARGETS = ("ada", "rosinality")
SEPARABLE = 8  # taps from which NVIDIA's code keeps a filter in one dimension


def save_as(G: Generator, path: Path, target: str, overwrite: bool = False) -> None:
    """Write a .pt of plain tensors for `load_state_dict`.

    'ada': the state dict of stylegan2-ada-pytorch's Generator. 'rosinality': g_ema, that of
    stylegan2-pytorch's, and latent_avg. UsageError names what the target cannot express.
    """
    import torch

    if target == "ada":
        contents: dict[str, Any] = to_ada(G)
    else:
        contents = {"g_ema": to_rosinality(G), "latent_avg": G.mapping.w_avg.cpu().clone()}
    content = io.BytesIO()  # as torch hides why it cannot write
    torch.save(contents, content)
    with new_file(path, overwrite) as file:
        file.write(content.getbuffer())


def to_ada(G: Generator) -> dict[str, Tensor]:
    """Their names are ours; their filters are buffers of every convolution."""
    state = {name: tensor.cpu().contiguous() for name, tensor in G.state_dict().items()}
    own, default = _ada_filter(G.config.resample_filter), _ada_filter((1, 3, 3, 1))
    for resolution in G.config.resolutions:
        block = f"synthesis.b{resolution}"
        state[f"{block}.resample_filter"] = own
        state[f"{block}.conv1.resample_filter"] = default  # of no use: it does not upsample
        if resolution > 4:
            state[f"{block}.conv0.resample_filter"] = own
            if G.config.architecture == "resnet":
                state[f"{block}.skip.resample_filter"] = own
    return state


def _ada_filter(taps: Any) -> Tensor:
    import torch

    f = torch.tensor(taps, dtype=torch.float32)
    if f.ndim == 1 and len(f) < SEPARABLE:
        f = torch.outer(f, f)
    return f / f.sum()


def to_rosinality(G: Generator) -> dict[str, Tensor]:
    """The state dict of their Generator, with the filters, times 4 where they upsample."""
    import torch

    _check_rosinality(G.config)
    taps = torch.tensor(G.config.resample_filter, dtype=torch.float32)
    kernel = torch.outer(taps, taps)
    kernel = 4 * kernel / kernel.sum()
    state: dict[str, Tensor] = {}
    for name, tensor in G.state_dict().items():
        if name != "mapping.w_avg":
            key, shape = _their_name(name, tuple(tensor.shape))
            state[key] = tensor.cpu().contiguous().reshape(shape)
    for k in range(len(G.config.resolutions) - 1):
        state[f"convs.{2 * k}.conv.blur.kernel"] = kernel
        state[f"to_rgbs.{k}.upsample.kernel"] = kernel
    return state


PARTS = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
    "bias": "activate.bias",
}


def _their_name(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """rosinality's name and shape of one of our tensors."""
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
        return f"style.{int(match[1]) + 1}.{match[2]}", shape
    if name == "synthesis.b4.const":
        return "input.input", (1, *shape)
    match = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", name)
    assert match is not None  # all names of a generator without classes are one of these
    k, layer, part = int(match[1]).bit_length() - 4, match[2], match[3]  # block 8 * 2^k
    shape = (1, *shape) if part == "weight" else shape
    if layer == "torgb":
        prefix = "to_rgb1" if k < 0 else f"to_rgbs.{k}"
        if part == "bias":
            return f"{prefix}.bias", (1, *shape, 1, 1)
        return f"{prefix}.{PARTS[part]}", shape
    index = 0 if k < 0 else 2 * k + 1 + (layer == "conv1")
    if part == "noise_const":
        return f"noises.noise_{index}", (1, 1, *shape)
    prefix = "conv1" if index == 0 else f"convs.{index - 1}"
    return f"{prefix}.{PARTS[part]}", (1,) if part == "noise_strength" else shape


def _check_rosinality(config: GeneratorConfig) -> None:
    separable = not isinstance(config.resample_filter[0], tuple)
    needs: Mapping[str, bool] = {
        f"a conv_clamp of {config.conv_clamp}": config.conv_clamp is None,
        f"{config.c_dim} classes": config.c_dim == 0,
        f"the architecture {config.architecture}": config.architecture == "skip",
        f"the activation {config.activation}": config.activation == "lrelu",
        f"an lr_multiplier of {config.lr_multiplier}": config.lr_multiplier == 0.01,
        f"{config.img_channels} image channels": config.img_channels == 3,
        "a network without noise": config.use_noise,
        "a filter that is not a product": separable,
        f"mapping layers of {config.mapping_features} for z of {config.z_dim}": (
            {config.z_dim} == set(config.mapping_features)
        ),
    }
    if lacking := [what for what, fits in needs.items() if not fits]:
        raise UsageError(f"rosinality's code cannot express {', '.join(lacking)}: try `to` ada")
