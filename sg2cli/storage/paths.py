"""What is there under a name: a file, a folder, something else or nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sg2cli.errors import Sg2Error, UsageError, is_address, public, reason


def user_path(text: str) -> Path:
    """A path as typed, with ~ for a home; one that is nobody's home stays as it is.

    UsageError for an address: as a path it would lose a slash, and be shown with its password.
    """
    if is_address(text):
        raise UsageError(f"{public(text)} is not a path: only sg2 convert reads from the web")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def kind(path: Path) -> Literal["file", "folder", "other", "nothing"]:
    """What is there under a name; a link that leads nowhere is "other", as its name is taken.

    Sg2Error when a folder on the way may not be searched.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "other" if path.is_symlink() else "nothing"
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            return "nothing"  # no file can have such a name
        raise Sg2Error(f"cannot look for {path}: {reason(error)}") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def is_there(path: Path) -> bool:
    """Whether an output exists; Sg2Error where its name is not that of a file."""
    what = kind(path)
    if what == "folder":
        raise Sg2Error(f"{path} is a folder: give the name of a file")
    refuse_special(path)
    return what != "nothing"


def refuse_special(path: Path) -> None:
    """Sg2Error for a FIFO, socket or device: to open or replace one blocks, or breaks something."""
    if kind(path) == "other" and path.exists():  # else it is a broken link
        mode = path.stat().st_mode
        what = "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise Sg2Error(
            f"{path} is a {what}, not a regular file: move it away, or give another name"
        )


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """UsageError when an output would replace a file that is read, however it is spelled."""
    read = {os.path.realpath(path): path for path in inputs if str(path) != "-"}
    for path in outputs:
        if (found := read.get(os.path.realpath(path))) is not None:
            raise UsageError(
                f"{path} would replace {found}, which this run reads: give another name"
            )
