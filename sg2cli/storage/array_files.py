"""Arrays in .safetensors, .npz and .npy files, distinguished by their content.

Pickled objects are never loaded, and sizes in headers are compared with the actual bytes before any
memory is allocated.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import brief
from sg2cli.storage.budget import MAX_DIMENSIONS, MAX_RATIO, MAX_UNPACKED, LimitExceeded
from sg2cli.storage.reading import Source
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata
from sg2cli.storage.zip_reader import ZipFile, is_zip

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

NPY = b"\x93NUMPY"
UNNAMED = ""  # the array of an .npy
MAX_NPY_HEADER = 10_000  # bytes, as in NumPy; Python's parser is slow for more
BAD_NPY_HEADERS = (  # raised by NumPy and Python's parser; the last ones for endless brackets
    *(LookupError, TypeError, SyntaxError, OverflowError, struct.error, tokenize.TokenError),
    *(RecursionError, MemoryError),
)
DTYPES = ("f2", "f4", "f8", "F16", "F32", "F64")


@dataclass(frozen=True)
class StoredArray:
    """An array in a file; single rows can be read."""

    shape: tuple[int, ...]
    rows: Callable[[slice], Array]

    def row(self, index: int) -> Array:
        import numpy as np

        with np.errstate(over="ignore"):  # values beyond float32 become infinite
            return np.array(self.rows(slice(index, index + 1)), np.float32)[0]

    def whole(self) -> Array:
        """The whole array in float32."""
        import numpy as np

        with np.errstate(over="ignore"):
            return np.asarray(self.rows(slice(None)), np.float32)


@dataclass(frozen=True)
class ArrayFile:
    """The arrays of a file by name, its hash and metadata."""

    arrays: dict[str, StoredArray]
    sha256: str
    metadata: dict[str, Any] = field(default_factory=dict)
    row_names: tuple[str, ...] = ()  # of the rows, where the file has names for them


def read_arrays(file: Path | bytes, wanted: Callable[[str], bool]) -> ArrayFile:
    """Read the wanted arrays of a file, or of its bytes; other arrays are ignored.

    A large file stays open while its arrays are in use, and rows are read on demand; a small file
    or a pipe is read at once. OSError for a file that cannot be read, ValueError for one that is
    damaged or exceeds a limit.
    """
    source = Source(file)
    start = bytes(source.read(min(len(NPY), source.size)))
    metadata: dict[str, Any] = {}
    if start == NPY:
        arrays = {UNNAMED: _npy(source, "array")}
    elif is_zip(start):
        arrays = _npz(source, wanted)
    else:
        arrays, metadata = _safetensors(source, wanted)
    return ArrayFile(arrays, source.sha256(), metadata)


def names_of(file: Path | bytes) -> set[str]:
    """The names of the arrays in a file, which are not read; those of an .npz end with .npy.

    Errors as in `read_arrays`.
    """
    with Source(file) as source:
        start = bytes(source.read(min(len(NPY), source.size)))
        if start == NPY:
            return {UNNAMED}
        if is_zip(start):
            return set(ZipFile(source).members)
        return set(SafetensorsFile(source).entries)


def _safetensors(
    source: Source, wanted: Callable[[str], bool]
) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    file = SafetensorsFile(source)
    arrays = {}
    for name, entry in file.entries.items():
        if wanted(name):
            _check_dtype(name, entry.dtype)
            arrays[name] = StoredArray(entry.shape, partial(file.array, name))
    metadata = sg2_metadata(file.metadata)
    if not all(isinstance(metadata.get(key, ""), str) for key in ("checkpoint", "tuned")):
        raise ValueError("its sg2 metadata are invalid")
    return arrays, metadata


def _npz(source: Source, wanted: Callable[[str], bool]) -> dict[str, StoredArray]:
    archive = ZipFile(source)
    packed = sum(member.packed for member in archive.members.values())
    size = sum(member.size for member in archive.members.values())
    if size > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise LimitExceeded(
            f"it unpacks from {packed:,} to {size:,} bytes, more than {MAX_RATIO} times its size"
        )
    arrays: dict[str, StoredArray] = {}
    for member in archive.members:
        name = member.removesuffix(".npy")
        if wanted(name):
            if name in arrays:
                raise ValueError(f"it has the member {brief(name)} twice")
            arrays[name] = _npy(Source(bytes(archive.read(member))), f"member {brief(name)}")
    return arrays


def _npy(source: Source, label: str) -> StoredArray:
    """The array of an .npy (NumPy's formats 1.0 to 3.0)."""
    import numpy as np

    shape, fortran, dtype, begin = _npy_header(source, label)
    if dtype.hasobject:
        raise PickledObjects(label, not shape)
    _check_dtype(label, dtype.str[1:], dtype.name)
    if math.prod(shape) * dtype.itemsize > source.size - begin:
        raise ValueError(f"its {label} is too short for the shape {list(shape)}")

    @cache
    def whole() -> Array:
        """The array, cached, because its rows are not contiguous in the file."""
        flat = np.empty(math.prod(shape), dtype)
        source.fill(flat.view(np.uint8).data, begin)
        return flat.reshape(shape, order="F")

    def rows(which: slice) -> Array:
        if fortran or not shape:
            return whole()[which] if shape else whole()
        start, stop, _ = which.indices(shape[0])
        count, width = max(stop - start, 0), math.prod(shape[1:])
        flat = np.empty(count * width, dtype)
        source.fill(flat.view(np.uint8).data, begin + start * width * dtype.itemsize)
        return flat.reshape(count, *shape[1:])

    return StoredArray(shape, rows)


def _npy_header(source: Source, label: str) -> tuple[tuple[int, ...], bool, Any, int]:
    """Shape, Fortran order, dtype, and offset of the data."""
    import numpy as np

    start = io.BytesIO(bytes(source.read(min(source.size, MAX_NPY_HEADER + 12))))
    try:
        version = np.lib.format.read_magic(start)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
            (3, 0): np.lib.format.read_array_header_2_0,  # except for field names in UTF-8
        }
        if version not in readers:
            raise ValueError(f"its {label} has the unknown .npy version {version}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about headers written by Python 2
            shape, fortran, dtype = readers[version](start, max_header_size=MAX_NPY_HEADER)
    except BAD_NPY_HEADERS as error:
        raise ValueError(f"the header of its {label} cannot be read") from error
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its {label} has an invalid shape")
    return shape, fortran, dtype, start.tell()


class PickledObjects(ValueError):
    """An array of Python objects, which only pickle reads; `is_single`: without dimensions."""

    def __init__(self, label: str, is_single: bool) -> None:
        super().__init__(f"its {label} holds pickled Python objects, which sg2 does not read")
        self.is_single = is_single


def _check_dtype(label: str, dtype: str, name: str = "") -> None:
    """ValueError for other types than floats; `name` is that of NumPy."""
    if dtype not in DTYPES:
        raise ValueError(f"its {label} holds {name or dtype}, not float16, float32 or float64")
