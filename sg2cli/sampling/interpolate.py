"""Frames of a path through latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents import interpolation
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.interpolation import (
    METHODS,
    Method,
    blend_noise,
    frame_count,
    key_frames,
    steps,
)
from sg2cli.latents.mapping import z_of
from sg2cli.latents.sources import Latent, LatentList
from sg2cli.sampling.drawing import Cell, Drawing, check_latents, grid_shape
from sg2cli.sampling.images import Images
from sg2cli.sampling.rendering import Point, locate
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.pixels import Pixels

InterpolationSpace = Literal["z", "w"]
FRAMES = 60


Frame = tuple[Point, ...]  # one for each path of a grid


@dataclass(frozen=True)
class FrameLayout:
    """Frames that show `columns` x `rows` paths side by side, each pixel `scale` times as large."""

    columns: int = 1
    rows: int = 1
    scale: int = 1

    @property
    def paths(self) -> int:
        return self.columns * self.rows

    @property
    def is_plain(self) -> bool:
        return self.paths == self.scale == 1

    def details(self) -> dict[str, Any]:
        """The fields of the provenance, none for plain frames, as older versions wrote them."""
        grid = {"grid": f"{self.columns}x{self.rows}"} if self.paths > 1 else {}
        return grid | ({"scale": self.scale} if self.scale > 1 else {})

    def compose(self, images: Sequence[Pixels]) -> Pixels:
        """The images [H,W,C] of all paths, row by row -> a frame."""
        import numpy as np

        tiles = np.stack(images)  # [N,H,W,C]
        _, height, width, channels = tiles.shape
        frame = tiles.reshape(self.rows, self.columns, height, width, channels).swapaxes(1, 2)
        frame = frame.reshape(self.rows * height, self.columns * width, channels)
        return frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)


class Interpolate(Drawing):
    """`frames` images on a path that starts at the first latent and passes through all.

    In a grid, each path passes through an equal part of the latents, in reading order, as in
    NVIDIA's gen_video.py.
    """

    has_grid = False

    def __init__(
        self,
        config: GeneratorConfig,
        latents: LatentList,
        frames: int,
        method: Method,
        space: InterpolationSpace,
        loop: bool,
        settings: DrawSettings,
        layout: FrameLayout = FrameLayout(),
    ) -> None:
        super().__init__(config, settings)
        check_latents(latents, config, settings)
        key_frames(keys_per_path(len(latents), layout), frames, loop)
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}: use {', '.join(METHODS)}")
        self.latents, self.keys = latents, list(latents)
        if space == "z" and not all(latent.is_mapped for latent in self.keys):
            raise UsageError("space z requires seeds or z: w, ws and avg have no z")
        self.frames, self.method, self.space, self.loop = frames, method, space, loop
        self.layout = layout
        self.columns, self.rows = grid_shape(frames)

    @property
    def count(self) -> int:
        return self.frames

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = super().shape
        layout = self.layout
        return (
            height * layout.rows * layout.scale,
            width * layout.columns * layout.scale,
            channels,
        )

    @property
    def is_mapped(self) -> bool:
        return self.latents.need_mapping

    @property
    def noise_names(self) -> Sequence[str]:
        return self.latents.noise_names

    def names(self) -> Iterator[str]:
        digits = max(4, len(str(self.frames - 1)))
        return (f"frame{frame:0{digits}d}" for frame in range(self.frames))

    def details(self) -> Mapping[str, Any]:
        return {
            "walk": self.latents.describe(),  # the key under which all versions wrote it
            "method": self.method,
            "space": self.space,
            "loop": self.loop,
            "frames": self.frames,
            **self.layout.details(),
        }

    def cells(self, G: Generator) -> Iterator[Cell]:
        provenance = self.grid_provenance(G)
        count = len(self.keys) // self.layout.paths
        parts = [self.keys[i : i + count] for i in range(0, len(self.keys), count)]
        frames = zip(*(self._path(G, keys) for keys in parts), strict=True)
        for number, (name, points) in enumerate(zip(self.names(), frames, strict=True)):
            source = points[0] if self.layout.paths == 1 else points
            yield Cell(source, {**provenance, "frame": number}, name)

    def batch_size(self, G: Generator, count: int | None = None) -> int:
        return super().batch_size(G, self.frames * self.layout.paths if count is None else count)

    def render(
        self,
        G: Generator,
        sources: Iterable[Latent | Point | Frame],
        on_note: Callable[[str], object] = lambda text: None,
        on_point: Callable[[Point], object] = lambda point: None,
    ) -> Iterator[Pixels | Sg2Error]:
        """As `Drawing.render`, in frames; `on_point` receives the first point of each."""

        def points() -> Iterator[Latent | Point]:
            for source in sources:
                frame = source if isinstance(source, tuple) else (source,)
                if isinstance(frame[0], Point):
                    on_point(frame[0])
                yield from frame

        images = super().render(G, points(), on_note)
        while tiles := list(islice(images, self.layout.paths)):
            failed = [tile for tile in tiles if isinstance(tile, Sg2Error)]
            drawn = [tile for tile in tiles if not isinstance(tile, Sg2Error)]
            yield failed[0] if failed else self.layout.compose(drawn)

    def _path(self, G: Generator, keys: Sequence[Latent]) -> Iterator[Point]:
        """A point for each frame, with the noise maps of its neighbours blended."""
        own = {name: G.get_buffer(name).cpu().numpy() for name in self.latents.noise_names}
        places = self._in_w(G, keys) if self.space == "w" else self._in_z(G, keys)
        segments = steps(len(keys), self.frames, self.loop)
        for point, (first, second, t) in zip(places, segments, strict=True):
            noise = blend_noise(keys[first].noise, keys[second].noise, t, own)
            # One seed for all frames: random noise would flicker.
            yield replace(point, noise=noise, seed=keys[0].seed)

    def _in_w(self, G: Generator, keys: Sequence[Latent]) -> Iterator[Point]:
        points = list(locate(G, keys, self.settings, self.batch_size(G)))
        ws = [point.ws.cpu().numpy() for point in points]
        centre = G.mapping.w_avg.cpu().numpy()
        for place in interpolation.interpolate(ws, self.frames, self.method, self.loop, centre):
            yield Point(G.mapping.w_avg.new_tensor(place))

    def _in_z(self, G: Generator, keys: Sequence[Latent]) -> Iterable[Point]:
        zs = [z_of(latent, self.config.z_dim) for latent in keys]
        places = (
            replace(keys[0], space="z", values=z, noise={})
            for z in interpolation.interpolate(zs, self.frames, self.method, self.loop)
        )
        return locate(G, places, self.settings, self.batch_size(G))


def keys_per_path(latents: int, layout: FrameLayout) -> int:
    """The number of key latents of each path; UsageError if the latents cannot be shared evenly."""
    if latents % layout.paths:
        raise UsageError(
            f"{latents} latents cannot be shared evenly by the {layout.paths} paths of a grid of "
            f"{layout.columns}x{layout.rows}: give a multiple of {layout.paths}"
        )
    return latents // layout.paths


def count_frames(
    latents: int, frames: int | None, per_latent: int | None, loop: bool, layout: FrameLayout
) -> int:
    """The number of frames, from either argument; UsageError for both."""
    if frames is not None and per_latent is not None:
        raise UsageError("`frames` and `frames_per_latent` are mutually exclusive")
    if per_latent is not None:
        return frame_count(keys_per_path(latents, layout), per_latent, loop)
    return FRAMES if frames is None else frames


def interpolate(
    G: Generator,
    latents: Latents,
    frames: int | None = None,
    *,
    frames_per_latent: int | None = None,
    method: Method = "cubic",
    space: InterpolationSpace = "w",
    loop: bool = False,
    grid: tuple[int, int] = (1, 1),
    scale: int = 1,
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
    noise_mode: NoiseMode = "const",
    batch: int | None = None,
) -> Images:
    """Interpolate between latents: `sg2cli.interpolate(G, "85,265,297", 90).save("faces.gif")`.

    Args:
        G: a network, from `sg2cli.load`.
        latents: two or more key latents of the path; see `generate`.
        frames: number of images; the first and last show the first and last latent; None: 60.
        frames_per_latent: in place of `frames`: the distance of key latents in frames.
        method: "linear", "slerp" (Shoemake 1985) or "cubic" (a spline without corners).
        space: "w", or "z" for seeds and z only.
        loop: return to the first latent; the last frame is the one before it.
        grid: columns and rows of paths side by side, each through an equal part of the latents.
        scale: how many times as large each pixel is shown.
        psi, cutoff, class_index, noise_mode, batch: see `generate`.

    Returns: the frames; their `save` writes a video if the name ends in .mp4, .gif or .webp.

    Raises UsageError for too few latents or frames, or latents that do not fit the network.
    """
    settings = DrawSettings(psi, cutoff, class_index, noise_mode, batch)
    listed = as_latents(latents, G.config)
    if min(*grid, scale) < 1:
        raise UsageError(f"a grid of {grid[0]}x{grid[1]} and a scale of {scale}: use 1 or more")
    layout = FrameLayout(*grid, scale)
    count = count_frames(len(listed), frames, frames_per_latent, loop, layout)
    return Images(G, Interpolate(G.config, listed, count, method, space, loop, settings, layout))
