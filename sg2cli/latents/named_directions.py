"""Directions that have names, in a file beside the network: NAME.directions.safetensors.

A tensor [num_ws,w_dim] or [w_dim] for each name, one unit of which is added to ws as it is stored;
the metadata say what a unit does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.errors import UsageError, brief
from sg2cli.latents.discovery import METHODS, write_directions
from sg2cli.latents.files import reading_of
from sg2cli.storage.array_files import read_arrays
from sg2cli.storage.budget import MAX_DIRECTIONS, LimitExceeded
from sg2cli.storage.paths import kind
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

SUFFIX = ".directions.safetensors"
NAME = re.compile(r"[^\W_][\w.+-]{0,63}")


def file_beside(network: Path) -> Path:
    """Where the named directions of a network are looked for: ffhq.directions.safetensors."""
    return network.with_name(network.name.removesuffix(".safetensors") + SUFFIX)


def read_names(path: Path) -> dict[str, str]:
    """The names in a file, and what a unit of each does; none where there is no such file.

    Sg2Error for a file that is not one of safetensors.
    """
    if kind(path) != "file":
        return {}
    with reading_of(str(path), "is damaged or holds no directions"), SafetensorsFile(path) as file:
        found = sg2_metadata(file.metadata).get("directions")
        about = found if isinstance(found, dict) else {}
        names = sorted(name for name in file.entries if _is_name(name))
        return {name: str(about.get(name, "")) for name in names}


def _is_name(text: str) -> bool:
    """Not for what SeFa and PCA found, which has numbers."""
    return bool(NAME.fullmatch(text)) and text.removesuffix("_std") not in METHODS


def check_name(name: str) -> None:
    """UsageError for what cannot be the name of a direction."""
    if not _is_name(name):
        raise UsageError(f"{brief(name)} cannot be a name: use letters, digits, - . and +")


def read_vector(path: Path, name: str) -> tuple[Tensor, str, str | None]:
    """The vector of a name, the file's hash, and that of the network it says it belongs to."""
    import torch

    with reading_of(str(path), "is damaged or holds no directions"):
        file = read_arrays(path, name.__eq__)
        if name not in file.arrays:
            raise ValueError(f"it has no direction {brief(name)}")
        array = file.arrays[name]
        if math.prod(array.shape) > MAX_DIRECTIONS:
            raise LimitExceeded(f"its {name} is of {list(array.shape)}")
        vector = torch.from_numpy(array.whole())
    checkpoint = file.metadata.get("checkpoint")
    return vector, file.sha256, checkpoint if isinstance(checkpoint, str) else None


def unknown(text: str, names: Sequence[str]) -> UsageError:
    """No direction is called 'NAME' or 'FILE:NAME': with the nearest names that there are."""
    near = get_close_matches(text.rpartition(":")[2], names, 3, 0.6)
    if near:
        return UsageError(f"no direction {brief(text)}: did you mean {' or '.join(near)}?")
    others = f"a name ({', '.join(names[:3])}, ...), " if names else ""
    files = "a file (.safetensors, .npy, .pt)"
    return UsageError(f"no direction {brief(text)}: give {others}sefa:K, pca:K or {files}")


@dataclass(frozen=True, eq=False, repr=False)
class NamedDirections:
    """Steps [num_ws,w_dim] by name, what each is, and what made them."""

    steps: Mapping[str, Tensor]
    about: Mapping[str, str]
    provenance: Mapping[str, Any]

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write NETWORK.directions.safetensors, whose names `edit` knows for that network.

        UsageError for another ending; Sg2Error if the file exists, unless `overwrite`.
        """
        metadata = {**self.provenance, "directions": dict(self.about)}
        write_directions(path, self.steps, metadata, overwrite)

    def __repr__(self) -> str:
        return f"NamedDirections({', '.join(self.steps)})"


def name_directions(
    G: Generator,
    directions: Mapping[str, str],
    *,
    layers: Sequence[int] | None = None,
    class_index: int | None = None,
    on_mapped: Callable[[int], object] = lambda count: None,
) -> NamedDirections:
    """Give names to directions that `edit` takes: `name_directions(G, {"smile": "sefa:3"})`.

    A unit is a standard deviation of W, or a unit of a direction that has a name already. `layers`
    are the rows of ws that move. UsageError for a name that cannot be one.
    """
    from sg2cli.latents.directions import find_direction

    rows = list(range(G.config.num_ws)) if layers is None else list(layers)
    steps, about = {}, {}
    for name, text in directions.items():
        check_name(name)
        found = find_direction(text, G, rows, class_index, on_mapped)
        step = found.step.expand(G.config.num_ws, -1).clone()
        step[[row for row in range(len(step)) if row not in rows]] = 0
        steps[name] = step
        about[name] = text if found.is_named else f"{text}, a standard deviation of W"
    return NamedDirections(steps, about, {"checkpoint": G.checkpoint, "version": __version__})
