"""The names of directions: what can be one, and which a file has.

Named directions are in a .safetensors with a tensor [num_ws,w_dim] or [w_dim] for each name. A unit
of one is added to ws as it is stored; the metadata describe it. A network's file is beside it:
NETWORK.directions.safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from sg2cli.errors import Sg2Error, UsageError, brief
from sg2cli.latents.discovery import METHODS
from sg2cli.latents.files import reading_of
from sg2cli.storage.paths import kind
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

SUFFIX = ".directions.safetensors"
MAX_NAME = 64
NAME = re.compile(r"[^\W_][\w.+-]*")
WEIGHTS = re.compile(r"(?:.*\.)?(?:mapping|synthesis|convs|style)\..*")  # of a network
NO_DIRECTIONS = "is damaged or holds no directions"


def file_beside(network: Path) -> Path:
    """Where the names of a network's directions are looked up: ffhq.directions.safetensors.

    Beside a symbolic link to a network first, then beside the network itself.
    """
    path = _with_suffix(network)
    if network.is_symlink() and kind(path) == "nothing":
        target = _with_suffix(network.resolve())
        return target if kind(target) != "nothing" else path
    return path


def _with_suffix(network: Path) -> Path:
    return network.with_name(network.name.removesuffix(".safetensors") + SUFFIX)


def read_names(path: Path) -> dict[str, str]:
    """The names in a file with their descriptions; none if there is no such file.

    Sg2Error for a folder, a FIFO, and a file that is not a .safetensors.
    """
    what = kind(path)
    if what == "nothing":
        return {}
    if what != "file":
        found = "a folder" if what == "folder" else "not a regular file"
        raise Sg2Error(f"{path} is {found}, but named directions are read from it: move it away")
    with reading_of(str(path), NO_DIRECTIONS), SafetensorsFile(path) as file:
        return names_of(file)


def names_of(file: SafetensorsFile) -> dict[str, str]:
    """As `read_names`, of an open file."""
    if any(WEIGHTS.fullmatch(name) for name in file.entries):
        return {}
    found = sg2_metadata(file.metadata).get("directions")
    described = found if isinstance(found, dict) else {}
    names = sorted(name for name in file.entries if is_name(name))
    return {name: str(described.get(name, "")) for name in names}


def is_name(text: str) -> bool:
    """Whether this can be the name of a direction; those of SeFa and PCA have numbers instead."""
    return len(text) <= MAX_NAME and bool(NAME.fullmatch(text)) and not _is_reserved(text)


def _is_reserved(text: str) -> bool:
    return text.removesuffix("_std") in METHODS


def check_name(name: object) -> None:
    """UsageError for what cannot be the name of a new direction."""
    if not isinstance(name, str):
        raise UsageError(f"the name of a direction is text, not {type(name).__name__}")
    what = f"{brief(name)} cannot be the name of a direction"
    if not NAME.fullmatch(name):
        raise UsageError(f"{what}: use letters, digits, - . and +, beginning with a letter")
    if len(name) > MAX_NAME:
        raise UsageError(f"{what}: it has {len(name)} characters, and {MAX_NAME} are the limit")
    if _is_reserved(name):
        raise UsageError(f"{what}: {name} is reserved for what SeFa and PCA find")
    if name.isdecimal():
        raise UsageError(f"{what}: a number selects a direction of a file, as in FILE:{name}")


def unknown(text: str, names: Sequence[str], file: str = "") -> UsageError:
    """No direction is called 'NAME', or 'NAME' in `file`: with the nearest names."""
    name = text.removeprefix(f"{file}:") if file else text
    prefix = f"{file}:" if file else ""
    if near := get_close_matches(name, names, 3, 0.6):
        suggestion = " or ".join(f"{prefix}{other}" for other in near)
        return UsageError(f"no direction {brief(text)}: did you mean {suggestion}?")
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if file:
        holds = f"it has {listed}" if names else "it has no named directions"
        return UsageError(f"no direction {brief(name)} in {file}: {holds}")
    others = f"a name ({listed}), " if names else ""
    files = "a file (.safetensors, .npy, .npz, .pt)"
    return UsageError(f"no direction {brief(text)}: give {others}sefa:K, pca:K or {files}")
