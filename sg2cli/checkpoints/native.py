"""Our own format: safetensors with the canonical names, and the configuration in its metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sg2cli.checkpoints.canonical_names import CONST, prefix_before
from sg2cli.checkpoints.config import (
    check_finite,
    check_kernel,
    check_shapes,
    config_fields,
    parameters,
    read_config,
    taps_of,
)
from sg2cli.checkpoints.file_kinds import LENGTH, other_kind
from sg2cli.checkpoints.official import convert_command
from sg2cli.errors import CheckpointError, reason
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.atomic import new_file
from sg2cli.storage.reading import open_file, sha256
from sg2cli.storage.safetensors import SafetensorsFile, safetensors_header, sg2_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

FLOATS = ("F64", "F32", "F16", "BF16")
CONVERTIBLE = {  # the first bytes of formats that `convert` reads, and their names
    b"PK\x03\x04": "a zip file, as a .pt of PyTorch is",
    b"\x80": "a pickle, as NVIDIA's networks are",
}
FILTER = re.compile(r"synthesis\.b\d+\.((conv[01]|skip)\.)?resample_filter")
WEIGHT_DELTAS = "tuned"  # a kind in the metadata, see checkpoints.weight_deltas


@dataclass(frozen=True)
class Network:
    """A generator file whose header was checked; `load` reads its weights."""

    path: Path
    config: GeneratorConfig
    source: Mapping[str, Any]  # its origin, from the metadata
    parameters: int  # number of learned parameters: without noise maps, filters and w_avg
    dtypes: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]  # of all tensors except filters

    @classmethod
    def open(cls, path: Path) -> Network:
        """Read and check the header; CheckpointError if it is not that of a generator."""
        with _opened(path) as file:
            shapes = {key: entry.shape for key, entry in file.entries.items()}
            dtypes = {key: entry.dtype for key, entry in file.entries.items()}
            fields = sg2_fields(file.metadata)
            if fields.get("kind") == WEIGHT_DELTAS:
                raise CheckpointError(
                    "weight deltas, not a network: give them as `tuned` together with the network, "
                    "or `merge` them into a checkpoint when converting"
                )
            if odd := [key for key in shapes if dtypes[key] not in FLOATS]:
                raise CheckpointError(
                    f"its tensor {odd[0]} is {dtypes[odd[0]]}, not floating point"
                )
            filters = [key for key in shapes if FILTER.fullmatch(key)]
            used = [key for key in filters if key.endswith("conv0.resample_filter")]
            if used and "resample_filter" not in fields and dtypes[used[0]] != "BF16":
                check_kernel(shapes[used[0]])
                fields["resample_filter"] = taps_of(file.array(used[0]))
            if CONST not in shapes:
                _refuse_other_names(shapes, path)
            config = read_config(fields, shapes)
            weights = {key: shape for key, shape in shapes.items() if key not in filters}
            check_shapes(config, weights)
        source = fields.get("source")
        source = source if isinstance(source, dict) else {}
        dtypes_used = tuple(sorted({dtypes[key] for key in weights}))
        return cls(path, config, source, parameters(weights), dtypes_used, weights)

    @cached_property
    def sha256(self) -> str:
        """Of the file, in hexadecimal."""
        return sha256(self.path)

    def load(self, device: str = "cpu") -> Generator:
        """The generator with its weights in float32, on the device.

        CheckpointError for a tensor with values that are not finite in float32, or a stored
        filter that contradicts the configuration.
        """
        import torch

        from sg2cli.generator import Generator

        with torch.device("meta"):
            G = Generator(self.config)
        tensors = {}
        digest = hashlib.sha256()
        with _opened(self.path) as file:
            for key, stored in file.tensors(digest):
                tensor = stored.to(torch.float32)
                check_finite(key, tensor, stored)
                if FILTER.fullmatch(key):
                    _check_filter(self.config, key, tensor)
                else:
                    tensors[key] = tensor.to(device)
            if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != self.shapes:
                raise CheckpointError("it was replaced while it was read")
        # The hash that images carry is that of the numbers that drew them.
        if vars(self).setdefault("sha256", digest.hexdigest()) != digest.hexdigest():
            raise CheckpointError(f"{self.path} was changed while it was read")
        G.load_state_dict(tensors, assign=True)
        # Its directions are found beside it later, from any working directory.
        G.path, G.checkpoint = self.path.absolute(), self.sha256
        return G.requires_grad_(False)


def save_generator(
    G: Generator, path: Path, source: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write a checkpoint that `Network` reads; `source` is its origin."""
    with new_file(path, overwrite) as file:
        write_generator(G, file, source)


def write_generator(G: Generator, file: BinaryIO, source: Mapping[str, Any]) -> None:
    tensors = G.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    provenance = config_fields(G.config) | {"source": dict(source)}
    file.write(safetensors_header(shapes, provenance))
    for tensor in tensors.values():
        file.write(tensor.float().cpu().contiguous().numpy().astype("<f4", copy=False).data)


@contextmanager
def _opened(path: Path) -> Iterator[SafetensorsFile]:
    """Open the file; errors raised in the block name it."""
    try:
        with open_file(path) as start:
            _refuse_other_formats(start.read(LENGTH), path)
        with SafetensorsFile(path) as file:
            yield file
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file ({error}): copy or download it again"
        ) from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error


def is_ours(path: Path) -> bool:
    """Whether a file begins as a safetensors does: with the length of a header, and "{"."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def has_our_names(path: Path) -> bool:
    """Whether a .safetensors holds a generator with the canonical names."""
    with _opened(path) as file:
        return CONST in file.entries


def _refuse_other_formats(start: bytes, path: Path) -> None:
    """Name a file of another kind by its first bytes, and say what to do with it."""
    if not start:
        raise CheckpointError("empty: copy or download it again")
    if start[8:9] == b"{":  # after the length of the header, which can be any bytes
        return
    if kind := other_kind(start):
        raise CheckpointError(f"{kind[0]}: {kind[1]}")
    for magic, what in CONVERTIBLE.items():
        if start.startswith(magic):
            todo = f"run `{convert_command(path, path.stem)}` first"
            raise CheckpointError(f"{what}, not a safetensors file: {todo}")


def _refuse_other_names(names: Iterable[str], path: Path) -> None:
    """Say what to do with a network that has the names of other code."""
    from sg2cli.checkpoints.naming_schemes import MARKS

    names = list(names)
    for label, mark in MARKS.items():
        if any(prefix_before(mark, name) is not None for name in names):
            command = convert_command(path, path.stem)
            raise CheckpointError(f"a network with the names of {label}: run `{command}` first")


def sg2_fields(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The configuration in metadata; CheckpointError if it cannot be read."""
    try:
        return sg2_metadata(metadata)
    except ValueError as error:
        raise CheckpointError(f"its sg2 metadata cannot be read: {error}") from error


def _check_filter(config: GeneratorConfig, key: str, f: Tensor) -> None:
    """A stored filter is not needed; one that upsamples must be what the configuration says.

    A conv1 has one as well, but does not use it.
    """
    import torch

    from sg2cli.ops import filter_kernel

    check_kernel(tuple(f.shape))
    expected = filter_kernel(config.resample_filter, torch.float64, torch.device("cpu"))
    kernel = torch.outer(f, f) if f.ndim == 1 else f
    fits = kernel.shape == expected.shape and torch.allclose(
        kernel.double(),
        expected,
        rtol=0,
        atol=1e-3,  # as float16 may hold it
    )
    if not fits and ".conv1." not in key:
        raise CheckpointError(f"its {key} is not the resample_filter of its metadata")
