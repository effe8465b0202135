"""Tune the network on the projected photos of a batch, on each or on all together."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.checkpoints.weight_deltas import WeightDeltas, encode_weight_deltas
from sg2cli.errors import Sg2Error
from sg2cli.inversion import results, snapshots
from sg2cli.inversion.names import TUNED, TUNING
from sg2cli.inversion.tuning import Tuning
from sg2cli.settings import TuneSettings
from sg2cli.storage.paths import is_there
from sg2cli.storage.reading import sha256

if TYPE_CHECKING:
    from sg2cli.inversion.batch import ProjectionBatch
    from sg2cli.inversion.batch_results import Task
    from sg2cli.inversion.folders import BatchFolder
    from sg2cli.inversion.projection import Projection
    from sg2cli.inversion.state import Found
    from sg2cli.inversion.targets import Target


@dataclass(frozen=True)
class BatchTuning:
    """Pivotal tuning after projection: a network for each photo, or one for all."""

    settings: TuneSettings
    together: bool = False

    def projection_part(self, steps: int, tuning_step: float) -> float:
        """Fraction of the time for projection; `tuning_step` is the duration of a tuning step."""
        return steps / (steps + tuning_step * self.settings.steps)

    def provenance_of(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance of a tuned result, from that of the projection."""
        return {**provenance, "tune": {**asdict(self.settings), "together": self.together}}

    def is_there(self, folder: BatchFolder, target: Target, provenance: Mapping[str, Any]) -> bool:
        """Whether the tuned network that a result was drawn with is still there."""
        path = (folder.out if self.together else target.folder) / TUNED
        return is_there(path) and sha256(path) == provenance.get("tuned")

    def run(
        self, batch: ProjectionBatch, tasks: Sequence[Task], seconds: float | None
    ) -> Iterator[Projection]:
        """Tune the network on photos, draw them with it, and rewrite their results."""
        projector, events, G = batch.projector, batch.events, batch.projector.G
        folder = batch.folder.shared if self.together else tasks[0].target.results
        found = [self._found(batch, task) for task in tasks]
        pairs = [(each, task.photo) for each, task in zip(found, tasks, strict=True)]
        tuning = Tuning(G, pairs, self.settings, projector.spread, projector.lpips)
        snapshot = folder.folder / TUNING
        tuned_provenance = [self.provenance_of(task.provenance) for task in tasks]
        state_of = {
            "recipes": [{**provenance, "version": None} for provenance in tuned_provenance],
            "pivots": [_hash(each) for each in found],
        }
        if snapshots.load_tuning(snapshot, tuning, state_of):
            events.note(f"resuming at step {tuning.state.step} of tuning")

        def on_step(lpips: float) -> None:
            events.step("Tuning", tuning.state.step, tuning.steps, lpips)

        snapshots.tune(tuning, snapshot, state_of, on_step, seconds)
        provenance = {
            "checkpoint": G.checkpoint,
            "targets": [task.provenance["target"] for task in tasks],
            "tune": tuned_provenance[0]["tune"],
            "tune_steps_done": tuning.state.step,
            "version": __version__,
        }
        path = folder.write(TUNED, encode_weight_deltas(tuning.differences(), provenance))
        events.wrote(path, provenance)
        tuned, deltas = copy.deepcopy(G), WeightDeltas(path, sha256(path))
        deltas.apply(tuned)
        for task, each, made in zip(tasks, found, tuned_provenance, strict=True):
            projection = batch.results.describe(task, each, {**made, "tuned": deltas.sha256}, tuned)
            for written in results.write_result(task.target.results, projection, batch.options.npz):
                events.wrote(written, projection.provenance)
            yield projection
        snapshots.remove(snapshot)

    def _found(self, batch: ProjectionBatch, task: Task) -> Found:
        """Read the latent of a photo from its folder."""
        candidates = [task.provenance, self.provenance_of(task.provenance)]
        result = results.read_result(task.target.folder, candidates, batch.projector.G)
        if not result:
            raise Sg2Error(f"no latent in {task.target.folder}: `resume` recreates it")
        return result[1]


def _hash(found: Found) -> str:
    return hashlib.sha256(found.ws.cpu().numpy().tobytes()).hexdigest()
