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

from sg2cli.checkpoints.safetensors_file import Network
from sg2cli.errors import CheckpointError, UsageError, reason
from sg2cli.files import kind, new_file, sha256

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

KIND = "tuned"  # in the metadata, for `info` and for whoever gives it as a network


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


def open_tuned(path: Path, network: Network) -> Tuned:
    """Look at a file of differences, and hold it against the network that it is to change.

    UsageError when it was tuned from another network, CheckpointError when it is something else.
    """
    if kind(path) != "file":
        raise UsageError(f"no file {path}: give a tuned.safetensors")
    shapes = {name: shape for name, shape in network.shapes.items() if name != "mapping.w_avg"}
    try:
        with safe_open(path, framework="np") as file:
            fields = json.loads((file.metadata() or {}).get("sg2", "{}"))
            if not isinstance(fields, dict) or fields.get("kind") != KIND:
                raise CheckpointError(f"{path} holds no differences of weights, as --tune saves")
            if fields.get("checkpoint") != network.sha256:
                raise UsageError(
                    f"{path} was tuned from another network, {str(fields.get('checkpoint'))[:12]}: "
                    "give that with --network"
                )
            for name in file.keys():  # noqa: SIM118
                found = file.get_slice(name)
                if tuple(found.get_shape()) != shapes.get(name) or found.get_dtype() != "F16":
                    raise CheckpointError(f"{path}: its tensor {name} fits none of the network's")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy it again") from error
    return Tuned(path, sha256(path))


def save_differences(
    path: Path,
    differences: Mapping[str, Tensor],
    made_by: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write differences by the names of the weights; `made_by` has the network's hash."""
    from safetensors.torch import save

    metadata = {"sg2": json.dumps({"kind": KIND, **made_by})}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in differences.items()}
    with new_file(path, overwrite) as file:
        file.write(save(tensors, metadata))
