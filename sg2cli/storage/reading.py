"""Reading files and pipes into memory, never mapped, as a file may be truncated meanwhile."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sg2cli.errors import Sg2Error, reason
from sg2cli.storage.budget import MAX_PIPE, MAX_READ_AT_ONCE, MAX_SMALL_FILE, Budget, LimitExceeded

BLOCK = 1 << 20
READ_AHEAD = 1 << 13
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def open_file(path: Path) -> BinaryIO:
    """A file or a pipe, open for reading; OSError for a folder, a socket or a device."""
    _refuse(path.stat().st_mode)  # opening a device may have side effects
    file = path.open("rb")
    try:
        _refuse(os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _refuse(mode: int) -> None:
    if what := KINDS.get(stat.S_IFMT(mode)):
        raise OSError(errno.EINVAL, f"it is {what}, not a file")


def read_bytes(path: Path, limit: int, pipe_limit: int = MAX_PIPE) -> bytes:
    """The content of a file or pipe.

    OSError if it has more bytes than `limit` (for a pipe, `pipe_limit`), becomes shorter while it
    is read, or is a folder, socket or device.
    """
    with open_file(path) as file:
        return _read_all(file, limit, pipe_limit)


def _read_all(file: BinaryIO, limit: int, pipe_limit: int) -> bytes:
    found = os.fstat(file.fileno())
    # Files in /proc have size 0, but content.
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return read_stream(file, pipe_limit)
    if found.st_size > limit:
        raise too_large(limit)
    content = file.read(found.st_size)
    if len(content) < found.st_size:
        raise cut_short()
    return content


def read_stream(file: BinaryIO, limit: int) -> bytes:
    """The content of a stream; OSError if it exceeds the limit."""
    blocks: list[bytes] = []
    left = limit
    while block := file.read(min(BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            raise too_large(limit)
        blocks.append(block)
    return b"".join(blocks)


def read_stdin(instead: str) -> bytes:
    """The content of stdin; Sg2Error if it is closed (`instead` is advice) or unreadable."""
    if sys.stdin is None:
        raise Sg2Error(f"stdin is closed: {instead}")
    try:
        return read_stream(sys.stdin.buffer, MAX_PIPE)
    except OSError as error:
        raise Sg2Error(f"cannot read stdin: {reason(error)}") from error


def too_large(limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than the limit of {limit:,} bytes")


def cut_short() -> OSError:
    return OSError(errno.EIO, "it is cut off, or became shorter while it was read")


class Source:
    """A file, or its bytes, for reading parts in any order.

    It is opened once, so all parts come from the same file, even if it is renamed. Small files and
    pipes are read into memory at once.
    """

    def __init__(self, source: Path | bytes) -> None:
        """OSError as in `read_bytes`."""
        self._file: BinaryIO | None = None
        content = source
        if isinstance(source, Path):
            file = open_file(source)
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size > MAX_SMALL_FILE:
                self._file, self.size, self._changed = file, found.st_size, found.st_mtime_ns
                return
            with file:
                content = _read_all(file, MAX_SMALL_FILE, MAX_PIPE)
        assert isinstance(content, bytes)
        self._content = memoryview(content)
        self.size = len(content)

    def read(self, count: int, offset: int = 0) -> bytes | memoryview:
        """`count` bytes from `offset`; OSError if there are fewer."""
        if count < 0 or offset < 0 or offset + count > self.size:
            raise cut_short()
        if self._file is None:
            return self._content[offset : offset + count]
        self._file.seek(offset)
        content = self._file.read(count)
        if len(content) < count:
            raise cut_short()
        self._check()
        return content

    def fill(self, buffer: Any, offset: int) -> None:
        """Fill a writable buffer from `offset`; OSError if there are fewer bytes."""
        view = memoryview(buffer).cast("B")
        if self._file is None:
            view[:] = self.read(len(view), offset)
            return
        self._file.seek(offset)
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise cut_short()
            done += count
        self._check()

    def sha256(self) -> str:
        """Hash of the whole content, in hexadecimal."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(BLOCK, self.size)))
        for offset in range(0, self.size, BLOCK):
            part = buffer[: min(BLOCK, self.size - offset)]
            self.fill(part, offset)
            digest.update(part)
        return digest.hexdigest()

    def _check(self) -> None:
        """OSError if the file was modified since it was opened."""
        assert self._file is not None
        found = os.fstat(self._file.fileno())
        if (found.st_size, found.st_mtime_ns) != (self.size, self._changed):
            raise OSError(errno.EIO, "it was changed while it was read")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        """Close the file when the last array that refers to it is gone."""
        self.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class CountedFile(io.BufferedIOBase):
    """A file object for the decoders of other libraries, which charges each read to a budget.

    It has no file descriptor or name, so that decoders cannot map it. Reads are buffered, as
    decoders in Python read byte by byte.
    """

    def __init__(self, source: Source, budget: Budget) -> None:
        """The budget has `reads` and `bytes_read`."""
        self._source, self._budget = source, budget
        self._at = self._begin = 0
        self._block = b""

    def read(self, count: int | None = -1, /) -> bytes:
        left = max(self._source.size - self._at, 0)
        count = left if count is None or count < 0 else min(count, left)
        if count > MAX_READ_AT_ONCE:
            raise LimitExceeded(f"its decoder reads more than {MAX_READ_AT_ONCE:,} bytes at once")
        self._budget.charge("reads")
        self._budget.charge("bytes_read", count)
        first = self._at - self._begin
        if not 0 <= first <= len(self._block) - count:
            size = min(max(count, READ_AHEAD), left)
            self._block = bytes(self._source.read(size, min(self._at, self._source.size)))
            self._begin, first = self._at, 0
        self._at += count
        return self._block[first : first + count]

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._source.size)[whence]
        if self._at < 0:
            raise OSError(errno.EINVAL, "negative seek position")
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return content_sha256(file)


def content_sha256(file: BinaryIO) -> str:
    """Hash of the rest of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
