"""Networks in files: find, describe, load and save them.

torch is imported only when weights are loaded, so that errors in arguments come at once.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sg2cli.checkpoints.native import Network, is_ours, save_generator
from sg2cli.checkpoints.official import fetching_command
from sg2cli.errors import CheckpointError, UsageError, brief, is_address
from sg2cli.storage.paths import kind, user_path

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.settings import Precision

__all__ = ["DEFAULT_NETWORK", "Network", "bundled", "find_network", "is_ours"]
__all__ += ["load", "save_generator", "weights_folder"]

DEFAULT_NETWORK = "avatars-128"


def weights_folder() -> Path:
    """The folder of the bundled networks, inside the installed package."""
    return Path(str(files("sg2cli.weights")))


def bundled() -> dict[str, Path]:
    """The generators that come with sg2, by name."""
    paths = sorted(weights_folder().glob("*.safetensors"))
    networks = [p for p in paths if not p.name.startswith("lpips-") and "." not in p.stem]
    return {path.stem: path for path in networks}


def find_network(name: str | Path = DEFAULT_NETWORK) -> Network:
    """Open a `.safetensors` file, or a bundled network by its name, and read its configuration.

    `ffhq` also finds ffhq.safetensors, as `sg2 convert ffhq ffhq.safetensors` writes it. UsageError
    when there is no such file, CheckpointError when it is not a generator of sg2.
    """
    if is_address(str(name)):
        raise UsageError(
            "a network cannot be loaded from an address: run "
            f"`{fetching_command(str(name))}`, and give the file that it writes"
        )
    path, known = user_path(str(name)), bundled()
    what = kind(path)
    if what != "file" and str(name) in known:
        path = known[str(name)]
    elif (
        what == "nothing"
        and kind(converted := path.with_name(f"{path.name}.safetensors")) == "file"
    ):
        path = converted
    elif what == "nothing":
        todo = f"give a .safetensors file, or one of {', '.join(known)}"
        if command := fetching_command(str(name)):
            todo = f"run `{command}`, which fetches and converts it"
        raise UsageError(f"no network {brief(str(name))}: {todo}")
    elif what != "file":
        raise CheckpointError(f"{path}: not a regular file: give a .safetensors file")
    return Network.open(path)


def load(
    network: str | Path = DEFAULT_NETWORK,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    tuned: str | Path | None = None,
) -> Generator:
    """Load a network: `G = sg2cli.load("ffhq.safetensors")`, or the bundled one.

    Args:
        network: a .safetensors file, or the name of a bundled network; `convert` makes one of
            other formats.
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "fp16", "bf16", or "auto": fp32 on a CPU, on CUDA as it was trained.
        tuned: weight deltas of a tuned network (tuned.safetensors), to be added.

    Returns: a torch module without gradients: `G.mapping(z)` [N,w_dim], `G.synthesis(ws)`
    [N,C,H,W] in -1..1, differentiable in ws and noise maps.

    Raises UsageError where there is no such file, CheckpointError for one that is not a network.
    """
    from sg2cli import devices

    found = find_network(network)
    deltas = None
    if tuned is not None:
        from sg2cli.checkpoints.weight_deltas import open_weight_deltas

        deltas = open_weight_deltas(user_path(str(tuned)), found)
    G = found.load(devices.resolve(device))
    if deltas:
        deltas.apply(G)
    G.set_precision(precision)
    return G
