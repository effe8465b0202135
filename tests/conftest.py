from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sg2cli.cli.main import run

SG2 = [sys.executable, "-m", "sg2cli"]
# Shells let what they start in the background ignore it, and the commands that we start with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """How many torch computes with, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def randn() -> Callable[..., torch.Tensor]:
    """Standard normal numbers in float64, from a fixed seed."""
    numbers = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=numbers, dtype=torch.float64)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SG2_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def sg2(in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Result]]:
    """Runs a command line in this process (torch is loaded but once) in an empty folder."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*args: object) -> Result:
        capfd.readouterr()
        code = run([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def shell(in_tmp: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs a command line as a user does, in a process of its own."""

    def call(*args: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = SG2 + [str(arg) for arg in args]
        return subprocess.run(command, capture_output=True, timeout=600, check=False, **options)

    return call


def one_line(text: str) -> str:
    """An error as users are to see it: a single line that begins with the program's name."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("sg2: "), text
    return lines[0]
