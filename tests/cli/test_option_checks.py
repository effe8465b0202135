"""Options that would be ignored are usage errors, in every command."""

from __future__ import annotations

from typing import Any

import click
import pytest

from sg2cli.cli.main import COMMANDS, cli
from tests.conftest import one_line


def single_options() -> list[tuple[str, str]]:
    """Every option with one value, of every command, by the first of its long names."""
    with click.Context(cli) as ctx:
        commands = {name: cli.get_command(ctx, name) for name in COMMANDS}
    return [
        (name, next(opt for opt in param.opts if opt.startswith("--")))
        for name, command in commands.items()
        if command
        for param in command.params
        if isinstance(param, click.Option) and not (param.multiple or param.is_flag)
    ]


@pytest.mark.parametrize(("command", "option"), single_options())
def test_a_repeated_option_is_refused(sg2: Any, command: str, option: str) -> None:
    result = sg2(command, option, "1", f"{option}=2")
    assert result.code == 2
    assert f"{option} has one value, but is given 2 times" in one_line(result.err)


def test_options_that_add_up_and_flags_may_be_repeated(sg2: Any) -> None:
    args = ("--seeds", "0", "--seeds", "1", "-q", "-q", "--out", "out")
    assert sg2("generate", *args).code == 0
