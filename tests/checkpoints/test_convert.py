"""Checkpoints of other code: read exactly, and never obeyed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import rosinality_state, write_ada, write_tensorflow
from networks import GOLDEN, random_generator, same
from safetensors import safe_open

from sg2cli.checkpoints import Network, importer, save_generator
from sg2cli.checkpoints.importer import convert, read_checkpoint, to_generator
from sg2cli.errors import CheckpointError, Sg2Error
from sg2cli.latents.mapping import seed_to_z, truncate
from tests.conftest import one_line

from .test_pickle_reader import HOSTILE, refused_cheaply

FORMATS = GOLDEN / "formats"
SAMPLES = sorted(p for p in FORMATS.glob("*.p*") if "unsupported" not in p.name)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples_draw_their_expected_pictures(path: Path, tmp_path: Path) -> None:
    _, network, odd = convert(path, tmp_path / "net.safetensors")
    assert odd == ""
    G = network.load()
    with safe_open(path.with_suffix(".expected.safetensors"), "pt") as file:
        expected = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    z = torch.stack([torch.from_numpy(seed_to_z(s, G.config.z_dim)) for s in config["seeds"]])
    c = torch.eye(G.config.c_dim)[config["classes"]] if config["classes"] else None
    w = G.mapping(z, c)
    if "w_psi1" in expected:
        torch.testing.assert_close(w, expected["w_psi1"], rtol=0, atol=1e-5)
    for key, picture in expected.items():
        if key.startswith("image_psi"):
            psi = float(key.split("_")[1][3:])
            ws = truncate(w[:, None].expand(-1, G.config.num_ws, -1), G.mapping.w_avg, psi)
            found = G.synthesis(ws)
            assert (found - picture).abs().max() < 1e-4 * picture.abs().max(), key
            if f"ws_psi{psi:g}" in expected:
                torch.testing.assert_close(ws, expected[f"ws_psi{psi:g}"], rtol=0, atol=1e-5)


ODD: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"mapping_features": (5, 20, 9, 16), "lr_multiplier": 0.1},
    "clamp": {"conv_clamp": 0.7},
    "classes": {"c_dim": 3, "embed_features": 16},
    "resnet": {"architecture": "resnet", "resample_filter": (1, 2, 4, 1)},
    "orig": {"architecture": "orig", "img_channels": 1},
    "8-taps": {"resample_filter": (-1, 2, 5, 9, 9, 5, 2, -1)},
    "64": {"img_resolution": 64, "channels": (7, 5, 4, 3, 2)},
    "relu": {"activation": "relu"},
}


@pytest.mark.parametrize("name", ODD)
def test_ada_pickles_of_any_shape(name: str, tmp_path: Path) -> None:
    G, path = random_generator(**ODD[name]), tmp_path / "net.pkl"
    write_ada(G, path)
    found = to_generator(read_checkpoint(path))
    same(found, G)
    taps = torch.tensor(G.config.resample_filter)
    torch.testing.assert_close(torch.tensor(found.config.resample_filter), taps / taps.sum())
    for field in ("conv_clamp", "architecture", "activation", "lr_multiplier", "channels"):
        assert getattr(found.config, field) == getattr(G.config, field)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ODD)
def test_tensorflow_pickles_of_any_shape(name: str, protocol: int, tmp_path: Path) -> None:
    G, path = random_generator(**ODD[name]), tmp_path / "net.pkl"
    write_tensorflow(G, path, protocol)
    checkpoint = read_checkpoint(path)
    found = to_generator(checkpoint)
    same(found, G)
    assert found.config == G.config
    assert "truncation_psi" in checkpoint.notes[0]


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["plain", "deep", "64"])
def test_rosinality_files_of_any_shape(name: str, new: bool, tmp_path: Path) -> None:
    changes = {**ODD[name], "lr_multiplier": 0.01}
    G, path = random_generator(**changes), tmp_path / "net.pt"
    whole = {"g_ema": rosinality_state(G), "latent_avg": G.mapping.w_avg}
    torch.save(whole, path, _use_new_zipfile_serialization=new)
    same(to_generator(read_checkpoint(path)), G)


def test_what_a_file_lacks_is_made_up_and_told(tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "net.pt"
    state = {k: v for k, v in rosinality_state(G).items() if not k.startswith("noises")}
    args = argparse.Namespace(size=16, latent=12)
    torch.save({"g": state, "g_ema": state, "args": args}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.left_out == ["g", "args"]
    assert {what.split()[0] for what in checkpoint.made_up} == {"noise", "w_avg,"}
    found = to_generator(checkpoint)
    z = torch.from_numpy(np.random.RandomState(123).randn(10_000, 12)).float()
    torch.testing.assert_close(found.mapping.w_avg, G.mapping(z).mean(dim=0), rtol=1e-4, atol=1e-4)
    noise = found.state_dict()["synthesis.b16.conv1.noise_const"]
    assert 0.8 < noise.std() < 1.2
    torch.testing.assert_close(
        to_generator(read_checkpoint(path)).state_dict()["synthesis.b16.conv1.noise_const"], noise
    )


def test_noise_is_not_made_up_without_end(tmp_path: Path) -> None:
    G, path = random_generator(img_resolution=64, channels=(2,) * 5), tmp_path / "net.pt"
    state = {k: v for k, v in rosinality_state(G).items() if not k.startswith("noises")}
    for k in range(4, 14):
        state |= {f"convs.{2 * k}.noise.weight": torch.zeros(1)}
    torch.save({"g_ema": state}, path)
    with pytest.raises(CheckpointError, match="b65536"):
        read_checkpoint(path)


def test_encoders_hold_the_same_generator(tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "psp.pt"
    state = {f"decoder.{key}": value for key, value in rosinality_state(G).items()}
    state["encoder.input.weight"] = torch.zeros(3)
    latent_avg = G.mapping.w_avg.repeat(6, 1)
    torch.save({"state_dict": state, "latent_avg": latent_avg, "opts": {"a": 1}}, path)
    same(to_generator(read_checkpoint(path)), G)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("convs.0.conv.weight"), "missing: synthesis.b8.conv0.weight"),
        (lambda s: s.update({"convs.0.conv.wight": torch.zeros(1)}), "convs.0.conv.wight"),
        (lambda s: s.update({"convs.0.activate.bias": torch.zeros(3)}), "is [3], not [9]"),
        (lambda s: s.update({"input.input": torch.full((1, 10, 4, 4), torch.nan)}), "NaN"),
        (
            lambda s: s.update({"to_rgbs.0.upsample.kernel": torch.eye(4)}),
            "differ in resample_filter",
        ),
        (lambda s: s.update({"input.input": 5}), "no StyleGAN2 generator found"),
        (lambda s: s.clear(), "latent_avg [16]"),
    ],
)
def test_every_key_must_match(edit: Any, message: str, tmp_path: Path) -> None:
    state = rosinality_state(random_generator())
    edit(state)
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError) as error:
        to_generator(read_checkpoint(tmp_path / "net.pt"))
    assert message in str(error.value)


def test_networks_of_other_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="StyleGAN3"):
        read_checkpoint(FORMATS / "unsupported-stylegan3-32.pkl")
    for contents, message in (
        ({"other": 1}, "no tensors"),
        ([1, 2, 3], "no tensors"),
        (5, "no tensors"),
    ):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps(contents))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "net.pkl")


def test_older_networks_of_tensorflow_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    write_tensorflow(random_generator(), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"8x8/Conv1/bias", b"8x8/StyleMod/b"))
    with pytest.raises(CheckpointError, match="a network of the first StyleGAN"):
        read_checkpoint(path)
    path.write_bytes(content.replace(b"synthesis", b"synthetic"))
    with pytest.raises(CheckpointError, match="not a StyleGAN2 .a ProGAN"):
        read_checkpoint(path)


def test_a_network_that_draws_nothing_is_told_of(sg2: Any) -> None:
    for value, message in ((0.0, "is of one colour"), (3e38, "holds NaN or infinity")):
        G = random_generator()
        G.synthesis.b16.torgb.weight.fill_(value)  # type: ignore[union-attr, operator]
        for r in (4, 8, 16):
            block = G.get_submodule(f"synthesis.b{r}.torgb")
            block.weight.fill_(value)  # type: ignore[union-attr, operator]
            block.bias.fill_(value)  # type: ignore[union-attr, operator]
        write_ada(G, Path("net.pkl"))
        result = sg2("convert", "net.pkl", "net.safetensors", "--overwrite")
        assert result.code == 0
        assert f"warning: its image of seed 0 {message}" in result.err


def test_labels_that_are_concatenated_are_refused_by_name(tmp_path: Path) -> None:
    G = random_generator(c_dim=3, embed_features=16)
    write_tensorflow(G, tmp_path / "net.pkl")
    content = (tmp_path / "net.pkl").read_bytes()
    (tmp_path / "net.pkl").write_bytes(content.replace(b"LabelEmbed", b"LabelConca"))
    with pytest.raises(CheckpointError, match="LabelConca"):
        read_checkpoint(tmp_path / "net.pkl")


# Hostile files. Each would make a file "canary" in the working folder if any of its code ran.


def test_a_network_of_many_pixels_costs_what_it_holds(in_tmp: Path) -> None:
    """It is compared with its file tensor by tensor, and not drawn where a layer is large."""
    G = random_generator(img_resolution=2048, channels=(4,) * 10, z_dim=16, mapping_features=(16,))
    state = {k: v for k, v in rosinality_state(G).items() if not k.startswith("noises")}
    torch.save({"g_ema": state, "latent_avg": G.mapping.w_avg}, "net.pt")
    noise = 4 * 4 * 2048**2 * 2 // 3  # bytes of the noise maps that are made up: 45 MB
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = "import resource, sys; from sg2cli.cli.main import run; run(sys.argv[1:]);"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    command = [sys.executable, "-c", code, "convert", "net.pt", "net.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout.split()[-1]) - memory < (2 * noise + (500 << 20)) >> 10
    assert Path("net.safetensors").stat().st_size > noise


def test_numbers_beyond_float32_are_told_of(in_tmp: Path) -> None:
    state = rosinality_state(random_generator())
    state["input.input"] = state["input.input"].double() * 1e300
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, "net.pt")
    refused_cheaply(Path("net.pt"), "const holds numbers beyond the range of float32")


def test_the_hash_is_that_of_the_bytes_that_were_read(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is opened once, and may be another by the time that it is hashed."""
    Path("net.pkl").write_bytes(SAMPLES[0].read_bytes())
    read = importer.read_bytes

    def then_replaced(path: Path, limit: int) -> bytes:
        content = read(path, limit)
        path.write_bytes(b"something else")
        return content

    monkeypatch.setattr(importer, "read_bytes", then_replaced)
    expected = hashlib.sha256(SAMPLES[0].read_bytes()).hexdigest()
    assert read_checkpoint(Path("net.pkl")).fields["source"]["sha256"] == expected


def test_w_avg_is_computed_in_batches_and_not_for_any_width(in_tmp: Path) -> None:
    wide = {"z_dim": 8000, "mapping_features": (16,), "c_dim": 5000, "embed_features": 2}
    path = Path("net.pkl")
    write_ada(random_generator(**wide), path, skip="mapping.w_avg")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert to_generator(read_checkpoint(path)).mapping.w_avg.isfinite().all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 400 << 10  # in KiB
    for name in ("z_dim", "c_dim"):
        write_ada(random_generator(**{**wide, name: 300_000}), path, skip="mapping.w_avg")
        refused_cheaply(path, "not computed for 300000 features and")


def test_a_network_too_large_to_draw_is_kept(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read back and compared by then: only the last look at it is missing."""
    write_ada(random_generator(), Path("net.pkl"))
    with monkeypatch.context() as patch:
        patch.setattr(importer, "MAX_DRAWN", 1000)
        patch.setattr(importer, "MAX_DRAWN_PER_PARAMETER", 0)
        result = sg2("convert", "net.pkl", "a.safetensors")
    assert (result.code, result.lines) == (0, ["a.safetensors"])
    assert "warning: no test image was generated: one layer needs 0 MiB" in result.err

    def draw(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("sg2cli.generator.Generator.forward", draw)
    result = sg2("convert", "net.pkl", "b.safetensors")
    assert (result.code, result.lines) == (0, ["b.safetensors"])
    assert "warning: no test image was generated: out of memory" in result.err
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_what_the_disk_changes_gets_no_name(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ada(random_generator(), Path("net.pkl"))
    whole = importer.write_generator

    def cut_short(G: Any, file: Any, source: Any) -> None:
        whole(G, file, source)
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")

    monkeypatch.setattr(importer, "write_generator", cut_short)
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 1
    assert "cannot write net.safetensors: reading it back gave different numbers" in result.err
    assert [path.name for path in Path().iterdir()] == ["net.pkl"]


SMALL = {"img_resolution": 4, "channels": (2,), "z_dim": 2, "w_dim": 2, "mapping_features": (2,)}


def small_files(folder: Path) -> list[Path]:
    G = random_generator(**SMALL)
    write_ada(G, folder / "ada.pkl")
    write_tensorflow(G, folder / "tf.pkl")
    whole = {"g_ema": rosinality_state(G), "latent_avg": G.mapping.w_avg}
    torch.save(whole, folder / "zip.pt")
    torch.save(whole, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("number", range(4), ids=["ada", "legacy", "tf", "zip"])
def test_damaged_files_are_read_or_refused(in_tmp: Path, number: int) -> None:
    """Bytes changed, cut, repeated, swapped: never another error than CheckpointError."""
    folder = in_tmp / "small"
    folder.mkdir()
    content = small_files(folder)[number].read_bytes()
    to_generator(read_checkpoint(small_files(folder)[number]))
    random = np.random.RandomState(number)
    refused = 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(int(os.environ.get("FUZZ", 1000))):
        changed = bytearray(content)
        for _ in range(random.randint(1, 4)):
            a, b = sorted(random.randint(0, len(changed), 2))
            action = random.randint(4)
            if action == 0:
                changed[a] = random.randint(256)
            elif action == 1:
                del changed[a : min(b, a + 50)]
            elif action == 2:
                changed[a:a] = changed[a : min(b, a + 50)]
            elif action == 3 and random.rand() < 0.2:
                del changed[b:]
        Path("damaged").write_bytes(changed)
        start = time.process_time()
        try:
            read_checkpoint(Path("damaged"))
        except CheckpointError as error:
            refused += 1
            assert len(str(error)) < 2000
        assert time.process_time() - start < 10
    assert refused > 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 256 << 10  # in KiB
    assert not Path("canary").exists()


def test_gigabytes_are_not_copied(in_tmp: Path) -> None:
    """Reading costs the file's bytes once, as the pickled storages are kept, and a tensor more."""
    import tracemalloc

    path = Path("net.pkl")
    G = random_generator(img_resolution=64, channels=(300,) * 5)
    write_ada(G, path)
    tracemalloc.start()
    checkpoint = read_checkpoint(path)
    read_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read_peak < 1.2 * path.stat().st_size
    assert checkpoint.shapes["synthesis.b8.conv0.weight"] == (300, 300, 3, 3)


def test_converting_replaces_only_when_told(sg2: Any) -> None:
    sample = FORMATS / "tf-32.pkl"
    result = sg2("convert", sample, "net.safetensors")
    assert result.lines == ["net.safetensors"]
    assert "left out: G, D" in result.err
    source = Network.open(Path("net.safetensors")).source
    assert source["format"] == "NVIDIA TensorFlow pickle"
    assert "--overwrite" in sg2("convert", sample, "net.safetensors").err
    assert sg2("convert", sample, "net.safetensors", "--overwrite", "-q").err == ""
    assert sg2("generate", "-n", "net.safetensors", "--seeds", "0").code == 0
    assert sg2("convert", "missing.pkl", "x.safetensors").code == 2
    assert sg2("convert", sample, "x.pt").code == 2
    for hint in ("generate", "info"):
        command = [hint, *(["-n"] if hint == "generate" else []), sample]
        message = sg2(*command, *(["--seeds", "0"] if hint == "generate" else []))
        assert "sg2 convert" in message.err + message.out


def test_native_checkpoints_need_no_conversion(sg2: Any) -> None:
    save_generator(random_generator(), Path("a.safetensors"), {})
    for name in ("a.safetensors", "avatars-128"):
        result = sg2("convert", name, "b.safetensors")
        assert result.code == 2
        assert "is already in the format of sg2: give --to to export it" in one_line(result.err)
    assert not Path("b.safetensors").exists()


def test_stdin_is_called_by_its_name(shell: Any) -> None:
    """Not by that of the copy that is read; and it can be converted, both ways."""
    hostile, ours = HOSTILE["state"], SAMPLES[0].read_bytes()
    for command in (["info", "-"], ["convert", "-", "net.safetensors"]):
        result = shell(*command, input=hostile)
        assert result.returncode == 3
        assert one_line(result.stderr.decode()).startswith("sg2: -: unsafe: it refers to os.system")
    assert b"sg2 convert - stdin.safetensors" in shell("info", "-", input=ours).stdout
    assert shell("convert", "-", "net.safetensors", input=ours).returncode == 0
    assert Network.open(Path("net.safetensors")).source["file"] == "stdin"
    whole = Path("net.safetensors").read_bytes()
    assert (
        b"is already in the format of sg2"
        in shell("convert", "-", "b.safetensors", input=whole).stderr
    )
    assert shell("convert", "-", "net.pt", "--to", "ada", input=whole).returncode == 0
    refused = shell("convert", "-", "b.pt", "--to", "ada", input=ours)
    assert (refused.returncode, b"/tmp" in refused.stderr) == (3, False)


def test_info_reads_other_formats(sg2: Any) -> None:
    for path in SAMPLES:
        result = sg2("info", path, "--json")
        assert result.code == 0, result.err
        found = json.loads(result.out)
        assert found["resolution"] == ("32x32" if "32" in path.name else "16x16")
        assert found["kind"].startswith("StyleGAN2 generator, ")
    assert "StyleGAN3" in sg2("info", FORMATS / "unsupported-stylegan3-32.pkl").err


def test_errors_of_the_reader_are_ours() -> None:
    assert issubclass(CheckpointError, Sg2Error)
