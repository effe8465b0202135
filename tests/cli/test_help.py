"""Help: options under headings, and suggestions for mistyped ones."""

from __future__ import annotations

from typing import Any

import click
import pytest

from sg2cli.cli.help import OTHER, Command
from sg2cli.cli.main import COMMANDS, cli


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_heading(name: str) -> None:
    with click.Context(cli) as ctx:
        command = cli.get_command(ctx, name)
        assert isinstance(command, Command)
        options = [param for param in command.params if isinstance(param, click.Option)]
        assert [option.name for option in options if command.heading(option) == OTHER] == []
        shown = command.get_help(click.Context(command, ctx, name))
    for option in options:
        assert option.hidden or max(option.opts, key=len) in shown


def test_options_are_grouped(sg2: Any) -> None:
    lines = sg2("generate", "--help").out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Network:", "Latents:", "Drawing:", "Output:"]


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("--sed", "--seeds"), ("--truncpsi", "--trunc"), ("--ovrwrite", "--overwrite")],
)
def test_a_mistyped_option_suggests_the_nearest(sg2: Any, typed: str, nearest: str) -> None:
    result = sg2("generate", typed, "3")
    assert result.code == 2
    assert f"Did you mean '{nearest}'?" in result.err


@pytest.mark.parametrize(
    ("args", "same"),
    [
        (("generate", "--resume"), "--skip-existing"),
        (("project", "--skip-existing"), "--resume"),
    ],
)
def test_the_option_that_continues_a_run_is_suggested(
    sg2: Any, args: tuple[str, ...], same: str
) -> None:
    assert f"Did you mean '{same}'?" in sg2(*args).err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(sg2: Any, name: str) -> None:
    assert f"\n  sg2 {name}" in sg2(name, "--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_one_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 lines of 80 columns; the settings of projections need more."""
    monkeypatch.setenv("COLUMNS", "80")
    with click.Context(cli, terminal_width=80) as ctx:
        command = cli.get_command(ctx, name)
        assert command
        shown = command.get_help(click.Context(command, ctx, name, terminal_width=80))
    assert len(shown.splitlines()) <= (60 if name == "project" else 40)


def test_nothing_is_suggested_where_nothing_is_near(sg2: Any) -> None:
    assert "Did you mean" not in sg2("generate", "--xyzzy").err
