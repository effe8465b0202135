"""Checkpoint files: what is written is read, and everything else is refused by name."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import GOLDEN, GOLDEN_NAMES, random_generator
from safetensors.torch import load_file, save_file

from sg2cli import checkpoints
from sg2cli.checkpoints import Network, find_network, load, save_generator
from sg2cli.checkpoints.config import config_fields, expected_shapes
from sg2cli.errors import CheckpointError, Sg2Error, UsageError
from sg2cli.storage.budget import MAX_SMALL_FILE
from sg2cli.storage.reading import sha256
from sg2cli.storage.safetensors import SafetensorsFile
from tests.test_generator import NETWORKS


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_generator(random_generator(), path, {"format": "test"})
    return path


def change(path: Path, edit: Any, fields: dict[str, Any] | None = None) -> None:
    """Rewrite a checkpoint: `edit` changes its tensors, `fields` its metadata (None: drop it)."""
    tensors = load_file(path)
    metadata = json.loads(read_header(path)["__metadata__"]["sg2"])
    edit(tensors)
    metadata |= fields or {}
    save_file(tensors, path, {"sg2": json.dumps(metadata)})


def read_header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert isinstance(header, dict)
    return header


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_is_loaded(name: str, tmp_path: Path) -> None:
    G = random_generator(**NETWORKS[name])
    path = tmp_path / "net.safetensors"
    save_generator(G, path, {"format": "test", "note": "ünï"})
    network = Network.open(path)
    assert network.config == G.config
    assert network.source == {"format": "test", "note": "ünï"}
    loaded = network.load()
    for key, tensor in G.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=0, atol=0)
    assert all(not parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_expected_shapes_are_those_of_the_modules(name: str) -> None:
    G = random_generator(**NETWORKS[name])
    shapes = {key: tuple(tensor.shape) for key, tensor in G.state_dict().items()}
    assert expected_shapes(G.config) == shapes


@pytest.mark.parametrize("name", [name for name in GOLDEN_NAMES if "clamp" not in name])
def test_without_metadata_the_tensors_settle_the_configuration(name: str, tmp_path: Path) -> None:
    """Filters come from the stored buffers; the conv_clamp, which no tensor determines, is none."""
    original = GOLDEN / f"{name}.weights.safetensors"
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(original), bare)
    found, expected = Network.open(bare).config, Network.open(original).config
    taps = torch.tensor(expected.resample_filter)
    torch.testing.assert_close(torch.tensor(found.resample_filter), taps / taps.sum())
    for field in ("z_dim", "c_dim", "w_dim", "channels", "architecture", "img_channels"):
        assert getattr(found, field) == getattr(expected, field), field
    assert found.conv_clamp is None
    load(bare)


def test_half_precision_files_become_float32(saved: Path) -> None:
    # Copies: a file that is mapped and then written anew changes under the tensors.
    expected = {key: t.clone() for key, t in load(saved).state_dict().items()}
    change(saved, lambda t: t.update({key: tensor.half() for key, tensor in t.items()}))
    loaded = load(saved)
    for key, tensor in expected.items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor.half().float())


def test_weights_outlive_their_file(tmp_path: Path) -> None:
    """A file that is cut short would end the process if its weights were mapped."""
    path = tmp_path / "large.safetensors"
    save_generator(random_generator(img_resolution=256, channels=(128,) * 7), path, {})
    assert path.stat().st_size > MAX_SMALL_FILE  # so that it is not read at once
    network = Network.open(path)
    G = network.load()
    expected = {key: tensor.clone() for key, tensor in G.state_dict().items()}
    with path.open("rb+") as file:
        file.truncate(5000)
    assert all(tensor.equal(expected[key]) for key, tensor in G.state_dict().items())
    with pytest.raises(CheckpointError, match=r"large\.safetensors: damaged"):
        network.load()


def test_a_file_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_generator(random_generator(img_resolution=256, channels=(128,) * 7), path, {})
    with SafetensorsFile(path) as file:
        with path.open("rb+") as other:
            other.truncate(5000)
        with pytest.raises(OSError, match="became shorter"):
            file.tensor("synthesis.b256.conv1.weight")


def test_the_hash_is_that_of_the_numbers_that_were_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_generator(random_generator(0), path, {})
    network, other = Network.open(path), Network.open(path)
    assert network.sha256 == sha256(path)
    save_generator(random_generator(1), path, {}, overwrite=True)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        network.load()
    other.load()
    assert other.sha256 == sha256(path)


def test_numbers_beyond_float32_are_refused(saved: Path) -> None:
    value = torch.full((10, 4, 4), 1e300, dtype=torch.float64)
    change(saved, lambda t: t.update({"synthesis.b4.const": value}))
    with pytest.raises(CheckpointError, match="const holds numbers beyond the range of float32"):
        load(saved)


@pytest.mark.parametrize("name", ["synthesis.b8.conv1", "mapping.fc0"])
def test_a_network_without_channels_is_refused(tmp_path: Path, name: str) -> None:
    changes: Any = {"channels": (10, 0, 6)} if "b8" in name else {"mapping_features": (0, 16)}
    config = replace(random_generator().config, **changes)
    path = tmp_path / "a.safetensors"
    tensors = {key: torch.zeros(shape) for key, shape in expected_shapes(config).items()}
    save_file(tensors, path, {"sg2": json.dumps(config_fields(config))})
    with pytest.raises(CheckpointError, match=rf"{name}\.weight is empty: it has the shape"):
        Network.open(path)


def test_a_stored_filter_of_any_length_is_not_multiplied_out(saved: Path) -> None:
    name = "synthesis.b8.conv0.resample_filter"
    change(saved, lambda t: t.update({name: torch.ones(100_000)}))
    with pytest.raises(CheckpointError, match="resample_filter has the shape"):
        load(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("synthesis.b8.conv0.weight"), "missing: synthesis.b8.conv0.weight"),
        (lambda t: t.pop("mapping.w_avg"), "mapping.w_avg"),
        (lambda t: t.pop("synthesis.b16.torgb.weight"), "synthesis.b16.torgb.weight"),
        (lambda t: t.update({"extra.weight": torch.zeros(1)}), "unexpected: extra.weight"),
        (
            lambda t: t.update({f"extra.{i}": torch.zeros(1) for i in range(9)}),
            "extra.0, extra.1, extra.2 and 6 more",
        ),
        (
            lambda t: t.update({"synthesis.b8.conv0.bias": torch.zeros(3)}),
            "synthesis.b8.conv0.bias is [3], not [9]",
        ),
        (
            lambda t: t.update({"mapping.fc1.weight": torch.zeros(16, 14).fill_(torch.nan)}),
            "mapping.fc1.weight holds NaN",
        ),
        (
            lambda t: t.update({"synthesis.b4.const": torch.full((10, 4, 4), torch.inf)}),
            "synthesis.b4.const holds NaN or infinity",
        ),
        (lambda t: t.update({"mapping.w_avg": torch.zeros(16, dtype=torch.int32)}), "I32"),
        (
            lambda t: t.update({"synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16}),
            "synthesis.b8.conv0.resample_filter",
        ),
        (
            lambda t: t.update({"synthesis.b8.other.resample_filter": torch.ones(4, 4) / 16}),
            "unexpected: synthesis.b8.other.resample_filter",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, edit: Any, message: str) -> None:
    change(saved, edit)
    with pytest.raises(CheckpointError) as error:
        load(saved)
    assert message in str(error.value)
    assert str(error.value).startswith(str(saved))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"frobnicate": True}, "'frobnicate'"),
        ({"activation": "swish"}, "activation is 'swish'"),
        ({"architecture": "dense"}, "architecture is 'dense'"),
        ({"architecture": ["skip"]}, "architecture is"),
        ({"architecture": "resnet"}, "missing: synthesis.b8.skip.weight"),
        ({"img_resolution": 24}, "24, not a power of two"),
        ({"img_resolution": 2**40}, f"synthesis.b{2**40}.torgb"),
        ({"img_resolution": 8}, "unexpected: synthesis.b16"),
        ({"img_resolution": "16"}, "img_resolution is '16'"),
        ({"img_channels": 5}, "img_channels is 5"),
        ({"img_channels": 4}, "synthesis.b4.torgb.weight is [3, 10, 1, 1], not [4, 10, 1, 1]"),
        ({"z_dim": 0}, "z_dim is 0"),
        ({"z_dim": 13}, "mapping.fc0.weight is [14, 12], not [14, 13]"),
        ({"w_dim": -1}, "w_dim is -1"),
        ({"c_dim": 3}, "mapping.embed.weight"),
        ({"num_layers": 10**12}, "mapping.fc2.weight"),
        ({"num_layers": 1}, "unexpected: mapping.fc1"),
        ({"num_layers": True}, "num_layers is True"),
        ({"lr_multiplier": 0}, "lr_multiplier is 0"),
        ({"conv_clamp": -1}, "conv_clamp is -1"),
        ({"conv_clamp": 1e999}, "conv_clamp is inf"),
        ({"conv_clamp": 10**400}, "out of range"),
        ({"z_dim": 10**400}, "out of range"),
        ({"resample_filter": [10**400]}, "not a number"),
        ({"num_fp16_res": -1}, "num_fp16_res is -1"),
        ({"num_fp16_res": 1.5}, "num_fp16_res is 1.5"),
        ({"resample_filter": []}, "resample_filter"),
        ({"resample_filter": [1, -1]}, "sums to 0"),
        ({"resample_filter": [1] * 1000}, "1 to 64 numbers"),
        ({"resample_filter": [[1, 2], [3]]}, "not square"),
        ({"resample_filter": [[1, 2, 3], [3, 2, 1]]}, "not square"),
        ({"resample_filter": [1, "2"]}, "holds '2'"),
        ({"resample_filter": [1, None]}, "holds None"),
        ({"resample_filter": "1331"}, "resample_filter"),
        ({"resample_filter": {"taps": 4}}, "resample_filter"),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_honoured_is_refused(
    saved: Path, fields: dict[str, Any], message: str
) -> None:
    change(saved, lambda t: None, fields)
    with pytest.raises(CheckpointError) as error:
        Network.open(saved)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["[1]", "{", "null", "[" * 100_000])
def test_metadata_that_is_not_an_object_is_refused(saved: Path, text: str) -> None:
    save_file(load_file(saved), saved, {"sg2": text})
    with pytest.raises(CheckpointError, match="metadata"):
        Network.open(saved)


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    config = {"img_resolution": 4, "channels": (2,), "z_dim": 2, "w_dim": 2}
    save_generator(random_generator(**config, mapping_features=(2,)), whole, {})
    content, cut = whole.read_bytes(), tmp_path / "cut.safetensors"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (struct.pack("<Q", 1 << 42) + b"{}", "damaged"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image"),
        (b"\x80\x04\x95" + bytes(50), "sg2 convert"),
        (b"PK\x03\x04" + bytes(50), "sg2 convert"),
        (b"\x93NUMPY" + bytes(50), "NumPy array"),
        (b"just text, quite long enough", "damaged, or not a safetensors"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        find_network(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A header of 128 + 256 k bytes begins the file with the first byte of a pickle."""
    path = tmp_path / "net.safetensors"
    for padding in range(256):
        source = {"note": " " * padding}
        save_generator(random_generator(), path, source, overwrite=True)
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no such header was made")
    load(path)


def test_missing_networks_name_the_bundled_ones() -> None:
    with pytest.raises(UsageError, match="avatars-128"):
        find_network("no-such")
    assert list(checkpoints.bundled()) == ["avatars-128"]
    assert find_network("avatars-128").parameters == 1_836_925


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("ffhq", "sg2 convert ffhq ffhq.safetensors"),
        ("ffhq.pkl", "sg2 convert ffhq ffhq.safetensors"),
        ("stylegan2-car-config-f.pkl", "sg2 convert stylegan2-car-config-f"),
        ("https://me:pw@a.org/x/y.pkl?token=1", "sg2 convert https://a.org/x/y.pkl y.safetensors"),
    ],
)
def test_networks_that_are_not_here_name_the_command_that_fetches_them(
    name: str, command: str, in_tmp: Path
) -> None:
    with pytest.raises(UsageError) as error:
        find_network(name)
    assert f"`{command}" in str(error.value)
    assert "pw" not in str(error.value)


def test_a_network_that_was_fetched_is_found_by_its_name(in_tmp: Path) -> None:
    save_generator(random_generator(), Path("ffhq.safetensors"), {})
    assert find_network("ffhq").path.name == "ffhq.safetensors"


def test_a_folder_is_not_a_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a regular file"):
        find_network(tmp_path)


def test_saving_replaces_only_with_overwrite(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(Sg2Error, match="`overwrite` replaces it"):
        save_generator(random_generator(1), saved, {})
    assert saved.read_bytes() == before
    save_generator(random_generator(1), saved, {}, overwrite=True)
    assert saved.read_bytes() != before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
