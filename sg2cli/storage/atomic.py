"""Atomic files: complete or absent, written under a temporary name, then linked into place."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sg2cli.errors import Sg2Error, reason
from sg2cli.storage.paths import is_there, kind, refuse_special

TEMPORARY = re.compile(r"\.sg2-([0-9a-f]{16})-([0-9a-f]{8})\.tmp")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; remove leftovers in it. Sg2Error if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        raise Sg2Error(f"cannot make the folder {folder}: {reason(error)}") from error


def sweep(folder: Path) -> None:
    """Remove unfinished files of killed processes; files that are being written are locked."""
    with os.scandir(folder) as entries:
        leftovers = [entry for entry in entries if _is_temporary(entry)]
    for entry in leftovers:
        with suppress(OSError), Path(entry.path).open("rb+") as file:
            if lock(file.fileno()):
                Path(entry.path).unlink()


def _is_temporary(entry: os.DirEntry[str]) -> bool:
    """Whether `_temporary` made it: the second half of its name is a checksum of the first."""
    match = TEMPORARY.fullmatch(entry.name)
    named = match is not None and _checksum(match[1]) == match[2]
    return named and entry.is_file(follow_symlinks=False)


def _checksum(nonce: str) -> str:
    return hashlib.sha256(f"temporary file of sg2 {nonce}".encode()).hexdigest()[:8]


def lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed or the process ends.

    BlockingIOError if another process has locked it; False if locks are not supported.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # some network disks
        return False
    return True


class NameTaken(Sg2Error):
    """The file exists, and may not be replaced."""

    def __init__(self, path: Path, or_skipped: bool = False) -> None:
        """`or_skipped`: whether the caller could also keep files of the same settings."""
        more = ", `skip_existing` keeps what the same settings made" if or_skipped else ""
        super().__init__(f"{path} exists: `overwrite` replaces it{more}")


def check_folder(folder: Path) -> None:
    """Sg2Error if a folder cannot be created or written to; this tests it and leaves nothing."""
    there = folder
    while kind(there) == "nothing" and there != there.parent:
        there = there.parent
    if kind(there) != "folder":
        refuse_special(there)
        raise Sg2Error(f"cannot make the folder {folder}: {there} is not a folder")
    try:
        probe, file = _temporary(there)
        file.close()
        probe.unlink(missing_ok=True)  # another process may have swept it
    except OSError as error:
        raise Sg2Error(f"cannot write into {folder}: {reason(error)}") from error


def check_file(path: Path, overwrite: bool) -> None:
    """Sg2Error if a file cannot be created, or exists and may not be replaced."""
    check_folder(path.parent)
    if is_there(path) and not overwrite:
        raise NameTaken(path)


@contextmanager
def new_file(
    path: Path,
    overwrite: bool = False,
    durable: bool = False,
    before_naming: Callable[[BinaryIO], object] = lambda file: None,
) -> Iterator[BinaryIO]:
    """A file to write that appears as `path` when the block ends, and not at all if it raises.

    An existing file is replaced only with `overwrite`, even if it appeared in the meantime. FIFOs,
    sockets and devices are never replaced. A durable file is synced, name included, when the block
    ends. `before_naming` receives the complete file before it gets its name.
    """
    try:
        refuse_special(path)
        temporary, file = _temporary(path.parent)
        try:
            with file:  # and so locked, until it has its name
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                before_naming(file)
                if os.name == "nt":  # where an open file keeps its name
                    file.close()
                if overwrite:
                    temporary.replace(path)
                else:
                    _link(temporary, path)
            if durable:
                _sync(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError as error:
        raise NameTaken(path) from error
    except OSError as error:
        raise Sg2Error(f"cannot write {path}: {reason(error)}") from error


def _temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file, locked so that no `sweep` removes it."""
    while True:
        nonce = secrets.token_hex(8)
        path = folder / f".sg2-{nonce}-{_checksum(nonce)}.tmp"
        file = path.open("x+b")
        with suppress(BlockingIOError):
            lock(file.fileno())
            if os.fstat(file.fileno()).st_nlink:
                return path, file
        file.close()  # a sweep removed it before it was locked


def _sync(folder: Path) -> None:
    """Sync the names in a folder to the disk, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _link(temporary: Path, path: Path) -> None:
    """Rename, but fail if `path` exists. Links do that in one step where the disk has them."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network disks
        if path.exists():
            raise FileExistsError(path) from None
        temporary.rename(path)
