"""Messages of the library name arguments; the command line shows them as its options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import sg2cli
from sg2cli.cli.main import COMMANDS, cli
from sg2cli.cli.option_names import OPTIONS, with_option_names

PACKAGE = Path(sg2cli.__file__).parent
LIBRARY = [
    path for path in PACKAGE.rglob("*.py") if path.parent.parts[-1] not in ("cli", "commands")
]


def texts(path: Path) -> Iterator[str]:
    """The string constants of a module, docstrings included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_arguments_become_options() -> None:
    assert with_option_names("a.png exists: `overwrite` replaces it") == (
        "a.png exists: --overwrite replaces it"
    )
    assert with_option_names("`class_index` or `seconds`") == "--class or --time-limit"
    assert with_option_names("run `sg2 convert` on `x`") == "run `sg2 convert` on `x`"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_names_no_options(path: Path) -> None:
    assert [text for text in texts(path) if re.search(r"(?<![\w-])--[a-z]", text)] == []


def test_every_option_exists() -> None:
    with click.Context(cli) as ctx:
        commands = [cli.get_command(ctx, name) for name in COMMANDS]
    known = {name for command in commands if command for p in command.params for name in p.opts}
    assert set(OPTIONS.values()) <= known


def test_messages_are_translated(sg2: object, in_tmp: Path) -> None:
    Path("out").mkdir()
    Path("out/seed0000.png").write_bytes(b"mine")
    result = sg2("generate", "--seeds", "0")  # type: ignore[operator]
    assert "exists: --overwrite replaces it, --skip-existing keeps" in result.err
    assert "`" not in result.err
