"""Export networks for other code bases, as state dicts or as NVIDIA's pickles."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.canonical_names import CONST
from sg2cli.checkpoints.naming_schemes import ROSINALITY_CONV
from sg2cli.checkpoints.nvidia_pickle import channel_base_and_max, nvidia_pickle
from sg2cli.errors import UsageError
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.atomic import new_file

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

SUFFIXES = {"ada": (".pt", ".pkl"), "rosinality": (".pt",), "stylegan3": (".pkl",)}
CLAMP_SEEDS = 64  # images for which a clamp must make no difference
SEPARABLE = 8  # taps from which NVIDIA's code keeps a filter in one dimension


def save_as(
    G: Generator,
    path: Path,
    target: str,
    overwrite: bool = False,
    note: Callable[[str], object] = lambda text: None,
) -> None:
    """Write a .pt of plain tensors for `load_state_dict`, or a .pkl for NVIDIA's `legacy`.

    'ada': of stylegan2-ada-pytorch's Generator; 'stylegan3': of the StyleGAN2 in stylegan3.
    'rosinality': g_ema of stylegan2-pytorch's, and latent_avg. UsageError names what the target
    cannot express.
    """
    import torch

    if path.suffix == ".pkl":
        content = nvidia_pickle(G, "ada" if target == "ada" else "stylegan3", to_ada(G))
        if not channel_base_and_max(G.config):
            note(
                f"channels of {', '.join(map(str, G.config.channels))} match no channel_base and "
                "channel_max: code that builds its own generator from this file's arguments "
                "cannot load it"
            )
    else:
        if target == "ada":
            contents: dict[str, Any] = to_ada(G)
        else:
            _check_rosinality(G.config)
            _check_clamp(G, note)
            contents = {"g_ema": to_rosinality(G), "latent_avg": G.mapping.w_avg.cpu().clone()}
        buffer = io.BytesIO()  # as torch hides why it cannot write
        torch.save(contents, buffer)
        content = buffer.getvalue()
    with new_file(path, overwrite) as file:
        file.write(content)


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


PARTS = {ours: theirs for theirs, ours in ROSINALITY_CONV.items()}


def _their_name(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """rosinality's name and shape of one of our tensors."""
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
        return f"style.{int(match[1]) + 1}.{match[2]}", shape
    if name == CONST:
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
    """UsageError that names what rosinality's code cannot express, but for a clamp."""
    separable = not isinstance(config.resample_filter[0], tuple)
    needs: Mapping[str, bool] = {
        f"{config.c_dim} classes": config.c_dim == 0,
        f"the architecture {config.architecture}": config.architecture == "skip",
        f"the activation {config.activation}": config.activation == "lrelu",
        f"an lr_multiplier of {config.lr_multiplier}": config.lr_multiplier == 0.01,
        f"{config.img_channels} image channels": config.img_channels == 3,
        "a network without noise": config.use_noise,
        f"a constant input of {config.base[0]}x{config.base[1]}": config.base == (4, 4),
        "a filter that is not a product": separable,
        f"a filter of {len(config.resample_filter)} taps": len(config.resample_filter) == 4,
        f"channels of {', '.join(map(str, config.channels))}": _has_rosinality_channels(config),
        f"mapping layers of {config.mapping_features} for z of {config.z_dim}": (
            {config.z_dim} == set(config.mapping_features)
        ),
    }
    if lacking := [what for what, fits in needs.items() if not fits]:
        raise UsageError(f"rosinality's code cannot express {', '.join(lacking)}: try `to` ada")


def _has_rosinality_channels(config: GeneratorConfig) -> bool:
    """Whether the numbers of channels are in its table: 512, and from 64x64 on 16,384 m / size."""
    highest, last = config.resolutions[-1], config.channels[-1]
    multiplier = max(1, highest * last // 16_384) if highest >= 64 else 1
    expected = [512 if r <= 32 else 16_384 * multiplier // r for r in config.resolutions]
    return list(config.channels) == expected


def _check_clamp(G: Generator, note: Callable[[str], object]) -> None:
    """Remove conv_clamp from G; UsageError if that changes any of 64 test images."""
    import numpy as np
    import torch

    if G.config.conv_clamp is None:
        return
    z = [np.random.RandomState(seed).randn(1, G.config.z_dim) for seed in range(CLAMP_SEEDS)]
    w = G.mapping(torch.from_numpy(np.concatenate(z)).float())
    size = max(1, (256 // max(G.config.size)) ** 2)
    layers: list[Any] = [*G.synthesis.layers, *(b.torgb for b in G.synthesis.blocks if b.has_torgb)]
    clamps = [layer.clamp for layer in layers]
    for first in range(0, CLAMP_SEEDS, size):
        ws = w[first : first + size, None].expand(-1, G.config.num_ws, -1)
        for layer, clamp in zip(layers, clamps, strict=True):
            layer.clamp = clamp
        images = G.synthesis(ws)
        for layer in layers:
            layer.clamp = None
        if not images.equal(G.synthesis(ws)):
            last = min(first + size, CLAMP_SEEDS) - 1
            raise UsageError(
                f"rosinality's code cannot express the conv_clamp of {G.config.conv_clamp:g}, and "
                f"without it images of seeds {first} to {last} differ: try `to` ada"
            )
    note(
        f"rosinality's code has no conv_clamp: that of {G.config.conv_clamp:g} is left out, as the "
        f"images of {CLAMP_SEEDS} seeds do not reach it"
    )
