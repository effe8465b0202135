"""How many cores this process may use, and how many threads it may start.

The cores of the host are often not all its own, and a limit on processes (ulimit -u, a container's
pids.max) counts threads.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import MutableMapping
from pathlib import Path

PROC, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available(membership: Path = PROC, root: Path = CGROUPS) -> int:
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


def can_start_threads(count: int) -> bool:
    """Whether this process may have so many threads more: starts them, and ends them again.

    OpenMP and OpenBLAS end the process where they cannot start theirs, so this has to be known
    before.
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
    """Of the threads of OpenMP, where it is told by the environment; 0 for the system's own."""
    for name in ("OMP_STACKSIZE", "GOMP_STACKSIZE"):
        if match := re.fullmatch(r"\s*(\d{1,15})\s*([BKMG]?)\s*", os.environ.get(name, ""), re.I):
            size = int(match[1]) << {"B": 0, "K": 10, "": 10, "M": 20, "G": 30}[match[2].upper()]
            return min(max(size, 1 << 15), 1 << 46) // 4096 * 4096
    return 0


def _thread_count() -> int:
    """Of this process, as the kernel counts; 0 where it does not say."""
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208
    except OSError:
        return 0


_LOCAL = threading.local()  # each thread that computes has a pool of OpenMP's of its own


def torch_threads() -> int:
    """How many threads torch computes with; one, from here on, where no more can be started.

    For each thread that computes, before it does so for the first time.
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
    """Keep libraries that are about to be loaded from starting threads, where there may be none."""
    if not can_start_threads(available() - 1):
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
