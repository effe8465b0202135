"""The epilogue of a convolution: scale, noise, bias, activation and clamp in its kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from sg2cli.ops.cpu.runtime import Arguments, Buffer, Float, Int, Strided, filled

TAPS = 4  # of the filters that are compiled


@dataclass
class EpilogueArguments(Arguments):
    """Arguments of the epilogue: clamp(leaky_relu(scale * x + noise + bias))."""

    scale: Buffer  # [N,C], or [C] with a step of 0
    scale_step: Int
    bias: Buffer  # [C]
    noise: Strided  # [N|1,1,H,W], or one number with steps of 0
    noise_image: Int  # numbers from one image, row and pixel of the noise to the next
    noise_row: Int
    noise_pixel: Int
    clamp: Float  # infinity for none

    def epilogue_sizes(
        self, n: int, channels: int, height: int, width: int
    ) -> dict[str, tuple[int, ...] | int]:
        maps = n if self.noise_image else len(self.noise)
        return {
            "scale": max(n - 1, 0) * self.scale_step + channels,
            "bias": channels,
            "noise": (maps, 1, height, width) if self.noise.ndim == 4 else 1,
        }


class Epilogue(NamedTuple):
    """clamp(leaky_relu(scale * x + noise + bias)); each part is optional."""

    scale: Tensor | None = None  # [N|1,C]
    bias: Tensor | None = None  # [C]
    noise: Tensor | None = None  # [N|1,1,H,W]
    slope: float = 1.0  # of the leaky ReLU
    clamp: float | None = None

    def part(self, images: slice, rows: slice) -> Epilogue:
        """The epilogue for these rows of some images."""
        scale, noise = self.scale, self.noise
        if noise is not None:
            noise = noise[images if len(noise) > 1 else slice(None), :, rows]
        return self._replace(scale=None if scale is None else scale[images], noise=noise)

    def arguments(self, channels: int) -> dict[str, Any]:
        """The values of `EpilogueArguments`."""
        scale, scale_step = per_image(self.scale, filled(1, channels))
        zero, noise = filled(0, channels), self.noise
        image, _, row, pixel = (0, 0, 0, 0) if noise is None else noise.stride()
        return {
            "scale": scale,
            "scale_step": scale_step,
            "bias": zero if self.bias is None else self.bias.contiguous(),
            "noise": zero if noise is None else noise,
            "noise_image": image if noise is not None and len(noise) > 1 else 0,
            "noise_row": row,
            "noise_pixel": pixel,
            "clamp": float("inf") if self.clamp is None else float(self.clamp),
        }


IDENTITY = Epilogue()


def per_image(t: Tensor | None, otherwise: Tensor) -> tuple[Tensor, int]:
    """t [N|1,C], or its default, and the step from one image to the next."""
    return (otherwise, 0) if t is None else (t.contiguous(), t.shape[1] if len(t) > 1 else 0)
