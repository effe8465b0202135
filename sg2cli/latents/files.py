"""Files of latents and noise maps: .safetensors, .npz, .npy, and those of torch.save.

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

from sg2cli.checkpoints.torch_tensors import is_legacy
from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.latents.array_names import (
    KINDS,
    NAMES,
    NOISE_SUFFIX,
    ArrayKind,
    choose_names,
    missing,
)
from sg2cli.latents.torch_files import is_torch_archive, read_torch_latents
from sg2cli.provenance import HASH_KEY, PLACEHOLDER, payload_sha256
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import (
    ArrayFile,
    PickledObjects,
    StoredArray,
    names_of,
    read_arrays,
)
from sg2cli.storage.atomic import new_file
from sg2cli.storage.budget import MAX_CHECKPOINT
from sg2cli.storage.reading import Source, read_bytes
from sg2cli.storage.safetensors import safetensors_header
from sg2cli.storage.zip_reader import is_zip

if TYPE_CHECKING:
    from sg2cli.storage.array_files import Array

SUFFIXES = (".safetensors", ".npz", ".npy")  # of files that are written
SUFFIXES_READ = (*SUFFIXES, ".pt", ".pth")
START = 16  # bytes that tell formats apart


def read_latents(file: Path | bytes, name: str, key: str | None = None) -> ArrayFile:
    """Read the latents and noise maps of a file, or of its bytes; other arrays are ignored.

    `key`: the name of an array, or a kind, as in `choose_names`. Sg2Error, with the `name` that the
    user gave, for a file that cannot be read or is damaged.
    """
    with reading_of(name, "is damaged or holds no latents"):
        try:
            with Source(file) as source:
                start = bytes(source.read(min(START, source.size)))
            names = set() if is_legacy(start) else names_of(file)
            if is_legacy(start) or (is_zip(start) and is_torch_archive(names)):
                content = read_bytes(file, MAX_CHECKPOINT) if isinstance(file, Path) else file
                return read_torch_latents(content, key, name)
            if is_zip(start):
                names = {member.removesuffix(".npy") for member in names}
            chosen = choose_names(sorted(names), key)
            if not chosen:
                raise ValueError(missing(names, key, name))
            return read_arrays(file, chosen.__contains__)
        except PickledObjects as error:
            raise Sg2Error(_advice(name, error.is_single)) from error


def _advice(name: str, is_dict: bool) -> str:
    """How to save what an .npy holds as a pickle, which is never loaded."""
    stem = Path(name).stem
    load = f"numpy.load({name!r}, allow_pickle=True)"
    if is_dict:
        what = "a pickled dict"
        save = f"numpy.savez('{stem}.npz', **{load}.item())"
    else:
        what = "pickled Python objects"
        save = f"numpy.save('{stem}-ws.npy', numpy.stack(list({load})))"
    return (
        f"{name} holds {what}, which sg2 does not load, as a pickle can run anything: if you trust "
        f'it, save its arrays: python -c "import numpy; {save}"'
    )


@contextmanager
def reading_of(name: str, otherwise: str) -> Iterator[None]:
    """Convert errors of the system, and of the reader with `otherwise`, to Sg2Error."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"cannot read {name}: {reason(error)}") from error
    except ValueError as error:
        raise Sg2Error(f"{name} {otherwise}: {error}") from error


@dataclass(frozen=True)
class Fitted:
    """An array of latents [N,...] that fits the network; `note`: how its shape was understood."""

    array: StoredArray
    space: Literal["z", "w"]
    note: str = ""


def fit(file: ArrayFile, key: str | None, name: str, config: GeneratorConfig) -> Fitted:
    """The latents of a file as [N,...]; UsageError if they do not fit the network.

    An array [num_ws,w_dim] may be one W+ latent or num_ws latents in W. If its rows differ it is
    nearly always the former; `key` "w" or "ws" settles it, as do names of the rows.
    """
    label = next(label for label in file.arrays if not label.endswith(NOISE_SUFFIX))
    array, kind = file.arrays[label], _kind(label, key, name)
    single = array.shape == (config.num_ws, config.w_dim) and (
        kind == "ws" or (kind is None and not file.row_names and _rows_differ(array, name))
    )
    if single or len(array.shape) == (2 if kind == "ws" else 1):
        array = _with_batch(array)
    shape, space = array.shape, "z" if kind == "z" else "w"
    dim = config.z_dim if kind == "z" else config.w_dim
    if not 2 <= len(shape) <= (2 if kind == "z" else 3) or not shape[0]:
        raise Sg2Error(f"{name} has an array of shape {list(shape)}, which is not one of latents")
    if shape[-1] != dim:
        raise UsageError(f"{name} has {space} of dimension {shape[-1]}, this network has {dim}")
    if len(shape) == 3 and shape[1] != config.num_ws:
        raise UsageError(f"{name} has ws of {shape[1]} rows, this network has {config.num_ws}")
    note = ""
    if single and kind is None:
        note = (
            f"{name} is read as one latent in W+, as it has {config.num_ws} different rows like ws "
            f"of this network; {name}:w reads {config.num_ws} latents in W"
        )
    return Fitted(array, "z" if kind == "z" else "w", note)


def _kind(label: str, key: str | None, name: str) -> ArrayKind | None:
    """What the user or the name of an array says that it holds; None: its shape decides."""
    asked = next((kind for kind in KINDS if kind == key), None)
    stored = next((kind for kind in KINDS if kind == label), None)
    if asked and stored and (asked == "z") != (stored == "z"):
        raise UsageError(f"{name} holds an array named {stored}, so it cannot be read as {asked}")
    return asked or (stored if stored != "w" else None)  # NVIDIA's projector calls ws w


def _rows_differ(array: StoredArray, name: str) -> bool:
    with reading_of(name, "is damaged"):
        values = array.whole()
    return bool((values != values[:1]).any())


def _with_batch(single: StoredArray) -> StoredArray:
    """One latent as an array of one."""
    return StoredArray((1, *single.shape), lambda rows: single.rows(slice(None))[None][rows])


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
    size = config.sizes[config.resolutions.index(resolution)]
    if array.shape not in (size, (1, *size), (1, 1, *size), (count, *size), (count, 1, *size)):
        raise UsageError(f"{name} has a noise map {key} of {list(array.shape)}, not {list(size)}")
    maps = array.whole()
    if not np.isfinite(maps).all():
        raise Sg2Error(f"{name} has NaN or infinity in its noise map {key}")
    return maps.reshape(size if maps.size == size[0] * size[1] else (count, *size))


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
    return archived or bool(names & set(NAMES))
