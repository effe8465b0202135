"""Code for a CPU that is compiled when it is first used, by LLVM, for the processor that is there.

It runs in the threads of torch's OpenMP, as any others would compete with those.
"""

from __future__ import annotations

import ctypes
import os
import struct
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from threading import Lock, local
from typing import Any

import torch
from torch import Tensor

from sg2cli import cores
from sg2cli.ops.tensors import is_plain

Argument = int | float | Tensor | None
Step = Callable[..., None]
# LLVM's code, bytes of working memory that a thread of it needs, and the names of its arguments.
Compilable = tuple[str, int, list[str]]

LANES = 16  # numbers that are computed together
LAST = torch.channels_last

# Functions of OpenMP that the code itself calls: its first arguments.
CALLED = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")


@lru_cache
def openmp() -> ctypes.CDLL | None:
    """That of torch's threads, if it can be called, and there is LLVM to make use of it, and a
    processor that multiplies and adds at once."""
    try:
        if processor()[1].get("fma") is False:  # ARM's all do
            return None
    except (ImportError, OSError):
        return None
    library = ctypes.CDLL(torch._C.__file__)
    if not all(hasattr(library, name) for name in ("GOMP_parallel", *CALLED)):
        return None
    library.GOMP_parallel.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
    ]
    library.GOMP_parallel.restype = None
    return library


def processor() -> tuple[str, dict[str, bool]]:
    """LLVM's name for it, and what it has and has not."""
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())


_COMPILING = Lock()

if hasattr(os, "register_at_fork"):
    # The threads of OpenMP stay behind: a child that counts on them waits forever, in torch's own
    # operations as well.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
SPARE = 1 << 24  # numbers, 64 MiB: more than LLVM takes


def serves(*tensors: Tensor, channels: Sequence[int]) -> bool:
    """Whether compiled code can compute with these, of so many channels."""
    single = all(t.dtype == torch.float32 for t in tensors)
    fits = single and not any(n % LANES for n in channels)
    return fits and is_plain(*tensors) and openmp() is not None


@lru_cache
def compiled(module: str, function: str, *how: Any) -> Step:
    """What function(*how) of a module beside this gives: code, and the names of its arguments.

    The module is loaded only here, as it needs LLVM. The code takes its arguments by name: numbers,
    float32 among them, and tensors, whose addresses it sees; nothing checks that they are as large
    as it expects.
    """
    import llvmlite.binding as llvm

    library = openmp()
    assert library
    code, work, names = getattr(import_module(f"sg2cli.ops.{module}"), function)(*how)
    torch.empty(
        SPARE, dtype=torch.float32, device="cpu"
    )  # LLVM ends the process where there is no memory, torch says so
    with _COMPILING:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        name, features = processor()
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(name, llvm.FeatureMap(features).flatten(), opt=2)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(code), machine)
        engine.finalize_object()
    address = engine.get_function_address("step")
    called = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in CALLED]

    def run(engine: Any = engine, **given: Argument) -> None:
        """The engine has the code: it stays as long."""
        threads = cores.torch_threads()
        memory = scratch("work", threads * work // 4)
        told = array("q", [*called, memory.data_ptr(), work])
        told.extend(_number(given[name]) for name in names)
        library.GOMP_parallel(address, told.buffer_info()[0], threads, 0)

    return run


def _number(argument: Argument) -> int:
    if isinstance(argument, Tensor):
        address = argument.data_ptr()
        if argument.dtype != torch.float32 or (address == 0 and argument.numel()):
            raise TypeError(f"compiled code needs float32 in memory, not {argument.dtype}")
        return address
    if isinstance(argument, float):
        return int(struct.unpack("i", struct.pack("f", argument))[0])
    return argument or 0


_SCRATCH = local()


def scratch(name: str, numbers: int) -> Tensor:
    """Memory of this thread's: the same each time, so that it stays in the cache."""
    known: Tensor | None = getattr(_SCRATCH, name, None)
    if known is None or known.numel() < numbers:
        known = None
        _SCRATCH.__dict__.pop(name, None)
        with torch.inference_mode(False):  # to do for gradients, too
            known = torch.zeros(numbers, dtype=torch.float32, device="cpu")
        setattr(_SCRATCH, name, known)
    return known


def release() -> None:
    """Give back this thread's."""
    _SCRATCH.__dict__.clear()


def new_map(n: int, channels: int, height: int, width: int) -> Tensor:
    """[N,C,H,W], not filled."""
    shape = (n, channels, height, width)
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=LAST)


@lru_cache(maxsize=64)
def filled(value: float, numbers: int) -> Tensor:
    """For arguments that are not there."""
    with torch.inference_mode(False):
        return torch.full((numbers,), float(value), dtype=torch.float32, device="cpu")


def sizes(t: Tensor) -> dict[str, Argument]:
    """The arguments that tell the shape of a map [N,C,H,W]."""
    return dict(zip(("pictures", "channels", "height", "width"), t.shape, strict=True))


def map_of(name: str, t: Tensor) -> dict[str, Argument]:
    """The arguments of one [N,C,H,W], of which every row is in channels_last."""
    assert t.stride(1) == 1 and (t.shape[3] == 1 or t.stride(3) == t.shape[1]), t.stride()
    return {name: t, f"{name}_picture": t.stride(0), f"{name}_row": t.stride(2)}
