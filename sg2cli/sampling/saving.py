"""Saving the latents of a drawing, as they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.files import Stream, inspect_latents, save_latents
from sg2cli.provenance import is_unchanged, same_settings
from sg2cli.sampling.rendering import latent_streams
from sg2cli.storage.atomic import NameTaken, make_folder
from sg2cli.storage.paths import is_there

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.sampling.drawing import Drawing
    from sg2cli.sampling.rendering import Point
    from sg2cli.storage.array_files import Array


def save_drawn_latents(
    drawing: Drawing,
    G: Generator,
    path: Path,
    overwrite: bool = False,
    skip_existing: bool = False,
    on_row: Callable[[], object] = lambda: None,
) -> Mapping[str, Any] | None:
    """Save ws and noise maps of all images: -> what made them, or None for a file that is kept.

    Grids and unmixed images that begin rows and columns are left out. `skip_existing` keeps a file
    of the same settings. Sg2Error for another that exists, unless `overwrite`.
    """
    made = drawing.latents_provenance(G)
    try:
        if is_there(path) and not overwrite:
            raise NameTaken(path)
        make_folder(path.parent)
        save_latents(path, drawing.ws_streams(G, on_row), made, overwrite)
        return made
    except NameTaken:  # before, or by another process meanwhile
        if not skip_existing:
            raise
    found = inspect_latents(path)[1]
    if not same_settings(found, made) or is_unchanged(path, found) is False:
        raise Sg2Error(
            f"{path} was made with other settings, or changed after sg2 wrote it: "
            "`overwrite` replaces it, another name keeps it"
        )
    return None


def result_streams(
    drawing: Drawing, G: Generator, on_row: Callable[[], object] = lambda: None
) -> dict[str, Stream]:
    """ws and noise maps of the results; each array goes through the drawing once."""
    if "grid" in drawing.details():
        raise UsageError("frames of a grid show several latents each: save those of one path")

    def ws() -> Iterator[Array]:
        for name, point in _results(drawing, G):
            if not point.ws.isfinite().all():
                raise Sg2Error(f"the latent of {name} holds NaN or infinity")
            yield point.ws.float().cpu().numpy()
            on_row()

    def maps(label: str, own: Array) -> Iterator[Array]:
        return (point.noise.get(label, own) for _, point in _results(drawing, G))

    return latent_streams(G, drawing.result_count, ws(), drawing.noise_names, maps)


def _results(drawing: Drawing, G: Generator) -> Iterator[tuple[str | None, Point]]:
    """The name and the point of each result."""
    names: list[str | None] = []

    def sources() -> Iterator[Any]:
        for cell in drawing.cells(G):
            if cell and cell.is_result:
                names.append(cell.name)
                yield cell.source

    for point in drawing.points(G, sources(), drawing.batch_size(G)):
        yield names.pop(0), point
