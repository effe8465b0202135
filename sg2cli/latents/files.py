"""Files of latents and noise maps: .safetensors, .npz and .npy.

Files are untrusted: shapes are checked against the network before arrays are read.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.provenance import HASH_KEY, PLACEHOLDER, payload_sha256
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import UNNAMED, ArrayFile, StoredArray, names_of, read_arrays
from sg2cli.storage.atomic import new_file
from sg2cli.storage.safetensors import safetensors_header

if TYPE_CHECKING:
    from sg2cli.storage.array_files import Array

SUFFIXES = (".safetensors", ".npz", ".npy")
NAMES = ("z", "w", "ws")


def read_latents(file: Path | bytes, name: str) -> ArrayFile:
    """Read the latents and noise maps of a file, or of its bytes; other arrays are ignored.

    Sg2Error, with the `name` that the user gave, for a file that cannot be read or is damaged.
    """
    with reading_of(name, "is damaged or holds no latents"):
        return read_arrays(file, _is_ours)


@contextmanager
def reading_of(name: str, otherwise: str) -> Iterator[None]:
    """Convert errors of the system, and of the reader with `otherwise`, to Sg2Error."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
    except ValueError as error:
        raise Sg2Error(f"{name} {otherwise}: {error}") from error


def _is_ours(name: str) -> bool:
    return name in NAMES or name.endswith(".noise_const")


def fit(
    array: StoredArray, space: Literal["z", "w"], is_ws: bool, name: str, config: GeneratorConfig
) -> StoredArray:
    """The array as [N,...]; UsageError if its rows are not latents of the network."""
    shape = array.shape
    if len(shape) == (2 if is_ws else 1):  # one latent, without the N
        single, shape = array, (1, *shape)
        array = StoredArray(shape, lambda rows: single.rows(slice(None))[None][rows])
    dim = config.z_dim if space == "z" else config.w_dim
    if not 2 <= len(shape) <= (2 if space == "z" else 3) or not shape[0]:
        raise Sg2Error(f"{name} has an array of shape {list(shape)}, which is not one of latents")
    if shape[-1] != dim:
        raise UsageError(f"{name} has {space} of dimension {shape[-1]}, this network has {dim}")
    if len(shape) == 3 and shape[1] != config.num_ws:
        raise UsageError(f"{name} has ws of {shape[1]} rows, this network has {config.num_ws}")
    return array


def fit_noise(
    key: str, array: StoredArray, count: int, name: str, config: GeneratorConfig
) -> Array:
    """Noise maps as [N,H,W], or [H,W] if all rows share one."""
    import numpy as np

    match = re.fullmatch(r"synthesis\.b(\d{1,7})\.conv([01])\.noise_const", key)
    resolution = int(match[1]) if match else 0
    known = config.use_noise and resolution in config.resolutions
    if not match or not known or (resolution == 4 and match[2] == "0"):
        raise UsageError(f"{name} has a noise map {key}, for which this network has no layer")
    size = (resolution, resolution)
    if array.shape not in (size, (1, *size), (1, 1, *size), (count, *size), (count, 1, *size)):
        raise UsageError(f"{name} has a noise map {key} of {list(array.shape)}, not {list(size)}")
    maps = array.whole()
    if not np.isfinite(maps).all():
        raise Sg2Error(f"{name} has NaN or infinity in its noise map {key}")
    return maps.reshape(size if maps.size == resolution**2 else (count, *size))


@dataclass(frozen=True)
class Stream:
    """An array whose rows are created while they are written: shape [N,...], and N rows."""

    shape: tuple[int, ...]
    rows: Iterable[Array]

    def write(self, file: IO[bytes]) -> None:
        for row in self.rows:
            file.write(row.astype("<f4").tobytes())


def save_latents(
    path: Path,
    arrays: Mapping[str, Stream],
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    durable: bool = False,
) -> None:
    """Write arrays, `ws` and noise maps, row by row, so that any number fits in memory.

    A .safetensors has their provenance in its metadata; an .npz has `ws` under NVIDIA's name `w`;
    an .npy has only `ws`. UsageError for another extension, or for noise in an .npy.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: latents are saved as {', '.join(SUFFIXES)}")
    if path.suffix == ".npy" and len(arrays) > 1:
        raise UsageError(f"{path}: an .npy cannot hold noise maps: save a .safetensors")
    with new_file(path, overwrite, durable) as file:
        write_latents(file, path.suffix, arrays, provenance)


def write_latents(
    file: IO[bytes], suffix: str, arrays: Mapping[str, Stream], provenance: Mapping[str, Any]
) -> None:
    """As `save_latents`, into an open, seekable file."""
    if suffix == ".safetensors":
        shapes = {name: array.shape for name, array in arrays.items()}
        file.write(safetensors_header(shapes, {**provenance, HASH_KEY: PLACEHOLDER}))
        for array in arrays.values():
            array.write(file)
        file.seek(0)
        found = payload_sha256(file)
        file.seek(0)
        file.write(safetensors_header(shapes, {**provenance, HASH_KEY: found}))
        file.seek(0, io.SEEK_END)
    elif suffix == ".npy":
        file.write(_npy_header(arrays["ws"].shape))
        arrays["ws"].write(file)
    else:
        with zipfile.ZipFile(file, "w") as members:
            for name, array in arrays.items():
                member_name = "w.npy" if name == "ws" else f"{name}.npy"
                with members.open(member_name, "w", force_zip64=True) as member:
                    member.write(_npy_header(array.shape))
                    array.write(member)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    import numpy as np

    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def inspect_latents(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of the arrays in a file, and the provenance in a .safetensors."""
    found = read_latents(path, str(path))
    return {name or "unnamed": array.shape for name, array in found.arrays.items()}, found.metadata


def is_latents(path: Path) -> bool:
    """Whether a file looks like latents: an .npy, an .npz, a .safetensors with z, w or ws."""
    try:
        names = names_of(path)
    except (OSError, ValueError):
        return False
    archived = bool(names) and all(name.endswith(".npy") for name in names)
    return archived or bool(names & {UNNAMED, *NAMES})
