"""Opening the files among latents, and checking that they fit the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sg2cli.errors import UsageError
from sg2cli.latents.array_names import KINDS, NOISE_SUFFIX
from sg2cli.latents.files import START, fit, fit_noise, read_latents, reading_of
from sg2cli.latents.folders import latent_files
from sg2cli.latents.image_latents import (
    NoLatentInImage,
    PhotoGiven,
    is_image,
    read_image_latent,
)
from sg2cli.latents.notation import LatentFile, LatentSource
from sg2cli.latents.photo_names import name_of
from sg2cli.latents.sources import FileRows, Latent, LatentList, Part
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import ArrayFile
from sg2cli.storage.budget import MAX_CHECKPOINT
from sg2cli.storage.paths import kind
from sg2cli.storage.reading import open_file, read_bytes, read_stdin

if TYPE_CHECKING:
    from sg2cli.storage.array_files import Array


def open_latents(
    sources: Iterable[LatentSource | Latent],
    config: GeneratorConfig,
    reserved: Iterable[str] = (),
) -> LatentList:
    """Open the files among the sources, and check that they fit the network.

    UsageError for latents that do not fit the network, or rows that do not exist; Sg2Error for a
    file that is damaged or holds no latents.
    """
    files = _Files(config)
    parts: list[Part] = []
    for source in sources:
        if not isinstance(source, LatentFile):
            parts.append(source)
        elif kind(source.path) == "folder":
            parts += files.folder(source.path)
        else:
            parts.append(files.open(source))
    read = [*files.images, *(path for path, _ in files.files)]
    return LatentList(parts, reserved, files.notes, read)


class _Files:
    """Files of latents; each array of a file is read once."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        self.files: dict[tuple[Path, str | None], ArrayFile] = {}
        self.images: dict[Path, Latent] = {}
        self.notes: list[str] = []  # about files that were left out
        self.noise: dict[tuple[Path, str | None], Mapping[str, Array]] = {}

    def folder(self, path: Path) -> list[Part]:
        """The latents in a folder; images that hold none are left out, such as grids."""
        files, images = latent_files(path)
        parts: list[Part] = [self.open(LatentFile(file)) for file in files]
        left_out = []
        photo = False
        for image in images:
            try:
                parts.append(self.open(LatentFile(image)))
            except NoLatentInImage as error:
                photo = photo or isinstance(error, PhotoGiven)
                left_out.append(image.name)
        if not parts:
            raise PhotoGiven(str(path)) if photo else NoLatentInImage(str(path))
        if left_out:
            more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
            shown = ", ".join(left_out[:5])
            self.notes.append(f"{path}: no latent in {shown}{more}, left out")
        return parts

    def open(self, source: LatentFile) -> FileRows | Latent:
        """Rows of a file, or the latent of an image, that fit the network."""
        path, name = source.path, _name_of(source.path)
        at = (path, None if source.key in KINDS else source.key)
        if path not in self.images and at not in self.files:
            content = _content(path)
            file = path if content is None else content
            if is_image(path, _start(path) if content is None else content[:START]):
                self.images[path] = read_image_latent(file, name, self.config)
            else:
                self.files[at] = read_latents(file, name, source.key)
        if path not in self.images:
            return self._rows(source, at)
        if source.key or source.first not in (None, 0) or source.last not in (None, 0):
            raise UsageError(f"{name} is an image, with a single latent: give its name alone")
        return self.images[path]

    def _rows(self, source: LatentFile, at: tuple[Path, str | None]) -> FileRows:
        """Rows of a file that fit the network, with their noise maps."""
        rows = _open_rows(source, self.files[at], self.config)
        if at not in self.noise:
            count = rows.array.shape[0]
            self.noise[at] = _noise_of(self.files[at], count, _name_of(source.path), self.config)
        return replace(rows, noise=self.noise[at])


def _name_of(path: Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def _content(path: Path) -> bytes | None:
    """What a pipe holds, which can be read only once; None for other files."""
    if str(path) == "-":
        return read_stdin("give a file of latents")
    if kind(path) != "other":
        return None
    with reading_of(str(path), "cannot be read"):
        return read_bytes(path, MAX_CHECKPOINT)


def _start(path: Path) -> bytes:
    with reading_of(str(path), "cannot be read"), open_file(path) as file:
        return file.read(START)


def _open_rows(source: LatentFile, file: ArrayFile, config: GeneratorConfig) -> FileRows:
    """Rows of a file that fit the network, without noise maps."""
    name = _name_of(source.path)
    fitted = fit(file, source.key, name, config)
    count = fitted.array.shape[0]
    first = 0 if source.first is None else source.first
    last = count - 1 if source.last is None else source.last
    if last >= count and fitted.note:
        rows = f"{first}-{last}" if last > first else f"{last}"
        raise UsageError(
            f"{name} is read as one latent in W+, so it has no row {last}; "
            f"{name}:w[{rows}] reads its rows as latents in W"
        )
    if last >= count:
        raise UsageError(f"row {last} of {name} is out of range: it has rows 0 to {count - 1}")
    stem = "stdin" if name == "stdin" else name_of(source.path.stem, file.metadata)
    return FileRows(
        stem,
        fitted.space,
        fitted.array,
        range(first, last + 1),
        {},
        file.sha256,
        file.metadata.get("checkpoint"),
        file.metadata.get("tuned"),
        file.row_names,
        fitted.note,
    )


def _noise_of(file: ArrayFile, count: int, name: str, config: GeneratorConfig) -> dict[str, Array]:
    return {
        key: fit_noise(key, array, count, name, config)
        for key, array in file.arrays.items()
        if key.endswith(NOISE_SUFFIX)
    }
