"""Directions of W: found by SeFa and PCA, by name, or read from files."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.pickle_globals import GLOBALS
from sg2cli.checkpoints.torch_tensors import PickledTensor, read_torch
from sg2cli.errors import CheckpointError, Sg2Error, UsageError
from sg2cli.latents.discovery import METHODS, moments, pca, sefa
from sg2cli.latents.files import reading_of
from sg2cli.latents.named_directions import file_beside, read_names, read_vector, unknown
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import NPY, UNNAMED, read_arrays
from sg2cli.storage.budget import MAX_CHECKPOINT, MAX_DIRECTIONS, LimitExceeded
from sg2cli.storage.paths import kind, user_path
from sg2cli.storage.reading import read_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator


@dataclass(frozen=True)
class Direction:
    """`step` [w_dim] or [num_ws,w_dim]: one standard deviation of W, or a unit of a named one."""

    step: Tensor
    provenance: Mapping[str, Any]  # the requested direction and the hash of its file
    checkpoint: str | None = None  # hash of the network that it was found with, if known
    is_named: bool = False


def _split(text: str) -> tuple[str, str, int | None]:
    """'sefa:K', 'FILE', 'FILE:K' or 'FILE:sefa:K' -> file or '', method or '', K or None."""
    match = re.fullmatch(r"(?s)(.*?)(?:(?:^|:)(sefa|pca))?(?::(\d{1,9}))?", text)
    assert match is not None  # every text fits
    return match[1], match[2] or "", None if match[3] is None else int(match[3])


def named_file(text: str, network: Path | None) -> tuple[Path, str] | None:
    """The file and the name of a named direction: 'NAME', of the file beside the network, or
    'FILE:NAME'. None for anything else, and where a file is called so."""
    if kind(user_path(_split(text)[0] or text)) in ("file", "other"):
        return None
    file, name = _file_of(text, network)
    return (file, name) if file and name in read_names(file) else None


def _file_of(text: str, network: Path | None) -> tuple[Path | None, str]:
    """The file that 'NAME' or 'FILE:NAME' is looked up in, and the name."""
    file, _, name = text.rpartition(":")
    if file:
        return user_path(file), name
    return file_beside(network) if network else None, name


def source_file(text: str, network: Path | None) -> Path | None:
    """The file that a direction is read from; None for 'sefa:K' and 'pca:K'."""
    if named := named_file(text, network):
        return named[0]
    name, _, _ = _split(text)
    return user_path(name) if name else None


def check_direction(text: str, config: GeneratorConfig, network: Path | None = None) -> None:
    """UsageError for directions that cannot exist; other files are not opened.

    `network`: the file that the network was loaded from.
    """
    if named_file(text, network):
        return
    name, method, number = _split(text)
    if not name and number is None:
        if not method:
            raise unknown(text, [])
        raise UsageError(
            f"{method} has several directions: give a number, such as {method}:0 for the strongest"
        )
    if not name and number is not None and number >= config.w_dim:
        raise _none_such(text, config.w_dim)
    if name and kind(user_path(name)) not in ("file", "other"):  # "other" may be a pipe
        file, _ = _file_of(text, network)
        raise unknown(text, list(read_names(file)) if file else [])


def find_direction(
    text: str,
    G: Generator,
    rows: Sequence[int],
    class_index: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Direction:
    """'sefa:K', 'pca:K', 'FILE', 'FILE:K' or 'FILE:sefa:K' -> a step of one standard deviation;
    'NAME' or 'FILE:NAME' -> a step as it is stored.

    FILE: written by `directions`, an .npy [w_dim], [num_ws,w_dim] or [K,w_dim], or rosinality's
    factor.pt with directions as columns. `advance` receives the number of latents mapped to measure
    the standard deviation, unless the file has it. UsageError or Sg2Error if it cannot be found.
    """
    if found_name := named_file(text, G.path):
        return _read_named(text, *found_name, G)
    check_direction(text, G.config, G.path)
    name, method, number = _split(text)
    provenance: dict[str, Any] = {"direction": text}
    deviation = checkpoint = None
    if not name:
        samples = 100_000 if method == "pca" else 10_000
        w = moments(G, samples, class_index=class_index, advance=advance)
        vector = (pca(w) if method == "pca" else sefa(G, rows))[number or 0]
        deviation = w.deviation(vector)
    else:
        path = user_path(name)
        found = _read_directions(path, method)
        provenance["sha256"], checkpoint = found.sha256, found.checkpoint
        vector = _choose(found.vectors, number, path, G.config)
        if found.deviations is not None:
            deviation = found.deviations.double()[number or 0]
    vector = vector.double()
    norms = vector.norm(dim=-1, keepdim=True)
    if not vector.isfinite().all() or norms.max() == 0:
        raise Sg2Error(f"the direction {text} is zero, NaN or infinite")
    unit = vector / norms.square().mean().sqrt()  # of all rows together, if it has rows
    if deviation is None:
        w = moments(G, 10_000, class_index=class_index, advance=advance)
        deviation = w.deviation(unit).square().mean().sqrt()
    step = (unit * deviation).to(G.device).float()
    if not step.isfinite().all():
        raise Sg2Error(f"the deviation along the direction {text} is NaN, or too large")
    return Direction(step, provenance, checkpoint)


def _read_named(text: str, path: Path, name: str, G: Generator) -> Direction:
    step, sha256, checkpoint = read_vector(path, name)
    if list(step.shape) not in ([G.config.num_ws, G.config.w_dim], [G.config.w_dim]):
        raise UsageError(
            f"{path}: the direction {name} is of {list(step.shape)}, neither [{G.config.w_dim}] "
            f"nor [{G.config.num_ws},{G.config.w_dim}]: it belongs to another network"
        )
    if not step.isfinite().all() or not step.any():
        raise Sg2Error(f"{path}: the direction {name} is zero, NaN or infinite")
    provenance = {"direction": text, "sha256": sha256}
    return Direction(step.to(G.device), provenance, checkpoint, is_named=True)


def _none_such(what: object, count: int) -> UsageError:
    return UsageError(f"{what}: there are {count} directions, 0 to {count - 1}")


def _choose(vectors: Tensor, number: int | None, path: Path, config: GeneratorConfig) -> Tensor:
    """Select one of the directions [K,w_dim], or the only one [w_dim] or [num_ws,w_dim]."""
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != config.w_dim:
        raise UsageError(
            f"{path} has directions of {list(vectors.shape)}, neither [{config.w_dim}] nor "
            f"[{config.num_ws},{config.w_dim}]: W of this network has {config.w_dim} numbers"
        )
    if number is None:
        if vectors.ndim == 1 or len(vectors) == 1:
            return vectors.reshape(config.w_dim)
        if len(vectors) == config.num_ws:
            return vectors
        raise UsageError(f"{path} has {len(vectors)} directions: select one, such as {path}:0")
    if vectors.ndim == 1:
        raise UsageError(f"{path} holds a single direction: remove :{number}")
    if number >= len(vectors):
        raise _none_such(path, len(vectors))
    return vectors[number]


@dataclass(frozen=True)
class _Found:
    """The directions of a file; if sg2 wrote it, also their deviations and network."""

    vectors: Tensor
    sha256: str  # of the file
    deviations: Tensor | None = None
    checkpoint: str | None = None


def _read_directions(path: Path, method: str) -> _Found:
    import torch

    with reading_of(str(path), "is damaged or holds no directions"):
        content = None
        if path.suffix.lower() in (".pt", ".pth") or kind(path) == "other":  # a pipe has no suffix
            content = read_bytes(path, MAX_CHECKPOINT)
        if content is not None and not _is_arrays(content):
            return _Found(_eigenvectors(content).T, hashlib.sha256(content).hexdigest())
        known = (*METHODS, *(f"{name}_std" for name in METHODS), UNNAMED)
        file = read_arrays(path if content is None else content, known.__contains__)
        if sum(math.prod(array.shape) for array in file.arrays.values()) > MAX_DIRECTIONS:
            raise LimitExceeded(f"it has more than {MAX_DIRECTIONS:,} numbers")
        arrays = {name: torch.from_numpy(array.whole()) for name, array in file.arrays.items()}
        if UNNAMED in arrays:
            return _Found(arrays[UNNAMED], file.sha256)
        key = method or next((name for name in METHODS if name in arrays), "")
        vectors, deviations = arrays.get(key), arrays.get(f"{key}_std")
        if vectors is None or deviations is None:
            raise ValueError(f"it has no directions {method or 'sefa or pca'}")
        if deviations.shape != vectors.shape[:1]:
            raise ValueError("it does not have one deviation for each direction")
        return _Found(vectors, file.sha256, deviations, file.metadata.get("checkpoint"))


def _is_arrays(content: bytes) -> bool:
    """Whether this is the content of an .npy or .safetensors, not of torch.save."""
    return content.startswith(NPY) or content[8:9] == b"{"


def _eigenvectors(content: bytes) -> Tensor:
    """Read the file of rosinality's closed_form_factorization.py; ValueError for any other."""
    try:
        stored = read_torch(content, GLOBALS)  # it may hold the options of the script
    except CheckpointError as error:
        raise ValueError(f"it is not a factor.pt, {error}") from error
    found = stored.get("eigvec") if isinstance(stored, dict) else None
    if not isinstance(found, PickledTensor) or len(found.shape) != 2:
        raise ValueError("it is not a factor.pt: it has no matrix eigvec")
    if math.prod(found.shape) > MAX_DIRECTIONS:
        raise LimitExceeded(f"its eigvec has more than {MAX_DIRECTIONS:,} numbers")
    if not found.dtype.startswith(("float", "bfloat")):
        raise ValueError("its eigvec is not a floating point tensor")
    return found.tensor()


def edit(ws: Tensor, direction: Direction, amount: float, rows: Sequence[int]) -> Tensor:
    """Move rows of ws [num_ws,w_dim] by `amount` steps of the direction."""
    step = direction.step.expand_as(ws)
    edited = ws.clone()
    edited[list(rows)] += amount * step[list(rows)]
    return edited
