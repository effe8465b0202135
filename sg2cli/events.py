"""What library code reports while it works: progress, messages and files written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Receives reports; each method does nothing until a subclass overrides it.

    An exception that a method raises ends the work, as KeyboardInterrupt does.
    """

    def step(self, stage: str, done: int, total: int, lpips: float | None) -> None:
        """A step of a stage ("Projecting", "Tuning") is over: how many are, and of how many.

        `lpips` is that of the step, the mean of the photos that are projected together; None where
        steps were not taken, as photos were kept or ended before.
        """

    def note(self, text: str) -> None:
        """A message: a resumed run, a missing package, a photo that failed among others."""

    def wrote(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """A file is complete; `provenance` is what made it."""


SILENT = Events()
