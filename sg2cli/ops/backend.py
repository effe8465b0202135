"""The backend chosen by the user, and backends that failed."""

from __future__ import annotations

import os
import warnings
from functools import cache

from sg2cli.errors import UsageError, brief

VARIABLE = "SG2_BACKEND"
_FAILED: dict[str, str] = {}


class KernelUnavailable(RuntimeError):
    """A kernel could not be compiled or made executable."""


@cache
def only_reference() -> bool:
    """Whether SG2_BACKEND is 'reference'; UsageError if it is neither that nor 'auto'.

    The variable is read once.
    """
    chosen = os.environ.get(VARIABLE, "auto")
    if chosen not in ("auto", "reference"):
        raise UsageError(f"{VARIABLE} is {brief(chosen)}: set it to auto or reference, or unset it")
    return chosen == "reference"


def give_up(device: str, error: KernelUnavailable) -> None:
    """Use plain torch on a kind of device ('cpu', 'cuda') from now on; warns once."""
    if device not in _FAILED:
        _FAILED[device] = reason = " ".join(str(error).split())
        message = f"{reason}: torch's own operations are used on {device}, which is slower"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def failure(device: str) -> str | None:
    """The reason why the kernels of a kind of device failed, else None."""
    return _FAILED.get(device)
