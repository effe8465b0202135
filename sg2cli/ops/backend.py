"""Which backend the user wants, and what became of those that failed."""

from __future__ import annotations

import os
import warnings
from functools import cache

from sg2cli.errors import UsageError, brief

VARIABLE = "SG2_BACKEND"
_FAILED: dict[str, str] = {}


class KernelUnavailable(RuntimeError):
    """A kernel could not be compiled or made executable; nothing has been computed yet."""


@cache
def only_reference() -> bool:
    """Whether SG2_BACKEND=reference switches the tuned kernels off; UsageError if it is neither
    that nor 'auto'. The variable is read once."""
    chosen = os.environ.get(VARIABLE, "auto")
    if chosen not in ("auto", "reference"):
        raise UsageError(f"{VARIABLE} is {brief(chosen)}: set it to auto or reference, or unset it")
    return chosen == "reference"


def give_up(device: str, error: KernelUnavailable) -> None:
    """Compute with plain torch on that kind of device ('cpu', 'cuda') from here on; warns once."""
    if device not in _FAILED:
        _FAILED[device] = reason = " ".join(str(error).split())
        message = f"{reason}: torch's own operations are used on {device}, which is slower"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def failure(device: str) -> str | None:
    """Why the kernels of that kind of device are not used any more."""
    return _FAILED.get(device)
