"""Events of long-running functions: progress, messages and written files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Receives reports; each method does nothing until a subclass overrides it.

    An exception that a method raises ends the work, as KeyboardInterrupt does.
    """

    def step(self, stage: str, done: int, total: int, lpips: float | None) -> None:
        """`done` of `total` steps of a stage ("Projecting", "Tuning") are complete.

        `lpips`: the mean over the photos of the batch; None if steps were skipped, because photos
        were kept or ended early.
        """

    def note(self, text: str) -> None:
        """A message: a resumed run, a missing package, a photo that failed among others."""

    def wrote(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """A file is complete; `provenance` is what made it."""


SILENT = Events()
