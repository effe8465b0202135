"""Small networks with random weights, of any shape, and the golden ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sg2cli import checkpoints
from sg2cli.generator import Generator
from sg2cli.settings import GeneratorConfig

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_NAMES = sorted(path.name.split(".")[0] for path in GOLDEN.glob("*.weights.safetensors"))

DEFAULTS: dict[str, Any] = {
    "z_dim": 12,
    "c_dim": 0,
    "w_dim": 16,
    "img_resolution": 16,
    "img_channels": 3,
    "channels": (10, 9, 6),
    "mapping_features": (14, 16),
}


def random_generator(seed: int = 0, **changes: Any) -> Generator:
    """A generator whose every weight, noise strength and w_avg is drawn from a seed."""
    config = GeneratorConfig(**(DEFAULTS | changes))
    G = Generator(config)
    numbers = torch.Generator().manual_seed(seed)
    for name, tensor in G.state_dict().items():
        tensor.copy_(torch.randn(tensor.shape, generator=numbers))
        if name.startswith("mapping.fc"):
            tensor /= config.lr_multiplier  # as they are stored
        if name.endswith("affine.bias"):
            tensor += 1
    return G


def golden(name: str) -> tuple[Generator, dict[str, torch.Tensor], dict[str, Any]]:
    """A golden network, what NVIDIA's code computes from it, and with which settings."""
    G = checkpoints.load(GOLDEN / f"{name}.weights.safetensors", device="cpu")
    with safe_open(GOLDEN / f"{name}.expected.safetensors", "pt") as file:
        expected = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return G, expected, json.loads(file.metadata()["config"])


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error in the 2-norm."""
    difference = (found.double() - expected.double()).norm() / expected.double().norm()
    assert math.isfinite(difference)
    return difference.item()


def same(found: Any, expected: Any, but: str = "nothing") -> None:
    """Assert that two generators have the same tensors, apart from one."""
    state = found.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        if name != but:
            torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-6)
