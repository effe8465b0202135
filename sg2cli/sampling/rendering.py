"""Draw points of W+ as images, in batches, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from sg2cli import devices
from sg2cli.errors import Sg2Error, UsageError, is_out_of_memory
from sg2cli.images.pixels import to_pixels
from sg2cli.latents.files import Stream
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.sources import Latent, LatentList
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator, Noise
    from sg2cli.images.pixels import Pixels
    from sg2cli.storage.array_files import Array


T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """The input of the synthesis network: ws [num_ws,w_dim] and noise."""

    ws: Tensor
    seed: int = 0  # of random noise
    noise: Mapping[str, Array] = field(default_factory=dict)  # maps [H,W] by name


def check_settings(config: GeneratorConfig, settings: DrawSettings, needs_class: bool) -> None:
    """UsageError if the settings do not fit the network."""
    if settings.cutoff is not None and settings.cutoff > config.num_ws:
        raise UsageError(
            f"a cutoff of {settings.cutoff} is beyond this network's {config.num_ws} rows of ws"
        )
    if settings.class_index is not None and not config.c_dim:
        raise UsageError("this network has no classes: do not give `class_index`")
    if settings.class_index is None and config.c_dim and needs_class:
        raise UsageError(
            f"this network has {config.c_dim} classes: give `class_index` 0 to {config.c_dim - 1}"
        )
    if settings.class_index is not None and not 0 <= settings.class_index < config.c_dim:
        raise UsageError(
            f"class {settings.class_index} is out of range: this network has classes "
            f"0 to {config.c_dim - 1}"
        )


def locate(
    G: Generator, latents: Iterable[Latent], settings: DrawSettings, size: int
) -> Iterator[Point]:
    """Map and truncate latents, `size` at a time."""
    import torch

    for batch, filled in _batches(latents, size):
        with torch.inference_mode():
            ws = to_ws(G, filled, settings.psi, settings.cutoff, settings.class_index)
        for latent, row in zip(batch, ws, strict=False):
            yield Point(row, latent.seed, latent.noise)


def render(
    G: Generator,
    points: Iterable[Point],
    noise_mode: NoiseMode,
    size: int,
    on_note: Callable[[str], object] = lambda text: None,
) -> Iterator[Pixels]:
    """Draw points, `size` at a time: pixels [H,W,C] uint8 for each.

    If a batch runs out of memory, it and all later ones are halved. The last batch is padded with
    copies, as in `_batches`. Sg2Error for an image that is not finite.
    """
    return _all_drawn(try_render(G, points, noise_mode, size, on_note))


def _all_drawn(images: Iterable[Pixels | Sg2Error]) -> Iterator[Pixels]:
    for image in images:
        if isinstance(image, Sg2Error):
            raise image
        yield image


def try_render(
    G: Generator,
    points: Iterable[Point],
    noise_mode: NoiseMode,
    size: int,
    on_note: Callable[[str], object] = lambda text: None,
) -> Iterator[Pixels | Sg2Error]:
    """As `render`, but yields an error in place of an image that is not finite."""
    import torch

    from sg2cli import ops

    replayed = ops.Replayed(lambda ws: (G.synthesis(ws, noise_mode),))

    def synthesize(filled: Sequence[Point]) -> Tensor:
        with torch.inference_mode():
            ws = torch.stack([point.ws for point in filled])
            noise = noise_of(G, filled, noise_mode)
            return replayed(ws)[0] if isinstance(noise, str) else G.synthesis(ws, noise)

    points = iter(points)
    attempt: Callable[[Sequence[Point]], Tensor] = synthesize
    while batch := list(islice(points, size)):
        filled = batch + batch[-1:] * (size - len(batch))
        images: list[Pixels | Sg2Error] = []
        try:
            images = _to_each_image(attempt(filled)[: len(batch)])
        except (MemoryError, RuntimeError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        if not images:  # here, where nothing refers to the memory of the attempt any more
            size = (size + 1) // 2
            ops.release_memory()
            devices.release_memory()
            attempt = devices.in_new_thread(synthesize)
            on_note(f"out of memory: continuing with {size} images at once")
            points = chain(batch, points)
        else:
            yield from images


def _to_each_image(images: Tensor) -> list[Pixels | Sg2Error]:
    """[N,C,H,W] -> pixels [H,W,C] of each, or an error for one that is not finite."""
    try:
        return list(to_pixels(images))
    except Sg2Error as error:
        if len(images) == 1:
            return [error]
    return [result for image in images for result in _to_each_image(image[None])]


def _batches(items: Iterable[T], size: int) -> Iterator[tuple[list[T], list[T]]]:
    """Lists of up to `size` items, and the same padded with copies of the last item.

    So every image comes from a batch of the same size, and its bits do not depend on what else is
    drawn.
    """
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch, batch + batch[-1:] * (size - len(batch))


def batch_size(G: Generator, settings: DrawSettings, count: int) -> int:
    """The batch size for `render` of `count` images."""
    return settings.batch or max(1, min(count, default_batch(G)))


def ws_streams(
    G: Generator,
    latents: LatentList,
    settings: DrawSettings,
    on_row: Callable[[], object] = lambda: None,
) -> dict[str, Stream]:
    """The truncated ws, and the noise maps of the latents, for `save_latents`."""

    def ws() -> Iterator[Array]:
        remaining = iter(latents)
        while batch := list(islice(remaining, 256)):
            drawn = to_ws(G, batch, settings.psi, settings.cutoff, settings.class_index)
            for row in drawn.cpu().numpy():
                yield row
                on_row()

    def maps(name: str, own: Array) -> Iterator[Array]:
        for latent in latents:
            yield latent.noise.get(name, own)

    return latent_streams(G, len(latents), ws(), latents.noise_names, maps)


def latent_streams(
    G: Generator,
    count: int,
    ws: Iterator[Array],
    noise_names: Sequence[str],
    maps: Callable[[str, Array], Iterator[Array]],
) -> dict[str, Stream]:
    """`ws` and the noise maps of these names, for `save_latents`.

    `maps` gives `count` maps by the name of a layer, of which the second argument is its own.
    """
    streams = {"ws": Stream((count, G.config.num_ws, G.config.w_dim), ws)}
    for layer in G.synthesis.layers:
        if layer.noise_name in noise_names:
            own = layer.noise_const.cpu().numpy()
            rows = maps(layer.noise_name, own)
            streams[layer.noise_name] = Stream((count, *own.shape), rows)
    return streams


def default_batch(G: Generator) -> int:
    """Batch size by resolution: smaller on a CPU, whose caches are small."""
    fits = (1024 // max(G.config.size)) ** 2
    return max(1, min(32, 8 * fits if G.device.type != "cpu" else fits // 8))


def noise_of(G: Generator, points: Sequence[Point], mode: NoiseMode) -> Noise:
    """The noise of a batch, by mode; in mode const, the maps of each point that has its own."""
    import numpy as np
    import torch

    if mode == "random":
        return random_noise(G, [point.seed for point in points])
    if mode == "none" or not any(point.noise for point in points):
        return mode
    maps: dict[str, Tensor] = {}
    for layer in G.synthesis.layers:
        name = layer.noise_name
        if any(name in point.noise for point in points):
            own = [point.noise.get(name) for point in points]
            drawn = [layer.noise_const if n is None else torch.from_numpy(np.array(n)) for n in own]
            maps[name] = torch.stack([noise_map.to(layer.noise_const) for noise_map in drawn])
    return maps


def random_noise(G: Generator, seeds: Sequence[int]) -> dict[str, Tensor]:
    """A map [N,1,H,W] for each layer; those of an image are drawn from its own seed on the CPU.

    So an image is the same in any batch and on any device.
    """
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    single: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    maps = {}
    for layer in G.synthesis.layers:
        if layer.use_noise:
            shape = (1, *layer.noise_const.shape)
            drawn = [torch.randn(shape, generator=g, **single) for g in generators]
            maps[layer.noise_name] = torch.stack(drawn).to(layer.noise_const)
    return maps
