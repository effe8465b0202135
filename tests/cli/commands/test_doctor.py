"""`sg2 doctor`: silent about what works, loud about what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sg2cli import checkpoints
from sg2cli.cli.commands.doctor import CHECKS


def test_all_is_well(sg2: Any) -> None:
    result = sg2("doctor")
    assert result.code == 0, result.out
    assert len(result.lines) == len(CHECKS) + 1
    assert all(line.startswith("ok ") for line in result.lines)


def test_json(sg2: Any) -> None:
    checks = [json.loads(line) for line in sg2("doctor", "--json").lines]
    assert [check["check"] for check in checks] == [*CHECKS, "network"]
    assert all(check["ok"] for check in checks)


@pytest.fixture
def weights(sg2: Any, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed weights, to be damaged."""
    folder = in_tmp / "weights"
    folder.mkdir()
    for path in checkpoints.weights_folder().iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(checkpoints, "weights_folder", lambda: folder)
    return folder


def broken(result: Any) -> list[str]:
    assert result.code == 1
    assert "checks failed" in result.err
    return [line.split()[1] for line in result.lines if line.startswith("BROKEN")]


def test_missing_weights(sg2: Any, weights: Path) -> None:
    (weights / "lpips-alex.safetensors").unlink()
    assert broken(sg2("doctor")) == ["weights", "lpips"]


def test_lpips_that_measures_something_else(sg2: Any, weights: Path) -> None:
    path = weights / "lpips-vgg.safetensors"
    content = bytearray(path.read_bytes())
    content[1_000_000:2_000_000] = bytes(1_000_000)
    path.write_bytes(content)
    assert broken(sg2("doctor")) == ["weights", "lpips"]


def test_changed_weights(sg2: Any, weights: Path) -> None:
    path = weights / "avatars-128.safetensors"
    content = bytearray(path.read_bytes())
    content[-40_000:] = bytes(40_000)
    path.write_bytes(content)
    assert broken(sg2("doctor")) == ["weights", "drawing"]


def test_a_table_of_weights_that_is_empty(sg2: Any, weights: Path) -> None:
    (weights / "README.md").write_text("nothing")
    assert broken(sg2("doctor")) == ["weights"]


def test_a_device_that_is_not_there(sg2: Any) -> None:
    names = ["device", "ops", "lpips", "drawing", "network"]
    assert broken(sg2("doctor", "--device", "cuda:99")) == names


def test_the_network_of_the_environment(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SG2_NETWORK", "no-such")
    assert broken(sg2("doctor")) == ["network"]


def test_the_operations_in_use(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(device: str = "cpu") -> str:
        checks = [json.loads(line) for line in sg2("doctor", "--json", "--device", device).lines]
        return next(check["says"] for check in checks if check["check"] == "ops")

    from sg2cli import ops
    from sg2cli.ops import selftest
    from sg2cli.ops.cpu import runtime

    if ops.has_compiled_cpu():
        assert "Winograd" in says()
    assert f"{len(selftest.CHECKS)} operations agree with plain torch" in says()
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "why_not", lambda: "no llvmlite")
        assert "torch's own operations: no llvmlite" in says()
    monkeypatch.setattr(ops, "has_triton", lambda: True)
    assert "Triton kernels" in ops.describe_backend("cuda:1")
    monkeypatch.setattr(ops, "has_triton", lambda: False)
    assert "torch's own" in ops.describe_backend("cuda")
    assert "torch's own" in ops.describe_backend("mps")


def test_an_operation_that_is_wrong_is_named(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sg2cli.ops import selftest

    right = selftest.CHECKS[-1]
    wrong = right._replace(name="lopsided", tuned=lambda *given: right.tuned(*given) * 1.001)
    monkeypatch.setattr(selftest, "CHECKS", (*selftest.CHECKS, wrong))
    result = sg2("doctor")
    assert broken(result) == ["ops"]
    assert "lopsided (1e-03)" in result.out


def test_memory_is_described_where_there_is_no_sysconf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf")
    assert CHECKS["memory"]("cpu").startswith("size of main memory unknown")
