"""Files that commands read: by path, by the name of a bundled network, from stdin or a pipe."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sg2cli import checkpoints
from sg2cli.errors import Sg2Error, UsageError, brief, reason
from sg2cli.files import kind, user_path


@contextmanager
def on_disk(name: str) -> Iterator[Path]:
    """The file of that name; a bundled checkpoint where it lies; stdin or a pipe as a copy."""
    path, bundled = user_path(name), checkpoints.bundled()
    what = "other" if name == "-" else kind(path)
    if what != "file" and name in bundled:
        yield bundled[name]
    elif what == "file":
        yield path
    elif what == "other":
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / ("stdin" if name == "-" else path.name)
            try:
                with copy.open("xb") as file, _opened(name) as pipe:
                    shutil.copyfileobj(pipe, file)
            except OSError as error:
                raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
            with told_of(copy, name):
                yield copy
    else:
        known = ", ".join(bundled)
        raise UsageError(f"no file {brief(name)}, nor a bundled network: {known}")


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise Sg2Error("stdin is closed")
        yield sys.stdin.buffer
    else:
        with user_path(name).open("rb") as pipe:
            yield pipe


@contextmanager
def told_of(copy: Path, name: str) -> Iterator[None]:
    """Errors tell of what the user named, not of the copy that was read."""
    try:
        yield
    except Sg2Error as error:
        error.args = (str(error).replace(str(copy), name),)
        raise
