"""The names of arrays in files of latents, ours and those of other projects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sg2cli.errors import brief
from sg2cli.storage.array_files import UNNAMED

ArrayKind = Literal["z", "w", "ws"]
KINDS: tuple[ArrayKind, ...] = ("ws", "w", "z")
# In this order: ours, and those of NVIDIA's first StyleGANs, of rosinality and of others.
NAMES = (*KINDS, "dlatents", "latents", "latent", UNNAMED)
NOISE_SUFFIX = ".noise_const"
MAX_SHOWN = 5  # names in a message


def choose_names(names: Iterable[str], key: str | None) -> list[str]:
    """The name of the array of latents, and those of noise maps; empty if it is not clear.

    `key`: a name that the user gave, or a kind of latents. Without one of `NAMES`, the only array
    is taken.
    """
    listed = list(names)
    noise = [name for name in listed if name.endswith(NOISE_SUFFIX)]
    others = [name for name in listed if not name.endswith(NOISE_SUFFIX)]
    if key in others:
        return [key, *noise]
    if key is not None and key not in KINDS:
        return []
    chosen = [name for name in NAMES if name in others][:1] or others
    return [*chosen, *noise] if len(chosen) == 1 else []


def missing(names: Iterable[str], key: str | None, file: str) -> str:
    """A message that a file has no array of latents, with the names that it has."""
    found = sorted(name for name in names if name and not name.endswith(NOISE_SUFFIX))
    shown = ", ".join(brief(name, 40) for name in found[:MAX_SHOWN])
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    if not found:
        return "it holds no array"
    if key is not None and key not in KINDS:
        return f"it holds no array named {brief(key)}, but {shown}{more}"
    return (
        f"it holds {shown}{more}, of which none is named z, w, ws, dlatents, latents or latent: "
        f"choose one, such as {file}:{found[0][:40]}"
    )
