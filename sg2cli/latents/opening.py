"""Opening the files among latents, and checking that they fit the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sg2cli.errors import UsageError
from sg2cli.latents.array_names import KINDS, NOISE_SUFFIX
from sg2cli.latents.files import fit, fit_noise, read_latents
from sg2cli.latents.notation import LatentFile, LatentSource
from sg2cli.latents.sources import FileRows, Latent, LatentList, Part
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import ArrayFile
from sg2cli.storage.reading import read_stdin

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
        parts.append(files.rows(source) if isinstance(source, LatentFile) else source)
    return LatentList(parts, reserved)


class _Files:
    """Files of latents; each array of a file is read once."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        self.files: dict[tuple[Path, str | None], ArrayFile] = {}
        self.noise: dict[tuple[Path, str | None], Mapping[str, Array]] = {}

    def rows(self, source: LatentFile) -> FileRows:
        """Rows of a file that fit the network, with their noise maps."""
        named = None if source.key in KINDS else source.key
        at = (source.path, named)
        if at not in self.files:
            self.files[at] = _open_file(source.path, source.key)
        rows = _open_rows(source, self.files[at], self.config)
        if at not in self.noise:
            count = rows.array.shape[0]
            self.noise[at] = _noise_of(self.files[at], count, _name_of(source.path), self.config)
        return replace(rows, noise=self.noise[at])


def _name_of(path: Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def _open_file(path: Path, key: str | None) -> ArrayFile:
    name, content = _name_of(path), None
    if name == "stdin":
        content = read_stdin("give a file of latents")
    return read_latents(path if content is None else content, name, key)


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
    stem = "stdin" if name == "stdin" else source.path.stem
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
