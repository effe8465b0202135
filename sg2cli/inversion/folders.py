"""The output folder of a batch of photos: locking, existing results and the summary."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.images.codecs import inspect_image
from sg2cli.inversion import LATENT
from sg2cli.inversion.names import RESULTS, SHARED, SNAPSHOT, SUMMARY, TUNED, TUNING
from sg2cli.inversion.targets import Target, folder_names
from sg2cli.storage.atomic import check_folder, lock
from sg2cli.storage.ownership import OwnedFolder
from sg2cli.storage.paths import is_there, kind, refuse_inputs
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

OLDER_COLUMNS = (
    *("photo", "state", "steps_done", "lpips_vgg", "lpips_alex", "psnr", "w_distance", "says"),
)
COLUMNS = (*OLDER_COLUMNS[:-1], "verdict", "own_ratio", "own_percentile", "says")


class BatchFolder:
    """The folder of a batch, with a folder of its own for the results of each photo."""

    def __init__(
        self,
        out: Path,
        photos: Sequence[Path],
        overwrite: bool,
        resume: bool,
        together: bool = False,
        inputs: Sequence[Path] = (),
    ) -> None:
        """Sg2Error if the folder cannot be created, or results exist and neither option is set.

        `inputs`: further files that are read, which no result may replace.
        """
        if overwrite and resume:
            raise UsageError("`overwrite` and `resume` are mutually exclusive")
        check_folder(out)
        self.out, self.overwrite, self.resume = out, overwrite, resume
        self.shared = OwnedFolder(out, SHARED)  # the summary, a network for all
        self.targets = [
            Target(photo, OwnedFolder(out / stem, RESULTS))
            for photo, stem in zip(photos, folder_names(photos), strict=True)
        ]
        self.has_summary = len(photos) > 1
        self.shared_files = (TUNED, TUNING) if together else ()
        names = [SUMMARY] * self.has_summary + list(self.shared_files)
        self._paths = [target.folder / name for target in self.targets for name in RESULTS]
        self._paths += [out / name for name in names]
        refuse_inputs(self._paths, [*photos, *inputs])
        for target in self.targets:
            if kind(target.folder) not in ("folder", "nothing"):
                raise Sg2Error(
                    f"{target.folder} is not a folder, but the results of {target.name} go there: "
                    "choose another `out`"
                )
        self._check_existing()

    def _check_existing(self) -> None:
        """Sg2Error for existing results, unless they may be replaced or resumed."""
        for path in self._paths:
            if is_there(path) and not (self.overwrite or self.resume):
                raise Sg2Error(f"{path} exists: `overwrite` replaces it, `resume` continues it")

    @contextmanager
    def open(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Lock the folder; write the summary when the block ends, even by an error.

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
                for owned in (*(target.results for target in self.targets), self.shared):
                    owned.leave()

    def _take_over(self, settings: Mapping[str, Any]) -> None:
        """Determine what may be replaced, now that no other process writes here.

        Each folder records that its result is being replaced, so that a resumed run may continue
        to replace it, with the same settings and for the same photo.
        """
        self._check_existing()
        sources = [os.path.realpath(target.source) for target in self.targets]
        owners = [(target.results, RESULTS) for target in self.targets] + [(self.shared, SHARED)]
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
        """Remove the snapshots of all photos, so that a resumed run cannot continue from one."""
        from sg2cli.inversion import snapshots  # loads torch

        if TUNING in self.shared_files:
            snapshots.remove(self.out / TUNING)
        for target in self.targets:
            snapshots.remove(target.folder / SNAPSHOT)
            snapshots.remove(target.folder / TUNING)

    @property
    def can_resume(self) -> bool:
        """Whether an interrupted run left something to resume."""
        files = [target.folder / name for target in self.targets for name in (SNAPSHOT, LATENT)]
        return any(kind(path) == "file" for path in [*files, self.out / TUNING])

    def _write_summary(self) -> None:
        begun = any(target.status not in ("not begun", "begun") for target in self.targets)
        if self.has_summary and begun:
            self.shared.write(SUMMARY, self._table())

    def _table(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for target in self.targets:
            figures = (target.figures.get(name, "") for name in COLUMNS[2:-1])
            writer.writerow((target.name, target.status, *figures, target.error))
        return text.getvalue().encode("utf-8", "surrogateescape")


def _is_older_result(path: Path) -> bool:
    """Whether a version of sg2 without manifests wrote this file, judging by its content."""
    with suppress(OSError, ValueError, Sg2Error):
        if path.suffix == ".safetensors":
            with SafetensorsFile(path) as file:
                return bool({"target", "targets", "recipe"} & sg2_metadata(file.metadata).keys())
        if path.suffix == ".csv":
            from sg2cli.inversion.state import Record  # loads torch

            history = [field.name for field in fields(Record)]
            names = [*OLDER_COLUMNS] if path.name == SUMMARY else history
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                lines = list(csv.reader(file))
            return lines[0] == names and all(len(line) == len(names) for line in lines)
        if path.suffix == ".png":
            size, _, provenance = inspect_image(path)
            return "target" in (provenance or {}) or _is_older_plot(path, size)
    return False


def _is_older_plot(path: Path, size: tuple[int, int]) -> bool:
    """loss.png had no provenance; matplotlib writes its own name into its files."""
    with path.open("rb") as file:
        return (path.name, size) == ("loss.png", (800, 450)) and b"Matplotlib" in file.read(200)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Sg2Error if another process has locked the folder; the lock ends with the process."""
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
                f"another sg2 project is writing to {folder}: wait for it, or use another `out`"
            ) from None
        yield
    finally:
        os.close(handle)
