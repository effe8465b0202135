"""Project photos in batches into a folder: resumed runs, kept results, videos, tuned networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from sg2cli.errors import Sg2Error, is_out_of_memory
from sg2cli.events import SILENT, Events
from sg2cli.inversion import snapshots
from sg2cli.inversion.batch_results import BatchOptions, BatchResults, Task
from sg2cli.inversion.batch_tuning import BatchTuning
from sg2cli.inversion.folders import BatchFolder
from sg2cli.inversion.frames import drop_frames, frame_interval, take_frames
from sg2cli.inversion.names import SNAPSHOT
from sg2cli.inversion.project import Projector, snapshot_provenance
from sg2cli.inversion.projection import Projection
from sg2cli.inversion.search import Search, optimise
from sg2cli.inversion.targets import Target
from sg2cli.storage.paths import is_there

if TYPE_CHECKING:
    from sg2cli.latents.sources import Latent

# The snapshot of photos that are projected together is in the folder of the first of them.
TUNING_STEP = 4  # duration of a tuning step, in projection steps: two images, all weights
LONG = 600  # seconds; longer batches are announced with an estimate
TOGETHER = {64: 8, 128: 4, 256: 2}  # photos at once, by resolution


class ProjectionBatch:
    """Projects photos and writes their results; iterate over it once: it yields each result.

    Results of an earlier run are kept, and not yielded. After the iteration, or an interruption,
    the `targets` of the folder hold the status of each photo.
    """

    def __init__(
        self,
        projector: Projector,
        folder: BatchFolder,
        inits: Iterable[Latent] = (),
        options: BatchOptions | None = None,
        tuning: BatchTuning | None = None,
        events: Events = SILENT,
    ) -> None:
        """`inits`: one latent to start from, or one for each photo."""
        self.projector, self.folder, self.inits = projector, folder, inits
        self.options, self.tuning = options or BatchOptions(), tuning
        self.events = events
        self.results = BatchResults(projector, self.options, tuning, events)
        self.halved: int | None = None  # photos at once, after running out of memory
        self._done = self._taken = 0  # steps in the progress, steps of any search

    def __iter__(self) -> Iterator[Projection]:
        targets, steps = self.folder.targets, self.projector.settings.steps
        resolution = self.projector.G.config.img_resolution
        size = self.options.together or TOGETHER.get(max(64, resolution), 1)
        count = -(-len(targets) // size)
        self._start, self._total = monotonic(), count * steps
        part = self.tuning.projection_part(steps, TUNING_STEP) if self.tuning else 1.0
        to_tune: list[Task] = []
        with self.folder.open(self.projector.provenance):
            inits = list(self.inits)
            for number in range(count):
                tasks = self._begin(range(len(targets))[number * size :][:size], inits)
                # More than once if the snapshot lacks photos whose results have been removed.
                while begun := [task for task in tasks if task.has_begun]:
                    with self._failing(begun):
                        is_shared = self.tuning and self.tuning.together
                        done = part * (number + 1) if is_shared else number + part
                        yield from self._project(tasks, self._left(done / count))
                self._report((number + 1) * steps)  # some may have ended early
                tasks = [task for task in tasks if task.target.status != "failed"]
                if not self.tuning:
                    continue
                if self.tuning.together:
                    to_tune += tasks
                    continue
                todo = [task for task in tasks if task.target.status != "kept"]
                for i, task in enumerate(todo, 1):
                    done = number + part + (1 - part) * i / len(todo)
                    with self._failing([task]):
                        yield from self.tuning.run(self, [task], self._left(done / count))
            if self.tuning and any(task.target.status != "kept" for task in to_tune):
                with self._failing(to_tune):
                    yield from self.tuning.run(self, to_tune, self._left(1))

    def _left(self, done: float) -> float | None:
        """Seconds left until this fraction of the work is due; None without a limit."""
        seconds = self.options.seconds
        return seconds and self._start + done * seconds - monotonic()

    def _report(self, done: int, lpips: float | None = None) -> None:
        self._done = done
        self.events.step("Projecting", done, self._total, lpips)

    def _begin(self, indices: Iterable[int], inits: Sequence[Latent]) -> list[Task]:
        """Read photos, and look for results of an earlier run."""
        tasks = []
        for index in indices:
            target = self.folder.targets[index]
            with self._failing([target]):
                init = inits[index % len(inits)] if inits else None
                task = self.results.read(target, init)
                self.results.find_earlier(task, self.folder)
                tasks.append(task)
        return tasks

    def _project(self, tasks: Sequence[Task], seconds: float | None) -> Iterator[Projection]:
        """Project the photos of a batch that have no result yet.

        A snapshot may contain others, whose results were written after it: they are projected
        again, because rounding depends on the batch size, but not written. If the first step runs
        out of memory, the batch is halved.
        """
        snapshot = tasks[0].target.folder / SNAPSHOT
        is_new, taken_before = not is_there(snapshot), self._taken
        try:
            yield from self._project_at_once(tasks, snapshot, seconds)
        except (MemoryError, RuntimeError) as error:
            has_begun = not is_new or self._taken > taken_before
            if len(tasks) == 1 or has_begun or not is_out_of_memory(error):
                raise
        else:
            return
        snapshots.remove(snapshot)
        half = (len(tasks) + 1) // 2
        self.events.note(f"out of memory: continuing with {half} photos at once")
        self.halved = half
        for part in (tasks[:half], tasks[half:]):
            yield from self._project(part, seconds and seconds / 2)

    def _project_at_once(
        self, tasks: Sequence[Task], snapshot: Path, seconds: float | None
    ) -> Iterator[Projection]:
        start = monotonic()
        folders = [task.target.results for task in tasks]
        for folder in folders[1:]:
            if is_there(folder.folder / SNAPSHOT):
                raise Sg2Error(
                    f"{folder.folder / SNAPSHOT} belongs to a run with other photos or batch size: "
                    "finish that run first, or start again with `overwrite`"
                )
        photos, inits = [task.photo for task in tasks], [task.init for task in tasks if task.init]
        search = self.projector.search(photos, inits, estimate=not is_there(snapshot))
        provenance = snapshot_provenance([task.provenance for task in tasks])
        if snapshots.load_state(snapshot, search, provenance):
            self.events.note(f"resuming at step {search.state.step}")
        else:
            new = [row for row, task in enumerate(tasks) if task.has_begun]
            search.restore(search.state.only(new))
        for folder in folders:
            folder.make()
            drop_frames(folder, search.state.step)
        first, began, done = search.state.step, monotonic(), self._done
        steps = self.projector.settings.steps

        def on_step(search: Search) -> None:
            step = search.state.step
            self._taken += 1
            lpips = [search.history[member][-1].lpips for member in search.state.members]
            self._report(done + step, sum(lpips) / len(lpips))
            if step - first == 5 and not seconds:
                self._estimate(len(tasks), (monotonic() - began) / 5 * (steps - step))
            if self.options.video and (step - 1) % frame_interval(steps) == 0:
                take_frames(search, folders)

        left = None if seconds is None else seconds - (monotonic() - start)
        saving = snapshots.SearchSnapshot(snapshot, search, provenance)
        for found in optimise(search, on_step, left, saving):
            if tasks[found.member].has_begun:
                # A failed write ends the run: the snapshot has the latents.
                projection = self.results.write(tasks[found.member], found)
                if not self.tuning:  # else the tuned network's is yielded
                    yield projection

    def _estimate(self, count: int, seconds: float) -> None:
        if seconds > LONG:
            is_fast = self.projector.provenance["preset"] == "fast"
            hints = (
                "`seconds` shortens that" if is_fast else "`preset` fast or `seconds` shorten that"
            )
            if not self.folder.resume:
                hints += ", `resume` continues an interrupted run"
            self.events.note(f"about {seconds / 60:.0f} minutes for this batch of {count}: {hints}")

    @contextmanager
    def _failing(self, tasks: Sequence[Task | Target]) -> Iterator[None]:
        """Record an error as the failure of these photos; re-raise it if there is only one."""
        try:
            yield
        except Sg2Error as error:
            for task in tasks:
                target = task.target if isinstance(task, Task) else task
                target.status, target.error = "failed", str(error)
            if len(self.folder.targets) == 1:
                raise
            self.events.note(str(error))
