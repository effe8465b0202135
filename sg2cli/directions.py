"""Directions of W along which one thing changes: found by SeFa and PCA, or read from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError, reason
from sg2cli.files import new_file

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

METHODS = ("sefa", "pca")
CHUNK = 4096  # z that are mapped at once


@dataclass(frozen=True)
class Direction:
    """`step` [w_dim] or [num_ws,w_dim]: one standard deviation of W along a direction."""

    name: str
    step: Tensor


@dataclass(frozen=True)
class Moments:
    """The mean [w_dim] and covariance [w_dim,w_dim] of W over so many seeded z, in float64."""

    mean: Tensor
    covariance: Tensor
    samples: int

    def deviation(self, vectors: Tensor) -> Tensor:
        """The standard deviation of W along unit vectors [...,w_dim] -> [...]."""
        v = vectors.double()
        return ((v @ self.covariance) * v).sum(dim=-1).clamp_min(0).sqrt()


def moments(
    G: Generator,
    samples: int = 100_000,
    seed: int = 0,
    class_index: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Moments:
    """Map so many z of RandomState(seed), a few thousand at a time."""
    import numpy as np
    import torch

    config, random = G.config, np.random.RandomState(seed)
    total = torch.zeros(config.w_dim, dtype=torch.float64)
    squares = torch.zeros(config.w_dim, config.w_dim, dtype=torch.float64)
    w_avg = G.mapping.w_avg.double().cpu()
    with torch.inference_mode():
        for start in range(0, samples, CHUNK):
            count = min(CHUNK, samples - start)
            z = torch.from_numpy(random.randn(count, config.z_dim).astype(np.float32))
            c = None
            if config.c_dim:
                c = torch.zeros(count, config.c_dim, device=G.device)
                c[:, class_index or 0] = 1
            w = G.mapping(z.to(G.device), c).double().cpu() - w_avg  # near 0, so nothing cancels
            total += w.sum(dim=0)
            squares += w.T @ w
            advance(count)
    mean = total / samples
    return Moments(mean + w_avg, squares / samples - torch.outer(mean, mean), samples)


def sefa(G: Generator, rows: Sequence[int]) -> Tensor:
    """The directions [w_dim,w_dim] that change the styles of those rows most, strongest first.

    Eigenvectors of A^T A, A being the affine weights of the layers that read the rows, one below
    the other (Shen and Zhou 2021, eq. 8); orthonormal.
    """
    import torch

    layers = [layer.affine for layer in G.synthesis.layers]
    affines = [*layers, G.synthesis.blocks[-1].torgb.affine]  # which reads the last row
    A = torch.cat([affines[row].weight for row in rows]).double()
    _, vectors = torch.linalg.eigh(A.T @ A)  # rising eigenvalues
    return _with_sign(vectors.T.flip(0))


def pca(found: Moments) -> Tensor:
    """The principal components [w_dim,w_dim] of W, widest first (Härkönen et al. 2020)."""
    import torch

    _, vectors = torch.linalg.eigh(found.covariance)
    return _with_sign(vectors.T.flip(0))


def _with_sign(vectors: Tensor) -> Tensor:
    """An eigenvector's sign is free: its largest number is made positive."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * largest.sign()


def save_directions(
    path: Path,
    vectors: Mapping[str, Tensor],
    found: Moments,
    made_by: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write unit vectors [K,w_dim] by method, and `<method>_std` [K], as one safetensors."""
    from safetensors.torch import save

    tensors = {}
    for method, rows in vectors.items():
        tensors[method] = rows.float().contiguous()
        tensors[f"{method}_std"] = found.deviation(rows).float().contiguous()
    with new_file(path, overwrite) as file:
        file.write(save(tensors, {"sg2": json.dumps(made_by)}))


def find_direction(
    text: str, G: Generator, rows: Sequence[int], class_index: int | None = None
) -> Direction:
    """'sefa:K', 'pca:K', 'FILE', 'FILE:K' or 'FILE:sefa:K' -> a step of one standard deviation.

    A FILE is one of `sg2 directions`, an .npy [w_dim] or [num_ws,w_dim], or rosinality's factor.pt,
    of whose columns K is one. UsageError or Sg2Error says what is wrong.
    """
    import torch

    name, _, index = text.rpartition(":")
    if not index.isdecimal() or not name:
        name, index = text, ""
    number = int(index or 0)
    if name in METHODS:
        if not index:
            raise UsageError(f"which of the {name} directions? give {name}:0, the strongest, or on")
        found = moments(G, 100_000 if name == "pca" else 10_000, class_index=class_index)
        vectors = pca(found) if name == "pca" else sefa(G, rows)
        vector = _pick(vectors, number, text)
    else:
        vector = _read_direction(name, number, bool(index), G.config.w_dim, G.config.num_ws)
        found = moments(G, 10_000, class_index=class_index)
    vector = vector.double()
    norms = vector.norm(dim=-1, keepdim=True)
    if not vector.isfinite().all() or norms.max() == 0:
        raise Sg2Error(f"the direction {text} is zero, NaN or infinite")
    unit = vector / norms.square().mean().sqrt()  # of all rows together, if it has rows
    deviation = found.deviation(unit).square().mean().sqrt()
    step = (unit * deviation).to(G.device, torch.float32)
    return Direction(text, step)


def _pick(vectors: Tensor, number: int, text: str) -> Tensor:
    if number >= len(vectors):
        raise UsageError(f"{text}: there are {len(vectors)} directions, 0 to {len(vectors) - 1}")
    return vectors[number]


def _read_direction(name: str, number: int, numbered: bool, w_dim: int, num_ws: int) -> Tensor:
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    method = ""
    path = Path(name).expanduser()
    if not path.is_file() and name.rpartition(":")[2] in METHODS:
        name, _, method = name.rpartition(":")
        path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(
            f"no direction {name!r}: give sefa:K, pca:K or a file (.safetensors, .npy, .pt)"
        )
    try:
        if path.suffix == ".npy":
            vectors = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
        elif path.suffix == ".pt":
            stored = torch.load(path, map_location="cpu", weights_only=True)
            vectors = stored["eigvec"].T.contiguous()
            numbered = True
        else:
            tensors = load_file(path)
            known = [key for key in METHODS if key in tensors]
            vectors = tensors[method or known[0]]
            numbered = True
    except OSError as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    except SafetensorError as error:
        raise Sg2Error(f"{path} is damaged, or no safetensors file: {error}") from error
    except (ValueError, LookupError, TypeError, EOFError, RuntimeError, UnpicklingError) as error:
        told = " ".join(str(error).split())[:100]
        raise Sg2Error(f"{path} is damaged or holds no directions: {told}") from error
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
        raise Sg2Error(f"{path} holds no directions")
    if vectors.shape[-1:] != (w_dim,):
        raise UsageError(
            f"{path} has directions of {list(vectors.shape)[-1:]} numbers, W has {w_dim}"
        )
    if numbered:
        if vectors.ndim != 2:
            raise UsageError(f"{path} holds one direction: leave :{number} out")
        return _pick(vectors, number, str(path))
    if vectors.shape not in ((w_dim,), (1, w_dim), (num_ws, w_dim)):
        raise UsageError(
            f"{path} is {list(vectors.shape)}, neither [{w_dim}] nor [{num_ws},{w_dim}]"
        )
    return vectors[0] if vectors.shape == (1, w_dim) else vectors


def edit(ws: Tensor, direction: Direction, amount: float, rows: Sequence[int]) -> Tensor:
    """Move rows of ws [num_ws,w_dim] by so many standard deviations; by 0 changes nothing."""
    step = direction.step.expand_as(ws)
    edited = ws.clone()
    edited[list(rows)] += amount * step[list(rows)]
    return edited
