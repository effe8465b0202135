"""Latents in one notation: seeds, files and the mean; from z to w to ws.

    z [N,z_dim] -> mapping -> w [N,w_dim] -> one row a layer -> ws [N,num_ws,w_dim]

Parsing needs neither torch nor the network; `open_latents` checks files against the network.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sg2cli.budget import MAX_PIPE
from sg2cli.errors import Sg2Error, UsageError, brief
from sg2cli.files import kind, user_path
from sg2cli.latent_files import SUFFIXES, fit, fit_noise, read_latents, reading_of
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import UNNAMED, ArrayFile, StoredArray
from sg2cli.storage.reading import read_stream

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator
    from sg2cli.storage.array_files import Array

MAX_SEED = 2**32 - 1  # of numpy.random.RandomState
SEED = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
ROWS_OF_FILE = re.compile(r"(.+?)(:z)?(?:\[(\d{1,9})(?:-(\d{1,9}))?\])?(:z)?", re.ASCII)
NOTATION = (
    "a seed (85), a range (0-99), a file (.safetensors, .npz, .npy; file[2] for a row) or avg"
)


@dataclass(frozen=True)
class SeedRange:
    """The seeds from first to last, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class LatentFile:
    """Rows of a file of latents; path '-' is stdin. `holds_z` says so of an .npy."""

    path: Path
    first: int | None = None  # None: all rows
    last: int | None = None
    holds_z: bool = False


@dataclass(frozen=True)
class MeanLatent:
    """`avg`: the network's w_avg."""


LatentSource = SeedRange | LatentFile | MeanLatent


def parse_seeds(text: str) -> tuple[SeedRange, ...]:
    """'0-99', '85,100-105' -> ranges. ValueError says what is wrong with it."""
    return tuple(_seed_range(part.strip()) for part in text.split(","))


def parse_latents(text: str) -> tuple[LatentSource, ...]:
    """A comma-separated list in the notation of the module. ValueError says what is wrong."""
    parts = [part.strip() for part in text.split(",")]
    plain = all(part == "avg" or SEED.fullmatch(part) for part in parts)
    if not plain and kind(Path(text)) == "file":  # also one with a comma in its name
        return (_latent_file(text),)
    return tuple(_latent_source(part) for part in parts)


def _seed_range(text: str) -> SeedRange:
    match = SEED.fullmatch(text)
    if not match:
        raise ValueError(
            f"{brief(text)} is no seed: give whole numbers and ranges, as in 0-99 or 85,100-105"
        )
    if max(len(digits or "") for digits in match.groups()) > 10:
        raise ValueError(f"{brief(text)} goes beyond the largest seed, {MAX_SEED}")
    first = int(match[1])
    last = int(match[2] or first)
    if last < first:
        raise ValueError(f"the range {text} falls: write {last}-{first}")
    if last > MAX_SEED:
        raise ValueError(f"{last} is beyond the largest seed, {MAX_SEED}")
    return SeedRange(first, last)


def _latent_source(text: str) -> LatentSource:
    if text == "avg":
        return MeanLatent()
    if SEED.fullmatch(text):
        return _seed_range(text)
    return _latent_file(text)


def _latent_file(text: str) -> LatentFile:
    path, first, last, holds_z = Path(text), None, None, False
    if kind(path) != "file":
        match = ROWS_OF_FILE.fullmatch(text)
        if not match or not _may_hold_latents(match[1]):
            raise ValueError(f"{brief(text)} is no latent: give {NOTATION}")
        path, holds_z = user_path(match[1]), bool(match[2] or match[5])
        if holds_z and path.suffix.lower() in (".npz", ".safetensors"):
            raise ValueError(f"{brief(text)}: only the array of an .npy has no name and needs ':z'")
        if match[3]:
            first, last = int(match[3]), int(match[4] or match[3])
            if last < first:
                raise ValueError(f"the rows of {brief(text)} fall: write [{last}-{first}]")
        if str(path) != "-" and kind(path) in ("nothing", "folder"):
            raise ValueError(f"no file {path}")
    return LatentFile(path, first, last, holds_z)


def _may_hold_latents(name: str) -> bool:
    """Whether a name is of stdin or a file of latents; a pipe, as of <(...), may have any name."""
    if name == "-" or name.lower().endswith(SUFFIXES):
        return True
    return kind(user_path(name)) == "other"


@dataclass(frozen=True)
class Latent:
    """One latent, and what is known of it.

    `values` are z [z_dim], w [w_dim] or ws [num_ws,w_dim], by `space`; a seed and avg have none.
    """

    name: str  # of its picture: seed0085
    space: Literal["seed", "z", "w", "avg"]
    values: Array | None
    made_of: Mapping[str, Any]  # {"seed": 85}; for the picture's metadata
    seed: int  # of z, and of random noise
    noise: Mapping[str, Array] = field(default_factory=dict)  # maps [H,W] that belong to it


@dataclass(frozen=True)
class _Rows:
    """Rows of a file of latents."""

    stem: str
    space: Literal["z", "w"]
    array: StoredArray  # [N,z_dim], [N,w_dim] or [N,num_ws,w_dim]
    rows: range
    noise: Mapping[str, Array]  # each [H,W] or [N,H,W]
    sha256: str
    checkpoint: str | None  # hash of the network it was made with, if it says so
    tuned: str | None  # and of the file of differences that it was drawn with

    def latent(self, row: int, name: str) -> Latent:
        values = self.array.row(row)
        noise = {key: maps[row] if maps.ndim == 3 else maps for key, maps in self.noise.items()}
        made_of = {"file": self.stem, "row": row, "sha256": self.sha256}
        return Latent(name, self.space, values, made_of, seed=row, noise=noise)


class LatentList:
    """Latents in order, each with a name of its own; made one at a time, so any number fits."""

    def __init__(
        self, parts: Sequence[SeedRange | MeanLatent | _Rows], reserved: Iterable[str] = ()
    ) -> None:
        """`reserved` names are given to none."""
        self.parts = parts
        self.reserved = frozenset(reserved)

    def __len__(self) -> int:
        return sum(_length(part) for part in self.parts)

    @property
    def need_mapping(self) -> bool:
        """Whether the mapping network is needed, and so a class, if it has classes."""
        return any(
            isinstance(p, SeedRange) or (isinstance(p, _Rows) and p.space == "z")
            for p in self.parts
        )

    def warnings(self, checkpoint: str, tuned: str | None = None) -> list[str]:
        """Files that say they were made with another network than the one of these hashes."""
        rows = [part for part in self.parts if isinstance(part, _Rows)]
        untuned = [
            f"a network was tuned for {part.stem}: --tuned draws with it"
            for part in rows
            if part.tuned not in (None, tuned)
        ]
        return untuned + [
            f"{part.stem} was made with another network, {part.checkpoint[:12]}: it looks different"
            for part in rows
            if part.checkpoint and part.checkpoint != checkpoint
        ]

    @property
    def noise_names(self) -> list[str]:
        """Of the noise maps that come with any of them."""
        rows = [part for part in self.parts if isinstance(part, _Rows)]
        return sorted({name for part in rows for name in part.noise})

    def describe(self) -> list[Any]:
        """For the metadata of a sheet: what was asked for, or of a long list its hash."""
        told: list[Any] = []
        for part in self.parts:
            if isinstance(part, SeedRange):
                told.append(f"{part.first}-{part.last}" if _length(part) > 1 else str(part.first))
            elif isinstance(part, MeanLatent):
                told.append("avg")
            else:
                rows = [part.rows[0], part.rows[-1]]
                told.append({"file": part.stem, "rows": rows, "sha256": part.sha256})
        if len(told) <= 100:
            return told
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return [*told[:3], f"and {len(told) - 3} more", {"sha256": digest}]

    def __iter__(self) -> Iterator[Latent]:
        """Sg2Error for one that holds NaN or infinity."""
        import numpy as np

        for latent in self.unchecked():
            if latent.values is not None and not np.isfinite(latent.values).all():
                where = f"row {latent.made_of['row']} of {latent.made_of['file']}"
                raise Sg2Error(f"{where} holds NaN or infinity: nothing to draw")
            yield latent

    def unchecked(self) -> Iterator[Latent]:
        """With those that cannot be drawn, for commands that go on without their pictures."""
        names = _Names(self.parts, self.reserved)
        for part in self.parts:
            if isinstance(part, SeedRange):
                for seed, times in names.seeds(part):
                    name = f"seed{seed:04d}" + (f"-{times}" if times > 1 else "")
                    yield Latent(name, "seed", None, {"seed": seed}, seed)
            elif isinstance(part, MeanLatent):
                yield Latent(names.free("avg"), "avg", None, {"latent": "avg"}, seed=0)
            else:
                for row in part.rows:
                    name = part.stem if part.array.shape[0] == 1 else f"{part.stem}-{row:04d}"
                    yield part.latent(row, names.free(name))


class _Names:
    """Gives each latent of a list a name of its own.

    A seed's second picture is seed0085-2. A list may have thousands of ranges, and a range billions
    of seeds: they are cut where ranges begin and end, and what is between two cuts is counted as a
    whole.
    """

    def __init__(
        self, parts: Iterable[SeedRange | MeanLatent | _Rows], reserved: Iterable[str]
    ) -> None:
        ranges = [part for part in parts if isinstance(part, SeedRange)]
        self.starts = sorted(r.first for r in ranges)
        self.ends = sorted(r.last + 1 for r in ranges)
        self.cuts = sorted({*self.starts, *self.ends})
        self.times = [0] * len(self.cuts)  # how often what follows each cut came so far
        self.taken = set(reserved)
        self.numbers: dict[str, int] = {}  # the last number that a name was given with

    def seeds(self, part: SeedRange) -> Iterator[tuple[int, int]]:
        """Each seed of a range, and the how-manieth time it comes."""
        begin, end = bisect_left(self.cuts, part.first), bisect_left(self.cuts, part.last + 1)
        for i in range(begin, end):
            self.times[i] += 1
            for seed in range(self.cuts[i], self.cuts[i + 1]):
                yield seed, self.times[i]

    def free(self, name: str) -> str:
        """The name, or the name with the first number that nothing else has."""
        number = self.numbers.get(name, 0) + 1
        candidate = name if number == 1 else f"{name}-{number}"
        while candidate in self.taken or self._is_seed_name(candidate):
            number += 1
            candidate = f"{name}-{number}"
        self.numbers[name] = number
        self.taken.add(candidate)
        return candidate

    def _is_seed_name(self, name: str) -> bool:
        match = re.fullmatch(r"seed(\d{4,10})(?:-(\d{1,9}))?", name, re.ASCII)
        if not match:
            return False
        seed = int(match[1])
        times = bisect_right(self.starts, seed) - bisect_right(self.ends, seed)
        return int(match[2] or 1) <= times


def _length(part: SeedRange | MeanLatent | _Rows) -> int:
    if isinstance(part, SeedRange):
        return part.last - part.first + 1
    return len(part.rows) if isinstance(part, _Rows) else 1


def open_latents(
    sources: Iterable[LatentSource], config: GeneratorConfig, reserved: Iterable[str] = ()
) -> LatentList:
    """Open the files among the sources, and check that they fit the network.

    UsageError for latents of another network, with both sizes, or rows that are not there;
    Sg2Error for a file that is damaged or holds no latents.
    """
    files: dict[Path, ArrayFile] = {}  # a file of which single rows are asked for is read once
    noise: dict[Path, Mapping[str, Array]] = {}
    parts: list[SeedRange | MeanLatent | _Rows] = []
    for source in sources:
        if not isinstance(source, LatentFile):
            parts.append(source)
            continue
        path = source.path
        if path not in files:
            files[path] = _open_file(path)
        rows = _open_rows(source, files[path], config)
        if path not in noise:
            noise[path] = _noise_of(files[path], rows.array.shape[0], _told(path), config)
        parts.append(replace(rows, noise=noise[path]))
    return LatentList(parts, reserved)


def _told(path: Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def _open_file(path: Path) -> ArrayFile:
    name, content = _told(path), None
    if name == "stdin":
        if sys.stdin is None:
            raise Sg2Error("stdin is closed: give a file of latents")
        with reading_of(name, "cannot be read"):
            content = read_stream(sys.stdin.buffer, MAX_PIPE)
    try:
        return read_latents(path if content is None else content, name)
    except Sg2Error as error:
        raise Sg2Error(f"{error}; give {NOTATION}") from error


def _open_rows(source: LatentFile, file: ArrayFile, config: GeneratorConfig) -> _Rows:
    """Rows of a file that fit the network, without noise maps."""
    name, arrays = _told(source.path), file.arrays
    key = next((key for key in ("ws", "w", "z", UNNAMED) if key in arrays), None)
    if key is None:
        raise Sg2Error(f"{name} holds no array named z, w or ws: no latents")
    space: Literal["z", "w"] = "z" if key == "z" or source.holds_z else "w"
    array = fit(arrays[key], space, key == "ws", name, config)
    count = array.shape[0]
    first = 0 if source.first is None else source.first
    last = count - 1 if source.last is None else source.last
    if last >= count:
        raise UsageError(f"{name} has {count} rows, 0 to {count - 1}: there is no row {last}")
    stem = "stdin" if name == "stdin" else source.path.stem
    made_with = (file.metadata.get("checkpoint"), file.metadata.get("tuned"))
    return _Rows(stem, space, array, range(first, last + 1), {}, file.sha256, *made_with)


def _noise_of(file: ArrayFile, count: int, name: str, config: GeneratorConfig) -> dict[str, Array]:
    return {
        key: fit_noise(key, array, count, name, config)
        for key, array in file.arrays.items()
        if key.endswith("noise_const")
    }


def truncate(ws: Tensor, w_avg: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
    """Move the first `cutoff` rows to the mean (StyleGAN appendix B): psi 1 keeps, 0 is w_avg.

    ws [N,num_ws,w_dim], w_avg [w_dim] -> [N,num_ws,w_dim]
    """
    import torch

    reached = w_avg.lerp(ws[:, :cutoff], psi)
    return reached if cutoff is None else torch.cat([reached, ws[:, cutoff:]], dim=1)


def seed_to_z(seed: int, z_dim: int) -> Array:
    """The z [z_dim] of a seed, float32: the one that NVIDIA's scripts draw."""
    import numpy as np

    return np.random.RandomState(seed).randn(1, z_dim)[0].astype(np.float32)


def z_of(latent: Latent, z_dim: int) -> Array:
    """The z [z_dim] of a latent that is one or a seed."""
    own = latent.values if latent.space == "z" else None
    return seed_to_z(latent.seed, z_dim) if own is None else own


def class_vectors(G: Generator, count: int, class_index: int) -> Tensor | None:
    """One-hot c [N,c_dim] for the mapping network; None where there are no classes."""
    import torch

    if not G.config.c_dim:
        return None
    c = torch.zeros(count, G.config.c_dim, device=G.device)
    c[:, class_index] = 1
    return c


def to_ws(
    G: Generator,
    latents: Sequence[Latent],
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
) -> Tensor:
    """Map and truncate: -> ws [N,num_ws,w_dim] on the device of the network.

    Without a psi, latents from seeds and z are taken as they are, which is psi 1. With one, w and
    ws from files are truncated, too. A class is needed for z of a conditional network.
    """
    import numpy as np
    import torch

    config = G.config
    rows: list[Tensor] = []
    # All go through the mapping network, so that its batch, and so its rounding, is the same
    # whatever the latents are.
    zs = [z_of(latent, config.z_dim) for latent in latents]
    c = class_vectors(G, len(zs), class_index or 0)  # of latents that need none, any will do
    mapped = G.mapping(torch.from_numpy(np.stack(zs)).to(G.device), c)
    for latent, w in zip(latents, mapped, strict=True):
        if latent.space == "avg":
            w = G.mapping.w_avg
        elif latent.space == "w":
            w = torch.from_numpy(latent.values).to(G.device)
        rows.append(w.expand(config.num_ws, -1))
    ws = torch.stack(rows)
    return ws if psi is None else truncate(ws, G.mapping.w_avg, psi, cutoff)
