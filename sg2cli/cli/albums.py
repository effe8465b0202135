"""The photos of a run, what becomes of each, and the folder that their results go into."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sg2cli.checkpoints import weight_deltas
from sg2cli.errors import Sg2Error, UsageError, brief, reason
from sg2cli.images.photos import PHOTO_SUFFIXES
from sg2cli.storage.atomic import check_folder, lock
from sg2cli.storage.budget import MAX_PIPE
from sg2cli.storage.ownership import OWN, OwnedFolder
from sg2cli.storage.paths import is_there, kind, user_path
from sg2cli.storage.reading import read_stream
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

LATENT, SNAPSHOT, TUNING = "projected.safetensors", "snapshot.safetensors", "tuning.safetensors"
TUNED, SUMMARY = "tuned.safetensors", "summary.csv"
RESULTS = (  # of one photo; the first says that all is there
    *(LATENT, SNAPSHOT, TUNED, "projected_w.npz", TUNING),
    *("target.png", "projected.png", "compare.png", "history.csv", "loss.png"),
    *("film.mp4", "film.gif"),
)
RESERVED = (OWN, SUMMARY, TUNED, TUNING)  # beside the folders of the photos
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
        if sys.stdin is None:
            raise Sg2Error("stdin is closed: give a file, or pipe the photo into sg2")
        try:
            return read_stream(sys.stdin.buffer, MAX_PIPE)
        except OSError as error:
            raise Sg2Error(f"cannot read stdin: {reason(error)}") from error


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
        inputs: Sequence[Path] = (),
    ) -> None:
        """Sg2Error for a folder that cannot be, or, with neither option, for a name taken.

        `inputs` are files that are read beside the photos: no result may have their names.
        """
        if overwrite and resume:
            raise UsageError("--overwrite and --resume contradict one another: give one")
        check_folder(out)
        self.out, self.overwrite = out, overwrite
        self.shared = OwnedFolder(out, replace=overwrite)  # the summary, a network for all
        self.entries = [
            Entry(photo, OwnedFolder(out / stem, replace=overwrite))
            for photo, stem in zip(photos, _stems(photos), strict=True)
        ]
        self.has_summary = len(photos) > 1
        self.of_all = (TUNED, TUNING) if together else ()
        names = [SUMMARY] * self.has_summary + list(self.of_all)
        results = [entry.folder / name for entry in self.entries for name in RESULTS]
        results += [out / name for name in names]
        _check_inputs([*photos, *inputs], results)
        for entry in self.entries:
            if kind(entry.folder) not in ("folder", "nothing"):
                raise Sg2Error(
                    f"{entry.folder} is not a folder, and the results of {entry.name} belong "
                    "there: give another --out"
                )
        there = [path for path in results if is_there(path)]
        self._some_exist = bool(there)
        if there and not (overwrite or resume):
            raise Sg2Error(f"{there[0]} exists: --overwrite replaces it, --resume goes on from it")

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """The folder, for this process alone. However it ends, the summary is written.

        `settings` are those of all photos. A run that replaces the results of other settings is
        noted in the folder, so that --resume may go on replacing them.
        """
        self.shared.make()
        with _locked(self.out):
            if kind(self.shared.own) == "nothing":
                self._adopt()
            found = hashlib.sha256(json.dumps({**settings, "version": None}).encode()).hexdigest()
            self.replacing = self.overwrite or self.shared.fields.get("replacing") == found
            for owned in (self.shared, *(entry.results for entry in self.entries)):
                owned.replace = self.replacing
            if self.overwrite and self._some_exist:
                self.shared.fields["replacing"] = found
                self.shared.save()
            if self.overwrite:
                _discard_snapshots(self.out, self.of_all)
            try:
                yield
                if self.shared.fields.pop("replacing", None):
                    self.shared.save()
            except BaseException:
                with suppress(Sg2Error):  # the first error counts
                    self._write_summary()
                raise
            else:
                self._write_summary()
            finally:
                for owned in (*(entry.results for entry in self.entries), self.shared):
                    owned.leave()

    def _adopt(self) -> None:
        """Take what versions without manifests wrote into --out as ours."""
        with suppress(OSError), (self.out / SUMMARY).open("rb") as file:
            if file.readline(1000).decode(errors="replace").strip() == ",".join(COLUMNS):
                self.shared.adopt(SUMMARY)
        if weight_deltas.inspect_weight_deltas(self.out / TUNED) is not None:
            self.shared.adopt(TUNED)

    @property
    def can_go_on(self) -> bool:
        """Whether an interrupted run left something that --resume would start from."""
        files = [entry.folder / name for entry in self.entries for name in (SNAPSHOT, LATENT)]
        return any(kind(path) == "file" for path in [*files, self.out / TUNING])

    def _write_summary(self) -> None:
        begun = any(entry.state not in ("not begun", "begun") for entry in self.entries)
        if self.has_summary and begun:
            self.shared.write(SUMMARY, self._table())

    def begin(self, entry: Entry) -> None:
        """Prepare the folder of a photo; with --overwrite, for starting from its first step."""
        results = entry.results
        if kind(results.own) == "nothing" and _is_older_result(entry.folder):
            results.adopt(*RESULTS)
        if self.overwrite:
            _discard_snapshots(entry.folder, (SNAPSHOT, TUNING))

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


def _check_inputs(inputs: Sequence[Path], results: Sequence[Path]) -> None:
    """UsageError when a result would replace a file that is read, however it is spelled."""
    read = {os.path.realpath(path): path for path in inputs if str(path) != "-"}
    for path in results:
        if os.path.realpath(path) in read:
            raise UsageError(
                f"the results of this run would replace {read[os.path.realpath(path)]}, which it "
                "reads: give another --out"
            )


def _discard_snapshots(folder: Path, names: Sequence[str]) -> None:
    from sg2cli.inversion import snapshots  # loads torch

    for name in names:
        if name in (SNAPSHOT, TUNING):
            snapshots.remove(folder / name)


def _is_older_result(folder: Path) -> bool:
    """Whether a version of sg2 that had no manifests wrote its results there."""
    for name in (LATENT, SNAPSHOT):
        if kind(folder / name) == "file":
            with suppress(OSError, ValueError), SafetensorsFile(folder / name) as file:
                if {"target", "recipe"} & sg2_metadata(file.metadata).keys():
                    return True
    return False


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
