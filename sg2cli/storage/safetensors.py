"""Reading and writing .safetensors files, a JSON header followed by data, tensor by tensor.

The header is validated before any data are read: unique names, known types, and tensors that fill
the file contiguously. Data are read, not mapped: a file that is truncated while it is mapped, as by
the safetensors library, would crash the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sg2cli.errors import brief
from sg2cli.storage.budget import MAX_DIMENSIONS, MAX_HEADER, MAX_TENSORS, Budget, LimitExceeded
from sg2cli.storage.reading import Source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = {  # bytes per number, name in torch, and in NumPy, which has no bfloat16
    "F64": (8, "float64", "<f8"),
    "F32": (4, "float32", "<f4"),
    "F16": (2, "float16", "<f2"),
    "BF16": (2, "bfloat16", ""),
    "I64": (8, "int64", "<i8"),
    "I32": (4, "int32", "<i4"),
    "I16": (2, "int16", "<i2"),
    "I8": (1, "int8", "|i1"),
    "U8": (1, "uint8", "|u1"),
    "BOOL": (1, "bool", "|b1"),
}


@dataclass(frozen=True)
class Entry:
    """Type, shape and position of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # in the file
    size: int  # bytes


class SafetensorsFile:
    """An open file: `entries` by name, in file order, and `metadata`."""

    def __init__(self, source: Path | Source) -> None:
        """ValueError for an invalid header; OSError for a file that cannot be read."""
        self._source = source if isinstance(source, Source) else Source(source)
        try:
            self._start, header = _header(self._source)
            self.metadata = _metadata(header.pop("__metadata__", {}))
            self.entries = _entries(header, len(self._start), self._source.size)
        except BaseException:
            self.close()
            raise

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor."""
        import torch

        return getattr(torch, DTYPES[self.entries[name].dtype][1])

    def tensor(self, name: str) -> Tensor:
        """Read a tensor."""
        import torch

        entry = self.entries[name]
        flat = torch.empty(math.prod(entry.shape), dtype=self.dtype(name))
        self._source.fill(flat.view(torch.uint8).numpy().data, entry.offset)
        return flat.view(entry.shape)

    def tensors(self, digest: hashlib._Hash) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors; afterwards, the digest is that of the file, of the bytes read here."""
        import torch

        digest.update(self._start)
        for name in self.entries:
            tensor = self.tensor(name)
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
            yield name, tensor

    def array(self, name: str, rows: slice = slice(None)) -> Array:
        """Read a tensor, or some of its rows, as a NumPy array; ValueError for bfloat16."""
        import numpy as np

        entry = self.entries[name]
        dtype = DTYPES[entry.dtype][2]
        if not dtype:
            raise ValueError(f"its array {name} is {entry.dtype}, which NumPy lacks")
        shape, offset = entry.shape, entry.offset
        if rows != slice(None):
            start, stop, _ = rows.indices(shape[0])
            shape = (max(stop - start, 0), *shape[1:])
            offset += start * (entry.size // max(entry.shape[0], 1))
        flat = np.empty(math.prod(shape), dtype)
        self._source.fill(flat.view(np.uint8).data, offset)
        return flat.reshape(shape)

    def sha256(self) -> str:
        """Hash of the whole file, in hexadecimal."""
        return self._source.sha256()

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _header(source: Source) -> tuple[bytes, dict[str, Any]]:
    """The bytes before the data, and the fields of the header."""
    if source.size < 8:
        raise ValueError("it is too short for a header")
    (length,) = struct.unpack("<Q", source.read(8))
    if length > source.size - 8:
        raise ValueError("its header is cut off")
    if length > MAX_HEADER:
        raise LimitExceeded(f"its header has more than {MAX_HEADER:,} bytes")
    start = bytes(source.read(8 + length))
    try:
        header = json.loads(start[8:].decode(), object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("its header is not text") from error
    except json.JSONDecodeError as error:
        raise ValueError("its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return start, header


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError("its metadata are not text")
    return found


def _entries(header: Mapping[str, Any], begin: int, end: int) -> dict[str, Entry]:
    """The entries in file order; they must be contiguous and end with the file."""
    Budget(tensors=MAX_TENSORS).charge("tensors", len(header))
    entries = {name: _entry(name, fields, begin) for name, fields in header.items()}
    in_order = sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size))
    position = begin
    for name, entry in in_order:
        if entry.offset != position:
            raise ValueError(f"its tensor {brief(name)} overlaps another or follows a gap")
        position += entry.size
    if position != end:
        raise ValueError(f"it has {end - begin:,} bytes of data, not {position - begin:,}")
    return dict(in_order)


def _entry(name: str, fields: object, begin: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its tensor {brief(name)} has a malformed header entry")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"its tensor {brief(name)} has an unknown dtype")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"its tensor {brief(name)} has an invalid shape")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"its tensor {brief(name)} has invalid data_offsets")
    size = math.prod(shape) * DTYPES[dtype][0]
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"its tensor {brief(name)} has data_offsets that do not match its shape")
    return Entry(dtype, tuple(shape), begin + offsets[0], size)


def _are_counts(numbers: object) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for duplicate names, which readers interpret differently."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {brief(name)} twice")
        found[name] = value
    return found


def sg2_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The fields that sg2 wrote into the metadata; ValueError if they are not valid."""
    try:
        found = json.loads(metadata.get("sg2", "{}"), object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("its sg2 metadata are nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError("its sg2 metadata are not valid JSON") from error
    if not isinstance(found, dict):
        raise ValueError("its sg2 metadata are not a JSON object")
    return found


def safetensors_header(
    shapes: Mapping[str, tuple[int, ...]], provenance: Mapping[str, Any]
) -> bytes:
    """The header of a .safetensors with float32 tensors in the order of the names.

    The safetensors library writes only complete files in memory; with this, data can be streamed.
    The format: length of the header, and JSON padded with spaces to a multiple of 8.
    """
    fields: dict[str, Any] = {"__metadata__": {"sg2": json.dumps(provenance)}}
    start = 0
    for name, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        fields[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header
