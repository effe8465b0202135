"""The results of a batch: finding those of an earlier run, and writing new ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.events import Events
from sg2cli.extras import install_command
from sg2cli.images.photos import Crop, Photo
from sg2cli.inversion import LATENT, results
from sg2cli.inversion.frames import drop_frames, write_frames
from sg2cli.inversion.names import HISTORY, TUNED
from sg2cli.inversion.photo_input import read_photo_for
from sg2cli.inversion.project import Projector
from sg2cli.inversion.projection import Projection
from sg2cli.inversion.state import Found
from sg2cli.inversion.targets import Target

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.inversion.batch_tuning import BatchTuning
    from sg2cli.inversion.folders import BatchFolder
    from sg2cli.latents.sources import Latent


@dataclass(frozen=True)
class Task:
    """A photo that was read, and the provenance of its result, without figures."""

    target: Target
    photo: Photo
    provenance: Mapping[str, Any]
    init: Latent | None

    @property
    def has_begun(self) -> bool:
        return self.target.status == "begun"


@dataclass(frozen=True)
class BatchOptions:
    """How photos are read, and which further files are written."""

    crop: Crop = "center"
    background: str = "white"
    mask: Path | None = None
    npz: bool = False  # also write NVIDIA's projected_w.npz
    video: bool = False  # also write a video of the steps
    together: int | None = None  # number of photos projected at once; None: by resolution
    seconds: float | None = None  # time limit for all photos


@dataclass(frozen=True)
class BatchResults:
    """Reads photos, and finds and writes their results."""

    projector: Projector
    options: BatchOptions
    tuning: BatchTuning | None
    events: Events

    def read(self, target: Target, init: Latent | None) -> Task:
        """Read a photo; Sg2Error if it cannot be used."""
        options, config = self.options, self.projector.G.config
        reading = (options.crop, options.background, options.mask)
        photo = read_photo_for(config, target.content(), *reading)
        target.region = photo.region
        provenance = self.projector.provenance_of(target.name, photo, init)
        return Task(target, photo, provenance, init)

    def find_earlier(self, task: Task, folder: BatchFolder) -> None:
        """Set the status: "kept", "projected" (but not tuned) or, without a result, "begun"."""
        target, candidates, found = task.target, [task.provenance], None
        if self.tuning:
            candidates.append(self.tuning.provenance_of(task.provenance))
        try:
            if not folder.overwrite:
                found = results.read_result(target.folder, candidates, self.projector.G)
        except results.OtherSettings:
            if not target.results.replace:
                raise
        if not found:
            target.results.check(*self._names())
            target.status = "begun"
            return
        which, _, provenance = found
        is_whole = not self.tuning or (
            which == 1 and self.tuning.is_there(folder, target, provenance)
        )
        target.status = "kept" if is_whole else "projected"
        for name in target.results.changed() if is_whole else ():
            self.events.note(
                f"{target.folder / name} is missing, or was changed after sg2 wrote it: it is left "
                "as it is; `overwrite` recreates the result"
            )
        target.figures = provenance

    def _names(self) -> list[str]:
        """The names of the files of a photo."""
        names = [LATENT, HISTORY, "target.png", "projected.png", "compare.png"]
        names += [f"film{_video_suffix()}"] * self.options.video
        names += ["projected_w.npz"] * self.options.npz
        names += ["loss.png"] * bool(importlib.util.find_spec("matplotlib"))
        return names + [TUNED] * bool(self.tuning and not self.tuning.together)

    def write(self, task: Task, found: Found) -> Projection:
        """Write the result of a projection, before any tuning."""
        folder = task.target.results
        projection = self.describe(task, found, task.provenance)
        paths = results.write_history(folder, projection)
        if self.options.video:
            images = (projection.target, projection.image)
            paths.append(write_frames(folder, *images, _video_suffix()))
        if not any(path.name == "loss.png" for path in paths):
            self.events.note(f"no loss.png without matplotlib: run `{install_command('plot')}`")
        for path in paths:
            self.events.wrote(path, projection.provenance)
        for path in results.write_result(folder, projection, self.options.npz):
            paths.append(path)
            if not self.tuning:
                self.events.wrote(path, projection.provenance)
        if folder.replace:
            folder.clear(keep=[path.name for path in paths])  # files of other settings
        folder.done_replacing()
        drop_frames(folder, 0)
        if projection.ended == "not finite":
            self.events.note(
                f"{task.target.name}: the loss became NaN or infinite; the best result is kept"
            )
        return projection

    def describe(
        self,
        task: Task,
        found: Found,
        provenance: Mapping[str, Any],
        G: Generator | None = None,
    ) -> Projection:
        """Draw the latent, measure the image, and record the figures."""
        name = task.target.folder.name
        projection = self.projector.projection(found, task.photo, name, provenance, G)
        task.target.status = found.ended
        task.target.figures = projection.provenance
        return projection


def _video_suffix() -> str:
    return ".mp4" if importlib.util.find_spec("av") else ".gif"
