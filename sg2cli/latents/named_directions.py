"""Give names to directions: a file beside the network, which `edit` reads by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.direction_names import NO_DIRECTIONS, check_name, file_beside, read_names
from sg2cli.latents.directions import find_direction, warnings
from sg2cli.latents.discovery import METHODS, write_directions
from sg2cli.latents.files import reading_of
from sg2cli.latents.mixing import layer_rows
from sg2cli.storage.atomic import lock, new_file
from sg2cli.storage.paths import is_there, user_path
from sg2cli.storage.reading import open_file, sha256
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator


@dataclass(frozen=True, eq=False, repr=False)
class NamedDirections:
    """Steps [num_ws,w_dim] by name, a description of each, and what made them."""

    steps: Mapping[str, Tensor]
    descriptions: Mapping[str, str]
    provenance: Mapping[str, Any]
    warnings: tuple[str, ...] = ()  # directions that were found with another network

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a .safetensors; as NETWORK.directions.safetensors, `edit` finds it by itself.

        UsageError for another extension; Sg2Error if the file exists, unless `overwrite`.
        """
        metadata = {**self.provenance, "directions": dict(self.descriptions)}
        write_directions(path, self.steps, metadata, overwrite)

    def add_to(self, path: str | Path, overwrite: bool = False) -> None:
        """Add the names to a file of named directions, of which everything else stays.

        UsageError if its names belong to another network; Sg2Error if sg2 did not write it, if it
        changes meanwhile, or has one of the names already, unless `overwrite`. A file that does
        not exist is written.
        """
        file = user_path(str(path))
        if not is_there(file):
            self.save(file)
            return
        with reading_of(str(file), NO_DIRECTIONS), open_file(file) as locked:
            try:
                lock(locked.fileno())
            except BlockingIOError as error:
                raise Sg2Error(f"{file} is being changed by another process: try again") from error
            self._merge_into(file, overwrite)

    def _merge_into(self, file: Path, overwrite: bool) -> None:
        from safetensors.torch import save

        digest = hashlib.sha256()
        with SafetensorsFile(file) as opened:
            tensors = dict(opened.tensors(digest))
            fields = self._merged_fields(file, opened, overwrite)
            others = {key: text for key, text in opened.metadata.items() if key != "sg2"}
        for name, step in self.steps.items():
            tensors[name] = step.float().cpu().contiguous()

        def check_unchanged(_: object) -> None:
            if sha256(file) != digest.hexdigest():
                raise Sg2Error(f"{file} was changed by another process: try again")

        target = file.resolve()  # a link stays a link
        with new_file(target, overwrite=True, before_naming=check_unchanged) as new:
            new.write(save(tensors, {**others, "sg2": json.dumps(fields)}))

    def _merged_fields(
        self, file: Path, opened: SafetensorsFile, overwrite: bool
    ) -> dict[str, Any]:
        """The metadata of sg2 with the new descriptions."""
        fields = sg2_metadata(opened.metadata)
        described = fields.get("directions")
        if not isinstance(described, dict):
            what = "has what SeFa and PCA found" if METHODS[0] in opened.entries else "has none"
            raise Sg2Error(
                f"names are added to a file of named directions that sg2 wrote, and {file} {what}: "
                "use another `out`"
            )
        if fields.get("checkpoint") != self.provenance["checkpoint"]:
            raise UsageError(f"the names in {file} belong to another network: use another `out`")
        taken = sorted(self.steps.keys() & opened.entries.keys())
        if taken and not overwrite:
            raise Sg2Error(
                f"{file} already has the name {taken[0]}: `overwrite` replaces it, and keeps the "
                "other names"
            )
        return {**fields, "directions": {**described, **self.descriptions}}

    def __repr__(self) -> str:
        return f"NamedDirections({', '.join(self.steps)})"


def name_directions(
    G: Generator,
    directions: Mapping[str, str],
    *,
    layers: str | None = None,
    class_index: int | None = None,
    on_mapped: Callable[[int], object] = lambda count: None,
) -> NamedDirections:
    """Name directions: `sg2cli.name_directions(G, {"smile": "sefa:3"}).save("my.safetensors")`.

    Args:
        G: a network, from `sg2cli.load`.
        directions: by name, what `edit` takes as a direction: "sefa:3", a file, another name.
        layers: rows of ws that the new directions move: "0-5", "coarse,middle"; None: all.
        class_index: of a conditional network, for the standard deviation of W.
        on_mapped: gets the number of latents that were mapped, as they come.

    Returns: the directions. A unit is a standard deviation of W, or a unit of a direction that has
    a name already; `warnings` says which belong to another network.

    Raises UsageError for a name that cannot be one, and a direction that moves none of the layers;
    Sg2Error for an unreadable file.
    """
    rows = layer_rows(layers, G.config)
    if not isinstance(directions, Mapping) or not directions:
        raise UsageError("no directions to name: give a dict such as {'smile': 'sefa:3'}")
    steps, descriptions, found = {}, {}, []
    for name, text in directions.items():
        check_name(name)
        direction = find_direction(text, G, rows, class_index, on_mapped)
        step = direction.step.expand(G.config.num_ws, -1).clone()
        step[[row for row in range(len(step)) if row not in rows]] = 0
        steps[name] = step
        unit = direction.text if direction.is_named else f"{text}: one standard deviation of W"
        descriptions[name] = direction.description or unit
        found.append(direction)
    provenance = {"checkpoint": G.checkpoint, "version": __version__}
    return NamedDirections(steps, descriptions, provenance, tuple(warnings(found, G.checkpoint)))


def named_directions(G: Generator) -> dict[str, str]:
    """The named directions of a network: `sg2cli.named_directions(G)["glasses"]`.

    Args:
        G: a network, from `sg2cli.load`.

    Returns: what a unit of each does, by the names that `edit` takes; none where there is no
    NETWORK.directions.safetensors beside the network.

    Raises Sg2Error if that file cannot be read.
    """
    return read_names(file_beside(G.path)) if G.path else {}
