"""The text of a direction: 'sefa:K', 'NAME', 'FILE', 'FILE:K', 'FILE:sefa:K' or 'FILE:NAME'."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sg2cli.checkpoints import is_ours
from sg2cli.errors import Sg2Error, UsageError, brief
from sg2cli.latents.direction_names import file_beside, is_name, read_names, unknown
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.paths import kind, user_path

FILE_NAME = re.compile(r"(?s).*[/\\].*|.*\.(?:safetensors|npy|npz|pt|pth|pkl|ckpt)")


@dataclass(frozen=True)
class DirectionSource:
    """Where a direction comes from. Without `path` it is computed from the network."""

    text: str  # as the user gave it
    path: Path | None = None
    name: str = ""  # of a named direction in the file
    method: str = ""  # "sefa", "pca", or "" if the file does not say
    number: int | None = None  # of one of several directions

    @property
    def is_named(self) -> bool:
        return bool(self.name)


def open_direction(
    direction: object, config: GeneratorConfig, network: Path | None = None
) -> DirectionSource:
    """Parse the text of a direction; only files of named directions are opened, to find the name.

    `network`: its file, beside which names are looked up. A name comes before a file that is
    called like it ('./NAME' is the file). UsageError if there is no such direction.
    """
    if not isinstance(direction, str | os.PathLike):
        raise UsageError(
            f"a {type(direction).__name__} is not a direction: give its text, such as 'sefa:0', "
            "a name or a file"
        )
    text = str(direction)
    beside = file_beside(network) if network else None
    if beside and is_name(text) and text in _names_beside(beside, text):
        return DirectionSource(text, beside, text)
    if _is_readable(text):
        return DirectionSource(text, user_path(text))
    file, method, number = _split(text)
    if not file and method:
        return _of_network(text, method, number, config)
    if _is_readable(file):
        return DirectionSource(text, user_path(file), "", method, number)
    file, _, name = text.rpartition(":")
    if _is_readable(file):
        return _named(text, file, name)
    missing = file if FILE_NAME.fullmatch(file) else text
    if FILE_NAME.fullmatch(missing):
        what = "it is a folder" if kind(user_path(missing)) == "folder" else "there is no such file"
        found = "" if missing == text else f"{brief(missing)}: "
        raise UsageError(f"no direction {brief(text)}: {found}{what}")
    raise unknown(text, list(read_names(beside)) if beside and not file else [])


def _split(text: str) -> tuple[str, str, int | None]:
    """'sefa:K', 'FILE', 'FILE:K' or 'FILE:sefa:K' -> file or '', method or '', K or None."""
    match = re.fullmatch(r"(?s)(.*?)(?:(?:^|:)(sefa|pca))?(?::(\d{1,9}))?", text)
    assert match is not None  # every text fits
    return match[1], match[2] or "", None if match[3] is None else int(match[3])


def _is_readable(file: str) -> bool:
    """Whether there is a file or a pipe."""
    return bool(file) and kind(user_path(file)) in ("file", "other")


def _names_beside(beside: Path, text: str) -> dict[str, str]:
    """The names beside the network. If they cannot be read, that matters only for a name."""
    try:
        return read_names(beside)
    except Sg2Error:
        if _is_readable(text):
            return {}
        raise


def _of_network(
    text: str, method: str, number: int | None, config: GeneratorConfig
) -> DirectionSource:
    if number is None:
        raise UsageError(
            f"{method} has several directions: give a number, such as {method}:0 for the strongest"
        )
    if number >= config.w_dim:
        raise none_such(text, config.w_dim)
    return DirectionSource(text, None, "", method, number)


def _named(text: str, file: str, name: str) -> DirectionSource:
    path = user_path(file)
    if kind(path) == "file":  # a pipe can be read only once, by `find_direction`
        if not is_ours(path):
            raise UsageError(
                f"{text}: only a .safetensors has named directions: select one of another file "
                f"by its number, as in {file}:0"
            )
        names = read_names(path)
        if name not in names:
            raise unknown(text, list(names), file)
    elif not is_name(name):
        raise unknown(text, [], file)
    return DirectionSource(text, path, name)


def none_such(what: object, count: int) -> UsageError:
    """A number is beyond the directions that there are."""
    return UsageError(f"{what}: there are {count} directions, 0 to {count - 1}")
