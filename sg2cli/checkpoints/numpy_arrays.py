"""NumPy arrays in pickles, with their shapes checked against the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.stand_ins import Inert, Opaque, Sealed, plain
from sg2cli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

NUMPY_DTYPES = {"f2": 2, "f4": 4, "f8": 8, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "u1": 1, "b1": 1}
MAX_DIMS = 8
MAX_SIDE = 1 << 40


class PickledArray(metaclass=Sealed):
    """A NumPy array, created by `_reconstruct` and completed by BUILD."""

    __slots__ = ("content", "dtype", "fortran", "shape")

    def __init__(self, *_: object) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.dtype, self.fortran = "f4", False
        self.content: bytes | memoryview = b""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Dtype):
            raise CheckpointError("an array in it is malformed")
        _, shape, dtype, fortran, content = state
        if dtype.name not in NUMPY_DTYPES:  # of text or objects: no part of a network
            self.dtype = dtype.name
            return
        if not isinstance(shape, tuple) or len(shape) > MAX_DIMS:
            raise CheckpointError("an array in it has an invalid shape")
        if not all(type(n) is int and 0 <= n < MAX_SIDE for n in shape):
            raise CheckpointError("an array in it has an invalid shape")
        if isinstance(content, str):  # of Python 2
            content = content.encode("latin1")
        wanted = math.prod(shape) * NUMPY_DTYPES[dtype.name]
        if not isinstance(content, bytes | memoryview) or len(content) != wanted:
            raise CheckpointError("an array in it has data that do not match its shape")
        self.shape, self.dtype, self.fortran = shape, dtype.text, bool(fortran)
        self.content = content

    def tensor(self) -> Tensor:
        import numpy as np
        import torch

        if self.dtype.lstrip("<>=|") not in NUMPY_DTYPES:
            raise CheckpointError(f"an array in it holds {self.dtype[:20]!r}, not numbers")
        flat = np.frombuffer(self.content, self.dtype)
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(array.astype(self.dtype.lstrip("<>=|"), order="C"))


class Dtype(metaclass=Sealed):
    """numpy.dtype('f4', False, True); BUILD sets the byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: object, *_: object) -> None:
        text = str(plain(name, "the type of an array"))
        self.name, self.order = text.lstrip("<>=|"), "<"

    @property
    def text(self) -> str:
        return self.order + self.name

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def scalar(dtype: object, content: object = b"") -> PickledArray:
    """NumPy's scalar: an array without dimensions."""
    found = PickledArray()
    found.__setstate__((1, (), dtype, False, content))
    return found


def frombuffer(content: Any, dtype: object, shape: object, order: object = "C") -> PickledArray:
    """NumPy's _frombuffer, as protocol 5 makes arrays."""
    found = PickledArray()
    found.__setstate__((1, shape, dtype, order == "F", memoryview(content)))
    return found


def encode(text: object, encoding: object = "latin1") -> bytes:
    """_codecs.encode, which protocol 2 uses for bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise CheckpointError("it encodes text with an unexpected codec")
    return text.encode("latin1")


NUMPY = {
    "numpy dtype": Dtype,
    "numpy ndarray": Opaque,
    "_codecs encode": Inert(encode),
    **{
        f"numpy.{core}.multiarray {name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (("scalar", Inert(scalar)), ("_reconstruct", PickledArray))
    },
    **{f"numpy.{core}.numeric _frombuffer": Inert(frombuffer) for core in ("core", "_core")},
}
