"""Latents from seeds, files and the mean, in order, created one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.files import Stream, save_latents
from sg2cli.latents.naming import Names
from sg2cli.latents.notation import (
    MeanLatent,
    SeedRange,
)
from sg2cli.storage.array_files import StoredArray
from sg2cli.storage.paths import user_path

if TYPE_CHECKING:
    from sg2cli.storage.array_files import Array


@dataclass(frozen=True)
class ImageOrigin:
    """How the image that a latent was read from was drawn."""

    checkpoint: str | None = None  # hash of its network
    tuned: str | None = None  # hash of its weight deltas
    psi: float | None = None
    cutoff: int | None = None
    class_index: int | None = None
    is_truncated: bool = False  # its latent is not truncated again


@dataclass(frozen=True, eq=False, repr=False)
class Latent:
    """One latent, its name and its origin.

    `values` are z [z_dim], w [w_dim] or ws [num_ws,w_dim], by `space`; a seed and avg have none.
    """

    name: str  # of its image: seed0085
    space: Literal["seed", "z", "w", "avg"]
    values: Array | None
    provenance: Mapping[str, Any]  # {"seed": 85}; for the image's metadata
    seed: int  # of z, and of random noise
    noise: Mapping[str, Array] = field(default_factory=dict)  # maps [H,W] that belong to it
    image: ImageOrigin | None = None  # a seed is drawn as in that image, ws are as they were drawn

    @property
    def is_mapped(self) -> bool:
        """Whether it is mapped and truncated by the settings of the drawing."""
        return self.space in ("seed", "z") and self.image is None

    @property
    def label(self) -> str:
        """Its name for people: a seed without leading zeros."""
        return f"seed {self.seed}" if self.space == "seed" and not self.image else self.name

    @property
    def ws(self) -> Array:
        """w [w_dim] or ws [num_ws,w_dim]; UsageError for a seed, z or the mean."""
        if self.space != "w" or self.values is None:
            raise UsageError(f"{self.name} is a {self.space}: generate(G, latent) maps it to ws")
        return self.values

    def __repr__(self) -> str:
        shape = "" if self.values is None else f", {list(self.values.shape)}"
        return f"Latent({self.name!r}, {self.space}{shape})"

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write ws and noise maps: .safetensors, .npz (NVIDIA's projected_w) or .npy.

        UsageError for another extension; Sg2Error if the file exists, unless `overwrite`.
        """
        import numpy as np

        file, ws = user_path(str(path)), self.ws
        key = "ws" if ws.ndim == 2 or file.suffix == ".npy" else "w"
        arrays = {key: Stream((1, *ws.shape), [ws])}
        arrays |= {name: Stream((1, *x.shape), [np.asarray(x)]) for name, x in self.noise.items()}
        save_latents(file, arrays, self.provenance, overwrite)


Part = Union[SeedRange, MeanLatent, "FileRows", Latent]


@dataclass(frozen=True)
class FileRows:
    """Rows of a file of latents."""

    stem: str
    space: Literal["z", "w"]
    array: StoredArray  # [N,z_dim], [N,w_dim] or [N,num_ws,w_dim]
    rows: range
    noise: Mapping[str, Array]  # each [H,W] or [N,H,W]
    sha256: str
    checkpoint: str | None  # hash of the network that it was made with, if known
    tuned: str | None  # hash of the weight deltas that it was drawn with
    row_names: Sequence[str] = ()
    note: str = ""  # how its shape was understood

    def names(self) -> Iterator[str]:
        """The names of the chosen rows, which may occur twice."""
        for row in self.rows:
            if self.row_names:
                yield self.row_names[row]
            else:
                yield self.stem if self.array.shape[0] == 1 else f"{self.stem}-{row:04d}"

    def latent(self, row: int, name: str) -> Latent:
        values = self.array.row(row)
        noise = {key: maps[row] if maps.ndim == 3 else maps for key, maps in self.noise.items()}
        provenance = {"file": self.stem, "row": row, "sha256": self.sha256}
        return Latent(name, self.space, values, provenance, seed=row, noise=noise)


class LatentList:
    """Latents in order, each with a unique name; created one at a time, so any number fits."""

    def __init__(
        self,
        parts: Sequence[Part],
        reserved: Iterable[str] = (),
        notes: Sequence[str] = (),
        files: Sequence[Path] = (),
    ) -> None:
        """`reserved`: names that no latent gets; `notes`: about files that were left out.

        `files`: those that were read.
        """
        self.parts, self.files = parts, files
        self._notes = notes
        self.reserved = frozenset(reserved)

    def __len__(self) -> int:
        return sum(_length(part) for part in self.parts)

    @property
    def need_mapping(self) -> bool:
        """Whether the mapping network is needed, and therefore a class if it has classes."""
        return any(
            isinstance(p, SeedRange)
            or (isinstance(p, FileRows) and p.space == "z")
            or (isinstance(p, Latent) and p.is_mapped)
            for p in self.parts
        )

    def warnings(self, checkpoint: str, tuned: str | None = None) -> list[str]:
        """Warnings for files that were made with another network than that of these hashes."""
        origins: list[tuple[str, FileRows | ImageOrigin]] = []
        for part in self.parts:
            if isinstance(part, FileRows):
                origins.append((part.stem, part))
            elif isinstance(part, Latent) and part.image:
                origins.append((part.name, part.image))
        untuned = [
            f"{name} belongs to a tuned network: give its weight deltas as `tuned`"
            for name, made in origins
            if made.tuned not in (None, tuned)
        ]
        return untuned + [
            f"{name} was made with another network, {made.checkpoint[:12]}: images will differ"
            for name, made in origins
            if made.checkpoint and made.checkpoint != checkpoint
        ]

    @property
    def truncated(self) -> list[str]:
        """The names of images that were drawn truncated, and are not truncated again."""
        parts = [part for part in self.parts if isinstance(part, Latent)]
        return [part.name for part in parts if part.image and part.image.is_truncated]

    @property
    def notes(self) -> list[str]:
        """How files were understood that could also mean something else, and what was left out."""
        understood = (part.note for part in self.parts if isinstance(part, FileRows))
        return list(dict.fromkeys(filter(None, (*understood, *self._notes))))

    @property
    def noise_names(self) -> list[str]:
        """The names of the noise maps of all latents."""
        parts = [part for part in self.parts if isinstance(part, FileRows | Latent)]
        return sorted({name for part in parts for name in part.noise})

    def describe(self) -> list[Any]:
        """The sources, for the metadata of a grid; a long list is shortened to its hash."""
        described: list[Any] = []
        for part in self.parts:
            if isinstance(part, SeedRange):
                described.append(str(part))
            elif isinstance(part, MeanLatent):
                described.append("avg")
            elif isinstance(part, Latent):
                described.append(dict(part.provenance))
            else:
                rows = [part.rows[0], part.rows[-1]]
                described.append({"file": part.stem, "rows": rows, "sha256": part.sha256})
        if len(described) <= 100:
            return described
        digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
        return [*described[:3], f"and {len(described) - 3} more", {"sha256": digest}]

    def __iter__(self) -> Iterator[Latent]:
        """Sg2Error for one that holds NaN or infinity."""
        import numpy as np

        for latent in self.unchecked():
            if latent.values is not None and not np.isfinite(latent.values).all():
                where = latent.name
                if "row" in latent.provenance:
                    where = f"row {latent.provenance['row']} of {latent.provenance['file']}"
                raise Sg2Error(f"{where} holds NaN or infinity")
            yield latent

    def unchecked(self) -> Iterator[Latent]:
        """All latents, also those that hold NaN, for callers that continue without them."""
        names = Names(self.parts, self.reserved)
        for part in self.parts:
            if isinstance(part, SeedRange):
                for seed, times in names.seeds(part):
                    name = f"seed{seed:04d}" + (f"-{times}" if times > 1 else "")
                    yield Latent(name, "seed", None, {"seed": seed}, seed)
            elif isinstance(part, MeanLatent):
                yield Latent(names.free("avg"), "avg", None, {"latent": "avg"}, seed=0)
            elif isinstance(part, Latent):
                yield replace(part, name=names.free(part.name))
            else:
                for row, name in zip(part.rows, part.names(), strict=True):
                    yield part.latent(row, names.free(name))


def _length(part: Part) -> int:
    if isinstance(part, SeedRange):
        return len(part)
    return len(part.rows) if isinstance(part, FileRows) else 1
