"""Settings and their defaults. Imports only the standard library, so that parsing is fast."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from sg2cli.errors import UsageError

Architecture = Literal["skip", "resnet", "orig"]
Activation = Literal["lrelu", "relu", "linear"]
NoiseMode = Literal["const", "random", "none"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
LpipsNet = Literal["vgg", "alex"]
Space = Literal["w", "w+"]
ResampleFilter = tuple[float, ...] | tuple[tuple[float, ...], ...]

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
NOISE_MODES: tuple[str, ...] = get_args(NoiseMode)
LPIPS_NETS: tuple[str, ...] = get_args(LpipsNet)
SPACES: tuple[str, ...] = get_args(Space)
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class GeneratorConfig:
    """The configuration of a generator.

    Blocks are called by resolutions, 4 and its doublings, whatever the size of the constant input.
    `channels` are the feature maps of the blocks b4, b8, ... up to the image's resolution;
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
    base: tuple[int, int] = (4, 4)  # height and width of the constant input

    @property
    def num_layers(self) -> int:
        """Fully connected layers of the mapping network."""
        return len(self.mapping_features)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., img_resolution: one for each synthesis block."""
        return tuple(4 << i for i in range(len(self.channels)))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the blocks' feature maps: the resolutions, if the base is 4x4."""
        return tuple((self.base[0] << i, self.base[1] << i) for i in range(len(self.channels)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.sizes[-1]

    @property
    def num_ws(self) -> int:
        """Rows of ws: one for each convolution, and one for the last ToRGB (18 at 1024x1024)."""
        return 2 * len(self.channels)


def shown_size(config: GeneratorConfig) -> str:
    """Width x height of the images, as images' sizes are written."""
    return f"{config.size[1]}x{config.size[0]}"


@dataclass(frozen=True)
class DrawSettings:
    """How latents are drawn. The defaults are those of NVIDIA's scripts, except for noise."""

    psi: float | None = None  # None: 1 for seeds and z, w and ws unchanged
    cutoff: int | None = None  # number of rows of ws to truncate; None: all
    class_index: int | None = None
    noise_mode: NoiseMode = "const"
    batch: int | None = None  # None: by resolution


@dataclass(frozen=True)
class Restart:
    """A new search in the remaining steps of a projection, or until the next restart."""

    at: float  # start, as a fraction of the steps
    lr: float
    w_noise: float
    pixel_weight: float
    start_samples: int | None = None  # None: start from the best so far; else as in ProjectSettings
    shown: bool = True


@dataclass(frozen=True)
class ProjectSettings:
    """How a photo is projected. The defaults are those of NVIDIA's projector."""

    steps: int = 1000
    seed: int = 303
    space: Space = "w"
    lr: float = 0.1
    lr_rampup: float = 0.05  # fractions of the steps
    lr_rampdown: float = 0.25
    w_noise: float = 0.05  # initial noise, in standard deviations of w
    w_noise_ramp: float = 0.75  # fraction of the steps until it is 0
    noise_weight: float = 1e5
    noise_maps: bool = True
    wplus_weight: float = 0.0
    pixel_weight: float = 0.0
    lpips: LpipsNet = "vgg"
    shown: bool = False  # the loss sees images clamped to -1..1, as they are shown
    start_samples: int = 0  # images that the start is estimated from; 0: the mean of w
    keep_best: bool = False  # return the best step, not the last
    patience: int | None = None
    restarts: tuple[Restart, ...] = ()


PRESETS: dict[str, ProjectSettings] = {
    "paper": ProjectSettings(),
    # Chosen on drawings; docs/inversion.md lists the alternatives.
    "fast": ProjectSettings(
        steps=150,
        lr=0.4,
        w_noise=0.02,
        pixel_weight=0.3,
        shown=True,
        start_samples=100,
        keep_best=True,
    ),
    # The search of the paper, one from an estimated start, and one from the better of the two.
    "best": ProjectSettings(
        steps=1800,
        keep_best=True,
        restarts=(
            Restart(at=10 / 18, lr=0.4, w_noise=0.05, pixel_weight=0.3, start_samples=200),
            Restart(at=14 / 18, lr=0.4, w_noise=0.02, pixel_weight=0.3),
        ),
    ),
}


def project_settings(preset: str = "paper", **changes: Any) -> ProjectSettings:
    """A preset with changes to single fields: `project_settings("fast", steps=50)`.

    lr, w_noise and pixel_weight also apply to restarts; with patience, the best step is kept.
    UsageError for an unknown preset or field.
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}: use one of {', '.join(PRESETS)}")
    names = {field.name for field in fields(ProjectSettings)}
    if unknown := changes.keys() - names:
        raise UsageError(f"unknown setting of projections: {min(unknown)!r}")
    chosen = replace(PRESETS[preset], **changes)
    shared = {name: changes[name] for name in ("lr", "w_noise", "pixel_weight") if name in changes}
    restarts = tuple(replace(restart, **shared) for restart in chosen.restarts)
    chosen = replace(chosen, restarts=restarts)
    if changes.get("patience"):  # patience compares scores
        chosen = replace(chosen, keep_best=True)
    return chosen


@dataclass(frozen=True)
class TuneSettings:
    """Pivotal tuning. The defaults are those of Roich et al., the radius in units of W."""

    steps: int = 350
    seed: int = 303
    lr: float = 3e-4
    pixel_weight: float = 1.0
    locality_weight: float = 0.1
    locality_radius: float = 2.0  # in standard deviations of w
