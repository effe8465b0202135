"""Files of directions: those of sg2, SeFa, GANSpace, InterFaceGAN and their ports.

Files are untrusted: nothing in them is executed, and sizes are checked before numbers are read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.containers import read_container
from sg2cli.checkpoints.pickle_reader import budget_for
from sg2cli.checkpoints.tensor_tree import tensor_tree
from sg2cli.errors import CheckpointError, UsageError, brief
from sg2cli.latents import array_names, files
from sg2cli.latents.direction_names import NO_DIRECTIONS, WEIGHTS, is_name, names_of, unknown
from sg2cli.latents.direction_notation import DirectionSource, none_such
from sg2cli.latents.discovery import METHODS
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import NPY, UNNAMED, read_arrays
from sg2cli.storage.budget import MAX_CHECKPOINT, MAX_DIMENSIONS, MAX_DIRECTIONS, LimitExceeded
from sg2cli.storage.paths import kind
from sg2cli.storage.reading import Source, read_bytes
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata
from sg2cli.storage.zip_reader import ZipFile, is_zip

if TYPE_CHECKING:
    from torch import Tensor

STANDARD_DEVIATIONS = {  # of W along each direction of an array, strongest first
    **{method: f"{method}_std" for method in METHODS},  # sg2
    "lat_comp": "lat_stdev",  # GANSpace
    "comp": "std",  # GANSpace's components as encoder4editing stores them
}
EIGENVECTORS = "eigvec"  # columns; of rosinality's closed_form_factorization.py
LATENTS = {*array_names.NAMES} - {UNNAMED}
LISTS = (*STANDARD_DEVIATIONS, EIGENVECTORS)


@dataclass(frozen=True)
class StoredDirection:
    """A direction as its file has it: `vector` [w_dim] or [num_ws,w_dim]."""

    vector: Tensor
    sha256: str  # of the file
    deviation: Tensor | None = None  # of W along the vector, if the file has it
    checkpoint: str | None = None  # hash of the network that it was found with, if known
    description: str = ""  # of a named one


def read_direction(source: DirectionSource, config: GeneratorConfig) -> StoredDirection:
    """Read a direction from its file. Sg2Error if it cannot be read or belongs elsewhere."""
    path = source.path
    assert path is not None
    with files.reading_of(str(path), NO_DIRECTIONS):
        content = path if kind(path) == "file" else read_bytes(path, MAX_CHECKPOINT)  # a pipe
        opened = Source(content)
        start = bytes(opened.read(min(opened.size, 16)))
        if start[8:9] == b"{" and not start.startswith(NPY):
            return _read_safetensors(opened, source, config)
        if source.is_named:
            raise UsageError(
                f"{source.text}: only a .safetensors has named directions: select one of "
                f"another file by its number, as in {path}:0"
            )
        if start.startswith(NPY) or _is_npz(start, opened):
            return _choose(_read_arrays(content, opened, path), source, config)
        data = bytes(opened.read(opened.size))
        return _choose(_read_pickle(data, path), source, config)


@dataclass(frozen=True)
class _Array:
    """An array of a file, not yet read."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def tensor(self) -> Tensor:
        """In float32 or float64; ValueError for other types and too many numbers."""
        if len(self.shape) > MAX_DIMENSIONS or math.prod(self.shape) > MAX_DIRECTIONS:
            raise LimitExceeded(f"it has more than {MAX_DIRECTIONS:,} numbers")
        found = self.read()
        if not found.is_floating_point():
            raise ValueError(f"it holds {str(found.dtype)[6:]}, not floating-point numbers")
        return found if found.itemsize == 8 else found.float()


@dataclass(frozen=True)
class _Arrays:
    """The arrays of a file by name."""

    arrays: Mapping[str, _Array]
    sha256: str
    checkpoint: str | None = None


def _read_safetensors(
    opened: Source, source: DirectionSource, config: GeneratorConfig
) -> StoredDirection:
    path = source.path
    assert path is not None
    with SafetensorsFile(opened) as file:
        metadata = sg2_metadata(file.metadata)
        checkpoint = metadata.get("checkpoint", None)
        if not isinstance(checkpoint, str | None):
            raise ValueError("its sg2 metadata are invalid")

        def array(name: str) -> _Array:
            return _Array(file.entries[name].shape, partial(file.tensor, name))

        names = names_of(file)
        if source.is_named:
            if source.name not in file.entries or not is_name(source.name):
                raise unknown(source.text, list(names), str(path))
            vector = array(source.name).tensor()
            return StoredDirection(
                vector, file.sha256(), None, checkpoint, names.get(source.name, "")
            )
        _refuse_other_files(path, file.entries, metadata)
        arrays = {name: array(name) for name in file.entries}
        if not any(name in LISTS for name in arrays) and names:
            raise UsageError(
                f"{path} has named directions ({_listed(names)}): give one, "
                f"as in {path}:{next(iter(names))}"
            )
        return _choose(_Arrays(arrays, file.sha256(), checkpoint), source, config)


def _is_npz(start: bytes, opened: Source) -> bool:
    """Whether this is a zip file of arrays, not of torch.save."""
    return is_zip(start) and all(name.endswith(".npy") for name in ZipFile(opened).members)


def _read_arrays(content: Path | bytes, opened: Source, path: Path) -> _Arrays:
    """The array of an .npy, or of an .npz those with known names or the only one."""
    import torch

    is_one = not is_zip(bytes(opened.read(4)))
    names = [] if is_one else [name.removesuffix(".npy") for name in ZipFile(opened).members]
    known = {*LISTS, *STANDARD_DEVIATIONS.values()}
    _refuse_other_files(path, names, {})
    if len(names) > 1 and not known & {*names}:
        raise ValueError(f"it has no known array of directions, but {_listed(names)}")
    file = read_arrays(content, lambda name: len(names) < 2 or name in known)

    def read(name: str) -> Tensor:
        return torch.from_numpy(file.arrays[name].whole())

    arrays = {name: _Array(a.shape, partial(read, name)) for name, a in file.arrays.items()}
    return _Arrays(arrays, file.sha256)


def _read_pickle(content: bytes, path: Path) -> _Arrays:
    """The tensors and arrays of a pickle or a file of torch.save, whatever wraps them."""
    try:
        tree = tensor_tree(read_container(content, budget_for(len(content))))
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    _refuse_other_files(path, tree.tensors, {})

    def read(name: str) -> Tensor:
        try:
            return tree.tensors[name].tensor()
        except CheckpointError as error:
            raise ValueError(str(error)) from error

    arrays = {
        name: _Array(tuple(stored.shape), partial(read, name))
        for name, stored in tree.tensors.items()
    }
    last = {name.rpartition(".")[2]: array for name, array in arrays.items()}
    found = last if any(name in LISTS for name in last) else arrays
    return _Arrays(found, hashlib.sha256(content).hexdigest())


def _refuse_other_files(path: Path, names: Iterable[str], metadata: Mapping[str, Any]) -> None:
    """UsageError for a network, and for latents."""
    if any(WEIGHTS.fullmatch(name) for name in names):
        if metadata.get("kind"):
            raise UsageError(f"{path} holds weight deltas, not directions: give it as `tuned`")
        raise UsageError(
            f"{path} is a network, and holds no directions: give it as `network`, and a direction "
            "such as sefa:0"
        )
    if latents := sorted({*names} & LATENTS):
        raise UsageError(
            f"{path} holds latents ({', '.join(latents)}), not directions: give it as the latents "
            "to edit"
        )


def _choose(found: _Arrays, source: DirectionSource, config: GeneratorConfig) -> StoredDirection:
    """Select one of the directions of a file."""
    if source.method and source.method not in found.arrays:
        held = _listed(found.arrays)
        raise UsageError(f"{source.path} has no directions of {source.method}, but {held}")
    key = source.method or next((name for name in LISTS if name in found.arrays), None)
    deviations = None
    if key is not None:
        vectors = found.arrays[key].tensor()
        if key == EIGENVECTORS:
            vectors = vectors.squeeze()
            if vectors.ndim != 2:
                raise ValueError(f"its {EIGENVECTORS} is not a matrix")
            vectors = vectors.T
        deviations = _deviations(found, key)
    elif len(found.arrays) == 1:
        vectors = next(iter(found.arrays.values())).tensor()
    elif found.arrays:
        raise ValueError(f"it has several arrays, and none called {_listed(LISTS)}")
    else:
        raise ValueError("it has no arrays")
    vectors = _in_order(vectors, key is not None, source, config)
    if deviations is not None and len(deviations) != len(vectors):
        raise ValueError("it does not have one deviation for each direction")
    vector, number = _select(vectors, key is not None, source, config)
    deviation = None if deviations is None else deviations[number]
    return StoredDirection(vector, found.sha256, deviation, found.checkpoint)


def _deviations(found: _Arrays, key: str) -> Tensor | None:
    """One for each direction. sg2 always writes them."""
    name = STANDARD_DEVIATIONS.get(key, "")
    if name in found.arrays:
        return found.arrays[name].tensor().reshape(-1)
    if key in METHODS:
        raise ValueError(f"it has no deviations {name}")
    return None


def _in_order(
    vectors: Tensor, is_list: bool, source: DirectionSource, config: GeneratorConfig
) -> Tensor:
    """[K,w_dim] or [K,num_ws,w_dim], without further dimensions of size 1."""
    shape = list(vectors.shape)
    while len(shape) > 1 and shape[-1] == 1 != config.w_dim:
        shape.pop()
    if not shape or shape[-1] != config.w_dim:
        raise UsageError(
            f"{source.path} has directions of {list(vectors.shape)}, neither [{config.w_dim}] nor "
            f"[{config.num_ws},{config.w_dim}]: W of this network has {config.w_dim} numbers"
        )
    *counts, width = shape
    is_flat = sum(count != 1 for count in counts) <= 1
    if len(counts) > 1 and counts[-1] == config.num_ws and not (is_list and is_flat):
        return vectors.reshape(-1, config.num_ws, width)
    if not is_flat:
        raise UsageError(
            f"{source.path} has directions of {list(vectors.shape)}: this network has "
            f"{config.num_ws} rows of ws"
        )
    return vectors.reshape(-1, width)


def _select(
    vectors: Tensor, is_list: bool, source: DirectionSource, config: GeneratorConfig
) -> tuple[Tensor, int]:
    """The direction of the number, or the only one, and its number."""
    path, number = source.path, source.number
    if not len(vectors):
        raise UsageError(f"{path} has no directions")
    if number is None:
        if len(vectors) == 1:
            return vectors[0], 0
        if vectors.ndim == 2 and len(vectors) == config.num_ws and not is_list:
            return vectors, 0  # a row for each of ws
        raise UsageError(f"{path} has {len(vectors)} directions: select one, such as {path}:0")
    if number >= len(vectors):
        if len(vectors) == 1:
            raise UsageError(f"{path} holds a single direction: remove :{number}")
        raise none_such(path, len(vectors))
    return vectors[number], number


def _listed(names: Iterable[str]) -> str:
    """The first names of a file, for a message."""
    listed = list(names)
    return brief(", ".join(listed[:5]) + (", ..." if len(listed) > 5 else ""), 200)[1:-1]
