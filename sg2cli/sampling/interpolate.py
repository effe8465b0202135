"""Frames of a path through latents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sg2cli.errors import UsageError
from sg2cli.latents import interpolation
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.interpolation import METHODS, Method, blend_noise, key_frames, steps
from sg2cli.latents.mapping import z_of
from sg2cli.latents.sources import LatentList
from sg2cli.sampling.drawing import Cell, Drawing, check_latents, grid_shape
from sg2cli.sampling.images import Images
from sg2cli.sampling.rendering import Point, locate
from sg2cli.settings import DrawSettings, GeneratorConfig, NoiseMode

if TYPE_CHECKING:
    from sg2cli.generator import Generator

InterpolationSpace = Literal["z", "w"]


class Interpolate(Drawing):
    """`frames` images on a path that starts at the first latent and passes through all."""

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
    ) -> None:
        super().__init__(config, settings)
        check_latents(latents, config, settings)
        key_frames(len(latents), frames, loop)
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}: use {', '.join(METHODS)}")
        self.latents, self.keys = latents, list(latents)
        if space == "z" and not all(latent.is_mapped for latent in self.keys):
            raise UsageError("space z requires seeds or z: w, ws and avg have no z")
        self.frames, self.method, self.space, self.loop = frames, method, space, loop
        self.columns, self.rows = grid_shape(frames)

    @property
    def count(self) -> int:
        return self.frames

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
        }

    def cells(self, G: Generator) -> Iterator[Cell]:
        provenance = self.grid_provenance(G)
        for frame, (name, point) in enumerate(zip(self.names(), self._path(G), strict=True)):
            yield Cell(point, {**provenance, "frame": frame}, name)

    def _path(self, G: Generator) -> Iterator[Point]:
        """A point for each frame, with the noise maps of its neighbours blended."""
        keys = self.keys
        own = {name: G.get_buffer(name).cpu().numpy() for name in self.latents.noise_names}
        places = self._in_w(G) if self.space == "w" else self._in_z(G)
        segments = steps(len(keys), self.frames, self.loop)
        for point, (first, second, t) in zip(places, segments, strict=True):
            noise = blend_noise(keys[first].noise, keys[second].noise, t, own)
            # One seed for all frames: random noise would flicker.
            yield replace(point, noise=noise, seed=keys[0].seed)

    def _in_w(self, G: Generator) -> Iterator[Point]:
        points = list(locate(G, self.keys, self.settings, self.batch_size(G)))
        ws = [point.ws.cpu().numpy() for point in points]
        centre = G.mapping.w_avg.cpu().numpy()
        for place in interpolation.interpolate(ws, self.frames, self.method, self.loop, centre):
            yield Point(G.mapping.w_avg.new_tensor(place))

    def _in_z(self, G: Generator) -> Iterable[Point]:
        zs = [z_of(latent, self.config.z_dim) for latent in self.keys]
        places = (
            replace(self.keys[0], space="z", values=z, noise={})
            for z in interpolation.interpolate(zs, self.frames, self.method, self.loop)
        )
        return locate(G, places, self.settings, self.batch_size(G))


def interpolate(
    G: Generator,
    latents: Latents,
    frames: int = 60,
    *,
    method: Method = "cubic",
    space: InterpolationSpace = "w",
    loop: bool = False,
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
        frames: number of images; the first and last show the first and last latent.
        method: "linear", "slerp" (Shoemake 1985) or "cubic" (a spline without corners).
        space: "w", or "z" for seeds and z only.
        loop: return to the first latent; the last frame is the one before it.
        psi, cutoff, class_index, noise_mode, batch: see `generate`.

    Returns: the frames; their `save` writes a video if the name ends in .mp4, .gif or .webp.

    Raises UsageError for too few latents or frames, or latents that do not fit the network.
    """
    settings = DrawSettings(psi, cutoff, class_index, noise_mode, batch)
    listed = as_latents(latents, G.config)
    return Images(G, Interpolate(G.config, listed, frames, method, space, loop, settings))
