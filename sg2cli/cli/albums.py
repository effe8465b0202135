"""The photos of a run, what becomes of each, and the folder that their results go into."""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sg2cli.errors import Sg2Error, UsageError, brief, reason
from sg2cli.files import check_folder, kind, lock, make_folder, new_file, user_path
from sg2cli.photos import PHOTO_SUFFIXES

RESULTS = (  # of one photo; the first says that all is there
    *("projected.safetensors", "snapshot.safetensors", "tuned.safetensors", "projected_w.npz"),
    "tuning.safetensors",
    *("target.png", "projected.png", "compare.png", "history.csv", "loss.png"),
    *("film.mp4", "film.gif"),
)
COLUMNS = ("photo", "state", "steps_done", "lpips_vgg", "lpips_alex", "psnr", "w_distance", "says")


# done to "not finite": how its projection ended; projected: by an earlier run, but not tuned as is
# asked for now; kept: all is there from an earlier run.
State = Literal[
    "not begun", "begun", "done", "plateau", "time", "not finite", "projected", "kept", "failed"
]


@dataclass
class Entry:
    """A photo of a run, its folder, and what is known of it so far."""

    source: Path  # '-' is stdin
    folder: Path
    state: State = "not begun"
    figures: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""

    @property
    def name(self) -> str:
        return "stdin" if str(self.source) == "-" else str(self.source)

    def read(self) -> Path | bytes:
        """What `photos.read_photo` takes."""
        return sys.stdin.buffer.read() if str(self.source) == "-" else self.source


def find_photos(arguments: Sequence[str]) -> list[Path]:
    """Files, the pictures in folders, what patterns match, and '-'. UsageError for nothing."""
    found: list[Path] = []
    for text in arguments:
        path = user_path(text)
        what = "file" if text == "-" else kind(path)
        if what == "folder":
            named = (p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
            # No folders, and no pipes, which may never end; links that lead nowhere are told of.
            inside = sorted(p for p in named if p.is_file() or not p.exists())
            if not inside:
                raise UsageError(f"no picture in the folder {path}")
            found += inside
        elif what == "nothing":
            matching = sorted(glob.glob(str(path))) if glob.has_magic(text) else []  # noqa: PTH207
            if not matching:
                raise UsageError(f"no photo {brief(text)}: give a file, a folder, or - for stdin")
            found += map(Path, matching)
        else:
            found.append(Path("-") if text == "-" else path)
    if found.count(Path("-")) > 1:
        raise UsageError("stdin can be read once: give - once")
    return found


class Album:
    """Photos, each with a folder of its own in `--out`."""

    def __init__(
        self,
        out: Path,
        photos: Sequence[Path],
        overwrite: bool,
        resume: bool,
        together: bool = False,
    ) -> None:
        """Sg2Error for a folder that cannot be, or, with neither option, for a name taken."""
        if overwrite and resume:
            raise UsageError("--overwrite and --resume contradict one another: give one")
        check_folder(out)
        self.out = out
        self.entries = [
            Entry(photo, out / stem) for photo, stem in zip(photos, _stems(photos), strict=True)
        ]
        self.summary = out / "summary.csv" if len(photos) > 1 else None
        taken = [entry.folder / name for entry in self.entries for name in RESULTS]
        if self.summary:
            taken.append(self.summary)
        self.of_all = ("tuned.safetensors", "tuning.safetensors") if together else ()
        taken += [out / name for name in self.of_all]
        if kind(out) == "folder" and not (overwrite or resume):
            for path in taken:
                if kind(path) != "nothing":
                    raise Sg2Error(
                        f"{path} exists: --overwrite replaces it, --resume goes on from it"
                    )
        self._overwrite = overwrite

    @contextmanager
    def open(self) -> Iterator[None]:
        """The folder, for this process alone. However it ends, the summary is written."""
        make_folder(self.out)
        with _locked(self.out):
            self._remove(self.out, self.of_all)
            try:
                yield
            except BaseException:
                with suppress(Sg2Error):  # the first error counts
                    self._write_summary()
                raise
            self._write_summary()

    def _write_summary(self) -> None:
        if self.summary:
            with new_file(self.summary, overwrite=True) as file:
                file.write(self._table())

    def begin(self, entry: Entry) -> None:
        """Make the folder of a photo, without what an earlier run left in it, if so wished."""
        make_folder(entry.folder)
        self._remove(entry.folder, RESULTS)

    def _remove(self, folder: Path, names: Sequence[str]) -> None:
        """What an earlier run left, if it is to be replaced."""
        try:
            for name in names if self._overwrite else ():
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise Sg2Error(f"cannot remove {error.filename}: {reason(error)}") from error

    def _table(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in self.entries:
            figures = (entry.figures.get(name, "") for name in COLUMNS[2:-1])
            writer.writerow((entry.name, entry.state, *figures, entry.says))
        return text.getvalue().encode("utf-8", "surrogateescape")


def _stems(photos: Sequence[Path]) -> Iterator[str]:
    """Names of folders; equal stems get -2, -3."""
    taken: set[str] = set()
    for photo in photos:
        stem = "stdin" if str(photo) == "-" else photo.stem
        stem = "photo" if stem in (".", "..") else stem  # "...png" is no way out of the folder
        number, name = 1, stem
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        yield name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Sg2Error when another process has the folder; the lock ends with the process, however."""
    if os.name == "nt":  # where a folder cannot be opened
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(handle)
        except BlockingIOError:
            raise Sg2Error(
                f"another sg2 project is at work in {folder}: wait for it, or give another --out"
            ) from None
        yield
    finally:
        os.close(handle)
