"""What no module, class or function of sg2cli may be longer than."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sg2cli

PACKAGE = Path(sg2cli.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE, MAX_CLASS, MAX_FUNCTION = 300, 200, 60  # lines


def too_long(source: str) -> Iterator[str]:
    """Name, length and limit; decorators do not count."""
    if (length := len(source.splitlines())) > MAX_MODULE:
        yield f"the module has {length} lines, at most {MAX_MODULE}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            limit = MAX_CLASS if isinstance(node, ast.ClassDef) else MAX_FUNCTION
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > limit:
                yield f"{node.name} (line {node.lineno}) has {length} lines, at most {limit}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_too_long_to_read(path: Path) -> None:
    assert list(too_long(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(("head", "limit"), [("def f():", MAX_FUNCTION), ("class C:", MAX_CLASS)])
def test_long_code_is_found(head: str, limit: int) -> None:
    fits = "\n".join(["@wraps", head, *["    x = 1"] * (limit - 1)])
    assert list(too_long(fits)) == []
    (found,) = too_long(fits + "\n    x = 1")
    assert f"has {limit + 1} lines, at most {limit}" in found
