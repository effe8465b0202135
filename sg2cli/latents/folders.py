"""Folders of latents: a projection's, one of projections, of files, or of images made by sg2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.images.codecs import FORMATS
from sg2cli.latents.files import SUFFIXES_READ, is_latents
from sg2cli.storage.paths import kind

PROJECTED = "projected.safetensors"  # the latent in the folder of a projection
MAX_ENTRIES = 1_000_000


def latent_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of latents in a folder, and otherwise its images, both sorted by name.

    A folder of projections has those of its folders. Sg2Error if it cannot be read.
    """
    if kind(folder / PROJECTED) == "file":
        return [folder / PROJECTED], []
    files: list[Path] = []
    images: list[Path] = []
    for path in _entries(folder):
        suffix = path.suffix.lower()
        if kind(path) == "folder":
            files += [path / PROJECTED] if kind(path / PROJECTED) == "file" else []
        elif kind(path) != "file":  # a pipe may never end
            continue
        elif suffix in FORMATS:
            images.append(path)
        elif suffix in SUFFIXES_READ and (suffix != ".safetensors" or is_latents(path)):
            files.append(path)  # a .safetensors may also be a network, or directions
    if not files and not images:
        raise UsageError(f"{folder} holds no latents: neither files of latents, nor images")
    return files, [] if files else images


def _entries(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise Sg2Error(f"cannot read {folder}: {reason(error)}") from error
    if len(names) > MAX_ENTRIES:
        raise UsageError(f"{folder} holds more than {MAX_ENTRIES:,} files: give some of them")
    return (folder / name for name in names if not name.startswith("."))
