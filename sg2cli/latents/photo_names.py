"""The names of latents that were found for photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

MAX_NAME = 100  # characters of a name from inside a file


def photo_name(text: str) -> str:
    """The name of a photo, without folders and extension, safe as that of a file; '' for none.

    'photos/me.jpg' -> 'me'. The text comes from inside a file, which is untrusted.
    """
    stem = PurePosixPath(PureWindowsPath(text[:1000]).as_posix()).stem[:MAX_NAME]
    safe = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in stem)
    return safe.strip(". ")


def name_of(stem: str, metadata: Mapping[str, Any]) -> str:
    """What the latent of a file is called: a projection's after its photo, others as the file."""
    target = metadata.get("target")
    photo = target.get("file") if isinstance(target, dict) else None
    if stem == "projected" and isinstance(photo, str) and (name := photo_name(photo)):
        return name
    return stem
