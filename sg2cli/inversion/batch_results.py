"""The results of a batch: what an earlier run left of them, and writing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.events import Events
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
    """A photo that was read, and what makes its result, figures apart."""

    target: Target
    photo: Photo
    provenance: Mapping[str, Any]
    init: Latent | None

    @property
    def has_begun(self) -> bool:
        return self.target.status == "begun"


@dataclass(frozen=True)
class BatchOptions:
    """How photos are read, and what is made of them beside their latents."""

    crop: Crop = "center"
    background: str = "white"
    mask: Path | None = None
    npz: bool = False  # NVIDIA's projected_w.npz, too
    video: bool = False  # of the steps
    together: int | None = None  # photos that are projected at once; None: by resolution
    seconds: float | None = None  # for all


@dataclass(frozen=True)
class BatchResults:
    """Reads photos, and finds and writes their results."""

    projector: Projector
    options: BatchOptions
    tuning: BatchTuning | None
    events: Events

    def read(self, target: Target, init: Latent | None) -> Task:
        """Read a photo. Sg2Error says what is wrong with it."""
        options, config = self.options, self.projector.G.config
        reading = (options.crop, options.background, options.mask)
        photo = read_photo_for(config, target.content(), *reading)
        provenance = self.projector.provenance_of(target.name, photo, init)
        return Task(target, photo, provenance, init)

    def find_earlier(self, task: Task, folder: BatchFolder) -> None:
        """The target is "kept", "projected" (but not tuned) or, without a result, "begun"."""
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
                f"{target.folder / name} is missing, or was changed after sg2 wrote it: it stays "
                "as it is, and --overwrite makes the result anew"
            )
        target.figures = provenance

    def _names(self) -> list[str]:
        """Of the files of a photo."""
        names = [LATENT, HISTORY, "target.png", "projected.png", "compare.png"]
        names += [f"film{_video_suffix()}"] * self.options.video
        names += ["projected_w.npz"] * self.options.npz
        names += ["loss.png"] * bool(importlib.util.find_spec("matplotlib"))
        return names + [TUNED] * bool(self.tuning and not self.tuning.together)

    def write(self, task: Task, found: Found) -> Projection:
        """Write what was found; if the network is to be tuned on it, that comes after."""
        folder = task.target.results
        projection = self.describe(task, found, task.provenance)
        paths = results.write_history(folder, projection)
        if self.options.video:
            images = (projection.target, projection.image)
            paths.append(write_frames(folder, *images, _video_suffix()))
        if not any(path.name == "loss.png" for path in paths):
            self.events.note("no loss.png without matplotlib: pip install 'sg2cli[plot]'")
        for path in paths:
            self.events.wrote(path, projection.provenance)
        for path in results.write_result(folder, projection, self.options.npz):
            paths.append(path)
            if not self.tuning:
                self.events.wrote(path, projection.provenance)
        if folder.replace:
            folder.clear(keep=[path.name for path in paths])  # what other settings left
        folder.done_replacing()
        drop_frames(folder, 0)
        if projection.ended == "not finite":
            self.events.note(
                f"{task.target.name}: the loss became NaN or infinite: kept the best result so far"
            )
        return projection

    def describe(
        self,
        task: Task,
        found: Found,
        provenance: Mapping[str, Any],
        G: Generator | None = None,
    ) -> Projection:
        """Draw what was found, measure it, and note the figures."""
        name = task.target.folder.name
        projection = self.projector.projection(found, task.photo, name, provenance, G)
        task.target.status = found.ended
        task.target.figures = results.summary(found, projection.figures)
        return projection


def _video_suffix() -> str:
    return ".mp4" if importlib.util.find_spec("av") else ".gif"
