"""What stands for the classes and functions that a pickle names: inert, and ours."""

from __future__ import annotations

from typing import Any

from sg2cli.errors import CheckpointError

MAX_TEXT = 1000  # characters of a name or a setting
MAX_NUMBER = 1 << 60  # below the prime by whose multiples numbers may differ and have one hash


class Sealed(type):
    """A stand-in for a class: BUILD cannot change what all files share."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise CheckpointError(f"it tries to change {cls.__name__}")


class Module(metaclass=Sealed):
    """A call of NVIDIA's _reconstruct_persistent_obj: `class_name` and `state`, no source."""

    __slots__ = ("class_name", "state")

    def __init__(self, meta: object) -> None:
        if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
            raise CheckpointError("a module in it has no state")
        self.class_name = plain(meta.get("class_name"), "the name of a class")
        self.state: dict[str, Any] = meta["state"]

    def __setstate__(self, state: object) -> None:
        raise CheckpointError("unsafe: it tries to change a module that was checked")


class Inert:
    """A function of ours as a file may call it; it has no attributes to change."""

    __slots__ = ("_function",)
    _function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise CheckpointError("it tries to change what reads it")


class Nested(Inert):
    """One that reads a pickle in the pickle, and is given what is left of the budget."""

    __slots__ = ()


class TensorFlowNetwork(metaclass=Sealed):
    """A dnnlib.tflib.network.Network: its `state`, as BUILD gives it."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise CheckpointError("a network in it has no state")
        self.state = state


class Attributes(dict[str, Any], metaclass=Sealed):
    """A dict, whatever its class was; what BUILD would make attributes of is left out."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None: ...


class Opaque(metaclass=Sealed):
    """A value that a network is not made of."""

    __slots__ = ()

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def plain(value: Any, what: str) -> Any:
    """A short text or a number, or None; CheckpointError for all else.

    What a file holds is compared, hashed or printed only as one of these: a nested value may be
    exponentially larger than its file, and a long one be used any number of times.
    """
    short = isinstance(value, str | bytes) and len(value) <= MAX_TEXT
    small = isinstance(value, int) and abs(value) < MAX_NUMBER
    if not (short or small or value is None or isinstance(value, float)):
        raise CheckpointError(f"damaged, or no network: {what} in it is not a plain value")
    return value
