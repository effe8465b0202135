"""Inert stand-ins for the classes and functions that a pickle names."""

from __future__ import annotations

from typing import Any

from sg2cli.errors import CheckpointError

MAX_TEXT = 1000  # characters of a name or a setting
MAX_NUMBER = 1 << 60  # below the modulus of hash(), so that numbers cannot be made to collide


class Sealed(type):
    """A stand-in class that BUILD cannot modify, as all files share it."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise CheckpointError(f"it tries to change {cls.__name__}")


class Module(metaclass=Sealed):
    """NVIDIA's _reconstruct_persistent_obj: `class_name` and `state`, without source code."""

    __slots__ = ("class_name", "state")

    def __init__(self, meta: object) -> None:
        if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
            raise CheckpointError("a module in it has no state")
        self.class_name = plain(meta.get("class_name"), "the name of a class")
        self.state: dict[str, Any] = meta["state"]

    def __setstate__(self, state: object) -> None:
        raise CheckpointError("unsafe: it tries to change a module that was checked")


class Inert:
    """A function that a pickle may call; its attributes cannot be changed."""

    __slots__ = ("_function",)
    _function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise CheckpointError("it tries to change what reads it")


class Nested(Inert):
    """A function that reads a nested pickle, and receives the remaining budget."""

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
    """A dict of any class; attributes set by BUILD are ignored."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None: ...


class Opaque(metaclass=Sealed):
    """A value that is not needed for a network."""

    __slots__ = ()

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def plain(value: Any, what: str) -> Any:
    """A short text, a number or None; CheckpointError for other values.

    Only these are compared, hashed or printed: a nested value may be exponentially larger than its
    file, and a long one could be used many times.
    """
    short = isinstance(value, str | bytes) and len(value) <= MAX_TEXT
    small = isinstance(value, int) and abs(value) < MAX_NUMBER
    if not (short or small or value is None or isinstance(value, float)):
        raise CheckpointError(f"damaged, or not a network: {what} in it is not a plain value")
    return value
