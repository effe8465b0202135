"""Devices, memory, and the number of cores and threads that this process may use.

The only place that sets torch's global switches. Imports torch only when it is needed.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sg2cli.errors import Sg2Error

PROC, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
A = TypeVar("A")
B = TypeVar("B")


def resolve(name: str) -> str:
    """'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' -> an available device; Sg2Error if there is none.

    On CUDA, float32 is float32 (no TF32), and the same call gives the same result. torch gets a
    thread for each core of this process, fewer if OMP_NUM_THREADS says so, and one if no more can
    be started.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
    torch_threads()
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
                f"{'' if count == 1 else 's'}; the device cpu always works; see `sg2 doctor`"
            )
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if name == "mps" and not mps:
        raise Sg2Error("no device mps: torch finds no Apple GPU; the device cpu always works")
    return name


def _keep_memory() -> None:
    """Keep freed memory for the next layer.

    glibc returns blocks of 32 MiB and more to the kernel at once, which clears every page when they
    are allocated again: a quarter of the time of a 1024x1024 image.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    if (libc := _glibc()) and not _address_space_is_limited():
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def release_memory() -> None:
    """Return unused memory to the system, after running out of it."""
    import torch

    torch.cuda.empty_cache()  # nothing without CUDA
    if libc := _glibc():
        libc.malloc_trim(0)


def in_new_thread(work: Callable[[A], B]) -> Callable[[A], B]:
    """Run work in a new thread, after oneDNN ran out of memory in this one.

    Once oneDNN could not allocate its scratchpad, every later call in that thread fails.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="work", initializer=torch_threads)
    return lambda argument: thread.submit(work, argument).result()


def _address_space_is_limited() -> bool:
    """Whether RLIMIT_AS is set, so that kept heap memory would be missing elsewhere."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def available_cores(membership: Path = PROC, root: Path = CGROUPS) -> int:
    """Cores by affinity, and by the quota of every control group that the process is in.

    A fraction of a core counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for quota in _quotas(membership, root):
        cores = min(cores, math.ceil(quota))
    return max(1, cores)


def can_start_threads(count: int) -> bool:
    """Whether this process can start so many more threads, which is tried.

    OpenMP and OpenBLAS abort the process if they cannot start theirs.
    """
    before, end, started = _thread_count(), threading.Event(), []
    size = threading.stack_size(_stack_size())
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:  # "can't start new thread"
        return False
    finally:
        threading.stack_size(size)
        end.set()
        for thread in started:
            thread.join()
        # A thread that has been joined may count for a moment longer.
        for _ in range(1000):
            if _thread_count() <= before:
                break
            time.sleep(1e-4)
    return True


def _stack_size() -> int:
    """Stack size of OpenMP's threads by the environment; 0 for the default of the system."""
    for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"):
        if match := re.fullmatch(r"\s*(\d{1,15})\s*([BKMG]?)\s*", os.environ.get(name, ""), re.I):
            size = int(match[1]) << {"B": 0, "K": 10, "": 10, "M": 20, "G": 30}[match[2].upper()]
            return min(max(size, 1 << 15), 1 << 46) // 4096 * 4096
    return 0


def _thread_count() -> int:
    """Number of threads of this process; 0 if the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208
    except OSError:
        return 0


_LOCAL = threading.local()  # each computing thread has its own OpenMP pool


def torch_threads() -> int:
    """Number of threads that torch uses; set to one if no more can be started.

    To be called by each computing thread before it computes for the first time.
    """
    import torch

    count = torch.get_num_threads()
    if count > getattr(_LOCAL, "started", 1):
        if not can_start_threads(count - 1):
            count = 1
            torch.set_num_threads(1)
        _LOCAL.started = count
    return count


def limit_thread_pools(environment: MutableMapping[str, str]) -> None:
    """Set libraries to one thread, before they are loaded, if no more can be started."""
    if not can_start_threads(available_cores() - 1):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = "1"


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
            # In a container the path may be that of the host, which is not visible inside.
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
