"""Latents in any form that the library accepts: text, seeds, files, results, arrays, tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union

from sg2cli.errors import UsageError
from sg2cli.latents.files import fit_noise
from sg2cli.latents.notation import (
    LatentFile,
    LatentSource,
    MeanLatent,
    SeedRange,
    parse_latents,
)
from sg2cli.latents.opening import open_latents
from sg2cli.latents.sources import Latent, LatentList
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.array_files import StoredArray

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.storage.array_files import Array


class HasLatent(Protocol):
    """An object with ws [num_ws,w_dim] and noise maps [H,W] by name: an image, a projection."""

    @property
    def name(self) -> str: ...

    @property
    def ws(self) -> Any: ...

    @property
    def noise(self) -> Mapping[str, Any]: ...


# What the functions of `sg2cli` accept as latents; see `as_latents`.
Latents = Union[
    str, int, Path, Latent, HasLatent, LatentSource, LatentList, "Array", "Tensor", Iterable[Any]
]


def as_latents(given: Latents, config: GeneratorConfig, reserved: Iterable[str] = ()) -> LatentList:
    """Convert any of `Latents`, or a list of them, to a list of latents.

    Text is in the notation of the command line ("85", "0-9,85", "faces.npz[2]", "avg"), a number is
    a seed, a path a file; an array or tensor is w [w_dim], ws [num_ws,w_dim] or [N,num_ws,w_dim].
    UsageError for other types, and for latents that do not fit the network.
    """
    if isinstance(given, LatentList):
        return given
    latents = open_latents(_sources(given, config), config, reserved)
    if not len(latents):
        raise UsageError("no latents: give a seed, a file, an image or ws")
    return latents


def _sources(given: Any, config: GeneratorConfig) -> Iterator[LatentSource | Latent]:
    if isinstance(given, SeedRange | MeanLatent | LatentFile):
        yield given
    elif isinstance(given, Latent):
        yield _fitting(given, config) if given.space == "w" else given
    elif isinstance(given, str | Path):
        try:
            yield from parse_latents(str(given))
        except ValueError as error:
            raise UsageError(str(error)) from error
    elif isinstance(given, Integral) and not isinstance(given, bool):
        yield from _sources(str(given), config)
    elif hasattr(given, "ws") and hasattr(given, "noise"):
        yield _fitting(latent_of(given.name, given.ws, given.noise), config)
    elif hasattr(given, "shape"):
        array = _numbers(given)
        each = array if array.ndim == 3 else [array]
        for row, ws in enumerate(each):
            yield _fitting(latent_of(f"ws{row:04d}" if len(each) > 1 else "ws", ws, {}), config)
    elif isinstance(given, Iterable):
        for item in given:
            yield from _sources(item, config)
    else:
        kind_of_it = type(given).__name__
        raise UsageError(f"a {kind_of_it} is not a latent: give a seed, a file, an image or ws")


def _numbers(array: Any) -> Array:
    """A tensor on any device, or an array, as a float32 array."""
    import numpy as np

    if hasattr(array, "detach"):
        array = array.detach().cpu().float().numpy()
    return np.asarray(array, np.float32)


def latent_of(name: str, ws: Any, noise: Mapping[str, Any]) -> Latent:
    """A latent in W+ from tensors or arrays; their hash is its provenance."""
    values, maps = _numbers(ws), {key: _numbers(x) for key, x in noise.items()}
    digest = hashlib.sha256(values.tobytes())
    for key in sorted(maps):
        digest.update(maps[key].tobytes())
    provenance = {"latent": name, "sha256": digest.hexdigest()}
    return Latent(name, "w", values, provenance, seed=0, noise=maps)


def _fitting(latent: Latent, config: GeneratorConfig) -> Latent:
    """Check that a latent in W or W+ fits the network; UsageError names both sizes."""
    values = latent.values
    assert values is not None
    if values.shape not in ((config.w_dim,), (config.num_ws, config.w_dim)):
        raise UsageError(
            f"{latent.name} has ws of {list(values.shape)}, this network has "
            f"[{config.num_ws}, {config.w_dim}]"
        )
    for key, noise_map in latent.noise.items():
        array = StoredArray(noise_map.shape, noise_map.__getitem__)
        fit_noise(key, array, 1, latent.name, config)
    return latent
