"""A slow, obviously right StyleGAN2 in float64, straight from the equations of the paper.

It shares nothing with the package but the names of the tensors and the configuration: weights are
modulated and demodulated one image at a time, zeros are inserted one by one, and every
convolution is the sum over the kernel that defines it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sg2cli.settings import GeneratorConfig

GAIN = {"lrelu": math.sqrt(2), "relu": math.sqrt(2), "linear": 1.0}
SLOPE = {"lrelu": 0.2, "relu": 0.0, "linear": 1.0}


class Reference:
    """The generator of `tensors`, by canonical name, in float64."""

    def __init__(self, config: GeneratorConfig, tensors: dict[str, Tensor]) -> None:
        self.config = config
        self.t = {key: tensor.double() for key, tensor in tensors.items()}
        taps = torch.tensor(config.resample_filter, dtype=torch.float64)
        kernel = torch.outer(taps, taps) if taps.ndim == 1 else taps
        self.filter = kernel / kernel.sum()

    # The mapping network (StyleGAN section 2)

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalize(z.double())
        if c is not None:
            x = torch.cat([x, normalize(self.fc("mapping.embed", c.double()))], dim=1)
        for i in range(self.config.num_layers):
            x = self.activate(self.fc(f"mapping.fc{i}", x, self.config.lr_multiplier))
        return x

    def fc(self, name: str, x: Tensor, lr: float = 1.0) -> Tensor:
        weight, bias = self.t[f"{name}.weight"], self.t[f"{name}.bias"]
        return x @ (weight * lr / math.sqrt(weight.shape[1])).T + bias * lr

    def activate(self, x: Tensor) -> Tensor:
        kind = self.config.activation
        return torch.where(x >= 0, x, x * SLOPE[kind]) * GAIN[kind]

    # The synthesis network (StyleGAN2 section 2.2, 4, figures 2 and 7)

    def synthesis(self, ws: Tensor, noise: str | dict[str, Tensor] = "const") -> Tensor:
        return torch.stack([self.image(w, noise) for w in ws.double()])

    def image(self, ws: Tensor, noise: str | dict[str, Tensor]) -> Tensor:
        """ws [num_ws,w_dim] -> [C,H,W]"""
        rows = list(ws)
        x = self.t["synthesis.b4.const"]
        img = None
        architecture = self.config.architecture
        for resolution in self.config.resolutions:
            block = f"synthesis.b{resolution}"
            if resolution == 4:
                x = self.layer(f"{block}.conv1", x, rows.pop(0), noise)
            elif architecture == "resnet":
                weight = self.t[f"{block}.skip.weight"]
                y = self.upsample(correlate(x, weight / math.sqrt(weight.shape[1]), border=0))
                x = self.layer(f"{block}.conv0", x, rows.pop(0), noise, up=True)
                x = self.layer(f"{block}.conv1", x, rows.pop(0), noise, gain=math.sqrt(0.5))
                x = y * math.sqrt(0.5) + x
            else:
                x = self.layer(f"{block}.conv0", x, rows.pop(0), noise, up=True)
                x = self.layer(f"{block}.conv1", x, rows.pop(0), noise)
            if img is not None:
                img = self.upsample(img)
            if architecture == "skip" or resolution == self.config.img_resolution:
                rgb = self.torgb(f"{block}.torgb", x, rows[0])
                img = rgb if img is None else img + rgb
        assert img is not None and len(rows) == 1
        return img

    def layer(
        self,
        name: str,
        x: Tensor,
        w: Tensor,
        noise: str | dict[str, Tensor],
        up: bool = False,
        gain: float = 1.0,
    ) -> Tensor:
        styles = self.fc(f"{name}.affine", w[None])[0]
        weight = self.t[f"{name}.weight"] * styles[None, :, None, None]  # eq. 1
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        if up:
            # True convolution, with all of its border: the filter reaches into it.
            size, before = 2 * x.shape[1], (len(self.filter) + 1) // 2 - 1
            x = self.blur(correlate(insert_zeros(x), weight.flip(2, 3), border=2), before, size)
        else:
            x = correlate(x, weight, border=1)
        if noise != "none" and self.config.use_noise:
            key = f"{name}.noise_const"
            noise_map = self.t[key] if noise == "const" else noise[key].double()
            x = x + noise_map * self.t[f"{name}.noise_strength"]
        x = self.activate(x + self.t[f"{name}.bias"][:, None, None]) * gain
        clamp = self.config.conv_clamp
        return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)

    def torgb(self, name: str, x: Tensor, w: Tensor) -> Tensor:
        styles = self.fc(f"{name}.affine", w[None])[0] / math.sqrt(len(x))
        weight = self.t[f"{name}.weight"] * styles[None, :, None, None]
        y = correlate(x, weight, border=0) + self.t[f"{name}.bias"][:, None, None]
        clamp = self.config.conv_clamp
        return y if clamp is None else y.clamp(-clamp, clamp)

    def upsample(self, x: Tensor) -> Tensor:
        taps = len(self.filter)
        return self.blur(insert_zeros(x), before=(taps + 1) // 2)

    def blur(self, x: Tensor, before: int, size: int | None = None) -> Tensor:
        """Convolve with the filter, times 4 for the zeros that were inserted.

        `before` rows of zeros stand above and left of x, and as many behind as `size` needs.
        """
        taps, size = len(self.filter), size or x.shape[1]
        border = taps + 2
        x = pad(x, border)
        y = x.new_zeros(len(x), size, size)
        for a in range(taps):
            for b in range(taps):
                top, left = border - before + a, border - before + b
                part = x[:, top : top + size, left : left + size]
                y = y + 4 * self.filter[taps - 1 - a, taps - 1 - b] * part
        return y


def normalize(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def insert_zeros(x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    y[:, ::2, ::2] = x
    return y


def pad(x: Tensor, border: int) -> Tensor:
    y = x.new_zeros(x.shape[0], x.shape[1] + 2 * border, x.shape[2] + 2 * border)
    y[:, border:-border, border:-border] = x
    return y


def correlate(x: Tensor, weight: Tensor, border: int) -> Tensor:
    """y(o,i,j) = sum over c,a,b of weight(o,c,a,b) x(c,i+a,j+b), x with a border of zeros."""
    k = weight.shape[-1]
    x = pad(x, border) if border else x
    size = x.shape[1] - k + 1
    y = x.new_zeros(len(weight), size, size)
    for a in range(k):
        for b in range(k):
            part = x[:, a : a + size, b : b + size]
            y = y + torch.einsum("oc,chw->ohw", weight[:, :, a, b], part)
    return y
