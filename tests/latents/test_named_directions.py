"""Directions with names, in a file beside the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from networks import random_generator
from safetensors.torch import load_file, save_file

import sg2cli
from sg2cli import checkpoints
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.directions import find_direction
from sg2cli.latents.named_directions import file_beside, name_directions, read_names

ROWS = list(range(6))


@pytest.fixture
def net(in_tmp: Path) -> Path:
    """A network in the working folder, without named directions."""
    checkpoints.save_generator(random_generator(), in_tmp / "net.safetensors", {})
    return Path("net.safetensors")


def beside(tensors: dict[str, torch.Tensor], **metadata: Any) -> None:
    save_file(tensors, "net.directions.safetensors", {"sg2": json.dumps(metadata)})


def test_every_bundled_direction_is_known_and_described() -> None:
    network = checkpoints.find_network()
    about = read_names(file_beside(network.path))
    assert len(about) == 24 and all("one unit goes from" in text for text in about.values())
    stored = load_file(file_beside(network.path))
    G = network.load()
    for name in about:
        found = find_direction(name, G, ROWS)
        assert torch.equal(found.step, stored[name])  # as it is stored
        assert found.checkpoint == network.sha256


def test_names_are_written_and_found_beside_a_network(sg2: Any, net: Path) -> None:
    vector = np.random.RandomState(0).randn(16).astype("f4")
    np.save("age.npy", vector)
    args = ("--name", "age=age.npy", "--name", "first=sefa:0", "--layers", "1-2")
    done = sg2("directions", "-n", net, *args, "--out", "net.directions.safetensors")
    assert done.code == 0, done.err
    listed = sg2("directions", "-n", net, "--list").lines
    assert [line.split()[0] for line in listed] == ["age", "first"]
    assert json.loads(sg2("directions", "-n", net, "--list", "--json").out).keys() == {
        "age",
        "first",
    }
    G = sg2cli.load(net, device="cpu")
    named, again = find_direction("age", G, ROWS), find_direction("age.npy", G, ROWS)
    torch.testing.assert_close(named.step[1], again.step)
    assert not named.step[[0, 3, 4, 5]].any() and named.is_named and not again.is_named
    assert sg2cli.info("net.directions.safetensors")["kind"] == "named directions, for edit"


def test_a_grid_without_amounts_goes_from_minus_1_to_1(sg2: Any, net: Path) -> None:
    beside({"smile": torch.ones(6, 16)})
    assert "out/seed0000-+1.png" in sg2("edit", "-n", net, "0", "--direction", "smile").lines
    by_file = sg2(
        "edit", "-n", net, "0", "--direction", "net.directions.safetensors:smile", "-o", "b"
    )
    assert "b/seed0000-+1.png" in by_file.lines
    one, two = (np.asarray(PIL.Image.open(f"{f}/seed0000-+1.png")) for f in ("out", "b"))
    np.testing.assert_array_equal(one, two)


def test_a_file_of_that_name_comes_first(net: Path) -> None:
    beside({"smile": torch.ones(6, 16)})
    np.save("vector.npy", np.eye(16)[0])
    Path("vector.npy").rename("smile")
    assert not find_direction("smile", sg2cli.load(net, device="cpu"), ROWS).is_named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simle", "did you mean smile"),
        ("net.directions.safetensors:smiley", "did you mean smile"),
        ("nose", r"give a name \(flat, smile, wide, ...\), sefa:K"),
        ("wide", "it belongs to another network"),
        ("flat", "is zero, NaN or infinite"),
    ],
)
def test_bad_names(net: Path, text: str, message: str) -> None:
    beside({"smile": torch.ones(16), "wide": torch.ones(17), "flat": torch.zeros(6, 16)})
    G = sg2cli.load(net, device="cpu")
    with pytest.raises(Sg2Error, match=message):
        find_direction(text, G, ROWS)


def test_another_networks_directions_are_noticed(sg2: Any, net: Path) -> None:
    beside({"smile": torch.ones(6, 16)}, checkpoint="0" * 64)
    assert "another network" in sg2("edit", "-n", net, "0", "--direction", "smile").err


@pytest.mark.parametrize("name", ["", "two words", "a:b", "../a", "sefa", "pca_std", "a" * 65])
def test_what_cannot_be_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        name_directions(random_generator(), {name: "sefa:0"})


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, b"PK\x03\x04"])
def test_a_file_beside_it_that_is_damaged(sg2: Any, net: Path, content: bytes) -> None:
    Path("net.directions.safetensors").write_bytes(content)
    result = sg2("edit", "-n", net, "0", "--direction", "smile")
    assert result.code == 1 and "net.directions.safetensors" in result.err
    assert sg2("edit", "-n", net, "0", "--direction", "sefa:0").code == 0


def test_a_network_without_names(sg2: Any, net: Path) -> None:
    result = sg2("directions", "-n", net, "--list")
    assert result.code == 2 and "no named directions" in result.err


@pytest.mark.parametrize("source", ["smile", "net.directions.safetensors:smile"])
def test_the_file_that_a_direction_is_read_from_is_not_replaced(
    sg2: Any, net: Path, source: str
) -> None:
    beside({"smile": torch.ones(6, 16), "other": torch.ones(16)})
    before = Path("net.directions.safetensors").read_bytes()
    args = ("--name", f"happy={source}", "--out", "net.directions.safetensors", "--overwrite")
    result = sg2("directions", "-n", net, *args)
    assert result.code == 2 and "is an input" in result.err
    assert Path("net.directions.safetensors").read_bytes() == before
