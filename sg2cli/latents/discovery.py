"""Find directions of W along which one thing changes, without labels: SeFa and PCA."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.errors import UsageError
from sg2cli.latents.mixing import layer_rows
from sg2cli.storage.atomic import make_folder, new_file
from sg2cli.storage.paths import user_path
from sg2cli.w_samples import sample_w

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

METHODS = ("sefa", "pca")
SAMPLES = 100_000
CHUNK = 4096  # z that are mapped at once


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
    import torch

    w_dim = G.config.w_dim
    total = torch.zeros(w_dim, dtype=torch.float64)
    squares = torch.zeros(w_dim, w_dim, dtype=torch.float64)
    w_avg = G.mapping.w_avg.double().cpu()
    for batch in sample_w(G, samples, seed, CHUNK, class_index or 0):
        w = batch.double().cpu() - w_avg  # near 0, so nothing cancels
        total += w.sum(dim=0)
        squares += w.T @ w
        advance(len(w))
    mean = total / samples
    return Moments(mean + w_avg, squares / samples - torch.outer(mean, mean), samples)


def sefa(G: Generator, rows: Sequence[int]) -> Tensor:
    """The directions [w_dim,w_dim] that change the styles of those rows most, strongest first.

    Eigenvectors of A^T A by falling eigenvalue (Shen and Zhou 2021, eq. 8), orthonormal. A has the
    affine weights of the layers that read the rows, one below the other, each of its rows divided
    by its norm as in the authors' code, so that all style channels count alike.

    Which layers count: all 3x3 convolutions of the chosen rows, and the last ToRGB if the last row
    is chosen, which no convolution reads. The other ToRGB layers only colour the image.
    """
    import torch

    layers = [layer.affine for layer in G.synthesis.layers]
    affines = [*layers, G.synthesis.blocks[-1].torgb.affine]  # which reads the last row
    A = torch.cat([affines[row].weight for row in rows]).double().cpu()  # as the moments of W
    norms = A.norm(dim=1, keepdim=True)
    A = A / torch.where(norms > 0, norms, 1)  # a style channel may not depend on w
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


def write_directions(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], overwrite: bool
) -> None:
    """Write a .safetensors in float32, with what made it.

    UsageError for another extension; Sg2Error if the file exists, unless `overwrite`.
    """
    from safetensors.torch import save

    file = user_path(str(path))
    if file.suffix != ".safetensors":
        raise UsageError(f"{file}: directions are saved as .safetensors")
    stored = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    make_folder(file.parent)
    with new_file(file, overwrite) as target:
        target.write(save(stored, {"sg2": json.dumps(metadata)}))


@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """Unit vectors [K,w_dim] of W by method, strongest first, and W's deviation along each [K]."""

    sefa: Tensor
    pca: Tensor
    sefa_std: Tensor
    pca_std: Tensor
    provenance: Mapping[str, Any]

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a .safetensors, which `edit` takes as "FILE:sefa:0".

        UsageError for another extension; Sg2Error if the file exists, unless `overwrite`.
        """
        names = (name for method in METHODS for name in (method, f"{method}_std"))
        tensors = {name: getattr(self, name) for name in names}
        write_directions(path, tensors, self.provenance, overwrite)

    def __repr__(self) -> str:
        return f"Directions(sefa {list(self.sefa.shape)}, pca {list(self.pca.shape)})"


def directions(
    G: Generator,
    *,
    layers: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    class_index: int | None = None,
    on_mapped: Callable[[int], object] = lambda count: None,
) -> Directions:
    """Find directions of W: `sg2cli.directions(G).save("directions.safetensors")`.

    Args:
        G: a network, from `sg2cli.load`.
        layers: rows of ws whose styles SeFa factorises: "0-5", "coarse,middle"; None: all.
        samples: number of latents sampled for PCA and for the deviations.
        seed: of those latents.
        class_index: their class, in a conditional network.
        on_mapped: gets the number of latents that were mapped, as they come.

    Returns: SeFa (Shen and Zhou 2021) and PCA (Härkönen et al. 2020), for `edit`.

    Raises UsageError for layers that the network does not have.
    """
    rows = layer_rows(layers, G.config)
    w = moments(G, samples, seed, class_index, on_mapped)
    vectors = {"sefa": sefa(G, rows), "pca": pca(w)}
    deviations = {f"{name}_std": w.deviation(found) for name, found in vectors.items()}
    provenance = {
        "checkpoint": G.checkpoint,
        "layers": rows,
        "samples": samples,
        "seed": seed,
        "class": class_index,
        "version": __version__,
    }
    return Directions(**vectors, **deviations, provenance=provenance)
