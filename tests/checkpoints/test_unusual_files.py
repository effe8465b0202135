"""Files that users have and that are unlike the others, and hostile ones that cost too much."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import fake_modules, rosinality_state, write_ada
from networks import random_generator, same
from safetensors.torch import save_file

from sg2cli.checkpoints.importer import read_checkpoint, to_generator
from sg2cli.errors import CheckpointError
from sg2cli.generator import Generator

from .test_pickle_reader import refused_cheaply

SQUARE: dict[str, Any] = {"z_dim": 16, "mapping_features": (16, 16)}


@pytest.fixture
def G() -> Generator:
    return random_generator(**SQUARE)


def read(contents: Any, path: Path) -> Generator:
    torch.save(contents, path)
    return to_generator(read_checkpoint(path))


class dotdict(dict):  # type: ignore[type-arg]
    """A lower-case class, as options often are."""


def test_instances_of_any_class_beside_the_network(G: Generator, tmp_path: Path) -> None:
    tagged = torch.zeros(3)
    tagged.tag = "x"  # type: ignore[attr-defined]
    state = rosinality_state(G) | {"epoch": torch.zeros(1)}
    beside = {
        "opts": dotdict(a=1),
        "any": Any,
        "random": [np.random.RandomState(0), np.random.default_rng(0)],
        "tagged": tagged,
        "expanded": torch.zeros(1).expand(5),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "log": [{"step": i} for i in range(60_000)],
        "x" * 600: torch.zeros(2),
    }
    with fake_modules(options={"dotdict": dotdict}):
        contents = {"g_ema": state, "latent_avg": G.mapping.w_avg, **beside}
        same(read(contents, tmp_path / "net.pt"), G)


def test_the_generators_own_tensors_may_have_attributes(G: Generator, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    for tensor in state.values():
        tensor.tag = "x"  # type: ignore[attr-defined]
    same(read({"G_ema": state}, tmp_path / "net.pt"), G)


def test_a_mean_of_w_that_is_expanded_or_called_otherwise(G: Generator, tmp_path: Path) -> None:
    for mean in (
        {"latent_avg": G.mapping.w_avg[None].expand(6, 16)},
        {"mean_w": G.mapping.w_avg},
        {"truncation_latent": G.mapping.w_avg[None]},
    ):
        same(read({"g_ema": rosinality_state(G), **mean}, tmp_path / "net.pt"), G)
    with pytest.raises(CheckpointError, match="its latent_avg has 5 numbers, but w has 16"):
        read({"g_ema": rosinality_state(G), "latent_avg": torch.zeros(5)}, tmp_path / "net.pt")


@pytest.mark.parametrize(
    "name",
    ["g_running", "G_avg", "generator_averaged", "g_shadow", "shadow_params", "average_model"]
    + ["emaG", "generator_ema", "params_ema", "averaged", "g_ema_model", "swa"],
)
def test_averages_under_other_names(name: str, G: Generator, tmp_path: Path) -> None:
    raw = random_generator(1, **SQUARE)
    torch.save({"g": raw.state_dict(), name: G.state_dict()}, tmp_path / "net.pt")
    same(to_generator(read_checkpoint(tmp_path / "net.pt")), G)


def test_other_generators_and_parts_of_a_larger_network_are_named(
    G: Generator, tmp_path: Path
) -> None:
    other = random_generator(1, **SQUARE)
    torch.save({"student": G.state_dict(), "teacher": other.state_dict()}, tmp_path / "net.pt")
    notes = read_checkpoint(tmp_path / "net.pt").notes
    assert "it also holds generators under teacher" in notes
    inside = {f"backbone.{key}": tensor for key, tensor in G.state_dict().items()}
    torch.save({"G_ema": {**inside, "superresolution.w": torch.zeros(3)}}, tmp_path / "net.pt")
    assert read_checkpoint(tmp_path / "net.pt").left_out == ["G_ema.superresolution"]
    torch.save((other.state_dict(), {"x": 1}, G.state_dict()), tmp_path / "net.pt")
    same(to_generator(read_checkpoint(tmp_path / "net.pt")), G)


def test_weights_are_floating_point(G: Generator, tmp_path: Path) -> None:
    state = dict(G.state_dict())
    state["synthesis.b4.const"] = state["synthesis.b4.const"].to(torch.int8)
    with pytest.raises(CheckpointError, match="synthesis.b4.const is int8, not floating point"):
        read({"G_ema": state}, tmp_path / "net.pt")


def test_a_recorded_lr_multiplier_is_not_replaced(sg2: Any) -> None:
    write_ada(random_generator(), Path("net.pkl"))
    result = sg2("convert", "net.pkl", "net.safetensors", "--lr-multiplier", 1)
    assert result.code == 2
    assert "records an lr_multiplier of 0.01" in result.err


DICT = (
    b"}q\x00(" + b"".join(b"J" + i.to_bytes(4, "little") + b"K\x01" for i in range(50_000)) + b"u"
)
DOUBLED = b"]q\x000" + b"".join(
    b"]q" + bytes([i + 1]) + b"h" + bytes([i]) + b"ah" + bytes([i]) + b"a0" for i in range(60)
)
COSTLY = {
    "instance of a list": b"\x80\x02"
    + DOUBLED
    + b"ccopyreg\n_reconstructor\nh"
    + bytes([60])
    + b"NN\x87R.",
    "copies of a dict": b"\x80\x02"
    + DICT
    + b"0ccollections\nOrderedDict\nq\x010]("
    + b"h\x01h\x00\x85R" * 20_000
    + b"e.",
    "visits of a dict": b"\x80\x02" + DICT + b"0](" + b"h\x00" * 45_000 + b"e.",
}


@pytest.mark.parametrize("name", COSTLY)
def test_small_files_that_would_cost_much(name: str, in_tmp: Path) -> None:
    Path("net.pkl").write_bytes(COSTLY[name])
    refused_cheaply(Path("net.pkl"))


def test_a_header_is_parsed_once(G: Generator, tmp_path: Path) -> None:
    state = rosinality_state(G)
    state |= {f"style.{i}.{part}": torch.ones(1, 1) for i in range(3, 999) for part in ("weight",)}
    save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "net")
    start = time.monotonic()
    with pytest.raises(CheckpointError):
        to_generator(read_checkpoint(tmp_path / "net"))
    assert time.monotonic() - start < 10


def test_a_mean_of_w_is_not_computed_through_any_mapping_network(tmp_path: Path) -> None:
    state = rosinality_state(random_generator(**SQUARE))
    for i in range(3, 100):
        a, b = (1, 8192) if i % 2 else (8192, 1)
        state |= {f"style.{i}.weight": torch.zeros(b, a).half(), f"style.{i}.bias": torch.zeros(b)}
    state |= {"style.3.weight": torch.zeros(8192, 16).half()}
    state |= {f"style.{i}.weight": torch.zeros(4096, 4096).half() for i in (100, 101)}
    torch.save({"g_ema": state}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"<!-- saved --><html>", "a web page"),
        (b'{"error": "not found"}', "a JSON text"),
        (bytes(1000), "zeros only, as an interrupted download leaves: download it again"),
        (pickle.dumps({"a": 1})[:-2], "copy or download it again"),
    ],
)
def test_downloads_that_went_wrong(content: bytes, message: str, sg2: Any) -> None:
    Path("net.pkl").write_bytes(content)
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 3
    assert message in result.err
