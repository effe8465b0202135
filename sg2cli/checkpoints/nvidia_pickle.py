"""Write a network as the pickle that NVIDIA's `legacy.load_network_pkl` reads.

Such a pickle brings source code, which their code executes: here a few lines that construct the
user's own Generator class with its arguments, and load the tensors into it.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sg2cli.checkpoints.config import config_fields
from sg2cli.errors import UsageError
from sg2cli.settings import GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

CodeBase = Literal["ada", "stylegan3"]
MODULES: dict[str, str] = {"ada": "training.networks", "stylegan3": "training.networks_stylegan2"}
GENERATOR = """\
# Written by sg2. Constructs the generator of this code base, and loads its weights.
import {module}


class Generator({module}.Generator):
    def __init__(self, *args, channels=None, **kwargs):
        super().__init__(*args, **kwargs)
        if channels:  # other ones than channel_base and channel_max give
            inputs = 0
            for outputs, resolution in zip(channels, self.synthesis.block_resolutions):
                name = f"b{{resolution}}"
                block = getattr(self.synthesis, name)
                setattr(self.synthesis, name, type(block)(inputs, outputs, **block.init_kwargs))
                inputs = outputs

    def __setstate__(self, state):
        if "tensors" not in state:  # a copy of a generator
            super().__setstate__(state)
            return
        self.__init__(**state["init_kwargs"])
        self.load_state_dict(state["tensors"])
        self.eval().requires_grad_(False)
"""
DISCRIMINATOR = """\
# Written by sg2, in place of a discriminator, which the file does not have.
import torch


class Discriminator(torch.nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state):
        if state:  # a copy
            super().__setstate__(state)
        else:
            self.__init__()

    def forward(self, *args, **kwargs):
        raise RuntimeError("this file has no discriminator: it was written by sg2")
"""
RECONSTRUCT = b"torch_utils.persistence\n_reconstruct_persistent_obj\n"


@dataclass(frozen=True, eq=False)
class _Persistent:
    """An object that NVIDIA's code reconstructs with the source of its class."""

    module_src: str
    class_name: str
    state: dict[str, Any]


_InPython: Any = pickle._Pickler  # the one in C cannot be subclassed so


class _Pickler(_InPython):  # type: ignore[misc]
    """Names the function of NVIDIA's code without importing it."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, _Persistent) or id(obj) in self.memo:
            super().save(obj, save_persistent_id)
            return
        meta = {"type": "class", "version": 6, **vars(obj)}
        self.write(pickle.GLOBAL + RECONSTRUCT)
        super().save((meta,))
        self.write(pickle.REDUCE)
        self.memoize(obj)


def nvidia_pickle(G: Generator, code_base: CodeBase, tensors: dict[str, Tensor]) -> bytes:
    """The pickle with G, D and G_ema; `tensors` are those of NVIDIA's Generator.

    UsageError names what its constructor cannot express.
    """
    state = {
        "init_kwargs": constructor_arguments(G.config, code_base),
        "tensors": OrderedDict(tensors),
        "sg2": json.dumps(config_fields(G.config)),
    }
    generator = _Persistent(GENERATOR.format(module=MODULES[code_base]), "Generator", state)
    contents = {
        "G": generator,
        "D": _Persistent(DISCRIMINATOR, "Discriminator", {}),
        "G_ema": generator,
        "training_set_kwargs": None,
        "augment_pipe": None,
    }
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(contents)
    return file.getvalue()


def constructor_arguments(config: GeneratorConfig, code_base: CodeBase) -> dict[str, Any]:
    """The arguments of NVIDIA's Generator; UsageError if it cannot make such a network."""
    channels = channel_base_and_max(config)
    base, most = channels or (max(config.channels), max(config.channels))
    *hidden, _ = config.mapping_features
    if len(set(hidden)) > 1:
        raise UsageError(
            f"NVIDIA's code cannot express mapping layers of {config.mapping_features}: hidden "
            "ones must be of one width"
        )
    if config.base != (4, 4):
        raise UsageError(
            "NVIDIA's code cannot express images that are not square: write a .pt with `to` ada, "
            "for a fork that can"
        )
    mapping = {
        "num_layers": config.num_layers,
        "layer_features": hidden[0] if hidden else config.w_dim,
        "activation": config.activation,
        "lr_multiplier": config.lr_multiplier,
    }
    if config.c_dim:
        mapping["embed_features"] = config.embed_features
    synthesis = {
        "channel_base": base,
        "channel_max": most,
        "num_fp16_res": config.num_fp16_res,
        "architecture": config.architecture,
        "activation": config.activation,
        "conv_clamp": config.conv_clamp,
        "use_noise": config.use_noise,
        "resample_filter": [list(t) if isinstance(t, tuple) else t for t in config.resample_filter],
    }
    sizes = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    arguments = {name: getattr(config, name) for name in sizes} | {"mapping_kwargs": mapping}
    if not channels:
        arguments["channels"] = list(config.channels)
    return arguments | ({"synthesis_kwargs": synthesis} if code_base == "ada" else synthesis)


def channel_base_and_max(config: GeneratorConfig) -> tuple[int, int] | None:
    """Those that give these channels in NVIDIA's code, or None."""
    most = max(config.channels)
    blocks = list(zip(config.resolutions, config.channels, strict=True))
    for base in sorted({channels * resolution for resolution, channels in blocks}, reverse=True):
        if all(channels == min(base // resolution, most) for resolution, channels in blocks):
            return base, most
    return None
