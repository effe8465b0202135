"""The photos of a run, what becomes of each, and the folder that their results go into."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sg2cli.errors import Sg2Error, UsageError, brief, reason
from sg2cli.images.codecs import inspect_image
from sg2cli.images.photos import PHOTO_SUFFIXES
from sg2cli.inversion import LATENT
from sg2cli.storage.atomic import check_folder, lock
from sg2cli.storage.ownership import OWN, OwnedFolder
from sg2cli.storage.paths import is_there, kind, refuse_inputs, user_path
from sg2cli.storage.reading import read_stdin
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

SNAPSHOT, TUNING = "snapshot.safetensors", "tuning.safetensors"
TUNED, SUMMARY = "tuned.safetensors", "summary.csv"
RESULTS = (  # of one photo; the first says that all is there
    *(LATENT, SNAPSHOT, TUNED, "projected_w.npz", TUNING),
    *("target.png", "projected.png", "compare.png", "history.csv", "loss.png"),
    *("film.mp4", "film.gif"),
)
SHARED = (SUMMARY, TUNED, TUNING)  # beside the folders of the photos
RESERVED = (OWN, *SHARED)
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
    results: OwnedFolder
    state: State = "not begun"
    figures: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""

    @property
    def name(self) -> str:
        return "stdin" if str(self.source) == "-" else str(self.source)

    @property
    def folder(self) -> Path:
        return self.results.folder

    def read(self) -> Path | bytes:
        """What `photos.read_photo` takes."""
        if str(self.source) != "-":
            return self.source
        return read_stdin("give a file, or pipe the photo into sg2")


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
        raise UsageError("- (stdin) can be given only once")
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
        inputs: Sequence[Path] = (),
    ) -> None:
        """Sg2Error for a folder that cannot be, or, with neither option, for a name taken.

        `inputs` are files that are read beside the photos: no result may have their names.
        """
        if overwrite and resume:
            raise UsageError("--overwrite and --resume are mutually exclusive")
        check_folder(out)
        self.out, self.overwrite, self.resume = out, overwrite, resume
        self.shared = OwnedFolder(out, SHARED)  # the summary, a network for all
        self.entries = [
            Entry(photo, OwnedFolder(out / stem, RESULTS))
            for photo, stem in zip(photos, _stems(photos), strict=True)
        ]
        self.has_summary = len(photos) > 1
        self.of_all = (TUNED, TUNING) if together else ()
        names = [SUMMARY] * self.has_summary + list(self.of_all)
        self._results = [entry.folder / name for entry in self.entries for name in RESULTS]
        self._results += [out / name for name in names]
        refuse_inputs(self._results, [*photos, *inputs])
        for entry in self.entries:
            if kind(entry.folder) not in ("folder", "nothing"):
                raise Sg2Error(
                    f"{entry.folder} is not a folder, and the results of {entry.name} belong "
                    "there: give another --out"
                )
        self._check_existing()

    def _check_existing(self) -> None:
        """Sg2Error for results that are there already, if neither option says what of them."""
        for path in self._results:
            if is_there(path) and not (self.overwrite or self.resume):
                raise Sg2Error(f"{path} exists: --overwrite replaces it, --resume continues it")

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """The folder, for this process alone. However it ends, the summary is written.

        `settings` are those of all photos.
        """
        self.shared.make()
        with _locked(self.out):
            try:
                self._take_over(settings)
                yield
                self.shared.done_replacing()
            except BaseException:
                with suppress(Sg2Error):  # the first error counts
                    self._write_summary()
                raise
            else:
                self._write_summary()
            finally:
                for owned in (*(entry.results for entry in self.entries), self.shared):
                    owned.leave()

    def _take_over(self, settings: Mapping[str, Any]) -> None:
        """Find out what may be replaced, now that no other process writes here.

        That a photo's result is being replaced is noted in its folder, so that --resume may go on
        replacing it: with the same settings, and for the same photo.
        """
        self._check_existing()
        sources = [os.path.realpath(entry.source) for entry in self.entries]
        owners = [(entry.results, RESULTS) for entry in self.entries] + [(self.shared, SHARED)]
        for (owned, names), source in zip(owners, [*sources, "\0".join(sources)], strict=True):
            owned.refresh()
            there = [name for name in names if kind(owned.folder / name) == "file"]
            if there and kind(owned.own) == "nothing":
                owned.adopt(*(name for name in there if _is_older_result(owned.folder / name)))
            key = json.dumps([{**settings, "version": None}, source], sort_keys=True)
            digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
            owned.allow_replacing(digest, begin=self.overwrite, note=bool(there))
        if self.overwrite:
            self._discard_snapshots()
        if self.has_summary:
            self.shared.check(SUMMARY)

    def _discard_snapshots(self) -> None:
        """Of all photos, as --resume may continue with any of them."""
        from sg2cli.inversion import snapshots  # loads torch

        if TUNING in self.of_all:
            snapshots.remove(self.out / TUNING)
        for entry in self.entries:
            snapshots.remove(entry.folder / SNAPSHOT)
            snapshots.remove(entry.folder / TUNING)

    @property
    def can_go_on(self) -> bool:
        """Whether an interrupted run left something that --resume would start from."""
        files = [entry.folder / name for entry in self.entries for name in (SNAPSHOT, LATENT)]
        return any(kind(path) == "file" for path in [*files, self.out / TUNING])

    def _write_summary(self) -> None:
        begun = any(entry.state not in ("not begun", "begun") for entry in self.entries)
        if self.has_summary and begun:
            self.shared.write(SUMMARY, self._table())

    def _table(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in self.entries:
            figures = (entry.figures.get(name, "") for name in COLUMNS[2:-1])
            writer.writerow((entry.name, entry.state, *figures, entry.says))
        return text.getvalue().encode("utf-8", "surrogateescape")


def _stems(photos: Sequence[Path]) -> Iterator[str]:
    """Names of folders; equal ones and reserved ones get -2, -3.

    Names that differ in case or in how accents are composed are the same on some disks.
    """
    taken = {_folded(name) for name in RESERVED}
    for photo in photos:
        stem = "stdin" if str(photo) == "-" else photo.stem
        stem = "photo" if stem in (".", "..") else stem  # "...png" is no way out of the folder
        number, name = 1, stem
        while _folded(name) in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(_folded(name))
        yield name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_older_result(path: Path) -> bool:
    """Whether a version of sg2 that kept no record wrote a file, as far as its content shows."""
    with suppress(OSError, ValueError, Sg2Error):
        if path.suffix == ".safetensors":
            with SafetensorsFile(path) as file:
                return bool({"target", "targets", "recipe"} & sg2_metadata(file.metadata).keys())
        if path.suffix == ".csv":
            from sg2cli.inversion.state import Record  # loads torch

            history = [field.name for field in fields(Record)]
            names = [*COLUMNS] if path.name == SUMMARY else history
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                lines = list(csv.reader(file))
            return lines[0] == names and all(len(line) == len(names) for line in lines)
        if path.suffix == ".png":
            size, _, provenance = inspect_image(path)
            return "target" in (provenance or {}) or _is_older_plot(path, size)
    return False


def _is_older_plot(path: Path, size: tuple[int, int]) -> bool:
    """A loss.png had no provenance; matplotlib writes its own name into what it draws."""
    with path.open("rb") as file:
        return (path.name, size) == ("loss.png", (800, 450)) and b"Matplotlib" in file.read(200)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Sg2Error when another process has the folder; the lock ends with the process, however."""
    if os.name == "nt":  # where a folder cannot be opened
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise Sg2Error(f"cannot open {folder}: {reason(error)}") from error
    try:
        try:
            lock(handle)
            if not (folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())):
                raise BlockingIOError  # another run removed what it had made
        except BlockingIOError:
            raise Sg2Error(
                f"another sg2 project is writing to {folder}: wait for it, or use another --out"
            ) from None
        yield
    finally:
        os.close(handle)
