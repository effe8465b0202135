"""The group: help, completion, errors, and a fast start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from sg2cli.cli.main import COMMANDS, cli
from tests.conftest import SG2, one_line

HEAVY = ("torch", "lpips", "torchvision")
WATCHED = f"""
import sys
from sg2cli.cli.main import run
code = run(sys.argv[1:])
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print("LOADED", *loaded, "CODE", code, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["--show-completion", "bash"], 0),
        *[([command, "--help"], 0) for command in COMMANDS],
        (["generate"], 2),
        (["generate", "--seeds", "7-3"], 2),
        (["generate", "--seeds", "0", "--trunc", "x"], 2),
        (["generate", "--seeds", "0", "--trunc-cutoff", "99"], 2),
        (["generate", "--seeds", "0", "--class", "1"], 2),
        (["generate", "--seeds", "0", "--device", "tpu"], 2),
        (["generate", "--seeds", "0-1", "--out", "-"], 2),
        (["generate", "--seeds", "0-1", "--grid=1x1"], 2),
        (["generate", "--seeds", "0", "-n", "missing"], 2),
        (["generate", "--latents", "missing.npy"], 2),
        (["info", "missing"], 2),
        (["info"], 0),
        (["frobnicate"], 2),
    ],
)
def test_help_and_usage_errors_do_not_load_torch(in_tmp: Path, args: list[str], code: int) -> None:
    command = [sys.executable, "-c", WATCHED, *args]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == f"LOADED CODE {code}", result.stderr


def test_every_command_and_option_has_help() -> None:
    with click.Context(cli) as ctx:
        for name in COMMANDS:
            command = cli.get_command(ctx, name)
            assert command is not None
            assert command.get_short_help_str(200).endswith(".")
            for option in command.params:
                described = not isinstance(option, click.Option) or option.help
                assert described or option.name == "format", f"{name} {option.opts}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(sg2: Any, shell: str) -> None:
    result = sg2("--show-completion", shell)
    assert result.code == 0
    assert "_SG2_COMPLETE" in result.out
    assert "sg2" in result.out


def complete(words: str, number: int) -> list[str]:
    environment = {**os.environ, "_SG2_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": words, "COMP_CWORD": str(number)}
    result = subprocess.run(SG2, capture_output=True, text=True, env=environment, check=True)
    return result.stdout.split()


def test_completion_completes() -> None:
    assert complete("sg2 gen", 1) == ["plain,generate"]
    assert "plain,--seeds" in complete("sg2 generate --s", 2)
    assert complete("sg2 generate --network av", 3) == ["plain,avatars-128"]
    assert complete("sg2 generate --network x", 3) == ["file,x"]
    assert complete("sg2 generate --latents x", 3) == ["file,x"]
    assert complete("sg2 generate --noise-mode ", 3) == [
        "plain,const",
        "plain,random",
        "plain,none",
    ]


def test_bash_takes_the_completion_script(sg2: Any) -> None:
    script = sg2("--show-completion", "bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_an_unknown_command_is_one_line(sg2: Any) -> None:
    result = sg2("frobnicate")
    assert result.code == 2
    assert "no command 'frobnicate' (see" in one_line(result.err)
    assert "no command 'genrate', did you mean generate?" in one_line(sg2("genrate").err)


def test_no_command_shows_the_help(sg2: Any) -> None:
    result = sg2()
    assert result.code == 2
    assert "generate" in result.err


def test_a_traceback_only_on_request(in_tmp: Path, shell: Any) -> None:
    Path("bad.safetensors").write_bytes(b"bad")
    command = ("generate", "--seeds", "0", "-n", "bad.safetensors")
    plain = shell(*command)
    assert plain.returncode == 3
    one_line(plain.stderr.decode())
    debug = shell(*command, env={**os.environ, "SG2_DEBUG": "1"})
    assert b"Traceback" in debug.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory: use a smaller --batch"),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory: use a smaller --batch"),
        (KeyError("x"), "SG2_DEBUG=1 for a traceback): KeyError: 'x'"),
    ],
)
def test_unexpected_errors_are_one_line_too(
    sg2: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr("sg2cli.sampling.drawing.try_render", broken)
    result = sg2("generate", "--seeds", "0")
    assert result.code == 1
    assert message in one_line(result.err)
