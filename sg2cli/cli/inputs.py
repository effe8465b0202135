"""Input files: paths, names of bundled networks, stdin and pipes."""

from __future__ import annotations

import errno
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sg2cli import checkpoints
from sg2cli.errors import CheckpointError, Sg2Error, UsageError, brief, errors_named, reason
from sg2cli.storage.budget import MAX_PIPED_CHECKPOINT
from sg2cli.storage.paths import kind, user_path
from sg2cli.storage.reading import BLOCK, open_file, too_large

START = 16
BEGINNINGS = (  # of images, archives, arrays and pickles; a .safetensors has a brace at byte 8
    *(b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"PK", b"\x93NUMPY", b"\x80", b"("),
    b"GIF8",
)


@contextmanager
def on_disk(name: str) -> Iterator[Path]:
    """The path of a file or bundled checkpoint; for stdin or a pipe, a temporary copy."""
    path, bundled = user_path(name), checkpoints.bundled()
    what = "pipe" if name == "-" else kind(path)
    if what != "file" and name in bundled:
        yield bundled[name]
    elif what == "file":
        yield path
    elif what in ("pipe", "other"):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / ("stdin" if name == "-" else path.name)
            try:
                with copy.open("xb") as file, _opened(name) as pipe:
                    _copy(pipe, file, name)
            except OSError as error:
                raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
            with errors_named(copy, name):
                yield copy
    else:
        known = ", ".join(bundled)
        raise UsageError(f"no file {brief(name)}, and no bundled network of that name: {known}")


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdin is None:
            raise Sg2Error("stdin is closed")
        yield sys.stdin.buffer
        return
    try:
        pipe = open_file(user_path(name))
    except OSError as error:
        kind_of_error = CheckpointError if error.errno == errno.EINVAL else Sg2Error  # a device
        raise kind_of_error(f"cannot read {name}: {reason(error)}") from error
    with pipe:
        yield pipe


def _copy(pipe: BinaryIO, file: BinaryIO, name: str) -> None:
    """CheckpointError if the stream is too large, or in no format that sg2 reads."""
    start = pipe.read(START)
    if start and not (start.startswith(BEGINNINGS) or start[8:9] == b"{"):
        raise CheckpointError(f"{name}: not a file format that sg2 can read")
    file.write(start)
    left = MAX_PIPED_CHECKPOINT - len(start)
    while block := pipe.read(BLOCK):
        left -= len(block)
        if left < 0:
            error = too_large(MAX_PIPED_CHECKPOINT)
            raise CheckpointError(f"cannot read {name}: {reason(error)}")
        file.write(block)
