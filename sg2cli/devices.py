"""Where to compute. The only place that sets torch's global switches."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sg2cli import cores
from sg2cli.errors import Sg2Error

A = TypeVar("A")
B = TypeVar("B")


def resolve(name: str) -> str:
    """'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' -> a device that is there; Sg2Error if it is not.

    On CUDA, float32 is float32 (no TF32), and the same call gives the same result. torch gets as
    many threads as there are cores for this process; fewer if OMP_NUM_THREADS says so, and one if
    no more can be started.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), cores.available()))
    cores.torch_threads()
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cpu":
        _keep_memory()
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if cuda else 0
        if int(name.partition(":")[2] or 0) >= count:
            raise Sg2Error(
                f"no device {name}: torch {torch.__version__} finds {count or 'no'} CUDA device"
                f"{'' if count == 1 else 's'}; --device cpu works everywhere, sg2 doctor says more"
            )
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if name == "mps" and not mps:
        raise Sg2Error(
            "no device mps: this torch finds no Apple GPU; --device cpu works everywhere"
        )
    return name


def _keep_memory() -> None:
    """Let what one layer frees serve the next.

    glibc hands blocks of 32 MiB and more back to the kernel at once, which clears each page anew
    when it is asked for again: a quarter of the time of a 1024x1024 picture.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    if (libc := _glibc()) and not _address_space_is_limited():
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def release_memory() -> None:
    """Give back what is kept, after an attempt that there was no memory for."""
    import torch

    torch.cuda.empty_cache()  # nothing without CUDA
    if libc := _glibc():
        libc.malloc_trim(0)


def in_new_thread(work: Callable[[A], B]) -> Callable[[A], B]:
    """The same work, in a thread that has not run out of memory.

    Where oneDNN had no memory for its scratchpad once, it goes on without one: all that it should
    do in that thread fails from then on, however small.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="work", initializer=cores.torch_threads)
    return lambda argument: thread.submit(work, argument).result()


def _address_space_is_limited() -> bool:
    """Where what is kept in holes of the heap would be missing for code and stacks."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
