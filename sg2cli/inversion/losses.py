"""Losses of an inversion: LPIPS, structure in noise maps, pixels and the spread of W+.

Each is computed for every image of the batch separately: [N].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sg2cli import checkpoints
from sg2cli.errors import Sg2Error
from sg2cli.ops import conv3x3, unit_distance
from sg2cli.settings import LpipsNet
from sg2cli.storage.safetensors import SafetensorsFile

Features = tuple[Tensor, ...]  # one a stage, [N,C,h,w]


class Stage(NamedTuple):
    """Convolutions, by their index in torchvision's `features`, after a max pooling."""

    pool: int  # window, in steps of 2; 0: none
    convs: tuple[int, ...]


# The backbones of LPIPS v0.1 (Zhang et al. 2018, arXiv:1801.03924): VGG16 and AlexNet, of which
# the last activation of each stage is compared.
STAGES: dict[LpipsNet, tuple[Stage, ...]] = {
    "vgg": (
        Stage(0, (0, 2)),
        Stage(2, (5, 7)),
        Stage(2, (10, 12, 14)),
        Stage(2, (17, 19, 21)),
        Stage(2, (24, 26, 28)),
    ),
    "alex": (
        Stage(0, (0,)),
        Stage(3, (3,)),
        Stage(3, (6,)),
        Stage(0, (8,)),
        Stage(0, (10,)),
    ),
}
SMALLEST: dict[LpipsNet, int] = {"vgg": 16, "alex": 64}  # smallest side that all stages accept
LARGEST = 256  # larger images are reduced to this side, as in NVIDIA's projector
# ImageNet's mean and standard deviation, for images in -1..1.
MEAN = (-0.030, -0.088, -0.188)
STD = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """The learned distance of images [N,1|3,H,W] of -1..1 (Zhang et al. 2018, eq. 1).

    0 is the same image, 0.1 a good copy, 0.7 an unrelated one. The weights take no gradient.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: LpipsNet) -> None:
        """Sg2Error if the bundled weights are missing."""
        super().__init__()
        self.net = net
        for name, tensor in read_weights(net).items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def features(self, images: Tensor) -> Features:
        """The activations of images [N,1|3,H,W] that are compared; one channel counts as grey."""
        x = (fit(images, self.net) - self.mean) / self.std
        found = []
        for stage in STAGES[self.net]:
            if stage.pool:
                x = F.max_pool2d(x, stage.pool, 2)
            for index in stage.convs:
                x = self._conv(x, index)
            found.append(x)
        return tuple(found)

    def _conv(self, x: Tensor, index: int) -> Tensor:
        """A convolution and its ReLU."""
        weight, bias = (self.get_buffer(f"features_{index}_{kind}") for kind in ("weight", "bias"))
        size = weight.shape[-1]
        if size == 3:
            return conv3x3(x, weight, bias, slope=0)
        stride = 4 if size == 11 else 1  # the first of AlexNet
        return F.conv2d(x, weight, bias, stride, padding=2).relu_()

    def distance(self, found: Features, target: Features) -> Tensor:
        """Distance of the features of images; N of each, or one target for all: -> [N]."""
        total = torch.zeros((), dtype=found[0].dtype, device=found[0].device)
        for k, (a, b) in enumerate(zip(found, target, strict=True)):
            total = total + unit_distance(a, b, self.get_buffer(f"lin_{k}_weight"))
        return total

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Images [N,1|3,H,W] -> [N]."""
        return self.distance(self.features(a), self.features(b))


def read_weights(net: LpipsNet) -> dict[str, Tensor]:
    """The backbone and the heads, in float32, under the keys that weights/README.md lists.

    Sg2Error if the bundled file is missing or damaged.
    """
    path = checkpoints.weights_folder() / f"lpips-{net}.safetensors"
    try:
        with SafetensorsFile(path) as file:
            return {name: file.tensor(name).float() for name in file.entries}
    except (OSError, ValueError) as error:
        raise Sg2Error(f"cannot read {path} ({error}): reinstall the package sg2cli") from error


def fit(images: Tensor, net: LpipsNet) -> Tensor:
    """Three channels, at a size for which the network is meant: [N,1|3,H,W] -> [N,3,h,w]."""
    height, width = images.shape[-2:]
    if (longer := max(height, width)) > LARGEST:
        size = (LARGEST * height // longer, LARGEST * width // longer)
        images = F.interpolate(images, size=size, mode="area")
    elif (shorter := min(height, width)) < SMALLEST[net]:
        size = (SMALLEST[net] * height // shorter, SMALLEST[net] * width // shorter)
        images = F.interpolate(images, size=size, mode="nearest")
    return images.expand(-1, 3, -1, -1)


def _mean(maps: Tensor) -> Tensor:
    """Mean of each of [N,C,H,W], row by row, so that rounding depends on no batch or thread."""
    return maps.mean(dim=3).mean(dim=(1, 2))


def noise_penalty(noise_maps: Iterable[Tensor]) -> Tensor:
    """How far noise maps [N,1,H,W] are from white: -> [N] (StyleGAN2 appendix D, eq. of L_ij).

    The squared correlation of neighbours, at the map's size and at each half of it down to a height
    of 8.
    """
    maps = sorted(noise_maps, key=lambda noise_map: noise_map.shape[2], reverse=True)
    total = torch.zeros_like(maps[0][:, 0, 0, 0])
    pooled: list[Tensor] = []
    height = maps[0].shape[2]
    while maps or pooled:
        # All maps of one size at once: on a GPU, operations on small maps cost only their launch.
        same = [noise_map for noise_map in maps if noise_map.shape[2] == height]
        maps = maps[len(same) :]
        if x := pooled + same:
            together = torch.cat(x, dim=1)  # [N,K,H,W]
            for dim in (3, 2):
                correlation = (together * together.roll(1, dims=dim)).mean(dim=3).mean(dim=2)
                total = total + correlation.square().sum(dim=1)
            pooled = [F.avg_pool2d(together, 2)] if height > 8 else []
        height //= 2
    return total


def whiten(noise_map: Tensor) -> Tensor:
    """Mean 0 and mean square 1 for each map of [N,1,H,W]."""
    x = noise_map - _mean(noise_map)[:, None, None, None]
    return x * _mean(x.square()).rsqrt()[:, None, None, None]


def row_spread(ws: Tensor, w_std: float) -> Tensor:
    """How far the rows of ws [N,num_ws,w_dim] are from their mean, in units of W: -> [N]."""
    return ((ws - ws.mean(dim=1, keepdim=True)) / w_std).square().sum(dim=2).mean(dim=1)


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """The mean square difference of images [N,C,H,W] of -1..1: -> [N]."""
    return _mean((a - b).square())
