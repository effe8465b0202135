"""NVIDIA's PyTorch pickles: stylegan2-ada-pytorch, and the StyleGAN2 of stylegan3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sg2cli.checkpoints.config import Checkpoint, LazyTensor, check_kernel, taps_of
from sg2cli.checkpoints.numpy_arrays import NUMPY, PickledArray
from sg2cli.checkpoints.stand_ins import Attributes, Module, Nested, Opaque, plain
from sg2cli.checkpoints.torch_tensors import TORCH, PickledTensor, read_storage
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import Budget

GLOBALS: dict[str, object] = {
    **NUMPY,
    **TORCH,
    "torch_utils.persistence _reconstruct_persistent_obj": Module,
    "torch.storage _load_from_bytes": Nested(read_storage),
    "dnnlib.util EasyDict": Attributes,
    "builtins set": Opaque,
}
MAX_DEPTH = 8  # modules in modules; a generator has four
MAX_COUNT = 10_000  # modules and tensors, of which it has some hundred


def read(pickled: Mapping[str, Any], budget: Budget) -> Checkpoint:
    """The network G_ema of what `pickle_reader.load` read."""
    network = pickled.get("G_ema")
    if not isinstance(network, Module):
        raise CheckpointError("it has no network G_ema")
    modules = dict(_modules(network))
    synthesis = modules.get("synthesis")
    if synthesis is None or "mapping" not in modules:
        raise CheckpointError(f"its G_ema is a {network.class_name}, not a StyleGAN2 generator")
    if "synthesis.input" in modules:
        raise CheckpointError("a StyleGAN3 network, whose architecture sg2 does not support")
    stored = _tensors(modules)
    tensors = {
        name: LazyTensor(tensor.shape, tensor.tensor)
        for name, tensor in stored.items()
        if not name.endswith(".resample_filter")
    }
    layers = [m.state for path, m in modules.items() if re.search(r"\.conv[01]$", path)]
    blocks = [m.state for path, m in modules.items() if re.fullmatch(r"synthesis\.b\d+", path)]
    dense = [m.state for path, m in modules.items() if re.fullmatch(r"mapping\.fc\d+", path)]
    same = {
        "conv_clamp": {_number(layer.get("conv_clamp")) for layer in layers},
        "activation": {_number(layer.get("activation", "lrelu")) for layer in layers + dense},
        "architecture": {_number(block.get("architecture", "skip")) for block in blocks},
        "lr_multiplier": {_number(fc.get("bias_gain")) for fc in dense},
    }
    fields: dict[str, Any] = {}
    for name, values in same.items():
        if len(values) != 1:
            raise CheckpointError(f"its layers differ in {name}, which sg2 does not support")
        (fields[name],) = values
    for name in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"):
        fields[name] = _number(network.state.get(name))
    fields["num_fp16_res"] = sum(block.get("use_fp16") is True for block in blocks)
    # A conv1 has one as well, but does not use it.
    filters = [
        t for name, t in stored.items() if re.search(r"(conv0|skip)\.resample_filter$", name)
    ]
    budget.charge("resample_filters", len(filters))
    for kernel in filters:
        check_kernel(kernel.shape)
    taps = taps_of(*(kernel.tensor() for kernel in filters)) if filters else [1, 3, 3, 1]
    fields["resample_filter"] = taps
    left_out = [str(name) for name in pickled if name != "G_ema" and pickled[name] is not None]
    return Checkpoint("NVIDIA PyTorch pickle", fields, tensors, left_out)


def _modules(root: Module) -> list[tuple[str, Module]]:
    """All modules below the root with their paths; a file may contain cycles and duplicates."""
    found: list[tuple[str, Module]] = []
    todo = [("", root)]
    while todo:
        path, module = todo.pop(0)
        children = module.state.get("_modules")
        if not isinstance(children, dict) or len(found) + len(children) > MAX_COUNT:
            raise CheckpointError("its modules are malformed")
        for name, child in children.items():
            below = f"{path}.{name}".lstrip(".")
            if isinstance(child, Module):
                if below.count(".") >= MAX_DEPTH:
                    raise CheckpointError("its modules are nested too deeply")
                found.append((below, child))
                todo.append((below, child))
    return found


def _tensors(modules: Mapping[str, Module]) -> dict[str, PickledTensor]:
    found: dict[str, PickledTensor] = {}
    for path, module in modules.items():
        for kind in ("_parameters", "_buffers"):
            held = module.state.get(kind)
            if not isinstance(held, dict) or len(found) + len(held) > MAX_COUNT:
                raise CheckpointError("its tensors are not kept as torch does")
            found |= {f"{path}.{n}": t for n, t in held.items() if isinstance(t, PickledTensor)}
    return found


def _number(value: object) -> Any:
    """A plain value, or a number that numpy wrapped."""
    if isinstance(value, PickledArray) and value.shape == ():
        return value.tensor().item()
    return plain(value, "a setting")
