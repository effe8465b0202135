"""Partial downloads: an open, locked file, and a note of the version that it belongs to.

Its name is predictable, so that the same command continues it; others who may write into the folder
could therefore put something else there. Only regular files of this user with a single name are
opened, truncated or removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from sg2cli.errors import Sg2Error
from sg2cli.storage.atomic import lock, new_file

SUFFIX, NOTE_SUFFIX = ".part", ".json"
MAX_NOTE = 4096  # bytes
MAX_ATTEMPTS = 100  # to open a file that other runs keep removing
ETAG = r'(?:(?:W/)?"[\x21\x23-\x7e]{0,200}")?'  # or none
DATE = r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
# Links are not followed, and FIFOs do not block; Windows has neither.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


@dataclass(frozen=True)
class Version:
    """The version of a file on a server: validators ('' for none) and size."""

    etag: str = ""
    modified: str = ""
    size: int | None = None

    @property
    def condition(self) -> str:
        """The validator for If-Range, which must not be weak; '' if there is none."""
        return self.etag if self.etag.startswith('"') else self.modified


class PartialFile:
    """`.sg2-NAME.part` in a folder, created or continued, and locked until it is closed.

    Sg2Error if another run has locked it, or if there is something else; OSError of the disk.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._name = folder / f".sg2-{name}{SUFFIX}"
        self._note = self._name.with_suffix(NOTE_SUFFIX)
        self.restarts = 0  # how often data were discarded
        self._handle = _open_locked(self._name)
        try:
            self.version = self._read_note()
        except BaseException:
            self.close(keep=True)
            raise

    @property
    def path(self) -> Path:
        """A path to this open file, independent of its name where the system supports it."""
        by_handle = Path(f"/proc/self/fd/{self._handle}")
        return by_handle if by_handle.exists() else self._name

    @property
    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def restart(self, version: Version | None) -> None:
        """Discard the data; new data belong to this version."""
        self.restarts += self.size > 0
        self.truncate(0)  # first: the note must not describe other data
        self.record(version)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._handle, size)

    def record(self, version: Version | None) -> None:
        """Record the version; None cannot be continued."""
        self.version = version
        with new_file(self._note, overwrite=True) as file:
            file.write(json.dumps(asdict(version) if version else {}).encode())

    def append(self, block: bytes) -> None:
        os.lseek(self._handle, 0, os.SEEK_END)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._handle, rest) :]

    def sha256(self) -> str:
        """Hash of the open file, in hexadecimal."""
        digest = hashlib.sha256()
        os.lseek(self._handle, 0, os.SEEK_SET)
        while block := os.read(self._handle, 1 << 20):
            digest.update(block)
        return digest.hexdigest()

    def close(self, keep: bool) -> None:
        """Unlock the file; remove it and its note if it is empty or not to be kept."""
        if not keep or not self.size:
            with suppress(OSError):
                if _is_ours(self._note.lstat()):
                    self._note.unlink()
            with suppress(OSError):
                if os.path.samestat(self._name.lstat(), os.fstat(self._handle)):
                    self._name.unlink()
        os.close(self._handle)

    def _read_note(self) -> Version | None:
        handle = _open_ours(self._note, os.O_RDONLY)
        if handle is None:
            return None
        with os.fdopen(handle, "rb") as file:
            content = file.read(MAX_NOTE + 1)
        try:
            return _parsed(json.loads(content)) if len(content) <= MAX_NOTE else None
        except (ValueError, RecursionError):
            return None


def version_of(headers: Mapping[str, str], size: int | None) -> Version:
    """The version of a response; validators that cannot be sent back unchanged are ignored."""
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if not re.fullmatch(ETAG, etag):
        return Version(size=size)
    return Version(etag, modified if _is_older(modified, headers.get("date", "")) else "", size)


def _is_older(modified: str, date: str) -> bool:
    """Whether the date is a strong validator (RFC 9110, section 8.8.2.2)."""
    if not (re.fullmatch(DATE, modified) and re.fullmatch(DATE, date)):
        return False
    with suppress(ValueError):  # the 32nd of January
        return parsedate_to_datetime(modified) < parsedate_to_datetime(date)
    return False


def _parsed(note: Any) -> Version | None:
    """The version in a note; None if `PartialFile.record` did not write it."""
    if not isinstance(note, dict) or note.keys() != asdict(Version()).keys():
        return None
    etag, modified, size = note["etag"], note["modified"], note["size"]
    if not (isinstance(etag, str) and re.fullmatch(ETAG, etag)):
        return None
    if not (isinstance(modified, str) and re.fullmatch(f"({DATE})?", modified)):
        return None
    if size is not None and not (type(size) is int and size >= 0):
        return None
    return Version(etag, modified, size)


def _open_locked(path: Path) -> int:
    """Open our file, or a new one, for reading and writing, and lock it."""
    for _ in range(MAX_ATTEMPTS):
        handle, locked = _open(path), False
        if handle is None:
            continue
        try:
            lock(handle)
            locked = os.path.samestat(os.fstat(handle), path.lstat())
            if locked:
                return handle
        except FileNotFoundError:  # removed by the run that had locked it
            pass
        except BlockingIOError as error:
            raise Sg2Error(
                f"another run is downloading {path}: wait until it ends, or use another folder"
            ) from error
        finally:
            if not locked:
                os.close(handle)
    raise Sg2Error(f"cannot open {path}: other processes keep replacing it: use another folder")


def _open(path: Path) -> int | None:
    """Open our file, or a new one, for reading and writing; None if it was just removed."""
    with suppress(FileExistsError):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    return _open_ours(path, os.O_RDWR)


def _open_ours(path: Path, flags: int) -> int | None:
    """Open our file; None if there is none, Sg2Error if it is something else."""
    try:
        handle = os.open(path, flags | _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, a folder, a socket
        raise _taken(path) from error
    if not _is_ours(os.fstat(handle)):
        os.close(handle)
        raise _taken(path)
    return handle


def _is_ours(found: os.stat_result) -> bool:
    """Whether this is a regular file of this user with a single name."""
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and mine


def _taken(path: Path) -> Sg2Error:
    return Sg2Error(
        f"{path} has the name of a partial download, but is something else: move it away, or use "
        "another folder"
    )
