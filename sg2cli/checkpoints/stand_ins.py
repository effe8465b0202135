"""Inert stand-ins for the classes and functions that a pickle names."""

from __future__ import annotations

from typing import Any

from sg2cli.errors import CheckpointError

MAX_NAME = 100  # characters of a class, in messages
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
    """A dict of any class, such as OrderedDict; attributes set by BUILD are ignored."""

    def __init__(self, items: Any = (), *_: object) -> None:
        super().__init__()
        pairs = list(items.items()) if isinstance(items, dict) else items
        for pair in pairs if isinstance(pairs, list | tuple) else ():
            if isinstance(pair, list | tuple) and len(pair) == 2:
                self[plain(pair[0], "a key")] = pair[1]

    def __setstate__(self, state: object) -> None: ...


class Instance(dict[str, Any], metaclass=Sealed):
    """An instance of an unknown class, which may be a dict or a list: its `state` is kept."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str) -> None:
        super().__init__()
        self.class_name = class_name
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # with slots
            state = state[0]
        if isinstance(state, dict) and not self.state:
            self.state = state

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...


class UnknownGlobal:
    """A class or function that sg2 does not know. A call of a class makes an inert instance."""

    __slots__ = ("_may_be_called", "_name")
    _may_be_called: bool
    _name: str

    def __init__(self, module: str, name: str, *, may_be_called: bool) -> None:
        object.__setattr__(self, "_name", f"{module}.{name}"[:MAX_NAME])
        object.__setattr__(self, "_may_be_called", may_be_called)

    def instance(self) -> Instance:
        """What NEWOBJ makes, whose argument is always a class."""
        return Instance(self._name)

    def __call__(self, *_: object) -> Instance:
        if not self._may_be_called:
            raise CheckpointError(
                f"unsafe: it asks to call {self._name}, which no network needs: do not open it "
                "with other programs"
            )
        return self.instance()

    def __str__(self) -> str:
        return self._name

    def __setattr__(self, name: str, value: object) -> None:
        raise CheckpointError("it tries to change what reads it")

    def __setstate__(self, state: object) -> None:
        raise CheckpointError(f"unsafe: it tries to change {self._name}")


class Opaque(metaclass=Sealed):
    """A value that is not needed for a network."""

    __slots__ = ()

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def is_plain(value: object) -> bool:
    """Whether a value is a short text, a number or None."""
    short = isinstance(value, str | bytes) and len(value) <= MAX_TEXT
    small = isinstance(value, int) and abs(value) < MAX_NUMBER
    return short or small or value is None or isinstance(value, float)


def plain(value: Any, what: str) -> Any:
    """A plain value itself; CheckpointError for other values.

    Only these are compared, hashed or printed: a nested value may be exponentially larger than its
    file, and a long one could be used many times.
    """
    if not is_plain(value):
        raise CheckpointError(f"damaged, or not a network: {what} in it is not a plain value")
    return value
