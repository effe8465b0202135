"""The photos of a batch, and their status."""

from __future__ import annotations

import glob
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sg2cli.errors import UsageError, brief
from sg2cli.images.photos import PHOTO_SUFFIXES, Region
from sg2cli.inversion.names import RESERVED
from sg2cli.storage.ownership import OwnedFolder
from sg2cli.storage.paths import kind, user_path
from sg2cli.storage.reading import read_stdin

# "done" to "not finite": how the projection ended; "projected": by an earlier run, but not yet
# tuned; "kept": complete, from an earlier run.
Status = Literal[
    "not begun", "begun", "done", "plateau", "time", "not finite", "projected", "kept", "failed"
]
FINISHED = ("done", "plateau", "time", "not finite", "kept")


@dataclass
class Target:
    """A photo to project, the folder of its results, and its status."""

    source: Path  # '-' is stdin
    results: OwnedFolder
    status: Status = "not begun"
    region: Region | None = None  # of the photo, once it is read
    figures: Mapping[str, Any] = field(default_factory=dict)  # as in the metadata of its results
    error: str = ""  # why it failed

    @property
    def name(self) -> str:
        return "stdin" if str(self.source) == "-" else str(self.source)

    @property
    def folder(self) -> Path:
        return self.results.folder

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def has_failed(self) -> bool:
        return self.status in ("failed", "not finite")

    def content(self) -> Path | bytes:
        """The source for `photos.read_photo`."""
        if str(self.source) != "-":
            return self.source
        return read_stdin("give a file, or pipe the photo into sg2")


def find_photos(arguments: Sequence[str]) -> list[Path]:
    """Files, images in folders, matches of patterns, and '-'; UsageError if nothing is found."""
    found: list[Path] = []
    for text in arguments:
        path = user_path(text)
        what = "file" if text == "-" else kind(path)
        if what == "folder":
            named = (p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
            # No folders or pipes, which may never end; broken links are reported later.
            inside = sorted(p for p in named if p.is_file() or not p.exists())
            if not inside:
                raise UsageError(f"no images in the folder {path}")
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


def folder_names(photos: Sequence[Path]) -> Iterator[str]:
    """Unique folder names for photos; duplicates and reserved names get -2, -3.

    Names that differ only in case or Unicode composition are equal on some disks.
    """
    taken = {_folded(name) for name in RESERVED}
    for photo in photos:
        stem = "stdin" if str(photo) == "-" else photo.stem
        stem = (
            "photo" if stem in (".", "..") else stem
        )  # the stem of "...png" must not leave the folder
        number, name = 1, stem
        while _folded(name) in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(_folded(name))
        yield name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
