"""Files that commands read: by path, by the name of a bundled network, from stdin or a pipe."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        try:
            content = sys.stdin.buffer.read() if name == "-" else path.read_bytes()
        except OSError as error:
            raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / ("stdin" if name == "-" else path.name)
            copy.write_bytes(content)
            yield copy
    else:
        known = ", ".join(bundled)
        raise UsageError(f"no file {brief(name)}, nor a bundled network: {known}")
