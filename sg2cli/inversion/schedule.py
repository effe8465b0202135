"""The schedule of a search: its restarts, and the learning rate of each part."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

from sg2cli.settings import ProjectSettings


def search_at(settings: ProjectSettings, t: float) -> tuple[int, ProjectSettings, float]:
    """The search at fraction t of all steps: number, settings, fraction of its own steps."""
    begins = [0.0, *(restart.at for restart in settings.restarts), 1.0]
    number = max(n for n, at in enumerate(begins[:-1]) if n == 0 or at <= t)
    own = (t - begins[number]) / (begins[number + 1] - begins[number])
    if number == 0:
        return 0, settings, own
    changes = asdict(settings.restarts[number - 1])
    del changes["at"]
    return number, replace(settings, **changes), own


def learning_rate(settings: ProjectSettings, t: float) -> float:
    """The rate at fraction t of a search: linear ramp up, cosine ramp down."""
    down = min(1.0, (1 - t) / settings.lr_rampdown)
    up = min(1.0, t / settings.lr_rampup) if settings.lr_rampup else 1.0
    return settings.lr * (0.5 - 0.5 * math.cos(math.pi * down)) * up
