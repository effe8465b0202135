"""Two networks joined at a resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import random_generator
from safetensors.torch import load_file

import sg2cli
from sg2cli.checkpoints import load, save_generator
from sg2cli.checkpoints.blending import share_of_b

SIZE: dict[str, Any] = {"img_resolution": 32, "channels": (10, 9, 6, 5)}


@pytest.fixture
def pair(in_tmp: Path) -> tuple[str, str]:
    """A network, and one that differs from it by little."""
    A = random_generator(0, **SIZE)
    save_generator(A, Path("a.safetensors"), {})
    for parameter, other in zip(
        A.state_dict().values(), random_generator(1, **SIZE).state_dict().values(), strict=True
    ):
        parameter.lerp_(other, 0.1)
    save_generator(A, Path("b.safetensors"), {})
    return "a.safetensors", "b.safetensors"


@pytest.mark.parametrize("at", [4, 8, 16, 32])
def test_layers_are_of_one_network_each(pair: tuple[str, str], at: int) -> None:
    sg2cli.blend(*pair, "c.safetensors", at=at)
    a, b, c = (load_file(f"{name}.safetensors") for name in "abc")
    for name, tensor in c.items():
        resolution = int(name.split(".")[1][1:]) if name.startswith("synthesis") else 0
        assert tensor.equal((b if resolution >= at else a)[name]), name


def test_a_width_ramps_from_one_to_the_other() -> None:
    convs = [
        share_of_b(f"synthesis.b{r}.{part}.weight", 16, 4)
        for r, part in ((4, "conv1"), (8, "conv0"), (8, "conv1"), (16, "conv0"), (16, "conv1"))
    ]
    assert convs == [0, 0.125, 0.375, 0.625, 0.875]
    assert share_of_b("synthesis.b16.torgb.bias", 16, 4) == 0.875
    assert share_of_b("synthesis.b4.const", 16, 4) == share_of_b("mapping.fc0.weight", 4, 9) == 0


def test_noise_maps_are_not_averaged(pair: tuple[str, str]) -> None:
    sg2cli.blend(*pair, "c.safetensors", at=16, width=3)
    a, b, c = (load_file(f"{name}.safetensors") for name in "abc")
    for name, tensor in c.items():
        if name.endswith("noise_const"):
            kept = b if share_of_b(name, 16, 3) > 0.5 else a
            assert tensor.equal(kept[name]), name
            assert not a[name].equal(b[name])
    middle = "synthesis.b8.conv1.weight"
    torch.testing.assert_close(c[middle], a[middle].lerp(b[middle], share_of_b(middle, 16, 3)))
    assert not c[middle].equal(a[middle])


def test_the_command_says_whose_mapping_it_keeps_and_how_far_apart_they_are(
    pair: tuple[str, str], sg2: Any
) -> None:
    result = sg2("blend", *pair, "--at", 16, "--out", "c.safetensors")
    assert result.lines == ["c.safetensors"]
    assert "the mapping network of A is kept" in result.err
    a, b = (load_file(f"{name}.safetensors") for name in "ab")
    for network, prefix in (("mapping", "mapping.fc"), ("synthesis", "synthesis.")):
        names = [n for n in a if n.startswith(prefix) and n.endswith(".weight")]
        x, y = (torch.cat([net[n].flatten() for n in names]) for net in (a, b))
        assert f"{((x - y).norm() / x.norm()).item():.0%} in the {network}" in result.err
    assert "warning" not in result.err
    assert "blend" in sg2("info", "c.safetensors").out
    assert sg2("generate", "--seeds", 1, "-n", "c.safetensors", "--out", "c.png").code == 0
    assert load("c.safetensors", device="cpu").config == load("a.safetensors", device="cpu").config


def test_unrelated_networks_get_a_warning(pair: tuple[str, str], sg2: Any) -> None:
    save_generator(random_generator(5, **SIZE), Path("d.safetensors"), {})
    result = sg2("blend", "a.safetensors", "d.safetensors", "--at", 16, "-o", "c.safetensors")
    assert result.code == 0
    assert "the networks seem unrelated" in result.err


@pytest.mark.parametrize(
    ("changes", "at", "message"),
    [
        (
            {"channels": (10, 9, 6, 4)},
            8,
            "they differ in channels: (10, 9, 6, 5) and (10, 9, 6, 4)",
        ),
        ({"architecture": "orig"}, 8, "they differ in architecture: skip and orig"),
        ({"activation": "relu"}, 8, "they differ in activation: lrelu and relu"),
        ({}, 64, "no block of resolution 64: the network has 4, 8, 16, 32"),
        ({}, 12, "no block of resolution 12"),
    ],
)
def test_what_cannot_be_blended(
    pair: tuple[str, str], changes: dict[str, Any], at: int, message: str, sg2: Any
) -> None:
    save_generator(random_generator(**SIZE | changes), Path("d.safetensors"), {})
    result = sg2("blend", "a.safetensors", "d.safetensors", "--at", at, "-o", "c.safetensors")
    assert result.code == 2
    assert message in result.err
    assert not Path("c.safetensors").exists()


@pytest.mark.parametrize(("width", "code"), [(0, 0), (7, 0), (8, 2)])
def test_the_width_is_a_number_of_layers(
    pair: tuple[str, str], width: int, code: int, sg2: Any
) -> None:
    result = sg2("blend", *pair, "--at", 8, "--width", width, "-o", "c.safetensors")
    assert result.code == code
    assert code == 0 or "the network has 7 layers" in result.err


def test_nothing_is_replaced(pair: tuple[str, str], sg2: Any) -> None:
    before = Path("a.safetensors").read_bytes()
    assert sg2("blend", *pair, "--at", 8, "-o", "a.safetensors", "--overwrite").code == 2
    Path("c.safetensors").write_text("mine")
    assert sg2("blend", *pair, "--at", 8, "-o", "c.safetensors").code == 1
    assert Path("c.safetensors").read_text() == "mine"
    assert Path("a.safetensors").read_bytes() == before
