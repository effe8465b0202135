"""Latents to pictures, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.errors import UsageError
from sg2cli.images import to_images
from sg2cli.latent_files import Stream
from sg2cli.latents import Latent, LatentList, to_ws
from sg2cli.settings import DrawSettings, GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator, Noise
    from sg2cli.images import Image
    from sg2cli.latent_files import Array


PLAIN = DrawSettings()


@dataclass(frozen=True)
class Sample:
    """A picture [H,W,C] uint8 and its latent."""

    latent: Latent
    image: Image


def check_settings(config: GeneratorConfig, settings: DrawSettings, needs_class: bool) -> None:
    """UsageError when the network cannot be drawn so."""
    if settings.cutoff is not None and settings.cutoff > config.num_ws:
        raise UsageError(
            f"a cutoff of {settings.cutoff} is beyond this network's {config.num_ws} rows of ws"
        )
    if settings.class_index is not None and not config.c_dim:
        raise UsageError("this network has no classes: leave --class out")
    if settings.class_index is None and config.c_dim and needs_class:
        raise UsageError(
            f"this network has {config.c_dim} classes: give --class 0 to {config.c_dim - 1}"
        )
    if settings.class_index is not None and not 0 <= settings.class_index < config.c_dim:
        raise UsageError(
            f"class {settings.class_index} is none of this network's {config.c_dim}, "
            f"0 to {config.c_dim - 1}"
        )


def draw(
    G: Generator, latents: Iterable[Latent], settings: DrawSettings = PLAIN
) -> Iterator[Sample]:
    """Draw each latent. Only a batch of them is in memory, so that `latents` may be endless.

    A last batch that is not full is filled up with copies, so that every picture comes out of a
    batch of the same size and, to the last bit, does not depend on what else is drawn.
    """
    import torch

    remaining = iter(latents)
    size = settings.batch or default_batch(G)
    first = list(islice(remaining, size))
    if settings.batch is None:
        size = len(first)  # no copies where one batch is all
    batch = first
    while batch:
        filled = batch + batch[-1:] * (size - len(batch))
        with torch.inference_mode():
            ws = to_ws(G, filled, settings.psi, settings.cutoff, settings.class_index)
            pictures = G.synthesis(ws, noise_of(G, filled, settings))
        images = to_images(pictures[: len(batch)])
        yield from map(Sample, batch, images)
        batch = list(islice(remaining, size))


def made_by(
    checkpoint: str,
    precision: str,
    settings: DrawSettings,
    made_of: Mapping[str, Any],
    mapped: bool,
) -> dict[str, Any]:
    """What a picture remembers: the network's hash, the latent (`made_of`), and how it was drawn.

    `mapped`: whether the latent went through the mapping network, so that no psi means 1.
    """
    return {
        "checkpoint": checkpoint,
        **made_of,
        "psi": 1.0 if settings.psi is None and mapped else settings.psi,
        "cutoff": settings.cutoff,
        "class": settings.class_index,
        "noise_mode": settings.noise_mode,
        "precision": precision,
        "version": __version__,
    }


def ws_streams(G: Generator, latents: LatentList, settings: DrawSettings) -> dict[str, Stream]:
    """The ws as drawn, and the noise maps that come with latents, for `latents.save_latents`."""
    count, config = len(latents), G.config

    def ws() -> Iterator[Array]:
        remaining = iter(latents)
        while batch := list(islice(remaining, 256)):
            drawn = to_ws(G, batch, settings.psi, settings.cutoff, settings.class_index)
            yield from drawn.cpu().numpy()

    def maps(name: str, own: Array) -> Iterator[Array]:
        for latent in latents:
            yield latent.noise.get(name, own)

    streams = {"ws": Stream((count, config.num_ws, config.w_dim), ws())}
    for layer in G.synthesis.layers:
        if layer.noise_name in latents.noise_names:
            own = layer.noise_const.cpu().numpy()
            rows = maps(layer.noise_name, own)
            streams[layer.noise_name] = Stream((count, *own.shape), rows)
    return streams


def default_batch(G: Generator) -> int:
    """As many pictures as pay: by resolution on a CPU, whose caches are small; more on a GPU."""
    fits = (1024 // G.config.img_resolution) ** 2
    return max(1, min(32, 8 * fits if G.device.type != "cpu" else fits // 8))


def noise_of(G: Generator, latents: Sequence[Latent], settings: DrawSettings) -> Noise:
    """The noise of a batch: by the mode; in mode const a latent's own maps, where it has some."""
    import numpy as np
    import torch

    if settings.noise_mode == "random":
        return G.random_noise([latent.seed for latent in latents])
    if settings.noise_mode == "none" or not any(latent.noise for latent in latents):
        return settings.noise_mode
    maps: dict[str, Tensor] = {}
    for layer in G.synthesis.layers:
        name = layer.noise_name
        if any(name in latent.noise for latent in latents):
            own = [latent.noise.get(name) for latent in latents]
            drawn = [layer.noise_const if n is None else torch.from_numpy(np.array(n)) for n in own]
            maps[name] = torch.stack([noise_map.to(layer.noise_const) for noise_map in drawn])
    return maps
