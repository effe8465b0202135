"""The function `sg2cli.project_batch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.events import SILENT, Events
from sg2cli.inversion.batch import ProjectionBatch
from sg2cli.inversion.batch_results import BatchOptions
from sg2cli.inversion.batch_tuning import BatchTuning
from sg2cli.inversion.folders import BatchFolder
from sg2cli.inversion.photo_input import check_network
from sg2cli.inversion.project import Projector, choose_settings, start_latents
from sg2cli.inversion.projection import Projection
from sg2cli.inversion.targets import find_photos
from sg2cli.latents.given import Latents
from sg2cli.settings import ProjectSettings, TuneSettings
from sg2cli.storage.paths import user_path

if TYPE_CHECKING:
    from sg2cli.generator import Generator


def project_batch(
    G: Generator,
    photos: str | Path | Sequence[str | Path],
    out: str | Path,
    preset: str = "paper",
    *,
    settings: ProjectSettings | None = None,
    options: BatchOptions | None = None,
    init: Latents | None = None,
    class_index: int | None = None,
    tune: TuneSettings | None = None,
    tune_together: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    events: Events = SILENT,
    **changes: Any,
) -> Iterator[Projection]:
    """Project photos into a folder: `for found in sg2cli.project_batch(G, "photos", "out"): ...`

    Args:
        G: a network, from `sg2cli.load`.
        photos: files, folders or patterns, one or several.
        out: a folder with a folder for each photo, and a summary.csv for several.
        preset, settings, class_index, changes: as of `sg2cli.project`.
        options: how photos are read, and which further files are written.
        init: one latent to start from, or one for each photo.
        tune: settings of pivotal tuning: the network is tuned on each photo after its projection,
            or on all with `tune_together`.
        resume: keep results of an earlier run with the same settings, which are not yielded, and
            continue unfinished ones.
        overwrite: replace existing results.
        events: receives progress, messages and the files written.

    Yields: each projection when its files are written. A photo that fails is reported to `events`
    and does not affect the others.

    Raises Sg2Error at the end if some photos failed, and UsageError at once for invalid photos or
    settings.
    """
    chosen = choose_settings(preset, settings, changes)
    check_network(G.config)
    named = [photos] if isinstance(photos, str | Path) else photos
    files = find_photos([str(photo) for photo in named])
    if not files:
        raise UsageError("no photos: give files or folders")
    inits = start_latents(init, G, len(files))
    tuning = BatchTuning(tune, tune_together) if tune else None
    mask = options.mask if options else None
    folder = BatchFolder(
        user_path(str(out)), files, overwrite, resume, tune_together, [mask] if mask else []
    )
    projector = Projector(G, chosen, None if settings else preset, class_index)
    return _all_or_error(ProjectionBatch(projector, folder, inits, options, tuning, events))


def _all_or_error(batch: ProjectionBatch) -> Iterator[Projection]:
    yield from batch
    targets = batch.folder.targets
    if failed := [target for target in targets if target.has_failed]:
        reasons = "; ".join(target.error or target.status for target in failed[:10])
        raise Sg2Error(f"{len(failed)} of {len(targets)} photos failed: {reasons}")
