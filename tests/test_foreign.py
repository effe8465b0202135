"""Checkpoints of other code: read exactly, and never obeyed."""

from __future__ import annotations

import argparse
import copyreg
import hashlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from foreign_files import fake_modules, rosinality_state, write_ada, write_tensorflow
from networks import GOLDEN, random_generator
from safetensors import safe_open
from safetensors.torch import load_file

from sg2cli.checkpoints import Network, ada_pickle, foreign, rosinality, save_generator
from sg2cli.checkpoints.arrays import read_torch
from sg2cli.checkpoints.foreign import PICKLES, convert, read_foreign, to_generator
from sg2cli.checkpoints.unpickle import budget_for, load
from sg2cli.errors import CheckpointError, Sg2Error
from sg2cli.latents.mapping import seed_to_z, truncate
from sg2cli.storage.budget import LimitExceeded

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


def same(found: Any, expected: Any, but: str = "nothing") -> None:
    state = found.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        if name != but:
            torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-6)


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
    found = to_generator(read_foreign(path))
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
    checkpoint = read_foreign(path)
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
    same(to_generator(read_foreign(path)), G)


def test_what_a_file_lacks_is_made_up_and_told(tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "net.pt"
    state = {k: v for k, v in rosinality_state(G).items() if not k.startswith("noises")}
    args = argparse.Namespace(size=16, latent=12)
    torch.save({"g": state, "g_ema": state, "args": args}, path)
    checkpoint = read_foreign(path)
    assert checkpoint.left_out == ["g", "args"]
    assert [what.split()[0] for what in checkpoint.made_up] == ["noise", "w_avg,"]
    found = to_generator(checkpoint)
    z = torch.from_numpy(np.random.RandomState(123).randn(10_000, 12)).float()
    torch.testing.assert_close(found.mapping.w_avg, G.mapping(z).mean(dim=0), rtol=1e-4, atol=1e-4)
    noise = found.state_dict()["synthesis.b16.conv1.noise_const"]
    assert 0.8 < noise.std() < 1.2
    torch.testing.assert_close(
        to_generator(read_foreign(path)).state_dict()["synthesis.b16.conv1.noise_const"], noise
    )


def test_noise_is_not_made_up_without_end(tmp_path: Path) -> None:
    G, path = random_generator(img_resolution=64, channels=(2,) * 5), tmp_path / "net.pt"
    state = {k: v for k, v in rosinality_state(G).items() if not k.startswith("noises")}
    for k in range(4, 14):
        state |= {f"convs.{2 * k}.noise.weight": torch.zeros(1)}
    torch.save({"g_ema": state}, path)
    with pytest.raises(CheckpointError, match="8192x8192 are not made up"):
        read_foreign(path)


def test_encoders_hold_the_same_generator(tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "psp.pt"
    state = {f"decoder.{key}": value for key, value in rosinality_state(G).items()}
    state["encoder.input.weight"] = torch.zeros(3)
    latent_avg = G.mapping.w_avg.repeat(6, 1)
    torch.save({"state_dict": state, "latent_avg": latent_avg, "opts": {"a": 1}}, path)
    same(to_generator(read_foreign(path)), G)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda s: s.pop("convs.0.conv.weight"), "missing: synthesis.b8.conv0.weight"),
        (lambda s: s.update({"convs.0.conv.wight": torch.zeros(1)}), "convs.0.conv.wight"),
        (lambda s: s.update({"convs.0.activate.bias": torch.zeros(3)}), "is [3], not [9]"),
        (lambda s: s.update({"input.input": torch.full((1, 10, 4, 4), torch.nan)}), "NaN"),
        (
            lambda s: s.update({"to_rgbs.0.upsample.kernel": torch.eye(4)}),
            "differ in resample_filter",
        ),
        (lambda s: s.update({"input.input": 5}), "'input.input' is no tensor"),
        (lambda s: s.clear(), "neither g_ema nor a decoder"),
    ],
)
def test_every_key_must_match(edit: Any, told: str, tmp_path: Path) -> None:
    state = rosinality_state(random_generator())
    edit(state)
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError) as error:
        to_generator(read_foreign(tmp_path / "net.pt"))
    assert told in str(error.value)


def test_networks_of_other_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="StyleGAN3"):
        read_foreign(FORMATS / "unsupported-stylegan3-32.pkl")
    for contents, told in (
        ({"other": 1}, "no network G_ema"),
        ([1, 2, 3], "TensorFlow"),
        (5, "of no network"),
    ):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps(contents))
        with pytest.raises(CheckpointError, match=told):
            read_foreign(tmp_path / "net.pkl")


def test_older_networks_of_tensorflow_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    write_tensorflow(random_generator(), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"8x8/Conv1/bias", b"8x8/StyleMod/b"))
    with pytest.raises(CheckpointError, match="a StyleGAN network, of the first kind"):
        read_foreign(path)
    path.write_bytes(content.replace(b"synthesis", b"synthetic"))
    with pytest.raises(CheckpointError, match="no StyleGAN2 .a ProGAN"):
        read_foreign(path)


def test_a_network_that_draws_nothing_is_told_of(sg2: Any) -> None:
    for value, told in ((0.0, "is of one colour"), (3e38, "holds NaN or infinity")):
        G = random_generator()
        G.synthesis.b16.torgb.weight.fill_(value)  # type: ignore[union-attr, operator]
        for r in (4, 8, 16):
            block = G.get_submodule(f"synthesis.b{r}.torgb")
            block.weight.fill_(value)  # type: ignore[union-attr, operator]
            block.bias.fill_(value)  # type: ignore[union-attr, operator]
        write_ada(G, Path("net.pkl"))
        result = sg2("convert", "net.pkl", "net.safetensors", "--overwrite")
        assert result.code == 0
        assert f"warning: its picture of seed 0 {told}" in result.err


def test_labels_that_are_concatenated_are_refused_by_name(tmp_path: Path) -> None:
    G = random_generator(c_dim=3, embed_features=16)
    write_tensorflow(G, tmp_path / "net.pkl")
    content = (tmp_path / "net.pkl").read_bytes()
    (tmp_path / "net.pkl").write_bytes(content.replace(b"LabelEmbed", b"LabelConca"))
    with pytest.raises(CheckpointError, match="LabelConca"):
        read_foreign(tmp_path / "net.pkl")


# Hostile files. Each would make a file "canary" in the working folder if any of its code ran.


class Call:
    """Pickles as a call of a global, which is never made here."""

    def __init__(self, module: str, name: str, *args: Any) -> None:
        self.module, self.name, self.args = module, name, args


class Name(Call):
    """The global itself."""


class Called(Call):
    """A call of what another call gives."""

    def __init__(self, function: Call, *args: Any) -> None:
        self.function, self.args = function, args


class HostilePickler(pickle._Pickler):  # type: ignore[misc, name-defined]
    def save(self, obj: Any, *rest: Any, **more: Any) -> None:
        if isinstance(obj, Call):
            if isinstance(obj, Called):
                self.save(obj.function)
            else:
                self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
            if not isinstance(obj, Name):
                super().save(obj.args)
                self.write(pickle.REDUCE)
        else:
            super().save(obj, *rest, **more)


def dumps(obj: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    HostilePickler(file, protocol).dump(obj)
    return file.getvalue()


RUN = Call("os", "system", "touch canary")
RECONSTRUCT = ("torch_utils.persistence", "_reconstruct_persistent_obj")


def module(**state: Any) -> Call:
    meta = {"type": "class", "version": 6, "module_src": "", "class_name": "G", "state": state}
    return Call(*RECONSTRUCT, meta)


def zipped(pickled: bytes, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for name, content in {"version": b"3", **members}.items():
            archive.writestr(f"net/{name}", content)
    return file.getvalue()


TENSOR = ("torch._utils", "_rebuild_tensor_v2")
OS = Call("importlib", "import_module", "os")
SYSTEM = Name("os", "system")
HOSTILE: dict[str, bytes] = {
    "top": dumps(RUN),
    "posix": dumps(Call("posix", "system", "touch canary")),
    "subprocess": dumps(Call("subprocess", "Popen", ["touch", "canary"])),
    "protocol 0": b"cos\nsystem\n(S'touch canary'\ntR.",
    "inst": b"(S'touch canary'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch canary'\no.",
    "state": dumps({"G_ema": module(_modules={"synthesis": RUN})}),
    "module source": dumps({"G_ema": Call(*RECONSTRUCT, RUN)}),
    "nested bytes": dumps({"G_ema": Call("torch.storage", "_load_from_bytes", dumps(RUN))}),
    "nested legacy": dumps(
        Call(
            "torch.storage",
            "_load_from_bytes",
            dumps(0x1950A86A20F9469CFC6C) + dumps(1001) + dumps({}) + dumps(RUN) + dumps([]),
        )
    ),
    "nested zip": dumps(Call("torch.storage", "_load_from_bytes", zipped(dumps(RUN)))),
    "zip member": zipped(dumps({"g_ema": RUN})),
    "zip persistent id": zipped(b"\x80\x02" + dumps(RUN)[2:-1] + b"Q."),
    "getattr": dumps(Called(Call("builtins", "getattr", OS, "system"), "touch canary")),
    "eval": dumps(Call("builtins", "eval", "open('canary', 'w')")),
    "exec": dumps(Call("builtins", "exec", "open('canary', 'w')")),
    "operator": dumps(Called(Called(Call("operator", "attrgetter", "system"), OS), "touch canary")),
    "methodcaller": dumps(Called(Call("operator", "methodcaller", "system", "touch canary"), OS)),
    "partial": dumps(Called(Call("functools", "partial", SYSTEM, "touch canary"))),
    "torch._utils": dumps(
        Called(Call("torch._utils", "_import_dotted_name", "os.system"), "touch canary")
    ),
    "timeit": dumps(
        Call("timeit", "timeit", "open('canary', 'w')", "", Name("time", "perf_counter"), 1)
    ),
    "torch.load": dumps(Call("torch.serialization", "load", "evil")),
    "torch.hub": dumps(Call("torch.hub", "load", "evil")),
    "numpy runstring": dumps(
        Call("numpy.testing._private.utils", "runstring", "open('canary', 'w')", {})
    ),
    "numpy arguments": dumps(Call("numpy.core.multiarray", "_reconstruct", RUN, (0,), b"b")),
    "numpy state": dumps(
        Call("numpy.core.multiarray", "_reconstruct", Name("numpy", "ndarray"), (0,), b"b")
    )[:-1]
    + dumps(RUN)[2:-1]
    + b"b.",
    "numpy objects": dumps(
        Call("numpy.core.multiarray", "scalar", Call("numpy", "dtype", "O8", False, True), RUN)
    ),
    "numpy load": dumps(Call("numpy", "load", "evil.npy", None, True)),
    "copyreg": dumps(
        Call(
            "copyreg",
            "_reconstructor",
            Name("builtins", "object"),
            Name("builtins", "object"),
            RUN,
        )
    ),
    "copyreg extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02Pos.system\n.",
    "pydoc": dumps(Call("pydoc", "pipepager", "x", "touch canary")),
    "webbrowser": dumps(Call("webbrowser", "open", "file:///canary")),
    "code": dumps(Call("types", "CodeType")),
    "dotted": dumps(Call("collections", "OrderedDict.__init__.__globals__")),
    "sg2's own": dumps(Call("sg2cli.storage.atomic", "make_folder", "canary")),
    "setstate": dumps(OrderedDict())[:-1] + b"}U\x0c__setstate__cos\nsystem\nsbU\x0ctouch canaryb.",
    "build of a class": b"\x80\x02cdnnlib.tflib.network\nNetwork\n}U\x05statecos\nsystem\nsb.",
    "slots of a class": (b"\x80\x02cdnnlib.tflib.network\nNetwork\n\x4e}U\x05stateU\x01xs\x86b."),
    "slots of a function": b"\x80\x02cbuiltins\nset\n\x4e}U\x09_functionU\x01xs\x86b.",
    "call of data": b"\x80\x02U\x01x)R.",
    "call of a call": dumps(Call(*RECONSTRUCT, {"state": {}}))[:-1] + b")R.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(in_tmp: Path, name: str, sg2: Any) -> None:
    Path("net.pkl").write_bytes(HOSTILE[name])
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 3
    assert len(result.err.strip().splitlines()) == 1
    assert result.err.startswith("sg2: net.pkl: ")
    told = sg2("info", "net.pkl")
    assert (told.code, len(told.err.strip().splitlines())) == (3, 1)
    assert [path.name for path in Path().iterdir()] == ["net.pkl"]


def test_extension_codes_are_refused_even_if_this_process_knows_them(in_tmp: Path) -> None:
    """A code that was used before comes out of a cache, without the name being asked for."""
    content = b"\x80\x02\x82\x2aU\x0ctouch canary\x85R."
    copyreg.add_extension("os", "system", 42)
    try:
        pickle.loads(content[:4] + b".")
        Path("net.pkl").write_bytes(content)
        with pytest.raises(CheckpointError, match="opcode EXT1 at byte 2"):
            read_foreign(Path("net.pkl"))
    finally:
        copyreg.remove_extension("os", "system", 42)
        copyreg.clear_extension_cache()
    assert not Path("canary").exists()


class TensorPickler(HostilePickler):
    """An ellipsis stands for a storage of four numbers."""

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", "FloatStorage", "0", "cpu", 4) if obj is Ellipsis else None


def test_checked_tensors_cannot_be_changed(in_tmp: Path) -> None:
    """BUILD would set the slots of what was found to fit its numbers."""
    build = pickle.MARK + b"N" + dumps({"shape": (9999, 9999)})[2:-1] + b"tb"

    file = io.BytesIO()
    TensorPickler(file, 2).dump(Call(*TENSOR, Ellipsis, 0, (4,), (1,), False, OrderedDict()))
    members = {"data/0": bytes(16)}
    Path("net.pt").write_bytes(zipped(file.getvalue()[:-1] + build + b".", **members))
    with pytest.raises(CheckpointError, match="change a tensor that was checked"):
        read_foreign(Path("net.pt"))


def test_a_compressed_data_pkl_is_refused(in_tmp: Path) -> None:
    with zipfile.ZipFile("net.pt", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + b"N0" * (8 << 20) + b"N.")
    with pytest.raises(CheckpointError, match="compressed"):
        read_foreign(Path("net.pt"))


def test_names_in_a_file_have_no_power_over_the_terminal(sg2: Any) -> None:
    Path("net.pkl").write_bytes(b"\x80\x02c\x1b[31mos\nsystem\n.")
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 3
    assert "\x1b" not in result.err


def test_a_refused_global_is_named_with_its_offset(in_tmp: Path) -> None:
    Path("net.pkl").write_bytes(HOSTILE["state"])
    offset = HOSTILE["state"].index(b"cos\nsystem")
    with pytest.raises(CheckpointError, match=rf"os\.system at byte {offset}"):
        read_foreign(Path("net.pkl"))


# These fetch or prepare something, and run nothing by themselves.
HARMLESS = {
    *("torch.load", "torch.hub", "numpy load", "copyreg extension", "persistent id", "webbrowser"),
    *("code", "dotted", "sg2's own", "build of a class", "slots of a class"),
    *("slots of a function", "call of data", "call of a call"),
}
OBEYING = """
import contextlib, pathlib, pickle, sys, types, torch
for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.tflib"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["dnnlib.tflib.network"] = types.ModuleType("network")
sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = lambda meta: meta
sys.modules["dnnlib.tflib.network"].Network = type("Network", (), {})
for path in pathlib.Path("hostile").iterdir():
    with contextlib.suppress(BaseException):
        if path.read_bytes()[:2] == b"PK":
            torch.load(path, weights_only=False)
        else:
            pickle.loads(path.read_bytes(), encoding="latin1")
    for _ in range(50):  # what runs beside this may take a moment
        if pathlib.Path("canary").exists() or path.stem not in ("subprocess", "pydoc"):
            break
        __import__("time").sleep(0.1)
    if pathlib.Path("canary").exists():
        pathlib.Path("canary").unlink()
        print("obeyed", path.stem)
"""


def test_the_hostile_files_would_work(in_tmp: Path) -> None:
    """With a reader that obeys: else the test above shows nothing."""
    Path("hostile").mkdir()
    for name, content in HOSTILE.items():
        Path("hostile", f"{name}.pkl").write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", OBEYING]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    obeyed = {line.removeprefix("obeyed ") for line in done.stdout.splitlines()}
    assert obeyed == set(HOSTILE) - HARMLESS
    assert len(obeyed) >= 20


# Tuples, each of which holds the one before twice: 60 of them are 2^60 when they are spelled out.
DAG = b"\x80\x02)q\x00" + b"0h\x00h\x00\x86q\x00" * 60 + b"0"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",  # bytes of 4 EiB
        b"\x80\x04B" + (2**32 - 1).to_bytes(4, "little") + b"x.",
        b"\x80\x02]r" + (2**31).to_bytes(4, "little") + b".",  # a memo of 2 billion
        b"\x80\x02]r" + (10**8).to_bytes(4, "little") + b".",  # one that would fit
        b"\x80\x04\x95" + (2**63 - 1).to_bytes(8, "little") + b"N.",  # a frame
        b"\x80\x02" + b"(" * 300_000 + b".",
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",  # a number of 2 GiB
        b"\x80\x63.",
        DAG + b"}h\x00Ns.",  # a tuple that takes years to hash, as a key,
        DAG + b"(h\x00Nd.",
        DAG.replace(b"\x80\x02", b"\x80\x04") + b"\x8f(h\x00\x90.",  # in a set,
        DAG.replace(b"\x80\x02", b"\x80\x04") + b"(h\x00\x91.",
        DAG + b"cbuiltins\nset\n]h\x00a\x85R}U\x05G_ema" + b"Ns.",
        DAG + b"cnumpy\ndtype\nh\x00\x85R.",  # or to print, where a name is wanted
        DAG + b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
        b"}(U\x05state}U\x0aclass_nameh\x00u\x85R.",
        b"\x80\x02",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_absurd_sizes_cost_nothing(in_tmp: Path, content: bytes) -> None:
    import tracemalloc

    Path("net.pkl").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read_foreign(Path("net.pkl"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def text(content: bytes) -> bytes:
    """The opcode of a text, or of bytes in Python 2."""
    return b"T" + len(content).to_bytes(4, "little") + content


def memoised(number: int, content: bytes) -> bytes:
    return content + b"q" + bytes([number]) + b"0"


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


BYTES = glob("_codecs", "encode")
ARRAY = glob("numpy.core.multiarray", "_reconstruct")
LOAD = glob("torch.storage", "_load_from_bytes")
MEGABYTE = text(b"x" * (1 << 20))
FEW = 40_000
STORAGE = (
    dumps(0x1950A86A20F9469CFC6C)
    + dumps(1001)
    + dumps({})
    + b"\x80\x02(U\x07storagectorch\nByteStorage\nU\x010U\x03cpuK\x01NtQ."
    + dumps(["0"])
    + (1 << 18).to_bytes(8, "little")
    + bytes(1 << 18)
)
# Each is of a megabyte or so, and asks for gigabytes, or for minutes.
AMPLIFIERS: dict[str, bytes] = {
    "texts as bytes": memoised(0, BYTES) + memoised(1, MEGABYTE) + b"h\x00h\x01\x85R" * FEW,
    "arrays of a text": memoised(0, glob("numpy", "dtype") + b"U\x02i1\x85R")
    + memoised(1, b"(K\x01J\x00\x00\x10\x00\x85h\x00\x89" + MEGABYTE + b"t")
    + memoised(2, ARRAY)
    + b"h\x02)Rh\x01b" * FEW,
    "a pickle of many opcodes, often": memoised(0, LOAD)
    + memoised(1, BYTES + text(b"\x80\x02" + b"N0" * (1 << 18) + b"N.") + b"\x85R")
    + b"h\x00h\x01\x85R0" * FEW,
    "a storage, often": memoised(0, LOAD)
    + memoised(1, BYTES + text(STORAGE) + b"\x85R")
    + b"h\x00h\x01\x85R0" * FEW,
    "a storage in a bytearray, often": memoised(0, LOAD)
    + memoised(1, b"\x96" + len(STORAGE).to_bytes(8, "little") + STORAGE)
    + b"h\x00h\x01\x85R0" * 2000,
    "a name of a type, often": memoised(0, glob("numpy", "dtype"))
    + memoised(1, text(b"<" * (1 << 20)))
    + b"h\x00h\x01\x85R0" * FEW,
    "calls with many arguments": memoised(0, glob("numpy", "ndarray"))
    + memoised(1, b"(" + b"N" * FEW + b"t")
    + b"h\x00h\x01R0" * FEW,
    "calls with a text for arguments": memoised(0, glob("numpy", "ndarray"))
    + memoised(1, MEGABYTE)
    + b"h\x00h\x01R0" * FEW,
    "new objects with many arguments": memoised(0, glob("dnnlib.util", "EasyDict"))
    + memoised(1, b"(" + b"N" * FEW + b"t")
    + b"h\x00h\x01\x810" * FEW,
    "two equal texts as keys": memoised(0, MEGABYTE)
    + memoised(1, MEGABYTE)
    + b"}h\x00Ns"
    + b"h\x01Ns" * FEW,
    "names of classes": memoised(0, glob(*RECONSTRUCT))
    + memoised(1, b"}(U\x05state}U\x0aclass_name" + BYTES + MEGABYTE + b"\x85Ru")
    + b"h\x00h\x01\x85R" * FEW,
    "lists": b"]" * (1 << 20),
    "attributes": memoised(0, glob("dnnlib.util", "EasyDict")) + b"h\x00)R" * (1 << 18),
    "marks": b"(" * (1 << 20),
    "dicts in the memo": b"}\x94" * (1 << 19),
}


@pytest.mark.parametrize("name", AMPLIFIERS)
def test_small_files_make_nothing_large(in_tmp: Path, name: str) -> None:
    Path("net.pkl").write_bytes(b"\x80\x04" + AMPLIFIERS[name] + b".")
    refused_cheaply(Path("net.pkl"))


def test_real_networks_are_far_from_the_bounds(in_tmp: Path) -> None:
    """As many layers as the largest official ones have, in a file that shares nothing."""
    G = random_generator(img_resolution=1024, channels=(4,) * 9, mapping_features=(16,) * 8)
    write_ada(G, Path("net.pkl"))
    content = Path("net.pkl").read_bytes()
    budget = budget_for(len(content))
    load(memoryview(content), PICKLES, budget)
    assert budget.used["opcodes"] < 0.1 * budget.limits["opcodes"]
    assert budget.used["bytes_given_to_calls"] < 0.3 * budget.limits["bytes_given_to_calls"]
    assert budget.used["tensors"] < 0.1 * budget.limits["tensors"]


def refused_cheaply(path: Path, told: str = ".") -> None:
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=told):
        to_generator(read_foreign(path))
    assert time.process_time() - start < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 << 10  # in KiB


def test_a_legacy_file_does_not_name_its_numbers_by_nested_tuples(in_tmp: Path) -> None:
    keys = DAG[2:] + b"]h\x00a."
    start = dumps(0x1950A86A20F9469CFC6C) + dumps(1001) + dumps({}) + dumps({})
    Path("net.pt").write_bytes(start + b"\x80\x02" + keys)
    refused_cheaply(Path("net.pt"), "a key in it is no plain value")


def test_a_zip_file_of_members_without_number(in_tmp: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02N.")
        for number in range(70_000):
            archive.writestr(f"net/{number}", b"")
    Path("net.pt").write_bytes(file.getvalue())
    refused_cheaply(Path("net.pt"), "more than 65,535 members")


def test_tensors_that_share_their_numbers_claim_no_more_than_there_are(in_tmp: Path) -> None:
    state = rosinality_state(random_generator())
    shared = torch.zeros(500, 500)
    state |= {f"style.{i}.weight": shared for i in range(3, 500)}
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, "net.pt")
    refused_cheaply(Path("net.pt"), "claim more numbers than the file has bytes")


def test_kernels_at_both_ends_of_a_storage_cost_no_more_than_they_hold(in_tmp: Path) -> None:
    """Two rows of a kernel, as far apart as the numbers reach."""
    far = torch.zeros(17 << 20).as_strided((2, 2), ((17 << 20) - 2, 1))
    state = rosinality_state(random_generator())
    state |= {f"convs.{i}.conv.blur.kernel": far for i in range(90)}
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, "net.pt")
    refused_cheaply(Path("net.pt"), "resample_filter")
    content = Path("net.pt").read_bytes()
    budget = budget_for(len(content))
    found = read_torch(content, rosinality.GLOBALS, budget)
    found["g_ema"]["convs.0.conv.blur.kernel"].tensor()
    assert budget.used["bytes_of_tensors"] == 4 * 4  # and not the 68 MB between them


def test_filters_without_number_are_refused(in_tmp: Path) -> None:
    state = rosinality_state(random_generator())
    state |= {f"to_rgbs.{i}.upsample.kernel": torch.ones(4, 4) for i in range(100)}
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, "net.pt")
    refused_cheaply(Path("net.pt"), "more than 100 resample filters")
    state |= {f"convs.{i}.conv.blur.kernel": torch.ones(4, 4) for i in range(18_000)}
    torch.save({"g_ema": state, "latent_avg": torch.zeros(16)}, "net.pt")
    refused_cheaply(Path("net.pt"), "more than (20,000 tensors|500,000 opcodes)")


def test_tensors_without_number_are_refused(in_tmp: Path) -> None:
    tensor = Call(*TENSOR, Ellipsis, 0, (4,), (1,), False, OrderedDict())
    file = io.BytesIO()
    TensorPickler(file, 2).dump([tensor] * 20_001)
    Path("net.pt").write_bytes(zipped(file.getvalue(), **{"data/0": bytes(16)}))
    refused_cheaply(Path("net.pt"), "unsafe: it has more than 20,000 tensors")


def test_a_tensor_is_not_read_any_number_of_times(in_tmp: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20)}, "a.pt")
    tensor = read_torch(Path("a.pt").read_bytes(), {})["a"]
    with pytest.raises(LimitExceeded, match="bytes of tensors"):
        for _ in range(5):
            tensor.tensor()


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_views_are_read_as_torch_reads_them(in_tmp: Path, dtype: str) -> None:
    whole = (torch.randn(4, 6, 5) * 3).to(getattr(torch, dtype))
    views = [whole, whole.mT, whole[1:3, ::2, 4], whole[2, 3, 1], whole.permute(2, 0, 1)[3:]]
    for new in (True, False):
        torch.save(views, "a.pt", _use_new_zipfile_serialization=new)
        found = [view.tensor() for view in read_torch(Path("a.pt").read_bytes(), {})]
        assert all(a.equal(b) and a.is_contiguous() for a, b in zip(found, views, strict=True))


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
    refused_cheaply(Path("net.pt"), "const holds numbers beyond those of float32")


def test_the_hash_is_that_of_the_bytes_that_were_read(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is opened once, and may be another by the time that it is hashed."""
    Path("net.pkl").write_bytes(SAMPLES[0].read_bytes())
    read = foreign.read_bytes

    def then_replaced(path: Path, limit: int) -> bytes:
        content = read(path, limit)
        path.write_bytes(b"something else")
        return content

    monkeypatch.setattr(foreign, "read_bytes", then_replaced)
    expected = hashlib.sha256(SAMPLES[0].read_bytes()).hexdigest()
    assert read_foreign(Path("net.pkl")).fields["source"]["sha256"] == expected


def test_modules_that_hold_one_another_everywhere(in_tmp: Path) -> None:
    """Two levels of a thousand names each for one module, with a thousand names for a tensor."""
    held: Any = {"_modules": {}, "_parameters": {}, "_buffers": {}}
    for _ in range(2):
        held = {**held, "_modules": dict.fromkeys(map(str, range(1000)), module(**held))}
    content = dumps({"G_ema": module(**held)})
    Path("net.pkl").write_bytes(content)
    refused_cheaply(Path("net.pkl"))


def test_components_that_hold_one_another_everywhere(in_tmp: Path) -> None:
    class Network:
        pass

    inner = Network()
    inner.__dict__ = {"variables": [("x", np.float32(0))] * 1000, "static_kwargs": {}}
    for _ in range(2):
        outer = Network()
        outer.__dict__ = {"components": dict.fromkeys(map(str, range(1000)), inner)}
        inner = outer
    with fake_modules(dnnlib__tflib__network={"Network": Network}):
        Path("net.pkl").write_bytes(pickle.dumps((None, None, outer)))
    refused_cheaply(Path("net.pkl"), "no StyleGAN2")


def test_a_filter_of_any_size_is_no_list(in_tmp: Path) -> None:
    G = random_generator(resample_filter=tuple([1.0] * 2000))
    write_ada(G, Path("net.pkl"))
    refused_cheaply(Path("net.pkl"), "resample_filter has the shape")


def test_keys_of_old_optimisers_are_numbers_of_their_process(in_tmp: Path) -> None:
    """torch before 1.6 named parameters by their address."""
    G = random_generator()
    optimiser = {"state": {139_637_976_727_552: {"step": 1}}, "param_groups": []}
    whole = {"g_ema": rosinality_state(G), "g_optim": optimiser, "latent_avg": G.mapping.w_avg}
    torch.save(whole, "net.pt", _use_new_zipfile_serialization=False)
    same(to_generator(read_foreign(Path("net.pt"))), G)


def test_w_avg_is_computed_in_batches_and_not_for_any_width(in_tmp: Path) -> None:
    wide = {"z_dim": 8000, "mapping_features": (16,), "c_dim": 5000, "embed_features": 2}
    path = Path("net.pkl")
    write_ada(random_generator(**wide), path, skip="mapping.w_avg")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert to_generator(read_foreign(path)).mapping.w_avg.isfinite().all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 400 << 10  # in KiB
    for name in ("z_dim", "c_dim"):
        write_ada(random_generator(**{**wide, name: 300_000}), path, skip="mapping.w_avg")
        refused_cheaply(path, "not computed for 300000 features")


def test_a_network_too_large_to_draw_is_kept(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read back and compared by then: only the last look at it is missing."""
    write_ada(random_generator(), Path("net.pkl"))
    with monkeypatch.context() as patch:
        patch.setattr(foreign, "MOST_DRAWN", 1000)
        patch.setattr(foreign, "MOST_DRAWN_PER_PARAMETER", 0)
        result = sg2("convert", "net.pkl", "a.safetensors")
    assert (result.code, result.lines) == (0, ["a.safetensors"])
    assert "warning: it was not drawn: a layer has 0 MiB" in result.err

    def draw(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("sg2cli.generator.Generator.forward", draw)
    result = sg2("convert", "net.pkl", "b.safetensors")
    assert (result.code, result.lines) == (0, ["b.safetensors"])
    assert "warning: it was not drawn: out of memory" in result.err
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()


def test_what_the_disk_changes_gets_no_name(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ada(random_generator(), Path("net.pkl"))
    whole = foreign.write_generator

    def cut_short(G: Any, file: Any, source: Any) -> None:
        whole(G, file, source)
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")

    monkeypatch.setattr(foreign, "write_generator", cut_short)
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 1
    assert "cannot write net.safetensors: the disk gives back other numbers" in result.err
    assert [path.name for path in Path().iterdir()] == ["net.pkl"]


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2**40,), (0,), 0),
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (1,), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 1),
        ((1,) * 20, (1,) * 20, 0),
        ((True,), (1,), 0),
        ("4", (1,), 0),
    ],
)
def test_tensors_outside_of_their_numbers(
    in_tmp: Path, size: Any, stride: Any, offset: Any
) -> None:
    """Four numbers are there; `as_strided` would read whatever lies behind them."""

    file = io.BytesIO()
    tensor = Call(*TENSOR, Ellipsis, offset, size, stride, False, OrderedDict())
    TensorPickler(file, 2).dump({"g_ema": {"input.input": tensor}})
    Path("net.pt").write_bytes(zipped(file.getvalue(), **{"data/0": bytes(16)}))
    with pytest.raises(CheckpointError, match="a tensor in it"):
        read_foreign(Path("net.pt"))


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
    to_generator(read_foreign(small_files(folder)[number]))
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
            read_foreign(Path("damaged"))
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
    checkpoint = read_foreign(path)
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
        told = sg2(*command, *(["--seeds", "0"] if hint == "generate" else []))
        assert "sg2 convert" in told.err + told.out


def test_ours_need_no_converting(sg2: Any) -> None:
    save_generator(random_generator(), Path("a.safetensors"), {})
    for name in ("a.safetensors", "avatars-64"):
        result = sg2("convert", name, "b.safetensors")
        assert result.code == 2
        assert "which sg2 reads as it is: --to ada or --to rosinality" in one_line(result.err)
    assert not Path("b.safetensors").exists()


def test_stdin_is_called_by_its_name(shell: Any) -> None:
    """Not by that of the copy that is read; and it can be converted, both ways."""
    hostile, ours = HOSTILE["state"], SAMPLES[0].read_bytes()
    for command in (["info", "-"], ["convert", "-", "net.safetensors"]):
        result = shell(*command, input=hostile)
        assert result.returncode == 3
        assert one_line(result.stderr.decode()).startswith("sg2: -: unsafe: it asks for os.system")
    assert b"sg2 convert - stdin.safetensors" in shell("info", "-", input=ours).stdout
    assert shell("convert", "-", "net.safetensors", input=ours).returncode == 0
    assert Network.open(Path("net.safetensors")).source["file"] == "stdin"
    whole = Path("net.safetensors").read_bytes()
    assert b"reads as it is" in shell("convert", "-", "b.safetensors", input=whole).stderr
    assert shell("convert", "-", "net.pt", "--to", "ada", input=whole).returncode == 0
    refused = shell("convert", "-", "b.pt", "--to", "ada", input=ours)
    assert (refused.returncode, b"/tmp" in refused.stderr) == (3, False)


def test_info_reads_other_formats(sg2: Any) -> None:
    for path in SAMPLES:
        result = sg2("info", path, "--json")
        assert result.code == 0, result.err
        found = json.loads(result.out)
        assert found["resolution"] == "32x32"
        assert found["kind"].startswith("StyleGAN2 generator, ")
    assert "StyleGAN3" in sg2("info", FORMATS / "unsupported-stylegan3-32.pkl").err


def test_errors_of_the_reader_are_ours() -> None:
    assert issubclass(CheckpointError, Sg2Error)


def tensors_of(contents: Any) -> dict[str, torch.Tensor]:
    return {key: tensor.tensor() for key, tensor in contents.items()}


@pytest.mark.parametrize("name", ["rosinality-32.pt", "rosinality-train-32.pt"])
def test_back_to_rosinality_is_the_file_that_it_was(name: str, sg2: Any) -> None:
    """Every key, shape and number of the sample's g_ema, so that a strict loader takes it."""
    sg2("convert", FORMATS / name, "net.safetensors")
    assert sg2("convert", "net.safetensors", "back.pt", "--to", "rosinality").lines == ["back.pt"]
    found = torch.load("back.pt", weights_only=True)
    sample = read_torch((FORMATS / name).read_bytes(), rosinality.GLOBALS)
    expected = tensors_of(sample["g_ema"])
    assert found["g_ema"].keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found["g_ema"][key], tensor, rtol=0, atol=1e-7, msg=key)
    same(to_generator(read_foreign(Path("back.pt"))), Network.open(Path("net.safetensors")).load())


@pytest.mark.parametrize(
    "name", ["ada-cond-32.pkl", "ada-uncond-32.pkl", "stylegan3repo-sg2-32.pkl"]
)
def test_back_to_ada_is_the_state_that_it_was(name: str, sg2: Any) -> None:
    sg2("convert", FORMATS / name, "net.safetensors")
    assert sg2("convert", "net.safetensors", "back.pt", "--to", "ada").code == 0
    found = torch.load("back.pt", weights_only=True)
    content = (FORMATS / name).read_bytes()
    pickled, _ = load(memoryview(content), PICKLES, budget_for(len(content)))
    modules = dict(ada_pickle._modules(pickled["G_ema"]))
    expected = {key: tensor.tensor() for key, tensor in ada_pickle._tensors(modules).items()}
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
    ("changes", "told"),
    [
        ({"conv_clamp": 256}, "a conv_clamp of 256"),
        ({"c_dim": 3, "embed_features": 4}, "3 classes"),
        ({"architecture": "resnet"}, "the architecture resnet"),
        ({"activation": "relu"}, "the activation relu"),
        ({"img_channels": 1}, "1 picture channels"),
        ({"use_noise": False}, "without noise"),
        ({}, "mapping layers of (14, 16) for z of 12"),
    ],
)
def test_what_rosinality_cannot_express(sg2: Any, changes: dict[str, Any], told: str) -> None:
    save_generator(random_generator(**changes), Path("net.safetensors"), {})
    result = sg2("convert", "net.safetensors", "net.pt", "--to", "rosinality")
    assert result.code == 2
    assert told in result.err
    assert not Path("net.pt").exists()
    assert sg2("convert", "net.safetensors", "net.pt", "--to", "ada").code == 0
