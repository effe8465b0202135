"""The StyleGAN2 generator (Karras et al. 2019, arXiv:1912.04958), top to bottom.

Attributes are named as the keys of a checkpoint: `synthesis.b64.conv1.affine.weight`. Weights take
no gradient; ws and noise maps do. N is the batch, C channels, H and W the size of feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sg2cli import ops
from sg2cli.settings import Activation, GeneratorConfig, Precision

# Slope of the negative half, and the gain that keeps the variance (He et al. 2015).
ACTIVATION: dict[Activation, tuple[float, float]] = {
    "lrelu": (0.2, math.sqrt(2)),
    "relu": (0.0, math.sqrt(2)),
    "linear": (1.0, 1.0),
}
SQRT_HALF = math.sqrt(0.5)
HALF: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}

# The checkpoint's own noise maps, or none, or these, by the name of their buffer
# ('synthesis.b64.conv1.noise_const'), each [H,W], [N,H,W] or [N,1,H,W].
Noise = Mapping[str, Tensor] | Literal["const", "none"]


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row to mean square 1: x [N,C] -> [N,C] (StyleGAN's pixel norm of latents)."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnected(nn.Module):
    """x [N,I] -> [N,O]; weights are stored with variance 1 / lr_multiplier^2, and scaled in use."""

    def __init__(
        self, inputs: int, outputs: int, lr_multiplier: float = 1, activation: Activation = "linear"
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier
        self.slope, self.gain = ACTIVATION[activation]

    def forward(self, x: Tensor) -> Tensor:
        y = ops.linear(x, self.weight) * self.weight_gain
        return ops.bias_act(y, self.bias * self.bias_gain, self.slope, self.gain)


class MappingNetwork(nn.Module):
    """z [N,z_dim], c [N,c_dim] -> w [N,w_dim] (StyleGAN section 2, StyleGAN2 section 2)."""

    w_avg: Tensor  # [w_dim]

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        inputs = config.z_dim
        if config.c_dim:
            self.embed = FullyConnected(config.c_dim, config.embed_features)
            inputs += config.embed_features
        for i, outputs in enumerate(config.mapping_features):
            fc = FullyConnected(inputs, outputs, config.lr_multiplier, config.activation)
            self.add_module(f"fc{i}", fc)
            inputs = outputs
        self.num_layers = config.num_layers
        self.register_buffer("w_avg", torch.empty(config.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalize_2nd_moment(z)
        if c is not None:
            x = torch.cat([x, normalize_2nd_moment(self.embed(c))], dim=1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, activation (StyleGAN2 fig. 2c).

    x [N,I,H,W], w [N,w_dim] -> [N,O,H,W], or [N,O,2H,2W] where the layer upsamples.
    """

    noise_const: Tensor  # [H,W] of the result

    def __init__(
        self, name: str, inputs: int, outputs: int, config: GeneratorConfig, index: int, gain: float
    ) -> None:
        """`gain` comes on top of the activation's own, and moves the clamp with it."""
        super().__init__()
        self.affine = FullyConnected(config.w_dim, inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.noise_name = f"{name}.noise_const"
        self.use_noise = config.use_noise
        if self.use_noise:
            self.noise_strength = nn.Parameter(torch.empty([]))
            self.register_buffer("noise_const", torch.empty(config.sizes[index]))
        self.taps = config.resample_filter if name.endswith("conv0") else None
        self.slope, own_gain = ACTIVATION[config.activation]
        self.gain = own_gain * gain
        self.clamp = None if config.conv_clamp is None else config.conv_clamp * gain

    def forward(self, x: Tensor, w: Tensor, noise: Noise = "const") -> Tensor:
        f = ops.filter_kernel(self.taps, x.dtype, x.device) if self.taps else None
        x = ops.modulated_conv2d(x, self.weight, self.affine(w), f)  # with f, it upsamples
        if (noise_map := self.noise_map(noise)) is not None:
            x = x + noise_map.to(x.dtype)
        return ops.bias_act(x, self.bias, self.slope, self.gain, self.clamp)

    def operands(self, w: Tensor, noise: Noise) -> ops.Layer:
        """What `forward` computes with, for operations that compute several layers at once."""
        how = self.taps, self.slope, self.gain, self.clamp
        return ops.Layer(self.weight, self.affine(w), self.bias, self.noise_map(noise), *how)

    def noise_map(self, noise: Noise) -> Tensor | None:
        """[H,W], or [N|1,1,H,W], times its strength."""
        if not self.use_noise or noise == "none":
            return None
        if noise == "const":
            return self.noise_const * self.noise_strength
        own = noise.get(self.noise_name, self.noise_const)  # the checkpoint's if it is left out
        return own.reshape(-1, 1, *own.shape[-2:]) * self.noise_strength


class ToRGB(nn.Module):
    """Modulated, not demodulated 1x1 convolution to pixels: [N,I,H,W] -> [N,C,H,W]."""

    def __init__(self, inputs: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.affine = FullyConnected(config.w_dim, inputs)
        self.weight = nn.Parameter(torch.empty(config.img_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.empty(config.img_channels))
        self.weight_gain = 1 / math.sqrt(inputs)
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Without bias and clamp: they come with the sum of images."""
        return ops.to_rgb(x, self.weight, self.styles(w))

    def styles(self, w: Tensor) -> Tensor:
        return self.affine(w) * self.weight_gain


class Skip(nn.Module):
    """The residual path: an upsampling 1x1 convolution, [N,I,H,W] -> [N,O,2H,2W]."""

    def __init__(self, inputs: int, outputs: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1, 1))
        self.weight_gain = 1 / math.sqrt(inputs) * SQRT_HALF
        self.taps = config.resample_filter

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.weight_gain).to(x.dtype)
        return ops.upsample2d(F.conv2d(x, weight), self.taps)


class SynthesisBlock(nn.Module):
    """The layers of one resolution (StyleGAN2 fig. 7): skip, resnet or orig."""

    def __init__(self, index: int, config: GeneratorConfig) -> None:
        super().__init__()
        resolution, outputs = config.resolutions[index], config.channels[index]
        name = f"synthesis.b{resolution}"
        self.is_first, self.is_last = index == 0, resolution == config.img_resolution
        self.is_resnet = config.architecture == "resnet" and not self.is_first
        self.has_torgb = config.architecture == "skip" or self.is_last
        if self.is_first:
            self.const = nn.Parameter(torch.empty(outputs, *config.base))
        else:
            inputs = config.channels[index - 1]
            self.conv0 = SynthesisLayer(f"{name}.conv0", inputs, outputs, config, index, 1)
        gain = SQRT_HALF if self.is_resnet else 1  # so the sum of two paths keeps the variance
        self.conv1 = SynthesisLayer(f"{name}.conv1", outputs, outputs, config, index, gain)
        if self.is_resnet:
            self.skip = Skip(inputs, outputs, config)
        if self.has_torgb:
            self.torgb = ToRGB(outputs, config)
        self.taps = config.resample_filter
        self.dtype: torch.dtype | None = None  # of the activations; None: that of the weights

    @property
    def convs(self) -> list[SynthesisLayer]:
        return [self.conv1] if self.is_first else [self.conv0, self.conv1]

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise: Noise
    ) -> tuple[Tensor | None, Tensor | None]:
        """One block on: x [N,I,H/2,W/2], img [N,C,H/2,W/2], ws [N,2|3,w_dim] -> x, img [N,.,H,W].

        ToRGB reads the w of the next block's first convolution. After the last block x may be None.
        """
        *ws_conv, w_torgb = ws.unbind(dim=1)
        x = self.const.expand(ws.shape[0], -1, -1, -1) if x is None else x
        x = x.to(self.dtype or self.conv1.weight.dtype)
        if not ops.only_reference():
            x, rgb = self.fused(x, ws_conv, w_torgb, noise)
        else:
            y = x
            for conv, w in zip(self.convs, ws_conv, strict=True):
                y = conv(y, w, noise)
            x = self.skip(x) + y if self.is_resnet else y
            rgb = self.torgb(x, w_torgb) if self.has_torgb else None
        if rgb is not None:
            img = ops.add_rgb(rgb, self.torgb.bias, self.torgb.clamp, img, self.taps)
        return x, img

    def fused(
        self, x: Tensor, ws: Sequence[Tensor], w_torgb: Tensor, noise: Noise
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the layers compute one by one, with fewer passes over memory: -> x, rgb.

        Writing and reading feature maps, which no cache holds, takes longer than the arithmetic on
        them. So on CUDA, what ends conv0 multiplies by the styles of conv1, one pass less; and on a
        CPU, the last block goes from x to rgb in bands of rows: its maps are never in memory.
        """
        layers = [conv.operands(w, noise) for conv, w in zip(self.convs, ws, strict=True)]
        if self.is_last and not self.is_resnet:  # the image is all that is needed
            rgb = self.torgb.weight, self.torgb.styles(w_torgb)
            return None, ops.styled_conv_rgb(x, layers, *rgb)
        y = ops.styled_convs(x, layers)
        x = self.skip(x) + y if self.is_resnet else y
        return x, self.torgb(x, w_torgb) if self.has_torgb else None


class SynthesisNetwork(nn.Module):
    """ws [N,num_ws,w_dim] -> img [N,C,H,W], of which -1..1 is shown (StyleGAN2 section 2 and 4)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.resolutions = config.resolutions
        for index, resolution in enumerate(config.resolutions):
            self.add_module(f"b{resolution}", SynthesisBlock(index, config))

    @property
    def blocks(self) -> list[SynthesisBlock]:
        return [cast(SynthesisBlock, self.get_submodule(f"b{r}")) for r in self.resolutions]

    @property
    def layers(self) -> list[SynthesisLayer]:
        """The convolutions with noise, in the order of the network."""
        return [m for m in self.modules() if isinstance(m, SynthesisLayer)]

    def forward(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        x = img = None
        row = 0
        for block in self.blocks:
            convs = len(block.convs)
            x, img = block(x, img, ws[:, row : row + convs + 1], noise)
            row += convs
        return cast(Tensor, img)  # the last block has a ToRGB


class Generator(nn.Module):
    """The mapping and the synthesis network. Built with no values: `checkpoints` fills them in."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        ops.only_reference()  # UsageError if SG2_BACKEND is neither auto nor reference
        self.config = config
        self.path: Path | None = None  # the file it was loaded from
        self.checkpoint: str | None = None  # its SHA-256
        self.tuned: str | None = None  # and of the weight deltas that were added
        self.precision = "fp32"  # as `set_precision` returned it
        self.mapping = MappingNetwork(config)
        self.synthesis = SynthesisNetwork(config)
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.mapping.w_avg.device

    def set_precision(self, precision: Precision) -> str:
        """Choose what activations are computed in; returns which: 'fp32', 'fp16', 'fp16x4'...

        'auto' takes fp16 on CUDA in the highest resolutions, as many as the checkpoint was trained
        with (4 for 'fp16x4'), and fp32 everywhere else. ws, styles and the image stay float32.
        """
        blocks, is_auto = self.synthesis.blocks, precision == "auto"
        trained = self.config.num_fp16_res if self.device.type == "cuda" else 0
        count = min(trained, len(blocks) - 1) if is_auto else len(blocks)
        half = HALF.get("fp16" if is_auto else precision)
        for i, block in enumerate(blocks):
            block.dtype = half if i >= len(blocks) - count else None
        name = f"fp16x{count}" if is_auto else precision
        self.precision = name if half and count else "fp32"
        return self.precision

    def forward(self, z: Tensor, c: Tensor | None = None, noise: Noise = "const") -> Tensor:
        """z [N,z_dim], c [N,c_dim] one-hot -> img [N,C,H,W]. For truncation see `latents`."""
        w = self.mapping(z, c)
        return self.synthesis(w[:, None].expand(-1, self.config.num_ws, -1), noise)
