"""Differences of weights, in half precision: a generator tuned on a photo, without its copy.

A safetensors with the names and shapes of the network's own tensors, which are added to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sg2cli.checkpoints.safetensors_file import TUNED, Network
from sg2cli.errors import CheckpointError, UsageError
from sg2cli.files import check_header, kind, new_file, sg2_metadata, sha256

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator


@dataclass(frozen=True)
class Tuned:
    """A file of differences that fits a network; the numbers are read by `apply`."""

    path: Path
    sha256: str

    def apply(self, G: Generator) -> None:
        """Add the differences to the weights. CheckpointError for NaN or infinity."""
        import torch

        own = dict(G.named_parameters())
        with safe_open(self.path, framework="pt") as file, torch.no_grad():
            for name in file.keys():  # noqa: SIM118
                difference = file.get_tensor(name)
                if not difference.isfinite().all():
                    raise CheckpointError(f"{self.path}: its tensor {name} holds NaN or infinity")
                # A new tensor: the weights may be mapped from the network's file.
                own[name].data = own[name].data + difference.to(own[name])


def inspect(path: Path) -> dict[str, Any] | None:
    """What made a file of differences; None if it is something else."""
    try:
        check_header(path)
        with safe_open(path, framework="np") as file:
            fields = sg2_metadata(file.metadata())
    except (OSError, SafetensorError, ValueError, RecursionError):
        return None
    return fields if fields.get("kind") == TUNED else None


def open_tuned(path: Path, network: Network) -> Tuned:
    """Look at a file of differences, and hold it against the network that it is to change.

    UsageError when it was tuned from another network, CheckpointError when it is something else.
    """
    if kind(path) != "file":
        raise UsageError(f"no file {path}: give a tuned.safetensors")
    fields = inspect(path)
    if fields is None:
        raise CheckpointError(f"{path} holds no differences of weights, as --tune saves them")
    if fields.get("checkpoint") != network.sha256:
        raise UsageError(
            f"{path} was tuned from another network, {str(fields.get('checkpoint'))[:12]}: "
            "give that to --network"
        )
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            found = file.get_slice(name)
            fits = name.startswith("synthesis.") and not name.endswith("noise_const")
            shape = network.shapes.get(name) if fits else None
            if tuple(found.get_shape()) != shape or found.get_dtype() != "F16":
                raise CheckpointError(f"{path}: its tensor {name} fits none of the network's")
    return Tuned(path, sha256(path))


def save_differences(
    path: Path,
    differences: Mapping[str, Tensor],
    made_by: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write differences by the names of the weights; `made_by` has the network's hash."""
    with new_file(path, overwrite) as file:
        file.write(encode_differences(differences, made_by))


def encode_differences(differences: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> bytes:
    """The content of such a file."""
    from safetensors.torch import save

    metadata = {"sg2": json.dumps({"kind": TUNED, **provenance})}
    return save({name: tensor.cpu().contiguous() for name, tensor in differences.items()}, metadata)
