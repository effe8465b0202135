"""The notation of latents: seeds, ranges, files with rows, and the mean.

Parsing needs neither torch nor the network; `sources.open_latents` checks files against it."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sg2cli.errors import brief
from sg2cli.images.photos import PHOTO_SUFFIXES
from sg2cli.latents.files import SUFFIXES_READ
from sg2cli.storage.paths import kind, user_path

MAX_SEED = 2**32 - 1  # of numpy.random.RandomState
SEED = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?", re.ASCII)
PATTERN = re.compile(r"[*?]")
KEY = r"(?::([^:\[\],/\\]{1,100}))?"
ROWS_OF_FILE = re.compile(rf"(.+?){KEY}(?:\[(\d{{1,9}})(?:-(\d{{1,9}}))?\])?{KEY}", re.ASCII)
NOTATION = (
    "a seed (85), a range (0-99, 0-99:10), a file (.safetensors, .npz, .npy, .pt; file[2] for a "
    "row), an image that sg2 made, a folder of these, or avg"
)


@dataclass(frozen=True)
class SeedRange:
    """The seeds from first to last, both included, or every `step`-th of them."""

    first: int
    last: int
    step: int = 1

    def __len__(self) -> int:
        return (self.last - self.first) // self.step + 1

    @property
    def end(self) -> int:
        """The seed after the last one, by the step."""
        return self.first + len(self) * self.step

    def __str__(self) -> str:
        if len(self) == 1:
            return str(self.first)
        return f"{self.first}-{self.last}" + (f":{self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class LatentFile:
    """Rows of a file of latents; path '-' is stdin.

    `key`: the name of an array, or what the array holds: "z", "w" or "ws".
    """

    path: Path
    first: int | None = None  # None: all rows
    last: int | None = None
    key: str | None = None


@dataclass(frozen=True)
class MeanLatent:
    """`avg`: the network's w_avg."""


LatentSource = SeedRange | LatentFile | MeanLatent


def parse_seeds(text: str) -> tuple[SeedRange, ...]:
    """'0-99', '85,100-105', '0-100:10', '1 2 3' -> ranges. ValueError for other text."""
    return tuple(_seed_range(part) for part in _split(text))


def _split(text: str) -> Iterator[str]:
    """The parts between commas, and those between spaces."""
    for part in text.split(","):
        yield from part.split() or [""]


def parse_latents(text: str) -> tuple[LatentSource, ...]:
    """A comma-separated list in this notation -> sources. ValueError for other text."""
    if not _is_plain(text) and kind(Path(text)) == "file":  # its name may contain a comma
        return (_latent_file(text),)
    parts = [part.strip() for part in text.split(",")]
    return tuple(source for part in parts for source in _latent_sources(part))


def _is_plain(text: str) -> bool:
    """Whether there are only seeds and avg, separated by commas or spaces."""
    return all(part == "avg" or SEED.fullmatch(part) for part in _split(text))


def _seed_range(text: str) -> SeedRange:
    match = SEED.fullmatch(text)
    if not match:
        raise ValueError(
            f"{brief(text)} is not a seed: use numbers and ranges, such as 0-99, 85,100-105 or "
            "0-100:10"
        )
    if max(len(digits or "") for digits in match.groups()) > 10:
        raise ValueError(f"{brief(text)} is beyond the largest seed, {MAX_SEED}")
    first, step = int(match[1]), int(match[3] or 1)
    last = int(match[2] or first)
    if not step:
        raise ValueError(f"{text} has the step 0: use 1 or more")
    if last < first:
        every = f":{step}" if match[3] else ""
        raise ValueError(f"range {text} is descending; did you mean {last}-{first}{every}?")
    if last > MAX_SEED:
        raise ValueError(f"{last} is beyond the largest seed, {MAX_SEED}")
    return SeedRange(first, last, step)


def _latent_sources(text: str) -> Iterator[LatentSource]:
    if _is_plain(text):
        for part in _split(text):
            yield MeanLatent() if part == "avg" else _seed_range(part)
    elif PATTERN.search(text) and kind(user_path(text)) == "nothing":
        yield from _matching_files(text)
    else:
        yield _latent_file(text)


def _matching_files(text: str) -> Iterator[LatentFile]:
    """The files of a pattern such as 'faces/*.npz[0]', sorted, each with its rows."""
    match = ROWS_OF_FILE.fullmatch(text)
    pattern = str(user_path(match[1] if match else text))
    paths = sorted(glob.glob(pattern))  # noqa: PTH207
    if not paths:
        raise ValueError(f"no file matches {brief(text)}")
    for path in paths:
        yield _latent_file(path + text[len(match[1]) :] if match else path)


def _latent_file(text: str) -> LatentFile:
    path, first, last, key = user_path(text), None, None, None
    if not text or kind(path) not in ("file", "folder"):
        match = ROWS_OF_FILE.fullmatch(text)
        if not match or not _may_hold_latents(match[1]):
            raise ValueError(f"{brief(text)} is not a latent: use {NOTATION}")
        path, key = user_path(match[1]), match[2] or match[5]
        if match[2] and match[5]:
            raise ValueError(f"{brief(text)} names two arrays: give one, such as file.npz:w[2]")
        if match[3]:
            first, last = int(match[3]), int(match[4] or match[3])
            if last < first:
                raise ValueError(
                    f"range {first}-{last} is descending; did you mean [{last}-{first}]?"
                )
        if str(path) != "-" and kind(path) == "nothing":
            raise ValueError(f"no file {path}")
        if kind(path) == "folder":
            raise ValueError(f"{path} is a folder: give its name alone, or one of its files")
    return LatentFile(path, first, last, key)


def _may_hold_latents(name: str) -> bool:
    """Whether this names stdin, a file or folder; pipes such as <(...) have any name."""
    if name == "-" or name.lower().endswith((*SUFFIXES_READ, *PHOTO_SUFFIXES)):
        return True
    return kind(user_path(name)) in ("other", "folder")
