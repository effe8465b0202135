"""Compiled code on a CPU: availability, compilation and calls.

Kernels run in the OpenMP threads of torch; a second pool would compete with them.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from threading import Lock, local
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from sg2cli import devices
from sg2cli.ops import backend
from sg2cli.ops.backend import KernelUnavailable

LANES = 16  # numbers per vector: channels computed together
LAST = torch.channels_last
OPENMP = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")  # called by the kernels
SPARE = 1 << 24  # numbers, 64 MiB: more than LLVM takes for a kernel

# Types of kernel arguments. In a kernel they are LLVM values, in a call Python values; both are Any
# for type checkers, and are checked at each call.
Int: TypeAlias = Any  # int
Float: TypeAlias = Any  # float
Buffer: TypeAlias = Any  # a contiguous tensor; the kernel sees its address
Strided: TypeAlias = Any  # a tensor whose strides are separate arguments
Map: TypeAlias = Any  # [N,C,H,W] with rows in channels_last, and its steps between images and rows


@dataclass
class Arguments:
    """The arguments of a kernel, by name and type, in the order of the fields of a subclass."""

    LAYOUT: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init_subclass__(cls) -> None:
        names: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            own = base.__dict__.get("__annotations__", {})
            names |= {name: kind for name, kind in own.items() if "ClassVar" not in kind}
        cls.LAYOUT = tuple(names.items())

    def sizes(self) -> dict[str, tuple[int, ...] | int]:
        """What the kernel accesses: the shape of each tensor, or the minimum size of a Buffer."""
        raise NotImplementedError

    def check(self) -> None:
        """ValueError if a tensor does not match what the kernel accesses."""
        for name, size in self.sizes().items():
            t: Tensor = getattr(self, name)
            if t.shape != size if isinstance(size, tuple) else t.numel() < size:
                raise ValueError(f"{name} has the shape {list(t.shape)}, the kernel needs {size}")

    def pack(self) -> list[int]:
        """Each argument as an int64: addresses, and the bits of a float32."""
        packed: list[int] = []
        for name, kind in self.LAYOUT:
            value = getattr(self, name)
            if kind == "Int":
                packed.append(value)
            elif kind == "Float":
                packed.append(struct.unpack("i", struct.pack("f", value))[0])
            else:
                packed.append(_address(name, kind, value))
                if kind == "Map":
                    packed += (value.stride(0), value.stride(2))
        return packed


def _address(name: str, kind: str, t: Tensor) -> int:
    address = t.data_ptr()
    if t.dtype != torch.float32 or (address == 0 and t.numel()):
        raise TypeError(f"{name} must be float32 in memory, not {t.dtype}")
    if kind == "Buffer" and not t.is_contiguous():
        raise ValueError(f"{name} must be contiguous; its strides are {t.stride()}")
    if kind == "Map" and (t.stride(1) != 1 or t.stride(3) != t.shape[1]) and not _is_flat(t):
        raise ValueError(f"{name} must have rows in channels_last; its strides are {t.stride()}")
    return address


def _is_flat(t: Tensor) -> bool:
    """Whether rows are in channels_last, ignoring strides of dimensions of size 1."""
    steps = ((1, 1), (3, t.shape[1]))
    return all(t.shape[dim] <= 1 or t.stride(dim) == step for dim, step in steps)


@dataclass(frozen=True)
class Source:
    """A kernel in LLVM assembly, and what its calls need."""

    code: str
    arguments: type[Arguments]
    work: int  # bytes of working memory for each thread


Kernel: TypeAlias = Callable[..., None]  # of Arguments, and optionally a number of threads
_COMPILING = Lock()


def why_not() -> str | None:
    """Why compiled code is not used, or None."""
    return backend.failure("cpu") or _unsupported()


@cache
def _unsupported() -> str | None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "compiled code is used only on Linux x86-64"
    try:
        features = processor()[1]
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be loaded ({error}); pip install llvmlite"
    if not features.get("fma"):
        return "this processor has no fused multiply-add (FMA)"
    if _openmp() is None:
        return "this torch is built without GNU OpenMP"
    if not _may_execute():
        return "this system does not allow executable memory"
    return None


def processor() -> tuple[str, dict[str, bool]]:
    """LLVM's name and features of the processor."""
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library of torch, if it can be called."""
    library = ctypes.CDLL(torch._C.__file__)
    if not all(hasattr(library, name) for name in ("GOMP_parallel", *OPENMP)):
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_uint
    library.GOMP_parallel.argtypes = [pointer, pointer, number, number]
    library.GOMP_parallel.restype = None
    return library


def _may_execute() -> bool:
    """Whether written memory may be made executable, which LLVM does without a check."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page[0] = 0xC3  # a return instruction
    start = ctypes.c_char.from_buffer(page)
    address = ctypes.c_void_p(ctypes.addressof(start))
    executable = libc.mprotect(address, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | 4) == 0
    del start
    return executable


@cache
def kernel(module: str, function: str, *options: Any) -> Kernel:
    """Compile the `Source` that function(*options) of a module of this package returns.

    KernelUnavailable if that fails. The module is imported here, as it requires llvmlite.
    """
    # Without memory, LLVM aborts the process; torch raises an error.
    torch.empty(SPARE, dtype=torch.float32, device="cpu")
    try:
        source: Source = getattr(import_module(f"sg2cli.ops.cpu.{module}"), function)(*options)
        with _COMPILING:
            engine, address = _compile(source.code)
    except (ImportError, OSError, RuntimeError) as error:
        raise KernelUnavailable(f"LLVM cannot compile {function} ({error})") from error
    library = _openmp()
    assert library
    called = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in OPENMP]

    def call(arguments: Arguments, threads: int = 0, engine: Any = engine) -> None:
        """Run the kernel; `engine` is kept alive because it owns the code."""
        arguments.check()
        threads = threads or devices.torch_threads()
        work = scratch("work", threads * source.work // 4)
        packed = array("q", (*called, work.data_ptr(), source.work, *arguments.pack()))
        library.GOMP_parallel(address, packed.buffer_info()[0], threads, 0)

    return call


def _compile(code: str) -> tuple[Any, int]:
    """The LLVM engine, and the address of its function `step`."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(code), target_machine())
    engine.finalize_object()
    return engine, engine.get_function_address("step")


def target_machine() -> Any:
    """LLVM's target machine for this processor."""
    import llvmlite.binding as llvm

    name, features = processor()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(name, llvm.FeatureMap(features).flatten(), opt=2)


_SCRATCH = local()


def scratch(name: str, numbers: int) -> Tensor:
    """Working memory of this thread, reused between calls, so that it stays in the cache."""
    known: Tensor | None = getattr(_SCRATCH, name, None)
    if known is None or known.numel() < numbers:
        known = None
        _SCRATCH.__dict__.pop(name, None)
        with torch.inference_mode(False):  # usable with gradients as well
            known = torch.zeros(numbers, dtype=torch.float32, device="cpu")
        setattr(_SCRATCH, name, known)
    return known


def scratch_map(name: str, n: int, channels: int, height: int, width: int) -> Tensor:
    """[N,C,H,W] in channels_last, in working memory that is valid until the next request."""
    numbers = n * channels * height * width
    return scratch(name, numbers)[:numbers].view(n, height, width, channels).permute(0, 3, 1, 2)


def release_scratch() -> None:
    """Free the working memory of this thread."""
    _SCRATCH.__dict__.clear()


def new_map(n: int, channels: int, height: int, width: int) -> Tensor:
    """Uninitialised [N,C,H,W] in channels_last."""
    shape = (n, channels, height, width)
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=LAST)


@lru_cache(maxsize=64)
def filled(value: float, numbers: int) -> Tensor:
    """A constant tensor in place of absent arguments."""
    with torch.inference_mode(False):
        return torch.full((numbers,), float(value), dtype=torch.float32, device="cpu")
