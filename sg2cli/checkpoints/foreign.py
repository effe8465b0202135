"""Networks in the formats that other code writes, read without running a line of theirs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints import ada_pickle, rosinality, tf_pickle
from sg2cli.checkpoints.arrays import read_torch
from sg2cli.checkpoints.base import Checkpoint, LazyTensor, check_shapes, read_config
from sg2cli.checkpoints.safetensors_file import Network, save_generator
from sg2cli.checkpoints.unpickle import Budget, load, mapped
from sg2cli.errors import CheckpointError, Sg2Error, reason
from sg2cli.files import sha256

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

MAX_TOLD = 1000  # characters of an error, which may quote what a file says
W_AVG = "w_avg, the mean over 10,000 z of RandomState(123)"
MOST_NOISE = 4096  # pixels a side: a small file could claim any size
PICKLES = {**tf_pickle.GLOBALS, **ada_pickle.GLOBALS}


def read_foreign(path: Path) -> Checkpoint:
    """A pickle of NVIDIA's or a .pt, with every key renamed and every shape checked.

    CheckpointError for what is unsafe, damaged, or no StyleGAN2 generator.
    """
    with _told_of(path):
        if path.stat().st_size == 0:
            raise CheckpointError("empty: copy or download it again")
        content = mapped(path)
        budget = Budget(len(content))
        # A .pt is a zip file, or begins with a pickle of a number of ten bytes.
        if content[:2] == b"PK" or (content[:1] == b"\x80" and content[2:4] == b"\x8a\x0a"):
            checkpoint = _from_torch(read_torch(content, budget, rosinality.GLOBALS))
        elif content[:1] in (b"\x80", b"("):
            found, _ = load(content, PICKLES, budget)
            checkpoint = _from_pickle(found)
        else:
            raise CheckpointError("neither a pickle, nor a .pt, nor a .safetensors")
        # Tensors may share numbers, so that a small file could claim any size; a network's do not.
        if sum(math.prod(shape) for shape in checkpoint.shapes.values()) > len(content):
            raise CheckpointError("unsafe: its tensors claim more numbers than the file has bytes")
        source = {"format": checkpoint.format, "file": path.name, "sha256": sha256(path)}
        checkpoint.fields["source"] = source
        _complete(checkpoint)
        return checkpoint


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Errors with the file's name. What a hostile file can make of stand-ins is without number."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error)[:MAX_TOLD]}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise CheckpointError(f"{path}: damaged, or no network ({told})") from error


def _from_torch(found: Any) -> Checkpoint:
    if not isinstance(found, dict):
        raise CheckpointError("a file of torch.save, but it holds no networks")
    return rosinality.read(found)


def _from_pickle(found: Any) -> Checkpoint:
    if isinstance(found, dict):
        return ada_pickle.read(found)
    if isinstance(found, tuple | list):
        return tf_pickle.read(tuple(found))
    raise CheckpointError("a pickle, but of no network")


def _complete(checkpoint: Checkpoint) -> None:
    """Supply what a file may lack, noise maps and w_avg, and check that all fits."""
    shapes = checkpoint.shapes
    noisy = [name for name in shapes if name.endswith(".noise_strength")]
    if noisy and not any(name.endswith(".noise_const") for name in shapes):
        for seed, name in enumerate(noisy):
            match = re.match(r"synthesis\.b(\d{1,5})\.", name)
            size = int(match[1]) if match else 4
            if size > MOST_NOISE:
                raise CheckpointError(f"it has no noise maps, and {size}x{size} are not made up")
            key = name.replace("noise_strength", "noise_const")
            checkpoint.tensors[key] = _drawn_noise(size, seed)
        checkpoint.made_up.append("noise maps, drawn from fixed seeds")
    if "mapping.w_avg" not in shapes:
        layers = [name for name in shapes if re.fullmatch(r"mapping\.fc\d{1,3}\.bias", name)]
        last = shapes.get(f"mapping.fc{len(layers) - 1}.bias", (0,))
        checkpoint.tensors["mapping.w_avg"] = _zeros(last)
        checkpoint.made_up.append(W_AVG)
    config = read_config(checkpoint.fields, checkpoint.shapes)
    if config.img_resolution > MOST_NOISE:
        raise CheckpointError(
            f"it claims {config.img_resolution} pixels a side, which no network has"
        )
    check_shapes(config, checkpoint.shapes)


def _drawn_noise(size: int, seed: int) -> LazyTensor:
    def draw() -> Tensor:
        import torch

        return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))

    return LazyTensor((size, size), draw)


def _zeros(shape: tuple[int, ...]) -> LazyTensor:
    def zeros() -> Tensor:
        import torch

        return torch.zeros(shape)

    return LazyTensor(shape, zeros)


def to_generator(checkpoint: Checkpoint) -> Generator:
    """The generator with all numbers, in float32, on the CPU.

    Takes the tensors out of the checkpoint one by one, so that they are not in memory twice.
    """
    import numpy as np
    import torch

    from sg2cli.generator import Generator

    config = read_config(checkpoint.fields, checkpoint.shapes)
    with torch.device("meta"):
        G = Generator(config)
    tensors = {}
    for name in list(checkpoint.tensors):
        tensor = checkpoint.tensors.pop(name).read().to(torch.float32).contiguous()
        if not tensor.isfinite().all():
            raise CheckpointError(f"its tensor {name} holds NaN or infinity")
        tensors[name] = tensor
    G.load_state_dict(tensors, assign=True)
    G.requires_grad_(False)
    if W_AVG in checkpoint.made_up:
        z = torch.from_numpy(np.random.RandomState(123).randn(10_000, config.z_dim)).float()
        c = None
        if config.c_dim:  # all classes alike
            c = torch.eye(config.c_dim)[torch.arange(10_000) % config.c_dim]
        G.mapping.w_avg.copy_(G.mapping(z, c).double().mean(dim=0))
    return G


def convert(
    path: Path, out: Path, overwrite: bool = False, origin: Mapping[str, str] | None = None
) -> tuple[Checkpoint, Network, str]:
    """Write a network of another format as ours, and show that nothing was changed on the way.

    `origin` goes into its metadata beside the hash. The file is read back and compared tensor by
    tensor. Returns what was read, the new file, and what is odd about the picture of seed 0, or ''.
    CheckpointError for what cannot be read.
    """
    checkpoint = read_foreign(path)
    checkpoint.fields["source"].update(origin or {})
    with _told_of(path):
        G = to_generator(checkpoint)
    save_generator(G, out, checkpoint.fields["source"], overwrite)
    network = Network.open(out)
    written, expected = network.load().state_dict(), G.state_dict()
    if network.config != G.config or written.keys() != expected.keys():
        raise Sg2Error(f"{out} does not hold what was read: the disk changed it")
    for name, tensor in expected.items():
        if not tensor.equal(written[name]):
            raise Sg2Error(f"{out} has other numbers in {name}: the disk changed it")
    return checkpoint, network, _oddity(G)


def _oddity(G: Generator) -> str:
    """What a picture of seed 0 shows that a trained network's would not."""
    import numpy as np
    import torch

    z = torch.from_numpy(np.random.RandomState(0).randn(1, G.config.z_dim)).float()
    c = torch.zeros(1, G.config.c_dim) if G.config.c_dim else None
    if c is not None:
        c[0, 0] = 1
    picture = G(z, c)
    if not picture.isfinite().all():
        return "its picture of seed 0 holds NaN or infinity"
    if picture.clamp(-1, 1).std() < 0.01:
        return "its picture of seed 0 is of one colour"
    return ""
