"""Reading pickles as data: nothing that a file names is imported or called.

Allowed globals are replaced by inert stand-ins. All opcodes are scanned first, so that a file is
refused, with the offset, before any object is built, and so that excessive lengths and memo indices
cost no memory.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from sg2cli.checkpoints.stand_ins import Nested, UnknownGlobal, is_plain
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import MAX_FILTERS, MAX_OPCODES, MAX_TENSORS, MIB, Budget, LimitExceeded

MIN_VIEW = 1 << 10  # bytes; smaller ones are copied
MAX_ARGUMENTS = 16  # of a call; torch's calls have up to 8
BYTES = (str, bytes, bytearray, memoryview)
# Extension codes refer to objects of the reading process; INST and OBJ are of protocol 0.
REFUSED = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER"}
PERSISTENT = {"PERSID", "BINPERSID"}


def budget_for(size: int) -> Budget:
    """The budget for reading a file of `size` bytes, with all its nested pickles.

    A pickle can pass one large object to many calls, and one storage to many tensors, so a small
    file could take any memory and time. Real files use each byte once or twice: in protocol 2, as
    text and then as a number.
    """
    return Budget(
        opcodes=MAX_OPCODES,
        bytes_given_to_calls=4 * size + MIB,
        tensors=MAX_TENSORS,
        bytes_of_tensors=2 * size + MIB,
        resample_filters=MAX_FILTERS,
    )


def charge_call(budget: Budget, arguments: object, function: object = None) -> None:
    """CheckpointError for an unusual call; LimitExceeded if the budget is exceeded."""
    most = MAX_OPCODES if isinstance(function, UnknownGlobal) else MAX_ARGUMENTS
    if type(arguments) is not tuple or len(arguments) > most:
        raise CheckpointError("unsafe: it has a call that no network needs")
    given = sum(len(a) for a in arguments if isinstance(a, BYTES))
    budget.charge("bytes_given_to_calls", given)
    # A dict or list may be copied, however often a file passes the same one.
    budget.charge("opcodes", sum(len(a) for a in arguments if isinstance(a, dict | list | tuple)))


def load(
    content: memoryview,
    allowed: Mapping[str, object],
    budget: Budget,
    persistent_load: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """The object of the pickle at `start`, and where it ends.

    `allowed`: the stand-ins of globals, by 'module name'; `get` returns None for others.
    CheckpointError for those, with their offset, and for a pickle that is damaged or exceeds its
    budget.
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
        raise CheckpointError("damaged, or unsafe: it is nested too deeply") from error
    except MemoryError as error:
        raise CheckpointError("there is not enough memory to read it") from error
    except Exception as error:  # of many kinds
        message = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise CheckpointError(
            f"damaged, or not a network ({message}): copy or download it again"
        ) from error


_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):  # type: ignore[misc]
    """An unpickler with stand-ins for globals, a budget for calls, and plain values as keys.

    Hashing a tuple that contains the previous one twice, fifty levels deep, would take years.
    Python's C unpickler cannot be customised for this, so this one is in Python.
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
        offset = next(self.offsets)
        stand_in = self.allowed.get(f"{module} {name}")
        if stand_in is None:
            raise CheckpointError(
                f"unsafe: it refers to {module}.{name} at byte {offset}, which no network needs: "
                "do not open it with other programs"
            )
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        assert self.from_outside is not None  # checked by the scan
        return self.from_outside(pid)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        charge_call(self.budget, arguments, function)
        more = (self.budget,) if isinstance(function, Nested) else ()
        self.stack[-1] = function(*arguments, *more)

    def load_newobj(self) -> None:
        charge_call(self.budget, self.stack[-1], self.stack[-2])
        if isinstance(self.stack[-2], UnknownGlobal):
            self.stack.pop()
            self.stack[-1] = self.stack[-1].instance()
        else:
            super().load_newobj()

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # the arguments by name
        self.load_newobj()

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

    def _set(self, target: Any, items: list[Any]) -> None:
        """Set items by plain keys; others are no part of a network, and are left out."""
        for key, value in zip(items[::2], items[1::2], strict=False):
            if is_plain(key):
                target[key] = value

    def load_setitem(self) -> None:
        items = [self.stack.pop(-2), self.stack.pop()]
        self._set(self.stack[-1], items)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def load_dict(self) -> None:
        made: dict[Any, Any] = {}
        self._set(made, self.pop_mark())
        self.append(made)

    def load_additems(self) -> None:
        self.stack[:] = filter(is_plain, self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self.stack[:] = filter(is_plain, self.stack)
        super().load_frozenset()

    dispatch = {  # by opcode, as in the class above
        **_InPython.dispatch,
        pickle.BINBYTES[0]: load_binbytes,
        pickle.BINBYTES8[0]: load_binbytes8,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


class Reader:
    """A file object over memory, whose reads never exceed the data."""

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
    """The offsets of opcodes that name globals, in order, and the end of the pickle."""
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
            elif name in PERSISTENT and not persistent:
                raise CheckpointError(
                    "a pickle whose tensors are in other files, as data.pkl of an unpacked .pt is: "
                    "give the .pt itself"
                )
            elif name in REFUSED:
                _refuse(f"it uses the opcode {name}", offset)
            elif "PUT" in name and int(str(argument)) > count:
                _refuse(f"its memo grows to {argument}", offset)
    except CheckpointError:
        raise
    except LimitExceeded as error:
        raise CheckpointError(f"unsafe: {error}") from error
    except Exception as error:  # pickletools raises many kinds
        message = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"damaged, or not a pickle ({message}): copy or download it again"
        ) from error
    return offsets, start + file.at


def _refuse(what: str, offset: int) -> NoReturn:
    raise CheckpointError(f"unsafe: {what} at byte {offset}, which no network needs")
