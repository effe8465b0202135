"""Where to compute: devices, memory, and how many cores this process may use.

The only place that sets torch's global switches. Imports torch only when it is needed.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sg2cli.errors import Sg2Error

PROC, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
A = TypeVar("A")
B = TypeVar("B")


def resolve(name: str) -> str:
    """'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' -> a device that is there; Sg2Error if it is not.

    On CUDA, float32 is float32 (no TF32), and the same call gives the same result. torch gets as
    many threads as there are cores for this process, or fewer if OMP_NUM_THREADS says so.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))

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
    thread = ThreadPoolExecutor(1, thread_name_prefix="work")
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


def available_cores(membership: Path = PROC, root: Path = CGROUPS) -> int:
    """Cores by affinity, and by the quota of every control group that the process is in.

    A part of a core counts as one: a thread that is stopped now and then still gets it used.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for quota in _quotas(membership, root):
        cores = min(cores, math.ceil(quota))
    return max(1, cores)


def _quotas(membership: Path, root: Path) -> list[float]:
    """Quotas, in cores, of the process's groups and of all above them, version 2 and 1."""
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return []
    quotas = []
    for line in lines:  # 0::/user.slice/app of version 2, 4:cpu,cpuacct:/docker/ab of version 1
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            tops, read = [root, root / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            tops, read = [root / "cpu", root / controllers], _quota_v1
        else:
            continue
        for top in tops:
            # In a container the path may be that of the host, which is not to be seen from inside.
            folder = top / group.lstrip("/")
            for place in {top, folder, *folder.parents}:
                if place.is_relative_to(top) and (quota := read(place)):
                    quotas.append(quota)
    return quotas


def _quota_v2(folder: Path) -> float | None:
    """cpu.max: '150000 100000', microseconds in each period; 'max 100000' is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text("utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    """cpu.cfs_quota_us, of which -1 is no limit, in each cpu.cfs_period_us."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text("utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text("utf-8"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
