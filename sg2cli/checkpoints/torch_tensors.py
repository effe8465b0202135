"""Tensors in pickles and .pt files, whose data are read on demand."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.numpy_arrays import MAX_DIMS, MAX_SIDE
from sg2cli.checkpoints.pickle_reader import budget_for, load
from sg2cli.checkpoints.stand_ins import Attributes, Inert, Opaque, Sealed, UnknownGlobal, plain
from sg2cli.errors import CheckpointError, brief
from sg2cli.storage.budget import Budget, LimitExceeded
from sg2cli.storage.reading import Source
from sg2cli.storage.zip_reader import STORED, BadArchive, ZipFile, is_zip

if TYPE_CHECKING:
    from torch import Tensor

STORAGES = {  # torch's storage classes: dtype and bytes per number
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
MAX_REPEATED = 1 << 16  # bytes of an expanded tensor
WEIGHT_FILES = (".pkl", ".pt", ".pth", ".ckpt", ".safetensors")
READABLE = {dtype for dtype, _ in STORAGES.values()}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before 1.6, and of pickled storages


@dataclass(frozen=True)
class Storage:
    """Data of one dtype in the memory of the file."""

    dtype: str
    width: int
    content: memoryview
    budget: Budget

    def __setstate__(self, state: object) -> None:
        raise CheckpointError("unsafe: it tries to change data that were checked")


class PickledTensor(metaclass=Sealed):
    """A strided view of a storage. The shape is known at once; `tensor` reads the data."""

    __slots__ = ("dtype", "offset", "shape", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> None:
        ok = isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
        ok = ok and len(size) <= MAX_DIMS and len(stride) <= MAX_DIMS
        numbers = (*size, *stride, offset) if ok else (None,)
        if ok:
            storage.budget.charge("tensors")
        if not all(type(n) is int and 0 <= n < MAX_SIDE for n in numbers):
            raise CheckpointError("a tensor in it is malformed")
        self.storage: Storage = storage
        if storage.dtype not in READABLE:  # of a tensor that a network does not have
            offset, size, stride = 0, (0,), (1,)
        self.dtype = self.storage.dtype
        self.offset: int = offset
        self.shape: tuple[int, ...] = size
        self.stride: tuple[int, ...] = stride
        steps = [(n - 1) * step for n, step in zip(self.shape, self.stride, strict=False)]
        last = self.offset + sum(steps)
        # A stride of 0 repeats data: a small file could claim any size.
        repeats = any(step == 0 and n > 1 for n, step in zip(self.shape, self.stride, strict=False))
        inside = 0 in self.shape or (last + 1) * self.storage.width <= len(self.storage.content)
        fits = len(self.stride) == len(self.shape) <= MAX_DIMS
        # torch saves expanded tensors so; large ones are nothing that a network has.
        repeats = repeats and math.prod(self.shape) * self.storage.width > MAX_REPEATED
        if not fits or repeats or not inside:
            raise CheckpointError("a tensor in it exceeds its storage")
        size = math.prod(self.shape) * self.storage.width
        if size > max(len(self.storage.content), MAX_REPEATED):
            raise CheckpointError("a tensor in it is larger than its storage")

    def __setstate__(self, state: object) -> None:
        raise CheckpointError("unsafe: it tries to change a tensor that was checked")

    def tensor(self) -> Tensor:
        """Copy the data into a new, contiguous tensor."""
        import numpy as np
        import torch

        if self.dtype not in READABLE:
            raise CheckpointError(
                f"a tensor in it is of a dtype that sg2 does not read, {self.dtype}"
            )
        dtype, width = getattr(torch, self.dtype), self.storage.width
        self.storage.budget.charge("bytes_of_tensors", math.prod(self.shape) * width)
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=dtype)
        count = len(self.storage.content) // width - self.offset
        flat = np.frombuffer(self.storage.content, f"<i{width}", count, self.offset * width)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [s * width for s in self.stride])
        return torch.from_numpy(view.copy()).view(dtype)


def of_subclass(rebuild: object, _: object, arguments: object, *__: object) -> object:
    """torch's tensors of a subclass, or with attributes: the plain tensor."""
    if rebuild is not PickledTensor or type(arguments) is not tuple:
        return Opaque()
    return PickledTensor(*arguments)


def parameter(data: object, *_: object) -> object:
    """torch.nn.Parameter: its tensor."""
    return data


TORCH = {
    "torch._utils _rebuild_tensor_v2": PickledTensor,
    "torch._utils _rebuild_tensor": PickledTensor,
    "torch._utils _rebuild_parameter": Inert(parameter),
    "torch._utils _rebuild_parameter_with_state": Inert(parameter),
    "torch.nn.parameter Parameter": Inert(parameter),
    "torch._tensor _rebuild_from_type_v2": Inert(of_subclass),
    "torch._tensor _rebuild_from_type": Inert(of_subclass),
    "torch device": Opaque,
    "torch Size": Opaque,
    "collections OrderedDict": Attributes,
    **{f"torch {name}": name for name in STORAGES},
}


def is_legacy(start: bytes) -> bool:
    """Whether a file is one of torch.save before 1.6: it begins with a number of ten bytes."""
    return start[:1] == b"\x80" and start[2:4] == b"\x8a\x0a"


def read_storage(content: Any, budget: Budget) -> Storage:
    """Read a single storage, like torch.storage._load_from_bytes (torch 1.5 format)."""
    found = _read_legacy(memoryview(content), budget, TORCH)
    if not isinstance(found, Storage):
        raise CheckpointError("the bytes of a tensor in it hold something else")
    return found


def read_torch(content: bytes, more: dict[str, object], budget: Budget | None = None) -> Any:
    """The object that torch.save wrote, in either format, with PickledTensors for tensors.

    `more`: allowed globals beside those of torch.
    """
    budget, allowed = budget or budget_for(len(content)), more | TORCH
    if is_zip(content):
        return _read_zip(content, budget, allowed)
    return _read_legacy(memoryview(content), budget, allowed)


def _read_legacy(view: memoryview, budget: Budget, allowed: dict[str, object]) -> Any:
    """The format of torch.save before 1.6: several pickles, then the data."""
    magic, at = load(view, {}, budget)
    if magic != LEGACY_MAGIC:
        raise CheckpointError("not a file of torch.save: its magic number is missing")
    _, at = load(view, {}, budget, start=at)  # version of the protocol
    _, at = load(view, {}, budget, start=at)  # sizes of types where it was written
    # The data follow the object that refers to them, so their positions are found first.
    wanted: dict[str, tuple[str, int]] = {}
    views: dict[str, memoryview] = {}

    def note(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]  # the class of a module; its source code follows, and is not read
        key, name = _storage_id(pid)
        dtype, width = wanted[key] = STORAGES[name]
        return Storage(dtype, width, views.get(key, memoryview(b"")), budget)

    # Two passes: the first collects the keys, the second assigns the data.
    _, after = load(view, allowed | _LENIENT, budget, note, at)
    keys, position = load(view, {}, budget, start=after)
    if not isinstance(keys, list):
        raise CheckpointError("damaged: its list of storages is missing")
    for key in keys:
        if plain(key, "a key") not in wanted or position + 8 > len(view):
            raise CheckpointError("damaged: its data are cut off")
        (count,) = struct.unpack("<q", view[position : position + 8])
        size = count * wanted[key][1]
        if count < 0 or position + 8 + size > len(view):
            raise CheckpointError("damaged: its data are cut off")
        views[key] = view[position + 8 : position + 8 + size]
        position += 8 + size
    found, _ = load(view, allowed, budget, note, at)
    return found


# In the first pass tensors have no data yet, and are not checked.
_LENIENT = {
    "torch._utils _rebuild_tensor_v2": Opaque,
    "torch._utils _rebuild_tensor": Opaque,
}


def _storage_id(pid: Any) -> tuple[str, str]:
    """('storage', FloatStorage, key, location, count, ...) -> key, class."""
    ok = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"
    if not ok or not all(isinstance(pid[i], str) for i in (1, 2)) or pid[1] not in STORAGES:
        raise CheckpointError("a tensor in it has an unknown kind of storage")
    return plain(pid[2], "the key of a tensor"), pid[1]


def _read_zip(content: bytes, budget: Budget, allowed: dict[str, object]) -> Any:
    """The format of torch.save since 1.6: data.pkl, and a member for each storage."""
    with _archive_errors():
        archive = ZipFile(Source(content))
    pickles = [name for name in archive.members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        if any(name.endswith(".npy") for name in archive.members):
            raise CheckpointError("an .npz of NumPy arrays, such as latents, and no network")
        inside = next((n for n in archive.members if n.endswith(WEIGHT_FILES)), None)
        hint = f": unpack it, and give {brief(inside)}" if inside else ""
        raise CheckpointError(f"a zip file, but not one of torch.save{hint}")
    folder = pickles[0][: -len("data.pkl")]
    if f"{folder}constants.pkl" in archive.members:
        raise CheckpointError(
            "a TorchScript program, not a checkpoint: give the .pt or .pkl that it was made from"
        )
    storages: dict[tuple[str, str], Storage] = {}  # each is checked once

    def member(name: str) -> memoryview:
        found = archive.members.get(f"{folder}{name}")
        if found is None or found.method != STORED:
            raise CheckpointError(f"damaged: {brief(name)} in it is missing, or compressed")
        with _archive_errors():
            return memoryview(archive.read(found.name))

    def persistent_load(pid: Any) -> Storage:
        if isinstance(pid, tuple) and len(pid) > 1 and isinstance(pid[1], UnknownGlobal):
            return Storage(str(pid[1]), 1, memoryview(b""), budget)
        key, name = _storage_id(pid)
        if (key, name) not in storages:
            storages[key, name] = Storage(*STORAGES[name], member(f"data/{key}"), budget)
        return storages[key, name]

    if f"{folder}byteorder" in archive.members and bytes(member("byteorder")) != b"little":
        raise CheckpointError("its data are big-endian, which is not supported")
    found, _ = load(member("data.pkl"), allowed, budget, persistent_load)
    return found


@contextmanager
def _archive_errors() -> Iterator[None]:
    try:
        yield
    except LimitExceeded as error:
        raise CheckpointError(f"unsafe: {error}") from error
    except (BadArchive, OSError) as error:
        raise CheckpointError(f"damaged, as {error}: copy or download it again") from error
