"""A textbook StyleGAN2: what the public implementations compute on a CPU, written from the paper.

Frozen: it is what our speed is measured against, so it is not to be made faster, or slower. Weights
are modulated and demodulated for each picture and convolved in groups; upsampling inserts zeros
(as a transposed convolution where the public codes do), pads, and filters each channel by itself;
bias, noise and activation are steps of their own. The weights are frozen, but as each picture's own
depend on its styles, a projection computes the gradient of every one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sg2cli.settings import GeneratorConfig


class Textbook(nn.Module):
    """The synthesis network of a skip generator: ws [N,num_ws,w_dim] -> [N,C,H,W]."""

    def __init__(self, config: GeneratorConfig, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        assert config.architecture == "skip"
        self.config = config
        self.names = {name: name.replace(".", "_") for name in tensors if "synthesis" in name}
        for name, key in self.names.items():
            self.register_parameter(key, nn.Parameter(tensors[name].clone(), False))
        taps = torch.tensor(config.resample_filter, dtype=torch.float32)
        taps = torch.outer(taps, taps) if taps.ndim == 1 else taps
        self.register_buffer("filter", taps / taps.sum())

    def tensor(self, name: str) -> Tensor:
        return self.get_parameter(self.names[f"synthesis.{name}"])

    def forward(self, ws: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """`noise`: maps [H,W] in place of the checkpoint's, by name."""
        n = len(ws)
        x = self.tensor("b4.const")[None].repeat(n, 1, 1, 1)
        img = None
        row = 0
        for resolution in self.config.resolutions:
            block = f"b{resolution}"
            if resolution > 4:
                x = self.layer(f"{block}.conv0", x, ws[:, row], noise, up=True)
                row += 1
            x = self.layer(f"{block}.conv1", x, ws[:, row], noise)
            row += 1
            rgb = self.torgb(f"{block}.torgb", x, ws[:, row])
            img = rgb if img is None else self.upsample(img) + rgb
        assert img is not None
        return img

    def affine(self, name: str, w: Tensor) -> Tensor:
        weight = self.tensor(f"{name}.affine.weight")
        return F.linear(w, weight / math.sqrt(weight.shape[1]), self.tensor(f"{name}.affine.bias"))

    def layer(
        self,
        name: str,
        x: Tensor,
        w: Tensor,
        noise: Mapping[str, Tensor] | None,
        up: bool = False,
    ) -> Tensor:
        x = self.modulated_conv(x, self.tensor(f"{name}.weight"), self.affine(name, w), True, up)
        key = f"synthesis.{name}.noise_const"
        noise_map = self.tensor(f"{name}.noise_const") if noise is None else noise[key]
        x = x + noise_map * self.tensor(f"{name}.noise_strength")
        x = x + self.tensor(f"{name}.bias").view(1, -1, 1, 1)
        x = F.leaky_relu(x, 0.2)
        x = x * math.sqrt(2)
        clamp = self.config.conv_clamp
        return x if clamp is None else x.clamp(-clamp, clamp)

    def torgb(self, name: str, x: Tensor, w: Tensor) -> Tensor:
        weight = self.tensor(f"{name}.weight")
        styles = self.affine(name, w) / math.sqrt(weight.shape[1])
        x = self.modulated_conv(x, weight, styles, False, False)
        x = x + self.tensor(f"{name}.bias").view(1, -1, 1, 1)
        clamp = self.config.conv_clamp
        return x if clamp is None else x.clamp(-clamp, clamp)

    def modulated_conv(
        self, x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool
    ) -> Tensor:
        """Weights of each picture's own, in a grouped convolution (eq. 1-3)."""
        n, i, h, w = x.shape
        o, _, k, _ = weight.shape
        weight = weight[None] * styles[:, None, :, None, None]  # [N,O,I,k,k]
        if demodulate:
            norm = (weight.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()
            weight = weight * norm[:, :, None, None, None]
        x = x.reshape(1, n * i, h, w)
        if up:
            weight = weight.transpose(1, 2).reshape(n * i, o, k, k)
            x = F.conv_transpose2d(x, weight, stride=2, groups=n)
            x = x.reshape(n, o, *x.shape[2:])
            return self.filtered(F.pad(x, [1, 1, 1, 1]))
        x = F.conv2d(x, weight.reshape(n * o, i, k, k), padding=k // 2, groups=n)
        return x.reshape(n, o, h, w)

    def upsample(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, 1, 0, 0, 0, 1]).reshape(n, c, 2 * h, 2 * w)
        return self.filtered(F.pad(x, [2, 1, 2, 1]))

    def filtered(self, x: Tensor) -> Tensor:
        """Each channel by itself, times 4 for the zeros that were inserted."""
        kernel = (self.get_buffer("filter") * 4).flip(0, 1)
        return F.conv2d(x, kernel[None, None].repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])
