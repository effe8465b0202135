"""The containers of checkpoints: pickles, files of torch.save, and .safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sg2cli.checkpoints.file_kinds import LENGTH, other_kind
from sg2cli.checkpoints.pickle_globals import GLOBALS
from sg2cli.checkpoints.pickle_reader import load
from sg2cli.checkpoints.torch_tensors import is_legacy, read_torch
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import Budget
from sg2cli.storage.reading import Source
from sg2cli.storage.safetensors import SafetensorsFile
from sg2cli.storage.zip_reader import is_zip

if TYPE_CHECKING:
    from torch import Tensor

PICKLE_STARTS = b"\x80(c}]"  # protocols 2 to 5; a tuple or dict, a global, or a list in 0 and 1


@dataclass(frozen=True)
class SafetensorsTensor:
    """A tensor of a .safetensors file in memory, decoded on demand."""

    file: SafetensorsFile
    name: str
    shape: tuple[int, ...]

    def tensor(self) -> Tensor:
        return self.file.tensor(self.name)


def read_container(content: bytes, budget: Budget) -> object:
    """The dicts, modules and tensors of a file, of which nothing is called.

    CheckpointError for other kinds of files, by name.
    """
    if content[8:9] == b"{":
        file = SafetensorsFile(Source(content))
        return {n: SafetensorsTensor(file, n, entry.shape) for n, entry in file.entries.items()}
    if kind := other_kind(content[:LENGTH]):
        raise CheckpointError(f"{kind[0]}: {kind[1]}")
    if is_zip(content) or is_legacy(content[:4]):
        return read_torch(content, GLOBALS, budget)
    if content[:1] in PICKLE_STARTS:
        return load(memoryview(content), GLOBALS, budget)[0]
    raise CheckpointError("neither a pickle, nor a .pt, nor a .safetensors")
