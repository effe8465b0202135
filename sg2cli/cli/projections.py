"""Projecting the photos of an album: batches of them, their films, their tuned networks."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sg2cli import __version__
from sg2cli.checkpoints.weight_deltas import encode_weight_deltas, open_weight_deltas
from sg2cli.cli.albums import SNAPSHOT, TUNED, TUNING, Album, Entry
from sg2cli.cli.console import Console
from sg2cli.errors import Sg2Error, is_out_of_memory
from sg2cli.images.codecs import encode, read_image
from sg2cli.images.photos import Photo
from sg2cli.images.pixels import to_images
from sg2cli.images.video import write_video
from sg2cli.inversion import LATENT, results, snapshots
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.search import Search
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.state import Projection
from sg2cli.inversion.tuning import Tuning
from sg2cli.latents.mapping import to_ws
from sg2cli.settings import ProjectSettings, TuneSettings
from sg2cli.storage.atomic import new_file
from sg2cli.storage.ownership import OwnedFolder
from sg2cli.storage.paths import is_there
from sg2cli.storage.reading import sha256

if TYPE_CHECKING:
    from tqdm import tqdm

    from sg2cli.checkpoints import Network
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Image
    from sg2cli.latents.sources import Latent

# Snapshots: of a batch in the folder of its first photo, of a tuning where its result goes.
TUNING_STEP = 4  # times as long as a step of projection, about: two pictures, and all weights
FRAMES = 120  # of a film, at most, beside the result
FRAMES_FOLDER = "frames"
FRAME = re.compile(r"([0-9]{7})\.png")  # a working file, named after its step
LONG = 600  # seconds, after which it is worth a word how long it will take


@dataclass(frozen=True)
class Job:
    """A photo that was read, and the recipe of its result."""

    entry: Entry
    photo: Photo
    recipe: Mapping[str, Any]
    init: Latent | None


class Projector:
    """Projects the photos of an album with one network, and writes what it finds."""

    def __init__(
        self,
        network: Network,
        G: Generator,
        album: Album,
        settings: ProjectSettings,
        console: Console,
        recipe: Mapping[str, Any],
        *,
        class_index: int | None = None,
        tuning: TuneSettings | None = None,
        together: bool = False,
        npz: bool = False,
        film: bool = False,
    ) -> None:
        """`recipe`: what all results have in common beside these."""
        self.network, self.G, self.album, self.console = network, G, album, console
        self.settings, self.tuning, self.together, self.npz = settings, tuning, together, npz
        self.recipe = {**recipe, **asdict(settings), "class": class_index, "tune": None}
        self.class_index = class_index
        self.film = ("mp4" if importlib.util.find_spec("av") else "gif") if film else None
        self.names = [LATENT, "history.csv", "target.png", "projected.png", "compare.png"]
        self.names += [f"film.{self.film}"] * film + ["projected_w.npz"] * npz
        self.names += ["loss.png"] * bool(importlib.util.find_spec("matplotlib"))
        self.names += [TUNED] * (tuning is not None and not together)
        self.spread = spread_of_w(G, class_index)
        self.lpips = LPIPS(settings.lpips).to(G.device)
        self.judge = results.Judge(self.spread)
        self.steps_done = 0
        self.halved: int | None = None  # the batch that memory had room for

    def run(
        self, read: Callable[[Entry, int], Job], size: int, seconds: float | None = None
    ) -> None:
        """Project all, `size` at a time, in so many seconds if there is a limit.

        `read` gives the job of an entry and its index, or raises Sg2Error.
        """
        entries, steps = self.album.entries, self.settings.steps
        start = monotonic()
        part = 1.0  # of the time, that is for projection
        if self.tuning:
            part = steps / (steps + TUNING_STEP * self.tuning.steps)

        def left(done: float) -> float | None:
            """Seconds until so much of the work should be done."""
            return seconds and start + done * seconds - monotonic()

        batches = -(-len(entries) // size)
        to_tune: list[Job] = []
        with self.console.progress("Projecting", batches * steps, "step") as bar:
            for number in range(batches):
                batch = []
                for index in range(number * size, min((number + 1) * size, len(entries))):
                    with self._blaming(entries[index]):
                        batch.append(read(entries[index], index))
                        self._begin(batch[-1])
                batch = [job for job in batch if job.entry.state != "failed"]
                # More than once if a snapshot lacks some whose result was there, and is gone.
                while any(job.entry.state == "begun" for job in batch):
                    with self._blaming(*(job.entry for job in batch if job.entry.state == "begun")):
                        projected = part * (number + 1) if self.together else number + part
                        self._project(batch, left(projected / batches), bar)
                bar.update((number + 1) * steps - bar.n)  # they may have ended before
                batch = [job for job in batch if job.entry.state != "failed"]
                if self.together:
                    to_tune += batch
                elif self.tuning:
                    todo = [job for job in batch if job.entry.state != "kept"]
                    for done, job in enumerate(todo, 1):
                        tuned = part + (1 - part) * done / len(todo)
                        with self._blaming(job.entry):
                            self._tune([job], job.entry.results, left((number + tuned) / batches))
            if any(job.entry.state != "kept" for job in to_tune):
                with self._blaming(*(job.entry for job in to_tune)):
                    self._tune(to_tune, self.album.shared, left(1))

    def job(self, entry: Entry, photo: Photo, init: Latent | None) -> Job:
        """What is to be done with a photo."""
        target = {"file": Path(entry.name).name, "sha256": photo.sha256}
        recipe = {**self.recipe, "init": init and dict(init.provenance), "target": target}
        return Job(entry, photo, recipe, init)

    def _begin(self, job: Job) -> None:
        """Find out what an earlier run left: the entry is "kept", "projected" or "begun"."""
        entry = job.entry
        recipes = [job.recipe, self._tuned(job)] if self.tuning else [job.recipe]
        found = None
        try:
            if not self.album.overwrite:
                found = results.read_result(entry.folder, recipes, self.G)
        except results.OtherSettings:
            if not entry.results.replace:
                raise
        if not found:
            entry.results.check(*self.names)
            entry.state = "begun"
            return
        which, _, provenance = found
        tuned = (self.album.out if self.together else entry.folder) / TUNED
        there = not self.tuning or (
            which == 1 and is_there(tuned) and sha256(tuned) == provenance.get("tuned")
        )
        entry.state = "kept" if there else "projected"
        for name in entry.results.changed() if there else ():
            self.console.note(
                f"{entry.folder / name} is missing, or was changed after sg2 wrote it: it stays as "
                "it is, and --overwrite makes the result anew"
            )
        entry.figures = provenance

    def _tuned(self, job: Job) -> dict[str, Any]:
        assert self.tuning
        return {**job.recipe, "tune": {**asdict(self.tuning), "together": self.together}}

    def _project(self, jobs: Sequence[Job], seconds: float | None, bar: tqdm[Any]) -> None:
        """Project those of a batch that have just begun.

        A snapshot may have others, whose result was written after it: they are projected again,
        as rounding depends on the size of a batch, and not written. Where there is no memory for a
        first step of so many at once, half of them are.
        """
        snapshot = jobs[0].entry.folder / SNAPSHOT
        fresh = not is_there(snapshot)
        steps_before = self.steps_done
        try:
            self._project_at_once(jobs, snapshot, seconds, bar)
        except (MemoryError, RuntimeError) as error:
            begun = not fresh or self.steps_done > steps_before
            if len(jobs) == 1 or begun or not is_out_of_memory(error):
                raise
        else:
            return
        snapshots.remove(snapshot)
        half = (len(jobs) + 1) // 2
        self.console.note(f"out of memory: continuing with --batch {half}")
        self.halved = half
        for part in (jobs[:half], jobs[half:]):
            self._project(part, seconds and seconds / 2, bar)

    def _project_at_once(
        self, jobs: Sequence[Job], snapshot: Path, seconds: float | None, bar: tqdm[Any]
    ) -> None:
        settings, G = self.settings, self.G
        start = monotonic()
        inits = [
            (to_ws(G, [job.init], class_index=self.class_index)[0], job.init.noise)
            for job in jobs
            if job.init
        ]
        photos = [job.photo for job in jobs]
        folders = [job.entry.folder for job in jobs]
        for folder in folders[1:]:
            if is_there(folder / SNAPSHOT):
                raise Sg2Error(
                    f"{folder / SNAPSHOT} is of another list of photos, or another --batch: "
                    "finish that run with the same photos before adding others, or give "
                    "--overwrite to begin anew"
                )
        fresh = not is_there(snapshot)
        run = Search(G, photos, settings, self.spread, self.lpips, inits, estimate=fresh)
        recipe = {"recipes": [{**job.recipe, "version": None} for job in jobs]}
        if snapshots.load_state(snapshot, run, recipe):
            self.console.note(f"resuming at step {run.state.step}")
        else:
            new = [row for row, job in enumerate(jobs) if job.entry.state == "begun"]
            run.restore(run.state.only(new))
        for job in jobs:
            job.entry.results.make()
            _drop_frames(job.entry.results, run.state.step)
        before, began, first = bar.n, monotonic(), run.state.step

        def on_step(run: Search) -> None:
            step = run.state.step
            self.steps_done += 1
            lpips = [run.history[member][-1].lpips for member in run.state.members]
            bar.set_postfix(lpips=f"{sum(lpips) / len(lpips):.3f}", refresh=False)
            bar.update(before + step - bar.n)
            took = monotonic() - began
            if step - first == 5 and took / 5 * (settings.steps - step) > LONG and not seconds:
                minutes = took / 5 * (settings.steps - step) / 60
                self.console.note(
                    f"about {minutes:.0f} minutes for this batch of {len(jobs)}: "
                    "--preset fast and --time-limit shorten that, --resume goes on after a stop"
                )
            if self.film and (step - 1) % -(-settings.steps // FRAMES) == 0:
                self._take_frames(run, jobs)

        left = None if seconds is None else seconds - (monotonic() - start)
        for projection in snapshots.project(run, snapshot, recipe, on_step, left):
            job = jobs[projection.member]
            if job.entry.state == "begun":
                # An error in writing ends the run: the snapshot has what was found.
                self._finish(job, projection)

    def _finish(self, job: Job, projection: Projection) -> None:
        """Write what was found; if the network is to be tuned on it, that comes after."""
        entry = job.entry
        image, figures, provenance = self._judge(self.G, job, projection, job.recipe)
        folder = entry.results
        paths = results.write_history(folder, projection, figures)
        if self.film:
            paths.append(self._write_film(job, image))
        if not any(path.name == "loss.png" for path in paths):
            self.console.note("no loss.png without matplotlib: pip install 'sg2cli[plot]'")
        for path in paths:
            self.console.wrote(path, provenance)
        for path in results.write_result(
            folder, projection, job.photo, image, provenance, figures, self.npz
        ):
            paths.append(path)
            if not self.tuning:
                self.console.wrote(path, provenance)
        if folder.replace:
            folder.clear(keep=[path.name for path in paths])  # what other settings left
        folder.done_replacing()
        _drop_frames(folder, 0)
        if projection.ended == "not finite":
            self.console.note(
                f"{entry.name}: the loss became NaN or infinite: kept the best result so far"
            )

    def _judge(
        self, G: Generator, job: Job, projection: Projection, recipe: Mapping[str, Any]
    ) -> tuple[Image, results.Figures, dict[str, Any]]:
        """Draw a projection, and measure it for the report and the metadata."""
        image = results.redraw(G, projection)
        figures = self.judge.measure(image, job.photo, projection.ws)
        job.entry.state = projection.ended
        job.entry.figures = results.summary(projection, figures)
        return image, figures, {**recipe, **job.entry.figures}

    def _tune(self, jobs: Sequence[Job], folder: OwnedFolder, seconds: float | None) -> None:
        """Tune the network on photos that are projected; draw and describe them anew."""
        assert self.tuning
        found = []
        for job in jobs:
            result = results.read_result(job.entry.folder, [job.recipe, self._tuned(job)], self.G)
            if not result:
                raise Sg2Error(f"no latent in {job.entry.folder}: --resume recreates it")
            found.append((job, result[1]))
        pairs = [(projection, job.photo) for job, projection in found]
        tuning = Tuning(self.G, pairs, self.tuning, self.spread, self.lpips)
        snapshot = folder.folder / TUNING
        recipe = {
            "recipes": [{**self._tuned(job), "version": None} for job in jobs],
            "pivots": [_hash(projection) for _, projection in found],
        }
        if snapshots.load_tuning(snapshot, tuning, recipe):
            self.console.note(f"resuming at step {tuning.state.step} of tuning")
        with self.console.progress("Tuning", tuning.steps, "step") as bar:
            bar.update(tuning.state.step)

            def on_step(lpips: float) -> None:
                bar.set_postfix(lpips=f"{lpips:.3f}", refresh=False)
                bar.update()

            snapshots.tune(tuning, snapshot, recipe, on_step, seconds)
        provenance = {
            "checkpoint": self.network.sha256,
            "targets": [job.recipe["target"] for job in jobs],
            "tune": self._tuned(jobs[0])["tune"],
            "tune_steps_done": tuning.state.step,
            "version": __version__,
        }
        path = folder.write(TUNED, encode_weight_deltas(tuning.differences(), provenance))
        self.console.wrote(path, provenance)
        tuned = copy.deepcopy(self.G)
        opened = open_weight_deltas(path, self.network)
        opened.apply(tuned)
        for job, projection in found:
            recipe = {**self._tuned(job), "tuned": opened.sha256}
            image, figures, described = self._judge(tuned, job, projection, recipe)
            for written in results.write_result(
                job.entry.results, projection, job.photo, image, described, figures, self.npz
            ):
                self.console.wrote(written, described)
        snapshots.remove(snapshot)

    def _take_frames(self, run: Search, jobs: Sequence[Job]) -> None:
        """Draw where the run stands."""
        with torch.inference_mode():
            pictures = run.draw(run.state.params)
        for member, picture in zip(run.state.members, pictures, strict=True):
            if picture.isfinite().all():  # else the photo is about to end
                folder = jobs[member].entry.results.work_folder(FRAMES_FOLDER)
                with new_file(folder / f"{run.state.step:07d}.png", overwrite=True) as file:
                    file.write(encode(to_images(picture[None])[0], "png", {}))

    def _write_film(self, job: Job, image: Image) -> Path:
        """Target beside result over the steps, and what was kept at the end."""
        folder, target = job.entry.results, job.photo.pixels
        frames = sorted(folder.work_folder(FRAMES_FOLDER).iterdir())
        frames = [frame for frame in frames if FRAME.fullmatch(frame.name)]
        drawn = [read_image(frame, target.shape) for frame in frames]
        pairs = (np.hstack([target, frame]) for frame in (*drawn, image))
        name = f"film.{self.film}"
        with folder.new_file(name) as file:
            write_video(file, f".{self.film}", pairs, len(drawn) + 1, fps=30)
        return folder.folder / name

    @contextmanager
    def _blaming(self, *entries: Entry) -> Iterator[None]:
        """Record an error as the failure of these photos; re-raise it if there is only one."""
        try:
            yield
        except Sg2Error as error:
            for entry in entries:
                entry.state, entry.says = "failed", str(error)
            if len(self.album.entries) == 1:
                raise
            self.console.note(str(error))


def _drop_frames(folder: OwnedFolder, step: int) -> None:
    """Frames beyond a step: of a run that was killed after its last snapshot."""

    def is_beyond(name: str) -> bool:
        match = FRAME.fullmatch(name)
        return match is not None and int(match[1]) > step

    folder.remove_work(FRAMES_FOLDER, is_beyond)


def _hash(projection: Projection) -> str:
    return hashlib.sha256(projection.ws.cpu().numpy().tobytes()).hexdigest()
