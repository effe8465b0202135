"""Networks written in the formats of other code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import GOLDEN, random_generator, same
from safetensors.torch import load_file

from sg2cli.checkpoints import Network, save_generator
from sg2cli.checkpoints.convert import read_checkpoint, to_generator
from sg2cli.checkpoints.pickle_globals import GLOBALS
from sg2cli.checkpoints.pickle_reader import budget_for, load
from sg2cli.checkpoints.tensor_tree import tensor_tree
from sg2cli.checkpoints.torch_tensors import read_torch

from .test_convert import FORMATS


def tensors_of(contents: Any) -> dict[str, torch.Tensor]:
    return {key: tensor.tensor() for key, tensor in contents.items()}


@pytest.mark.parametrize("name", ["rosinality-32.pt", "rosinality-train-32.pt"])
def test_back_to_rosinality_is_the_file_that_it_was(name: str, sg2: Any) -> None:
    """Every key, shape and number of the sample's g_ema, so that a strict loader takes it."""
    sg2("convert", FORMATS / name, "net.safetensors")
    assert sg2("convert", "net.safetensors", "back.pt", "--to", "rosinality").lines == ["back.pt"]
    found = torch.load("back.pt", weights_only=True)
    sample = read_torch((FORMATS / name).read_bytes(), GLOBALS)
    expected = tensors_of(sample["g_ema"])
    assert found["g_ema"].keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found["g_ema"][key], tensor, rtol=0, atol=1e-7, msg=key)
    same(
        to_generator(read_checkpoint(Path("back.pt"))), Network.open(Path("net.safetensors")).load()
    )


@pytest.mark.parametrize(
    "name", ["ada-cond-32.pkl", "ada-uncond-32.pkl", "stylegan3repo-sg2-32.pkl"]
)
def test_back_to_ada_is_the_state_that_it_was(name: str, sg2: Any) -> None:
    sg2("convert", FORMATS / name, "net.safetensors")
    assert sg2("convert", "net.safetensors", "back.pt", "--to", "ada").code == 0
    found = torch.load("back.pt", weights_only=True)
    content = (FORMATS / name).read_bytes()
    pickled, _ = load(memoryview(content), GLOBALS, budget_for(len(content)))
    expected = tensors_of(tensor_tree(pickled).below("G_ema."))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", ["clamp-resnet-32", "filter8-16", "orig-32"])
def test_filters_of_ada_are_those_of_its_own_files(name: str, sg2: Any) -> None:
    """The golden files keep NVIDIA's buffers: of one dimension from eight taps on."""
    golden_file = GOLDEN / f"{name}.weights.safetensors"
    sg2("convert", golden_file, "back.pt", "--to", "ada")
    found, expected = torch.load("back.pt", weights_only=True), load_file(golden_file)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_clamp": 256}, "a conv_clamp of 256"),
        ({"c_dim": 3, "embed_features": 4}, "3 classes"),
        ({"architecture": "resnet"}, "the architecture resnet"),
        ({"activation": "relu"}, "the activation relu"),
        ({"img_channels": 1}, "1 image channels"),
        ({"use_noise": False}, "without noise"),
        ({}, "mapping layers of (14, 16) for z of 12"),
    ],
)
def test_what_rosinality_cannot_express(sg2: Any, changes: dict[str, Any], message: str) -> None:
    save_generator(random_generator(**changes), Path("net.safetensors"), {})
    result = sg2("convert", "net.safetensors", "net.pt", "--to", "rosinality")
    assert result.code == 2
    assert message in result.err
    assert not Path("net.pt").exists()
    assert sg2("convert", "net.safetensors", "net.pt", "--to", "ada").code == 0
