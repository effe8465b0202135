"""Checkpoints of other code, written here as that code writes them, from our generators."""

from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sg2cli.generator import Generator


@contextmanager
def fake_modules(**contents: Any) -> Iterator[None]:
    """Modules by name for as long as a pickle that names them is written."""
    made = []
    for dotted, content in contents.items():
        name = dotted.replace("__", ".")
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            parent = ".".join(parts[:depth])
            if parent not in sys.modules:
                sys.modules[parent] = types.ModuleType(parent)
                made.append(parent)
                if depth > 1:
                    above = sys.modules[".".join(parts[: depth - 1])]
                    setattr(above, parts[depth - 1], sys.modules[parent])
        for attribute, value in content.items():
            value.__module__ = name
            value.__qualname__ = value.__name__ = attribute
            setattr(sys.modules[name], attribute, value)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def write_ada(
    G: Generator, path: Path, skip: str = "", protocol: int | None = None, **more: Any
) -> None:
    """NVIDIA's PyTorch pickle: persistent modules, with `state` as nn.Module has it."""

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("nobody calls this")

    class Persistent:
        def __init__(self, class_name: str, **state: Any) -> None:
            self.meta = {
                "type": "class",
                "version": 6,
                "module_src": "raise SystemExit",
                "class_name": class_name,
                "state": {"_parameters": OrderedDict(), "_buffers": OrderedDict()}
                | {"_modules": OrderedDict(), "training": False}
                | state,
            }

        def __reduce__(self) -> Any:
            return _reconstruct_persistent_obj, (self.meta,)

    config = G.config
    taps = torch.tensor(config.resample_filter)
    kernel = torch.outer(taps, taps) if taps.ndim == 1 and len(taps) < 8 else taps
    kernel = kernel / kernel.sum()
    root = Persistent("Generator", **{n: getattr(config, n) for n in ("z_dim", "c_dim", "w_dim")})
    root.meta["state"] |= {
        "img_resolution": config.img_resolution,
        "img_channels": config.img_channels,
    }
    for name, tensor in G.state_dict().items():
        if name == skip:
            continue
        module = root
        *path_, last = name.split(".")
        for depth, part in enumerate(path_):
            children = module.meta["state"]["_modules"]
            if part not in children:
                children[part] = Persistent(part)
                state = children[part].meta["state"]
                if part.startswith("fc"):
                    state |= {"activation": config.activation, "bias_gain": config.lr_multiplier}
                if part.startswith("b") and depth == 1:
                    state |= {"architecture": config.architecture, "use_fp16": False}
                if part in ("conv0", "conv1"):
                    state |= {"activation": config.activation, "conv_clamp": config.conv_clamp}
                    state |= {"act_gain": np.sqrt(2)}
                    state["_buffers"]["resample_filter"] = kernel
            module = children[part]
        kind = "_buffers" if last in ("noise_const", "w_avg") else "_parameters"
        value = tensor.clone()
        module.meta["state"][kind][last] = (
            value if kind == "_buffers" else torch.nn.Parameter(value)
        )
    with fake_modules(
        torch_utils__persistence={"_reconstruct_persistent_obj": _reconstruct_persistent_obj}
    ):
        path.write_bytes(pickle.dumps({"G": None, "D": None, "G_ema": root, **more}, protocol))


def write_tensorflow(
    G: Generator,
    path: Path,
    protocol: int = 4,
    wrapper: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> None:
    """NVIDIA's TensorFlow pickle: (G, D, Gs), names and layouts as FORMATS of that code."""

    class Network:
        def __init__(self, name: str, variables: Any = (), components: Any = None) -> None:
            self.name = name
            self.version = 4
            self.static_kwargs = static
            self.components = components or {}
            self.build_module_src = "raise SystemExit"
            self.variables = list(variables)

        def __getstate__(self) -> Any:
            return dict(self.__dict__)

    config = G.config
    static = {
        "architecture": config.architecture,
        "resample_kernel": list(config.resample_filter),
        "conv_clamp": config.conv_clamp,
        "nonlinearity": config.activation,
        "mapping_nonlinearity": config.activation,
        "mapping_lrmul": config.lr_multiplier,
        "truncation_psi": 0.5,
        **kwargs,
    }
    parts: dict[str, list[Any]] = {"mapping": [], "synthesis": []}
    top: list[Any] = [("lod", np.float32(0))]
    for name, tensor in G.state_dict().items():
        array = tensor.numpy()
        _, *path_, last = name.split(".")
        if name == "mapping.w_avg":
            top.append(("dlatent_avg", array))
        elif name.startswith("mapping"):
            theirs = "LabelEmbed" if path_[0] == "embed" else f"Dense{path_[0][2:]}"
            parts["mapping"].append((f"{theirs}/{last}", array.T))
        else:
            r = int(path_[0][1:])
            block = "x".join(str(side * r // 4) for side in config.base)
            if last == "const":
                parts["synthesis"].append((f"{block}/Const/const", array[None]))
                continue
            if last == "noise_const":
                index = 2 * r.bit_length() - 2 - 5 + (path_[1] == "conv1")
                index = 0 if r == 4 else index
                parts["synthesis"].append((f"noise{index}", array[None, None]))
                continue
            theirs = {"conv0": "Conv0_up", "skip": "Skip", "torgb": "ToRGB", "conv1": "Conv1"}
            layer = "Conv" if (r, path_[1]) == (4, "conv1") else theirs[path_[1]]
            if path_[-1] == "affine":
                last = f"mod_{last}"
                array = array.T if last == "mod_weight" else array - 1
            elif last == "weight":
                if path_[1] in ("conv0", "skip"):
                    array = array[:, :, ::-1, ::-1]
                array = array.transpose(2, 3, 1, 0)
            parts["synthesis"].append((f"{block}/{layer}/{last}", array))
    with fake_modules(dnnlib__tflib__network={"Network": Network}):
        components = {part: Network(part, parts[part]) for part in parts}
        Gs = Network("Gs", top, components)
        contents = wrapper(Gs) if wrapper else (Network("G"), Network("D"), Gs)
        path.write_bytes(pickle.dumps(contents, protocol))


def rosinality_state(G: Generator) -> dict[str, torch.Tensor]:
    """The state dict of rosinality's Generator."""
    theirs = {
        "weight": "conv.weight",
        "affine.weight": "conv.modulation.weight",
        "affine.bias": "conv.modulation.bias",
        "noise_strength": "noise.weight",
        "bias": "activate.bias",
    }
    taps = torch.tensor(G.config.resample_filter)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2 * 4
    state = {}
    for name, tensor in G.state_dict().items():
        _, *path_, _ = name.split(".")
        if name == "mapping.w_avg":
            continue
        if name.startswith("mapping"):
            state[f"style.{int(path_[0][2:]) + 1}.{name.split('.')[-1]}"] = tensor
            continue
        k = int(path_[0][1:]).bit_length() - 4  # block 8 * 2^k
        part = name.split(".", 3)[-1]
        if name.endswith("b4.const"):
            state["input.input"] = tensor[None]
        elif path_[1] == "torgb":
            prefix = "to_rgb1" if k < 0 else f"to_rgbs.{k}"
            key = "bias" if part == "bias" else theirs[part]
            shaped = tensor.reshape(1, -1, 1, 1) if part == "bias" else tensor
            state[f"{prefix}.{key}"] = shaped[None] if part == "weight" else shaped
            if k >= 0:
                state[f"{prefix}.upsample.kernel"] = kernel
        else:
            index = 0 if k < 0 else 2 * k + 1 + (path_[1] == "conv1")
            prefix = "conv1" if index == 0 else f"convs.{index - 1}"
            if part == "noise_const":
                state[f"noises.noise_{index}"] = tensor[None, None]
            elif part == "noise_strength":
                state[f"{prefix}.{theirs[part]}"] = tensor.reshape(1)
            else:
                state[f"{prefix}.{theirs[part]}"] = tensor[None] if part == "weight" else tensor
            if path_[1] == "conv0":
                state[f"{prefix}.conv.blur.kernel"] = kernel
    return state
