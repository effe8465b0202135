"""Arguments that messages of the library name in backticks, as options of the command line."""

from __future__ import annotations

import re

OPTIONS = {
    **{name: f"--{name}" for name in ("overwrite", "resume", "out", "batch", "precision", "tuned")},
    **{name: f"--{name}" for name in ("network", "preset", "space", "tune", "crop", "to")},
    **{
        name: f"--{name}"
        for name in ("merge", "sha256", "layers", "positive", "negative", "scores")
    },
    "skip_existing": "--skip-existing",
    "frames": "--frames",
    "frames_per_latent": "--frames-per-latent",
    "class_index": "--class",
    "lr_multiplier": "--lr-multiplier",
    "seconds": "--time-limit",
}
ARGUMENT = re.compile(r"`([a-z0-9_]+)`")


def with_option_names(text: str) -> str:
    """'`overwrite` replaces it' -> '--overwrite replaces it'; other words stay."""
    return ARGUMENT.sub(lambda match: OPTIONS.get(match[1], match[0]), text)
