"""Pickles as data: nothing that a file names is imported, and nothing of it is called.

Every global a file may name is listed below, and stands for something inert of ours. All opcodes
are read once beforehand, so that what is refused is refused with its offset before anything is
built, and lengths and memo numbers that no real file has cost no memory.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import MAX_FILTERS, MAX_OPCODES, MAX_TENSORS, MIB, Budget, LimitExceeded

MAX_TEXT = 1000  # characters of a name or a setting
MAX_NUMBER = 1 << 60  # below the prime by whose multiples numbers may differ and have one hash
MIN_VIEW = 1 << 10  # bytes; smaller ones are copied
MAX_ARGUMENTS = 16  # of a call; torch's have up to 8
BYTES = (str, bytes, bytearray, memoryview)
# Extension codes name objects of the process that reads; INST and OBJ are of protocol 0.
REFUSED = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER"}
PERSISTENT = {"PERSID", "BINPERSID"}


def budget_for(size: int) -> Budget:
    """What it may cost to read one file of so many bytes, with all the pickles in it.

    A pickle can hand one large object to any number of calls, and one storage to any number of
    tensors, so that a small file asks for any memory and any time. Real files use each byte once or
    twice: it is text first, in protocol 2, and then a number.
    """
    return Budget(
        opcodes=MAX_OPCODES,
        bytes_given_to_calls=4 * size + MIB,
        tensors=MAX_TENSORS,
        bytes_of_tensors=2 * size + MIB,
        resample_filters=MAX_FILTERS,
    )


def charge_call(budget: Budget, arguments: object) -> None:
    """CheckpointError for a call as no network makes it; LimitExceeded for one too many."""
    if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
        raise CheckpointError("unsafe: it calls something in a way that no network needs")
    given = sum(len(a) for a in arguments if isinstance(a, BYTES))
    budget.charge("bytes_given_to_calls", given)


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


def load(
    content: memoryview,
    allowed: Mapping[str, object],
    budget: Budget,
    persistent_load: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """The object of the pickle at `start`, and where it ends.

    `allowed` are the globals, 'module name', and what stands for each. CheckpointError for any
    other, with its offset, and for a pickle that is damaged or asks for more than a file holds.
    """
    offsets, end = _scan(content, start, budget, persistent_load is not None)
    file = Reader(content[start:end])
    unpickler = _Unpickler(file, allowed, budget, persistent_load, offsets)
    try:
        return unpickler.load(), end
    except CheckpointError:
        raise
    except LimitExceeded as error:
        raise CheckpointError(f"unsafe: {error}") from error
    except RecursionError as error:
        raise CheckpointError("damaged, or unsafe: it nests without end") from error
    except MemoryError as error:
        raise CheckpointError("there is not enough memory to read it") from error
    except Exception as error:  # what stand-ins and the unpickler raise is without number
        told = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise CheckpointError(f"damaged, or no network ({told})") from error


_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):  # type: ignore[misc]
    """Keys and members of sets are plain values, calls cost something, and globals are stand-ins.

    The hash of a tuple that holds the one before twice, fifty deep, would take years, and no signal
    interrupts it. Python's own unpickler is in C, and cannot be told so; this one is in Python.
    """

    def __init__(
        self,
        file: Reader,
        allowed: Mapping[str, object],
        budget: Budget,
        from_outside: Callable[[Any], Any] | None,
        offsets: list[int],
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.file, self.allowed, self.budget = file, allowed, budget
        self.from_outside = from_outside
        self.offsets = iter(offsets)  # of globals one after another: a pickle has no jumps

    def find_class(self, module: str, name: str) -> Any:
        offset, key = next(self.offsets), f"{module} {name}"
        if key not in self.allowed:
            raise CheckpointError(
                f"unsafe: it asks for {module}.{name} at byte {offset}, which no network needs: "
                "do not open it with anything"
            )
        return self.allowed[key]

    def persistent_load(self, pid: Any) -> Any:
        if self.from_outside is None:
            raise CheckpointError("unsafe: it asks for an object from outside")
        return self.from_outside(pid)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        charge_call(self.budget, arguments)
        function = self.stack[-1]
        more = (self.budget,) if isinstance(function, Nested) else ()
        self.stack[-1] = function(*arguments, *more)

    def load_newobj(self) -> None:
        charge_call(self.budget, self.stack[-1])
        super().load_newobj()

    def load_build(self) -> None:
        if isinstance(self.stack[-1], tuple):
            charge_call(self.budget, self.stack[-1])
        super().load_build()

    def load_binbytes(self) -> None:
        self.append(self._numbers(int.from_bytes(self.read(4), "little")))

    def load_binbytes8(self) -> None:
        self.append(self._numbers(int.from_bytes(self.read(8), "little")))

    def _numbers(self, size: int) -> bytes | memoryview:
        """Large bytes as they lie in the file, whose numbers need no copy; never inside a frame."""
        framed = self._unframer.current_frame
        return self.read(size) if framed or size < MIN_VIEW else self.file.view_of(size)

    def _check(self, keys: Iterable[object]) -> None:
        for key in keys:
            plain(key, "a key")

    def load_setitem(self) -> None:
        self._check(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._check(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        self._check(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self._check(self.stack)
        super().load_frozenset()

    dispatch = {  # by opcode, as in the class above
        **_InPython.dispatch,
        pickle.BINBYTES[0]: load_binbytes,
        pickle.BINBYTES8[0]: load_binbytes8,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def plain(value: Any, what: str) -> Any:
    """A short text or a number, or None; CheckpointError for all else.

    What a file holds is compared, hashed or printed only as one of these: a nested value may be
    exponentially larger than its file, and a long one be used any number of times.
    """
    short = isinstance(value, str | bytes) and len(value) <= MAX_TEXT
    small = isinstance(value, int) and abs(value) < MAX_NUMBER
    if not (short or small or value is None or isinstance(value, float)):
        raise CheckpointError(f"damaged, or no network: {what} in it is no plain value")
    return value


class Reader:
    """A file over memory that gives no more than there is, whatever it is asked for."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.at = view, 0

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        return bytes(self.view_of(count))

    def view_of(self, count: int) -> memoryview:
        left = max(len(self.view) - self.at, 0)
        count = left if count < 0 else min(count, left)
        self.at += count
        return self.view[self.at - count : self.at]

    def readline(self) -> bytes:
        line = bytearray()
        while self.at < len(self.view) and not line.endswith(b"\n"):
            block = bytes(self.view[self.at : self.at + 256])
            cut = block.find(b"\n") + 1 or len(block)
            line += block[:cut]
            self.at += cut
        return bytes(line)


def _scan(
    content: memoryview, start: int, budget: Budget, persistent: bool
) -> tuple[list[int], int]:
    """Offsets of the opcodes that name a global, in order, and the end of the pickle."""
    offsets: list[int] = []
    count = 0
    file = Reader(content[start:])
    try:
        for opcode, argument, position in pickletools.genops(file):  # type: ignore[arg-type]
            name, offset = opcode.name, start + (position or 0)
            count += 1
            budget.charge("opcodes")
            if name in ("GLOBAL", "STACK_GLOBAL"):
                offsets.append(offset)
            elif name in REFUSED or (name in PERSISTENT and not persistent):
                _refuse(f"it uses the opcode {name}", offset)
            elif "PUT" in name and int(str(argument)) > count:
                _refuse(f"its memo grows to {argument}", offset)
    except CheckpointError:
        raise
    except LimitExceeded as error:
        raise CheckpointError(f"unsafe: {error}") from error
    except Exception as error:  # pickletools' many kinds for a damaged file
        told = " ".join(str(error).split())[:120]
        raise CheckpointError(f"damaged, or no pickle ({told})") from error
    return offsets, start + file.at


def _refuse(what: str, offset: int) -> NoReturn:
    raise CheckpointError(f"unsafe: {what} at byte {offset}, which no network needs")
