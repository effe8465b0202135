"""Hostile pickles and .pt files: refused before anything is imported, called or made large."""

from __future__ import annotations

import copyreg
import io
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
from foreign_files import fake_modules, rosinality_state, write_ada
from networks import random_generator, same

from sg2cli.checkpoints.importer import read_checkpoint, to_generator
from sg2cli.checkpoints.pickle_globals import GLOBALS
from sg2cli.checkpoints.pickle_reader import budget_for, load
from sg2cli.checkpoints.torch_tensors import read_torch
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import LimitExceeded


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
    "unknown function": dumps(Call("pg_modules.ops", "build", "touch canary")),
    "unknown function in D": dumps({"D": Call("evil", "run", "touch canary")}),
    "torch function": dumps(Call("torch.utils.cpp_extension", "load", "evil")),
    "newobj of a function": b"\x80\x02cos\nsystem\nU\x0ctouch canary\x85\x81.",
    "newobj with names": b"\x80\x04cos\nsystem\nU\x0ctouch canary\x85}\x92.",
    "reconstructor": dumps(
        Call("copyreg", "_reconstructor", Name("subprocess", "Popen"), Name("builtins", "object"))
    ),
    "partial of os": dumps(Called(Call("functools", "partial", SYSTEM), "touch canary")),
    "call of an instance": dumps(Called(Call("evil", "Thing"), "touch canary")),
    "build of an unknown class": b"\x80\x02cevil\nThing\n}U\x05_nameU\x01xsb.",
    "inside an unknown class": dumps(Call("evil", "Thing.__init__.__globals__")),
    "buffer": dumps(Call("numpy.core.numeric", "_frombuffer", RUN, Name("numpy", "dtype"), (0,))),
    "class of a module": dumps(0x1950A86A20F9469CFC6C)
    + dumps(1001)
    + dumps({})
    + b"\x80\x02U\x06modulecos\nsystem\n\x86QU\x0ctouch canary\x85R.",
    "call of a call": dumps(Call(*RECONSTRUCT, {"state": {}}))[:-1] + b")R.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(in_tmp: Path, name: str, sg2: Any) -> None:
    Path("net.pkl").write_bytes(HOSTILE[name])
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 3
    assert len(result.err.strip().splitlines()) == 1
    assert result.err.startswith("sg2: net.pkl: ")
    message = sg2("info", "net.pkl")
    assert (message.code, len(message.err.strip().splitlines())) == (3, 1)
    assert [path.name for path in Path().iterdir()] == ["net.pkl"]


def test_extension_codes_are_refused_even_if_this_process_knows_them(in_tmp: Path) -> None:
    """A code that was used before comes out of a cache, without the name being asked for."""
    content = b"\x80\x02\x82\x2aU\x0ctouch canary\x85R."
    copyreg.add_extension("os", "system", 42)
    try:
        pickle.loads(content[:4] + b".")
        Path("net.pkl").write_bytes(content)
        with pytest.raises(CheckpointError, match="opcode EXT1 at byte 2"):
            read_checkpoint(Path("net.pkl"))
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
        read_checkpoint(Path("net.pt"))


def test_a_compressed_data_pkl_is_refused(in_tmp: Path) -> None:
    with zipfile.ZipFile("net.pt", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + b"N0" * (8 << 20) + b"N.")
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(Path("net.pt"))


def test_names_in_a_file_do_not_control_the_terminal(sg2: Any) -> None:
    Path("net.pkl").write_bytes(b"\x80\x02c\x1b[31mos\nsystem\n.")
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 3
    assert "\x1b" not in result.err


def test_a_refused_global_is_named_with_its_offset(in_tmp: Path) -> None:
    Path("net.pkl").write_bytes(HOSTILE["state"])
    offset = HOSTILE["state"].index(b"cos\nsystem")
    with pytest.raises(CheckpointError, match=rf"os\.system at byte {offset}"):
        read_checkpoint(Path("net.pkl"))


# These fetch or prepare something, and run nothing by themselves.
HARMLESS = {
    *("torch.load", "torch.hub", "numpy load", "copyreg extension", "persistent id", "webbrowser"),
    *("code", "dotted", "sg2's own", "build of a class", "slots of a class"),
    *("slots of a function", "call of data", "call of a call", "torch function"),
    *("newobj of a function", "newobj with names", "reconstructor", "build of an unknown class"),
    *("inside an unknown class", "class of a module"),
}
OBEYING = """
import contextlib, pathlib, pickle, sys, types, torch
for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.tflib", "evil"):
    sys.modules[name] = types.ModuleType(name)
for name in ("pg_modules", "pg_modules.ops"):
    sys.modules[name] = types.ModuleType(name)
run = sys.modules["evil"].run = sys.modules["pg_modules.ops"].build = __import__("os").system
class Thing:
    def __call__(self, command):
        run(command)
sys.modules["evil"].Thing = Thing
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


def test_the_hostile_files_would_be_harmful_elsewhere(in_tmp: Path) -> None:
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
        read_checkpoint(Path("net.pkl"))
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
    load(memoryview(content), GLOBALS, budget)
    assert budget.used["opcodes"] < 0.1 * budget.limits["opcodes"]
    assert budget.used["bytes_given_to_calls"] < 0.3 * budget.limits["bytes_given_to_calls"]
    assert budget.used["tensors"] < 0.1 * budget.limits["tensors"]


def refused_cheaply(path: Path, message: str = ".") -> None:
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=message):
        to_generator(read_checkpoint(path))
    assert time.process_time() - start < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 << 10  # in KiB


def test_a_legacy_file_does_not_name_its_numbers_by_nested_tuples(in_tmp: Path) -> None:
    keys = DAG[2:] + b"]h\x00a."
    start = dumps(0x1950A86A20F9469CFC6C) + dumps(1001) + dumps({}) + dumps({})
    Path("net.pt").write_bytes(start + b"\x80\x02" + keys)
    refused_cheaply(Path("net.pt"), "a key in it is not a plain value")


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
    found = read_torch(content, GLOBALS, budget)
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
    refused_cheaply(Path("net.pkl"), "not a StyleGAN2")


def test_a_filter_of_excessive_size_is_refused(in_tmp: Path) -> None:
    G = random_generator(resample_filter=tuple([1.0] * 2000))
    write_ada(G, Path("net.pkl"))
    refused_cheaply(Path("net.pkl"), "resample_filter has the shape")


def test_keys_of_old_optimisers_are_numbers_of_their_process(in_tmp: Path) -> None:
    """torch before 1.6 named parameters by their address."""
    G = random_generator()
    optimiser = {"state": {139_637_976_727_552: {"step": 1}}, "param_groups": []}
    whole = {"g_ema": rosinality_state(G), "g_optim": optimiser, "latent_avg": G.mapping.w_avg}
    torch.save(whole, "net.pt", _use_new_zipfile_serialization=False)
    same(to_generator(read_checkpoint(Path("net.pt"))), G)


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
        read_checkpoint(Path("net.pt"))
