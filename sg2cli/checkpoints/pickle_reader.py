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

from sg2cli.checkpoints.stand_ins import Nested, plain
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import MAX_FILTERS, MAX_OPCODES, MAX_TENSORS, MIB, Budget, LimitExceeded

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
        message = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise CheckpointError(f"damaged, or no network ({message})") from error


_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):  # type: ignore[misc]
    """Keys and members of sets are plain values, calls cost something, and globals are stand-ins.

    The hash of a tuple that holds the one before twice, fifty deep, would take years, and no signal
    interrupts it. Python's own unpickler is in C, and cannot be changed so; this one is in Python.
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
        message = " ".join(str(error).split())[:120]
        raise CheckpointError(f"damaged, or no pickle ({message})") from error
    return offsets, start + file.at


def _refuse(what: str, offset: int) -> NoReturn:
    raise CheckpointError(f"unsafe: {what} at byte {offset}, which no network needs")
