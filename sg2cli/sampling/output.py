"""The destination of images: a folder, a file or a stream; which are kept, and which failed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import encode, is_kept
from sg2cli.images.writer import ImageWriter
from sg2cli.storage.atomic import NameTaken, check_folder, make_folder, new_file
from sg2cli.storage.paths import kind, refuse_special

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels
    from sg2cli.storage.array_files import Array

MAX_FAILED = 1000  # more indicate wrong settings
MAX_FAILURES_SHOWN = 10  # as they occur; the summary has all of them
LOOK_AHEAD = 10_000  # names checked before the first image is drawn


def _ignore(*args: object) -> None:
    pass


@dataclass
class ImageOutput:
    """Encodes and writes images in the background, in the order in which they are put.

    `on_written` receives the path and provenance of each complete file, `on_note` messages.
    """

    folder: Path
    file: Path | None = None  # for a single image; None: files in the folder
    format: str = "png"
    overwrite: bool = False
    skip_existing: bool = False  # keep files of the same settings
    stream: Callable[[bytes], object] | None = None  # receives a single image instead
    on_written: Callable[[Path, Mapping[str, Any]], object] = _ignore
    on_note: Callable[[str], object] = _ignore
    kept: int = 0
    written: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # reasons, by the name of the image

    @property
    def holds_one(self) -> bool:
        """Whether the destination holds a single image."""
        return self.stream is not None or self.file is not None

    def path(self, name: str) -> Path:
        """The path of the image of this name."""
        return self.file or self.folder / f"{name}.{self.format}"

    def needs_folder(self) -> None:
        """UsageError if the destination holds a single image."""
        if self.holds_one:
            raise UsageError("several images are written: `out` must be a folder")

    def check(self, names: Iterable[str]) -> None:
        """Check that the folder can be created and that names are free, before any work."""
        if self.stream:
            return
        check_folder(self.folder)
        if self.file:
            refuse_special(self.file)
        if kind(self.folder) == "folder" and not (self.overwrite or self.skip_existing):
            for name in islice(names, LOOK_AHEAD):  # the others are found later
                if kind(self.path(name)) != "nothing":
                    raise NameTaken(self.path(name), or_skipped=True)

    def keeps(self, name: str, provenance: Mapping[str, Any], size: tuple[int, int]) -> bool:
        """Whether an existing image [w,h] is kept; Sg2Error if it is a different one."""
        kept = self.skip_existing and not self.stream and is_kept(self.path(name), provenance, size)
        self.kept += kept
        return kept

    def fail(self, name: str, error: Sg2Error) -> None:
        """Record a failed image and continue with the others."""
        self.failed[name] = str(error)
        if len(self.failed) > MAX_FAILED:
            raise Sg2Error(f"more than {MAX_FAILED:,} images failed; the last: {error}")
        if len(self.failed) <= MAX_FAILURES_SHOWN:
            self.on_note(str(error))

    def __enter__(self) -> ImageOutput:
        if not self.stream:
            make_folder(self.folder)
        self._writer = ImageWriter(self._wrote, self.overwrite, self.skip_existing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, at)

    def _wrote(self, path: Path, provenance: Mapping[str, Any], is_new: bool = True) -> None:
        if is_new:
            self.written += 1
            self.on_written(path, provenance)
        else:
            self.kept += 1

    def put(
        self, name: str, image: Pixels, provenance: Mapping[str, Any], ws: Array | None = None
    ) -> None:
        """Queue an image and its latent to be encoded and written; see ImageWriter."""
        if self.stream:
            self.stream(encode(image, self.format, provenance, ws))
        else:
            self._writer.put(self.path(name), image, provenance, ws)

    @contextmanager
    def open(
        self, name: str, provenance: Mapping[str, Any], size: tuple[int, int]
    ) -> Iterator[IO[bytes]]:
        """A file for an image [w,h] of this name, reported when the block ends."""
        if self.stream:
            content = io.BytesIO()
            yield content
            self.stream(content.getvalue())
        else:
            make_folder(self.folder)
            try:
                with new_file(self.path(name), self.overwrite) as file:
                    yield file
            except NameTaken:  # another process was faster
                if not self.keeps(name, provenance, size):
                    raise
            else:
                self._wrote(self.path(name), provenance)
