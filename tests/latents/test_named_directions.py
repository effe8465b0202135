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
from sg2cli.latents import named_directions
from sg2cli.latents.direction_names import file_beside, read_names
from sg2cli.latents.directions import find_direction
from sg2cli.latents.named_directions import name_directions
from tests.conftest import one_line

ROWS, AVATAR_ROWS = list(range(6)), list(range(12))


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
        found = find_direction(name, G, AVATAR_ROWS)
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
    assert "out/seed0000-6_+1.png" in sg2("edit", "-n", net, "0", "--direction", "smile").lines
    by_file = sg2(
        "edit", "-n", net, "0", "--direction", "net.directions.safetensors:smile", "-o", "b"
    )
    assert "b/seed0000-6_+1.png" in by_file.lines
    one, two = (np.asarray(PIL.Image.open(f"{f}/seed0000-6_+1.png")) for f in ("out", "b"))
    np.testing.assert_array_equal(one, two)


def test_a_name_comes_before_a_file_that_is_called_like_it(net: Path) -> None:
    beside({"smile": torch.ones(6, 16)})
    np.save("vector.npy", np.eye(16)[0])
    Path("vector.npy").rename("smile")
    G = sg2cli.load(net, device="cpu")
    assert find_direction("smile", G, ROWS).is_named
    assert not find_direction("./smile", G, ROWS).is_named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simle", "did you mean smile"),
        ("net.directions.safetensors:smiley", "did you mean net.directions.safetensors:smile"),
        ("nose", r"give a name \(flat, smile, whole, ...\), sefa:K"),
        ("net.directions.safetensors:nose", r"in net.directions.safetensors: it has flat, smile"),
        ("net.directions.safetensors", r"has named directions \(.*flat.*\): give one, as in net"),
        ("missing.safetensors:smile", "'missing.safetensors': there is no such file"),
        ("missing.npy", "no direction 'missing.npy': there is no such file"),
        ("folder/", "no direction 'folder/': it is a folder"),
        ("net.safetensors:smile", "it has no named directions"),
        ("net.safetensors:0", "is a network, and holds no directions: give it as `network`"),
        ("net.safetensors", "is a network, and holds no directions: give it as `network`"),
        ("latents.safetensors", r"holds latents \(ws\), not directions"),
        ("vector.npy:smile", "only a .safetensors has named directions"),
        ("whole", "it holds int64, not floating-point numbers"),
        ("wide", "it belongs to another network"),
        ("flat", "is zero, NaN or infinite"),
        (None, "a NoneType is not a direction"),
    ],
)
def test_bad_names(net: Path, text: Any, message: str) -> None:
    wrong = {"whole": torch.ones(16, dtype=torch.int64), "wide": torch.ones(17)}
    beside({"smile": torch.ones(16), "flat": torch.zeros(6, 16), **wrong})
    Path("folder").mkdir()
    save_file({"ws": torch.zeros(1, 6, 16)}, "latents.safetensors")
    np.save("vector.npy", np.ones(16))
    G = sg2cli.load(net, device="cpu")
    with pytest.raises(Sg2Error, match=message):
        find_direction(text, G, ROWS)


def test_another_networks_directions_are_noticed(sg2: Any, net: Path) -> None:
    beside({"smile": torch.ones(6, 16)}, checkpoint="0" * 64)
    assert "another network" in sg2("edit", "-n", net, "0", "--direction", "smile").err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "use letters"),
        ("two words", "use letters"),
        ("a:b", "use letters"),
        ("../a", "use letters"),
        ("sefa", "sefa is reserved"),
        ("pca_std", "pca_std is reserved"),
        ("a" * 65, "it has 65 characters, and 64 are the limit"),
        ("12", "a number selects a direction"),
        (3, "is text, not int"),
    ],
)
def test_what_cannot_be_a_name(name: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
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


def same_tensors(path: str, expected: dict[str, torch.Tensor]) -> None:
    stored = load_file(path)
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor)


def in_rows(*rows: int) -> torch.Tensor:
    step = torch.zeros(6, 16)
    step[list(rows)] = 1.0
    return step


def test_layers_that_a_direction_does_not_move_are_refused(sg2: Any, net: Path) -> None:
    beside({"smile": in_rows(2, 3, 5)})
    n = ("-n", net)
    edited = sg2("edit", *n, "0", "--direction", "smile", "--layers", "0-1,4")
    named = sg2("directions", *n, "--name", "x=smile", "--layers", "0", "-o", "x.safetensors")
    for result in (edited, named):
        assert result.code == 2
        assert "moves rows 2-3,5 of ws" in one_line(result.err)
        assert "--layers among 2-3,5" in result.err
    assert not Path("out").exists() and not Path("x.safetensors").exists()
    assert sg2("edit", *n, "0", "--direction", "smile", "--layers", "0-2").code == 0


def test_naming_a_direction_of_another_network_warns(sg2: Any, net: Path) -> None:
    beside({"smile": torch.ones(6, 16)}, checkpoint="0" * 64)
    result = sg2("directions", "-n", net, "--name", "happy=smile", "-o", "x.safetensors")
    assert result.code == 0 and "warning: smile was found with another network" in result.err
    G = sg2cli.load(net, device="cpu")
    assert sg2cli.name_directions(G, {"happy": "smile"}).warnings
    assert not sg2cli.name_directions(G, {"first": "sefa:0"}).warnings


def test_names_are_written_beside_the_network_unless_told_otherwise(sg2: Any, net: Path) -> None:
    result = sg2("directions", "-n", net, "--name", "first=sefa:0")
    assert result.lines == ["net.directions.safetensors"]
    assert sg2("edit", "-n", net, "0", "--direction", "first", "--amount", "1").code == 0
    other = sg2("directions", "-n", net, "--name", "first=sefa:0", "-o", "my.safetensors")
    assert "--direction my.safetensors:first" in other.err
    bundled = sg2("directions", "--name", "first=sefa:0")
    assert bundled.code == 2
    assert "--out my.safetensors, and use them as my.safetensors:first" in one_line(bundled.err)


def test_a_name_is_added_to_a_file(sg2: Any, net: Path) -> None:
    checkpoint = checkpoints.find_network(net).sha256
    before = {"smile": torch.randn(6, 16), "half": torch.randn(16).bfloat16()}
    beside(before, checkpoint=checkpoint, directions={"smile": "happier"}, author="me")
    args = ("directions", "-n", net, "--name", "first=sefa:0")
    exists = sg2(*args)
    assert exists.code == 1 and "exists" in exists.err
    assert sg2(*args, "--add").code == 0
    after = load_file("net.directions.safetensors")
    same_tensors("net.directions.safetensors", {**before, "first": after["first"]})
    found = sg2cli.info("net.directions.safetensors")
    assert found["author"] == "me" and found["checkpoint"] == checkpoint
    assert found["directions"]["smile"] == "happier"
    assert found["directions"]["first"] == "sefa:0: one standard deviation of W"
    again = sg2("directions", "-n", net, "--name", "smile=sefa:1", "--add")
    assert again.code == 1 and "already has the name smile: --overwrite" in one_line(again.err)
    same_tensors("net.directions.safetensors", after)
    assert sg2("directions", "-n", net, "--name", "smile=sefa:1", "--add", "--overwrite").code == 0
    assert torch.equal(load_file("net.directions.safetensors")["half"], before["half"])


def test_a_name_is_added_only_to_names_of_the_same_network(sg2: Any, net: Path) -> None:
    files = {
        "other.safetensors": {"sg2": json.dumps({"directions": {}, "checkpoint": "0" * 64})},
        "foreign.safetensors": {},
    }
    for name, metadata in files.items():
        save_file({"smile": torch.ones(6, 16)}, name, metadata)
        before = Path(name).read_bytes()
        args = ("--name", "first=sefa:0", "--add", "-o", name, "--overwrite")
        result = sg2("directions", "-n", net, *args)
        assert result.code != 0, name
        assert (
            "another network" in result.err
            or "that sg2 wrote, and foreign.safetensors has none" in result.err
        )
        assert Path(name).read_bytes() == before


def test_a_file_that_changes_while_a_name_is_added_is_kept(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    G = sg2cli.load(net, device="cpu")
    sg2cli.name_directions(G, {"a": "sefa:0"}).save("net.directions.safetensors")
    found = sg2cli.name_directions(G, {"b": "sefa:1"})
    write = named_directions.new_file

    def slow(*args: Any, **options: Any) -> Any:
        beside({"c": torch.ones(6, 16)})
        return write(*args, **options)

    monkeypatch.setattr(named_directions, "new_file", slow)
    with pytest.raises(Sg2Error, match="was changed by another process: try again"):
        found.add_to("net.directions.safetensors")
    assert load_file("net.directions.safetensors").keys() == {"c"}


def test_a_description_stays_with_a_renamed_direction(net: Path) -> None:
    beside({"smile": torch.ones(6, 16)}, directions={"smile": "one unit makes happy"})
    G = sg2cli.load(net, device="cpu")
    sg2cli.name_directions(G, {"happy": "smile"}).save("happy.safetensors")
    assert read_names(Path("happy.safetensors")) == {"happy": "one unit makes happy"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--list", "--out", "a.safetensors"], "--list cannot be used together with --out"),
        (["--list", "--name", "a=sefa:0"], "--list cannot be used together with --name"),
        (["--list", "--samples", "10"], "--list cannot be used together with --samples"),
        (["--list", "--layers", "0"], "--list cannot be used together with --layers"),
        (
            ["--name", "a=sefa:0", "--samples", "10"],
            "--name cannot be used together with --samples",
        ),
        (["--name", "a=sefa:0", "--seed", "1"], "--name cannot be used together with --seed"),
        (["--add"], "--add requires --name"),
    ],
)
def test_options_that_would_be_ignored(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("directions", *args)
    assert result.code == 2 and message in one_line(result.err)
    assert list(Path().iterdir()) == []


def test_names_are_found_from_another_folder_and_beside_the_target_of_a_link(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside({"smile": torch.ones(6, 16)})
    Path("models").mkdir()
    Path("models/link.safetensors").symlink_to(net.absolute())
    loaded = [sg2cli.load(path, device="cpu") for path in (net, Path("models/link.safetensors"))]
    monkeypatch.chdir("models")
    for G in loaded:
        assert find_direction("smile", G, ROWS).is_named
        assert sg2cli.named_directions(G) == {"smile": ""}


def test_a_folder_where_names_are_looked_up(sg2: Any, net: Path) -> None:
    Path("net.directions.safetensors").mkdir()
    listed = sg2("directions", "-n", net, "--list")
    edited = sg2("edit", "-n", net, "0", "--direction", "smile")
    for result in (listed, edited):
        assert result.code == 1 and "net.directions.safetensors is a folder" in one_line(result.err)
    assert sg2("edit", "-n", net, "0", "--direction", "sefa:0", "--amount", "1").code == 0


def test_a_named_direction_in_bfloat16(net: Path) -> None:
    step = torch.randn(6, 16).bfloat16()
    beside({"smile": step})
    found = find_direction("smile", sg2cli.load(net, device="cpu"), ROWS)
    assert torch.equal(found.step, step.float())


def test_a_network_without_names_has_none(net: Path) -> None:
    assert sg2cli.named_directions(sg2cli.load(net, device="cpu")) == {}
    assert sg2cli.named_directions(random_generator()) == {}


@pytest.mark.parametrize("amounts", ["1", [None], float("nan"), [0, "1"], [True], [], float("inf")])
def test_amounts_that_are_not_numbers(net: Path, amounts: Any) -> None:
    beside({"smile": torch.ones(6, 16)})
    with pytest.raises(UsageError, match="is not a finite number|no amounts"):
        sg2cli.edit(sg2cli.load(net, device="cpu"), 0, "smile", amounts)


def test_info_knows_directions_by_their_content(sg2: Any, net: Path) -> None:
    G = sg2cli.load(net, device="cpu")
    sg2cli.name_directions(G, {"first": "sefa:0"}).save("my.safetensors")
    sg2cli.directions(G, samples=100).save("found.safetensors")
    named, found = (sg2cli.info(f"{name}.safetensors") for name in ("my", "found"))
    assert named["kind"] == "named directions, for edit" and "first" in named["directions"]
    assert found["kind"] == "directions of W found by SeFa and PCA"
    for fields in (named, found):
        assert fields["checkpoint"] == G.checkpoint and fields["version"] == sg2cli.__version__
