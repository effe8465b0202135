"""Where the pictures of a command go: into a folder, a file or stdout; what is there already."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from sg2cli.cli.console import Console, Terminated, counts, repeated_command, some_failed
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import FORMATS, encode, is_kept
from sg2cli.images.writer import ImageWriter
from sg2cli.storage.atomic import NameTaken, check_folder, make_folder, new_file
from sg2cli.storage.paths import kind, refuse_special, user_path

if TYPE_CHECKING:
    from sg2cli.images.pixels import Image

OTHER_SUFFIXES = {  # a user who writes these wants a file, not a folder of that name
    *(".bmp", ".gif", ".tif", ".tiff", ".tga", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".jfif"),
    *(".apng", ".ico", ".ppm", ".pgm", ".pnm", ".psd", ".eps", ".pdf", ".svg", ".mp4", ".mov"),
}
MAX_FAILED = 1000  # more are no bad pictures but a wrong command
MAX_FAILURES_SHOWN = 10  # as they come; --json has all of them at the end
LOOK_AHEAD = 10_000  # names checked before the first picture is drawn


def check_choice(overwrite: bool, skip_existing: bool) -> None:
    """UsageError for two answers to the question what becomes of existing files."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing are mutually exclusive")


class ImageOutput:
    """The destination that `--out`, `--format`, `--overwrite` and `--skip-existing` describe."""

    def __init__(
        self,
        out: str,
        format: str | None,
        overwrite: bool,
        skip_existing: bool,
        console: Console,
    ) -> None:
        """UsageError for options that contradict one another."""
        check_choice(overwrite, skip_existing)
        self.to_stdout = out == "-"
        path = user_path(out)
        suffix = path.suffix.lower()
        is_folder = kind(path) == "folder"
        if suffix in OTHER_SUFFIXES and not is_folder:
            raise UsageError(f"{path}: pictures are written as png, jpg or webp")
        self.file = path if suffix in FORMATS and not is_folder else None
        self.folder = path.parent if self.file else path
        self.format = format or (FORMATS[suffix] if self.file else "png")
        if self.file and FORMATS[suffix] != self.format:
            raise UsageError(f"--format {format} contradicts the name {self.file}")
        if self.to_stdout and console.as_json:
            raise UsageError("--json cannot be used with --out -, which writes the image to stdout")
        self.overwrite = overwrite
        self.skip_existing = skip_existing
        self.console = console
        self.kept = self.written = 0
        self.failed: dict[str, str] = {}  # what was wrong with a picture, by its name
        self.done_options: list[str] = []  # whose work is done, and not continued

    @property
    def holds_one(self) -> bool:
        """Whether there is room for a single picture only."""
        return self.to_stdout or self.file is not None

    def path(self, name: str) -> Path:
        """Of the picture of this name."""
        return self.file or self.folder / f"{name}.{self.format}"

    def needs_folder(self) -> None:
        """UsageError where --out is no folder, for commands that make several pictures."""
        if self.holds_one:
            raise UsageError("this command writes several images: --out must be a folder")

    def check(self, names: Iterable[str]) -> None:
        """Find out before any work whether the folder can be made, and a name is taken."""
        if self.to_stdout:
            return
        check_folder(self.folder)
        if self.file:
            refuse_special(self.file)
        if kind(self.folder) == "folder" and not (self.overwrite or self.skip_existing):
            for name in islice(names, LOOK_AHEAD):  # the others are found as they come
                if kind(self.path(name)) != "nothing":
                    raise NameTaken(self.path(name))

    def keeps(self, name: str, provenance: Mapping[str, Any], size: tuple[int, int]) -> bool:
        """Whether --skip-existing keeps this image of [w,h]; Sg2Error if another is there."""
        kept = (
            self.skip_existing and not self.to_stdout and is_kept(self.path(name), provenance, size)
        )
        self.kept += kept
        return kept

    def fail(self, name: str, error: Sg2Error) -> None:
        """Record a failed image and continue with the others."""
        self.failed[name] = str(error)
        if len(self.failed) > MAX_FAILED:
            raise Sg2Error(f"more than {MAX_FAILED:,} pictures failed; the last: {error}")
        if len(self.failed) <= MAX_FAILURES_SHOWN:
            self.console.note(str(error))

    def sum_up(self, count: int) -> None:
        """Tell what became of so many pictures; Sg2Error if some failed."""
        if count > 1:
            self.console.summary(self.written, self.kept, self.failed)
        if self.failed:
            raise some_failed(list(self.failed), count, "pictures")

    def __enter__(self) -> ImageOutput:
        if not self.to_stdout:
            make_folder(self.folder)
        self._writer = ImageWriter(self._wrote, self.overwrite, self.skip_existing)
        return self

    def _wrote(self, path: Path, provenance: Mapping[str, Any], is_new: bool = True) -> None:
        if is_new:
            self.written += 1
            self.console.wrote(path, provenance)
        else:
            self.kept += 1

    def put(self, name: str, image: Image, provenance: Mapping[str, Any]) -> None:
        """Take a picture to be encoded and written beside the network; see ImageWriter."""
        if self.to_stdout:
            self.console.picture(encode(image, self.format, provenance))
        else:
            self._writer.put(self.path(name), image, provenance)

    @contextmanager
    def open(
        self, name: str, provenance: Mapping[str, Any], size: tuple[int, int]
    ) -> Iterator[IO[bytes]]:
        """A file of this name and an image of [w,h] to be written, reported when the block ends."""
        if self.to_stdout:
            content = io.BytesIO()
            yield content
            self.console.picture(content.getvalue())
        else:
            make_folder(self.folder)
            try:
                with new_file(self.path(name), self.overwrite) as file:
                    yield file
            except NameTaken:  # another process was quicker
                if not self.keeps(name, provenance, size):
                    raise
            else:
                self._wrote(self.path(name), provenance)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, at)
        if isinstance(error, KeyboardInterrupt | Terminated):
            if not (self.written or self.kept):
                self.console.stopped("nothing is written yet")
                return
            state, command = counts(self.written, self.kept, self.failed), None
            if self.overwrite:  # what it has not reached may be of other settings
                command = repeated_command("--overwrite")
            elif not self.to_stdout:
                command = repeated_command("--skip-existing", self.done_options)
            self.console.stopped(state, command)
