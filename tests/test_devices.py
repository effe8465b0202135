"""Cores by affinity and control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sg2cli import devices

# /proc/self/cgroup, files under /sys/fs/cgroup, cores of 16.
GROUPS: dict[str, tuple[str, dict[str, str], int]] = {
    "none": ("0::/\n", {}, 16),
    "v2": ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n"}, 3),
    "v2-above": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"},
        2,
    ),
    "v2-in-a-container": ("0::/../host\n", {"cpu.max": "50000 100000\n"}, 1),
    "v2-no-limit": ("0::/a\n", {"a/cpu.max": "max 100000\n"}, 16),
    "v2-more-than-all": ("0::/a\n", {"a/cpu.max": "6400000 100000\n"}, 16),
    "v1": (
        "3:cpuset:/\n4:cpu,cpuacct:/d\n",
        {"cpu,cpuacct/d/cpu.cfs_quota_us": "400000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
        4,
    ),
    "v1-in-a-container": (
        "4:cpuacct,cpu:/docker/0123\n",
        {"cpu/cpu.cfs_quota_us": "120000", "cpu/cpu.cfs_period_us": "100000"},
        2,
    ),
    "v1-no-limit": (
        "1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        16,
    ),
    "v1-other-controllers": (
        "1:cpuset:/d\n",
        {"cpuset/d/cpu.cfs_quota_us": "100000", "cpuset/d/cpu.cfs_period_us": "100000"},
        16,
    ),
    "nonsense": ("0::/a\n\nx\n", {"a/cpu.max": "much\n", "cpu.max": "1 0\n"}, 16),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quotas(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, files, expected = GROUPS[name]
    (tmp_path / "cgroup").write_text(lines)
    for path, content in files.items():
        file = tmp_path / "sys" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert devices.available_cores(tmp_path / "cgroup", tmp_path / "sys") == expected


def test_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert devices.available_cores(tmp_path / "no-such", tmp_path) == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_torch_uses_the_cores_it_may() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import torch;"
        "from sg2cli import devices; devices.resolve('cpu'); print(torch.get_num_threads())"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("OMP")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(("asked", "used"), [(None, 3), ("7", 3), ("2", 2)])
def test_threads_asked_for(asked: str | None, used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than there are cores may be asked for, more would stand in each other's way."""
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: int(asked or 16))
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    devices.resolve("cpu")
    assert chosen == [used]
