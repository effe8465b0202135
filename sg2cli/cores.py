"""How many cores this process may use: those of the host are often not all its own."""

from __future__ import annotations

import math
import os
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
