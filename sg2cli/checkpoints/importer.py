"""Import checkpoints of other code, without running any code in them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sg2cli.checkpoints.canonical_names import last_mapping_bias
from sg2cli.checkpoints.config import (
    Checkpoint,
    LazyTensor,
    check_finite,
    check_shapes,
    read_config,
)
from sg2cli.checkpoints.containers import read_container
from sg2cli.checkpoints.generators import find_generator
from sg2cli.checkpoints.native import Network, write_generator
from sg2cli.checkpoints.pickle_reader import budget_for
from sg2cli.errors import CheckpointError, Sg2Error, UsageError, reason
from sg2cli.storage.atomic import new_file
from sg2cli.storage.budget import MAX_CHECKPOINT, LimitExceeded
from sg2cli.storage.reading import read_bytes
from sg2cli.storage.safetensors import SafetensorsFile

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

MAX_MESSAGE = 1000  # characters of an error, which may quote what a file says
W_AVG = "w_avg, the mean over 10,000 z of RandomState(123)"
MAX_SIDE = 4096  # pixels of an image: a small file could claim any size
MAX_FEATURES, MAX_MAPPING = 8192, 1 << 25  # of mapping layers, where w_avg has to be computed
# Numbers of a layer's output, of which a dozen are in memory at once, where an image is drawn: so
# many, or so many for each parameter, of which a network of 1024x1024 has about as many.
MAX_DRAWN, MAX_DRAWN_PER_PARAMETER = 1 << 23, 2


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of other code, with every tensor renamed and every shape checked.

    Its container (a pickle, a file of torch.save, a .safetensors) and its naming scheme are
    independent. CheckpointError for what is unsafe, damaged, or no StyleGAN2 generator.
    """
    with _errors_named(path):
        content = read_bytes(path, MAX_CHECKPOINT)
        if not content:
            raise CheckpointError("empty: copy or download it again")
        budget = budget_for(len(content))
        checkpoint = find_generator(read_container(content, budget), budget)
        # Tensors may share numbers, so that a small file could claim any size; a network's do not.
        if sum(math.prod(shape) for shape in checkpoint.shapes.values()) > len(content):
            raise CheckpointError("unsafe: its tensors claim more numbers than the file has bytes")
        digest = hashlib.sha256(content).hexdigest()  # of the very bytes that were read
        source = {"format": checkpoint.format, "file": path.name, "sha256": digest}
        checkpoint.fields["source"] = source
        _complete(checkpoint)
        return checkpoint


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Prefix errors with the file's name.

    A hostile file can raise any exception through the stand-ins, so that all are caught.
    """
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error)[:MAX_MESSAGE]}") from error
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from error
    except LimitExceeded as error:
        raise CheckpointError(f"{path}: unsafe: {error}") from error
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise CheckpointError(f"{path}: damaged, or no network ({message})") from error


def _complete(checkpoint: Checkpoint) -> None:
    """Supply what a file may lack, noise maps and w_avg, and check that all fits."""
    shapes = checkpoint.shapes
    if "mapping.w_avg" not in shapes:
        last = shapes.get(last_mapping_bias(shapes), (0,))
        checkpoint.tensors["mapping.w_avg"] = _zeros(last)
        checkpoint.made_up.append(W_AVG)
    config = read_config(checkpoint.fields, checkpoint.shapes)
    if max(config.size) > MAX_SIDE:
        raise CheckpointError(f"it claims {max(config.size)} pixels a side, which no network has")
    noisy = [name for name in shapes if name.endswith(".noise_strength")]
    if noisy and not any(name.endswith(".noise_const") for name in shapes):
        sizes = dict(zip(config.resolutions, config.sizes, strict=True))
        for seed, name in enumerate(noisy):
            match = re.match(r"synthesis\.b(\d{1,5})\.", name)
            size = sizes.get(int(match[1]) if match else 0, (0, 0))
            key = name.replace("noise_strength", "noise_const")
            checkpoint.tensors[key] = _drawn_noise(size, seed)
        checkpoint.made_up.append("noise maps, drawn from fixed seeds")
    check_shapes(config, checkpoint.shapes)
    weights = sum(
        math.prod(shape) for name, shape in checkpoint.shapes.items() if name.startswith("mapping.")
    )
    widest = max(config.z_dim, config.c_dim, *config.mapping_features)
    if W_AVG in checkpoint.made_up and (widest > MAX_FEATURES or weights > MAX_MAPPING):
        raise CheckpointError(
            f"it has no w_avg, which is not computed for {widest} features and {weights:,} weights"
        )


def _drawn_noise(size: tuple[int, int], seed: int) -> LazyTensor:
    def draw() -> Tensor:
        import torch

        return torch.randn(size, generator=torch.Generator().manual_seed(seed))

    return LazyTensor(size, draw)


def _zeros(shape: tuple[int, ...]) -> LazyTensor:
    def zeros() -> Tensor:
        import torch

        return torch.zeros(shape)

    return LazyTensor(shape, zeros)


def to_generator(checkpoint: Checkpoint) -> Generator:
    """The generator with all numbers, in float32, on the CPU.

    Takes the tensors out of the checkpoint one by one, so that they are not in memory twice.
    """
    import torch

    from sg2cli.generator import Generator
    from sg2cli.w_samples import mean_w

    config = read_config(checkpoint.fields, checkpoint.shapes)
    with torch.device("meta"):
        G = Generator(config)
    tensors = {}
    for name in list(checkpoint.tensors):
        stored = checkpoint.tensors.pop(name).read()
        if not stored.is_floating_point():
            dtype = str(stored.dtype).removeprefix("torch.")
            raise CheckpointError(f"its tensor {name} is {dtype}, not floating point")
        tensor = stored.to(torch.float32).contiguous()
        check_finite(name, tensor, stored)
        tensors[name] = tensor
    G.load_state_dict(tensors, assign=True)
    G.requires_grad_(False)
    if W_AVG in checkpoint.made_up:
        G.mapping.w_avg.copy_(mean_w(G))
    return G


def convert(
    path: Path,
    out: Path,
    overwrite: bool = False,
    origin: Mapping[str, str] | None = None,
    lr_multiplier: float | None = None,
) -> tuple[Checkpoint, Network, str]:
    """Convert a checkpoint to our format, and verify it by reading it back.

    `origin` goes into its metadata beside the hash, and `lr_multiplier` replaces what the file
    records of the mapping network, or what is assumed. The file is read back and compared tensor by
    tensor before it gets its name. Returns what was read, the new file, and a warning
    about the image of seed 0, or ''. CheckpointError for what cannot be read.
    """
    checkpoint = read_checkpoint(path)
    source = checkpoint.fields["source"] | dict(origin or {})
    if lr_multiplier is not None:
        recorded = checkpoint.fields["lr_multiplier"]
        if checkpoint.is_recorded and recorded != lr_multiplier:
            raise UsageError(f"{path} records an lr_multiplier of {recorded:g}: leave it out")
        checkpoint.fields["lr_multiplier"] = lr_multiplier
    with _errors_named(path):
        G = to_generator(checkpoint)
    with new_file(out, overwrite) as file:
        write_generator(G, file, source)
        file.flush()
        if not _holds(Path(file.name), G):
            raise Sg2Error(f"cannot write {out}: reading it back gave different numbers")
    checkpoint.notes += _lr_multiplier_warning(G)
    return checkpoint, Network.open(out), _image_warning(G)


def _holds(path: Path, G: Generator) -> bool:
    """Whether the file has the configuration and the very numbers of a generator."""
    expected = G.state_dict()
    try:
        if Network.open(path).config != G.config:
            return False
        with SafetensorsFile(path) as file:
            same = file.entries.keys() == expected.keys()
            return same and all(file.tensor(name).equal(expected[name]) for name in expected)
    except (CheckpointError, OSError, ValueError):
        return False


def _lr_multiplier_warning(G: Generator) -> list[str]:
    """Weights begin with a standard deviation of 1 / lr_multiplier, and roughly keep it."""
    multiplier = G.config.lr_multiplier
    layers = [layer for name, layer in G.mapping.named_children() if name.startswith("fc")]
    spreads = [layer.get_parameter("weight").std(correction=0).item() for layer in layers]
    spread = median(spreads)
    if not 0 < spread < math.inf or abs(math.log10(spread * multiplier)) < 0.5:
        return []
    fitting = float(f"{10 ** -round(math.log10(spread)):g}")
    return [
        f"warning: the weights of the mapping network have a standard deviation of {spread:.3g}, "
        f"which does not fit an lr_multiplier of {multiplier:g}, so that images may be wrong: "
        f"convert it with `lr_multiplier` {fitting:g}"
    ]


def _image_warning(G: Generator) -> str:
    """What an image of seed 0 shows that a trained network's would not.

    The file is whole by then, whatever becomes of the image.
    """
    import numpy as np
    import torch

    config = G.config
    largest = max(n * h * w for n, (h, w) in zip(config.channels, config.sizes, strict=True))
    count = sum(parameter.numel() for parameter in G.parameters())
    if largest > max(MAX_DRAWN, MAX_DRAWN_PER_PARAMETER * count):
        return f"no test image was generated: one layer needs {largest * 4 >> 20} MiB"
    z = torch.from_numpy(np.random.RandomState(0).randn(1, config.z_dim)).float()
    c = torch.eye(1, config.c_dim) if config.c_dim else None  # the first class
    try:
        image = G(z, c)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return "no test image was generated: out of memory"
    if not image.isfinite().all():
        return "its image of seed 0 holds NaN or infinity"
    if image.clamp(-1, 1).std() < 0.01:
        return "its image of seed 0 is of one colour"
    return ""
