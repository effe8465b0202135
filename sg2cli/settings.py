"""What can be set, with every default once. Standard library only, so that parsing stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Architecture = Literal["skip", "resnet", "orig"]
Activation = Literal["lrelu", "relu", "linear"]
NoiseMode = Literal["const", "random", "none"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
ResampleFilter = tuple[float, ...] | tuple[tuple[float, ...], ...]

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
NOISE_MODES: tuple[str, ...] = get_args(NoiseMode)
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything about a generator that is not a weight.

    `channels` are the feature maps of the blocks b4, b8, ... up to the picture's resolution;
    `mapping_features` the outputs of fc0, fc1, ..., of which the last is w_dim.
    """

    z_dim: int
    c_dim: int
    w_dim: int
    img_resolution: int
    img_channels: int
    channels: tuple[int, ...]
    mapping_features: tuple[int, ...]
    embed_features: int = 0
    use_noise: bool = True
    lr_multiplier: float = 0.01
    architecture: Architecture = "skip"
    activation: Activation = "lrelu"
    conv_clamp: float | None = None
    num_fp16_res: int = 0
    resample_filter: ResampleFilter = (1, 3, 3, 1)

    @property
    def num_layers(self) -> int:
        """Fully connected layers of the mapping network."""
        return len(self.mapping_features)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., img_resolution: one a synthesis block."""
        return tuple(4 << i for i in range(len(self.channels)))

    @property
    def num_ws(self) -> int:
        """Rows of ws: one a convolution, and one for the last ToRGB (18 at 1024x1024)."""
        return 2 * len(self.channels)


@dataclass(frozen=True)
class DrawSettings:
    """How latents become pictures. The defaults are those of NVIDIA's scripts, noise apart."""

    psi: float | None = None  # None: 1 for seeds and z, and no truncation of w and ws from a file
    cutoff: int | None = None  # rows of ws that truncation reaches; None: all
    class_index: int | None = None
    noise_mode: NoiseMode = "const"
    batch: int | None = None  # None: by the resolution
