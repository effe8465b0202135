"""Paths: what exists under a name, and which outputs are refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sg2cli.errors import Sg2Error, UsageError, is_address, public, reason


def user_path(text: str) -> Path:
    """The path of typed text, with ~ expanded if there is such a user.

    UsageError for an address: as a path it would lose a slash, and show its password.
    """
    if is_address(text):
        raise UsageError(f"{public(text)} is an address: only `sg2 convert` reads from the web")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def kind(path: Path) -> Literal["file", "folder", "other", "nothing"]:
    """What exists under a name; a broken link is "other", as its name is taken.

    Sg2Error if a parent folder cannot be searched.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "other" if path.is_symlink() else "nothing"
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            return "nothing"  # no file can have such a name
        raise Sg2Error(f"cannot access {path}: {reason(error)}") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def is_there(path: Path) -> bool:
    """Whether an output file exists; Sg2Error if its name is not that of a file."""
    what = kind(path)
    if what == "folder":
        raise Sg2Error(f"{path} is a folder: give the name of a file")
    refuse_special(path)
    return what != "nothing"


def refuse_special(path: Path) -> None:
    """Sg2Error for a FIFO, socket or device, which must not be opened or replaced."""
    if kind(path) == "other" and path.exists():  # else it is a broken link
        mode = path.stat().st_mode
        what = "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise Sg2Error(f"{path} is a {what}, not a regular file: move it away, or use another name")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """UsageError if an output would replace an input, by whatever path."""
    read = {os.path.realpath(path): path for path in inputs if str(path) != "-"}
    for path in outputs:
        if (found := read.get(os.path.realpath(path))) is not None:
            raise UsageError(f"{path} would replace {found}, which is an input: use another name")
