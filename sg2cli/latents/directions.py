"""Directions of W: found by SeFa and PCA, by name, or read from files; and edits along them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.direction_files import read_direction
from sg2cli.latents.direction_notation import DirectionSource, open_direction
from sg2cli.latents.discovery import moments, pca, sefa
from sg2cli.latents.mixing import format_rows

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
    description: str = ""  # of a named one

    @property
    def text(self) -> str:
        """As the user gave it."""
        return str(self.provenance["direction"])


def find_direction(
    direction: str | DirectionSource,
    G: Generator,
    rows: Sequence[int],
    class_index: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> Direction:
    """'sefa:K', 'pca:K', 'FILE', 'FILE:K' or 'FILE:sefa:K' -> a step of one standard deviation;
    'NAME' or 'FILE:NAME' -> a step as it is stored.

    FILE: see `direction_files`. `rows` are those of ws that are to move: SeFa factorises their
    layers. `advance` receives the number of latents mapped to measure the standard deviation,
    unless the file has it. UsageError or Sg2Error if it cannot be found, or moves none of `rows`.
    """
    if isinstance(direction, DirectionSource):
        source = direction
    else:
        source = open_direction(direction, G.config, G.path)
    if source.is_named:
        found = _named(source, G)
    else:
        found = _one_deviation(source, G, rows, class_index, advance)
    moved = rows_of(found, G.config.num_ws)
    if not {*moved} & {*rows}:
        raise UsageError(
            f"the direction {found.text} moves rows {format_rows(moved)} of ws, and none of "
            f"{format_rows(rows)}: choose `layers` among {format_rows(moved)}"
        )
    return found


def rows_of(direction: Direction, num_ws: int) -> list[int]:
    """The rows of ws that a direction moves."""
    if direction.step.ndim == 1:
        return list(range(num_ws))
    return [row for row, step in enumerate(direction.step) if step.any()]


def _named(source: DirectionSource, G: Generator) -> Direction:
    found, config = read_direction(source, G.config), G.config
    step = found.vector.float()
    if list(step.shape) not in ([config.num_ws, config.w_dim], [config.w_dim]):
        raise UsageError(
            f"{source.path}: the direction {source.name} is of {list(step.shape)}, neither "
            f"[{config.w_dim}] nor [{config.num_ws},{config.w_dim}]: it belongs to another network"
        )
    if not step.isfinite().all() or not step.any():
        raise Sg2Error(f"{source.path}: the direction {source.name} is zero, NaN or infinite")
    provenance = {"direction": source.text, "sha256": found.sha256}
    checkpoint, description = found.checkpoint, found.description
    return Direction(step.to(G.device), provenance, checkpoint, True, description)


def _one_deviation(
    source: DirectionSource,
    G: Generator,
    rows: Sequence[int],
    class_index: int | None,
    advance: Callable[[int], object],
) -> Direction:
    """A step of one standard deviation of W along the direction."""
    provenance: dict[str, Any] = {"direction": source.text}
    deviation = checkpoint = None
    if source.path is None:
        samples = 100_000 if source.method == "pca" else 10_000
        w = moments(G, samples, class_index=class_index, advance=advance)
        vector = (pca(w) if source.method == "pca" else sefa(G, rows))[source.number or 0]
        deviation = w.deviation(vector)
    else:
        found = read_direction(source, G.config)
        provenance["sha256"], checkpoint = found.sha256, found.checkpoint
        vector = found.vector
        deviation = None if found.deviation is None else found.deviation.double()
    vector = vector.double()
    norms = vector.norm(dim=-1, keepdim=True)
    if not vector.isfinite().all() or norms.max() == 0:
        raise Sg2Error(f"the direction {source.text} is zero, NaN or infinite")
    unit = vector / norms.square().mean().sqrt()  # of all rows together, if it has rows
    if deviation is None:
        w = moments(G, 10_000, class_index=class_index, advance=advance)
        deviation = w.deviation(unit).square().mean().sqrt()
    step = (unit * deviation).to(G.device).float()
    if not step.isfinite().all():
        raise Sg2Error(f"the deviation along the direction {source.text} is NaN, or too large")
    return Direction(step, provenance, checkpoint)


def warnings(directions: Iterable[Direction], checkpoint: str | None) -> list[str]:
    """What to say about directions that were found with another network than this."""
    return [
        f"{found.text} was found with another network"
        for found in directions
        if found.checkpoint not in (None, checkpoint)
    ]


def edit(ws: Tensor, direction: Direction, amount: float, rows: Sequence[int]) -> Tensor:
    """Move rows of ws [num_ws,w_dim] by `amount` steps of the direction."""
    step = direction.step.expand_as(ws)
    edited = ws.clone()
    edited[list(rows)] += amount * step[list(rows)]
    return edited
