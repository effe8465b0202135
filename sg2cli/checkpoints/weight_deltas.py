"""Weight deltas: the differences of a tuned generator from the original, in float16.

A .safetensors with tensors of the network's names and shapes, which are added to its weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.config import is_finite
from sg2cli.checkpoints.native import WEIGHT_DELTAS, Network
from sg2cli.errors import CheckpointError, UsageError, reason
from sg2cli.storage.atomic import new_file
from sg2cli.storage.budget import MAX_PIPE
from sg2cli.storage.paths import kind
from sg2cli.storage.reading import Source, read_bytes
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator


@dataclass(frozen=True)
class WeightDeltas:
    """A file of weight deltas that fits a network; `apply` reads the numbers."""

    path: Path
    sha256: str
    content: bytes | None = None  # of a pipe, which cannot be read again

    def apply(self, G: Generator) -> None:
        """Add the deltas to the weights.

        CheckpointError for NaN or infinity, and if the file changed after it was opened.
        """
        import torch

        own = dict(G.named_parameters())
        digest, changed = hashlib.sha256(), {}
        with _opened(self.path, self.content) as file, torch.no_grad():
            for name, difference in file.tensors(digest):
                if name not in own or own[name].shape != difference.shape:
                    raise CheckpointError(
                        f"{self.path}: its tensor {name} does not fit the network"
                    )
                changed[name] = own[name].data + difference.to(own[name])
                if not is_finite(changed[name]):
                    raise CheckpointError(f"{self.path}: its tensor {name} holds NaN or infinity")
        if digest.hexdigest() != self.sha256:
            raise CheckpointError(f"{self.path} was changed while it was read")
        for name, weight in changed.items():
            own[name].data = weight
        G.tuned = self.sha256


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[SafetensorsFile]:
    """Open the file, or the content of a pipe; errors raised in the block name it."""
    try:
        with SafetensorsFile(path if content is None else Source(content)) as file:
            yield file
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): tune again") from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error


def inspect_weight_deltas(path: Path, content: bytes | None = None) -> dict[str, Any] | None:
    """The provenance of weight deltas, from a file or its content; None for another file."""
    try:
        with SafetensorsFile(path if content is None else Source(content)) as file:
            fields = sg2_metadata(file.metadata)
    except (OSError, ValueError):
        return None
    return fields if fields.get("kind") == WEIGHT_DELTAS else None


def open_weight_deltas(path: Path, network: Network) -> WeightDeltas:
    """Open weight deltas, and check that they fit the network.

    UsageError if they belong to another network, CheckpointError if this is another file.
    """
    what, content = kind(path), None
    if what == "other":
        try:
            content = read_bytes(path, MAX_PIPE)
        except (OSError, MemoryError) as error:
            raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    elif what != "file":
        raise UsageError(f"no file {path}: give a tuned.safetensors")
    if inspect_weight_deltas(path, content) is None:
        raise CheckpointError(f"{path} holds no weight deltas of a tuned network")
    with _opened(path, content) as file:
        made_with = str(sg2_metadata(file.metadata).get("checkpoint"))
        if made_with != network.sha256:
            raise UsageError(
                f"{path} was tuned from another network, {made_with[:12]}: give that as `network`"
            )
        for name, entry in file.entries.items():
            fits = name.startswith("synthesis.") and not name.endswith("noise_const")
            shape = network.shapes.get(name) if fits else None
            if entry.shape != shape or entry.dtype != "F16":
                raise CheckpointError(f"{path}: its tensor {name} does not fit the network")
        return WeightDeltas(path, file.sha256(), content)


def save_weight_deltas(
    path: Path,
    differences: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write deltas by the names of the weights; `provenance` has the hash of the network."""
    with new_file(path, overwrite) as file:
        file.write(encode_weight_deltas(differences, provenance))


def encode_weight_deltas(differences: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> bytes:
    """The content of a file of weight deltas."""
    from safetensors.torch import save

    metadata = {"sg2": json.dumps({"kind": WEIGHT_DELTAS, **provenance})}
    return save({name: tensor.cpu().contiguous() for name, tensor in differences.items()}, metadata)
