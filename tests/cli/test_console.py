"""Half precision on a CPU: a note that fp32 is faster, once and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ADVICE = "fp32 is faster there and more accurate"
COMMANDS = (
    ("generate", "--seeds", "0-1", "--batch", "1"),
    ("project", str(Path(__file__).parent.parent / "targets/avatar-dev00.png"), "--steps", "1"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_cpu_is_advised_against_once(
    sg2: Any, in_tmp: Path, command: tuple[str, ...], precision: str
) -> None:
    result = sg2(*command, "--device", "cpu", "--precision", precision, "--out", "out")
    assert result.code == 0
    assert result.err.count(ADVICE) == 1
    assert f"--precision {precision}" in result.err


@pytest.mark.parametrize("more", [("--precision", "fp32"), (), ("--precision", "bf16", "-q")])
def test_no_advice_for_full_precision_or_quiet_runs(
    sg2: Any, in_tmp: Path, more: tuple[str, ...]
) -> None:
    result = sg2("generate", "--seeds", "0", "--device", "cpu", "--out", "out", *more)
    assert result.code == 0
    assert ADVICE not in result.err
