"""Cores by affinity and control groups."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("room", [0, 1, 5])
def test_threads_that_can_be_started(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a limit leaves room for so many; all of them end again, and stacks are as before."""
    start, before = threading.Thread.start, threading.active_count()

    def limited(thread: threading.Thread) -> None:
        if threading.active_count() >= before + room:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    for count in range(7):
        assert devices.can_start_threads(count) == (count <= room)
        assert threading.active_count() == before
    assert threading.stack_size() == 0


@pytest.mark.parametrize(
    ("setting", "size"),
    [("", 0), ("x", 0), ("64", 1 << 16), ("16k", 1 << 15), ("3 M", 3 << 20), ("1G", 1 << 30)],
)
def test_stacks_as_openmp_makes_them(
    setting: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_STACKSIZE", setting)
    assert devices._stack_size() == size


def test_torch_computes_on_one_thread_where_no_more_can_be_started(
    set_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    set_threads(3)
    monkeypatch.setattr(devices, "_LOCAL", threading.local())
    asked = []
    monkeypatch.setattr(devices, "can_start_threads", lambda count: asked.append(count) or False)
    assert devices.torch_threads() == 1 == torch.get_num_threads()
    assert devices.torch_threads() == 1
    assert asked == [2]


def test_pools_are_kept_small_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(devices, "available_cores", lambda: 4)
    devices.limit_thread_pools(environment)
    assert environment == {}
    monkeypatch.setattr(devices, "can_start_threads", lambda count: False)
    devices.limit_thread_pools(environment)
    assert set(environment.values()) == {"1"} and "OPENBLAS_NUM_THREADS" in environment


# A user other than root, whom the limit does not bind, but who may read the same files.
AS_A_USER = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"] + [
    f"--{kind}=-all,+dac_override" for kind in ("inh-caps", "ambient-caps", "bounding-set")
]


@pytest.mark.skipif(
    not (shutil.which("setpriv") and shutil.which("prlimit")) or os.geteuid() != 0,
    reason="needs root, setpriv and prlimit",
)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_limit_on_processes(limit: int, tmp_path: Path) -> None:
    """Neither OpenMP nor OpenBLAS ends the process."""
    script = (
        "import os; from sg2cli import devices; devices.limit_thread_pools(os.environ)\n"
        "import numpy, torch; from sg2cli import checkpoints, devices; devices.resolve('cpu')\n"
        "G = checkpoints.load(device='cpu')\n"
        "print(G(torch.ones(8, G.config.z_dim)).isfinite().all().item())"
    )
    environment = {key: value for key, value in os.environ.items() if "THREADS" not in key}
    done = subprocess.run(
        [*AS_A_USER, "prlimit", f"--nproc={limit}", sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.skipif(
    not (shutil.which("setpriv") and shutil.which("prlimit")) or os.geteuid() != 0,
    reason="needs root, setpriv and prlimit",
)
@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_command_under_a_limit_on_processes(limit: int, tmp_path: Path) -> None:
    """The writer of images does without its threads, and so does the progress bar."""
    environment = {key: value for key, value in os.environ.items() if "THREADS" not in key}
    command = [sys.executable, "-m", "sg2cli", "generate", "--seeds", "0-3", "--grid"]
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [*AS_A_USER, "prlimit", f"--nproc={limit}", *command, "--out", str(tmp_path / "o")],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 5
