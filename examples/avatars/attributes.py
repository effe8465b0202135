"""What a latent z means: each attribute is read off two of its numbers, so its image is known.

An attribute's values stand in a table. The first of its numbers chooses the row, the second the
column, each by where it lies in the normal distribution: in a table of two equal rows, a negative
number means the first. A boundary between values is a plane then, which a small mapping network can
learn; "the largest of 34 numbers" is too hard for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sg2cli.generator import normalize_2nd_moment

Z_DIM = 64
Table = list[list[str | None]]


class Attributes:
    """The definition in a JSON file; `names` are its A attributes, `values` the V values of each.

    Values are counted through the rows of their table; tensors of attributes are [N,A], int64.
    """

    def __init__(self, path: Path) -> None:
        definition = json.loads(path.read_text("utf-8"))
        self.focus: dict[str, float] = definition["focus"]
        self.directions: dict[str, list] = definition["directions"]
        attributes = definition["attributes"]
        self.names = list(attributes)
        self.styles: dict[str, str] = {name: a["style"] for name, a in attributes.items()}
        self.values = {name: sum(a["values"], []) for name, a in attributes.items()}
        self.sizes = [len(values) for values in self.values.values()]
        self.boxes = [_boxes(a["values"], a.get("share_of_null", 0)) for a in attributes.values()]
        if 2 * len(self.names) > Z_DIM - 8:
            raise ValueError(f"{len(self.names)} attributes need more than {Z_DIM} numbers of z")

    def indices(self, images: Sequence[Mapping[str, str | None]]) -> Tensor:
        """The attributes [N,A] of images given as {name: value}."""
        rows = [[self.values[n].index(image[n]) for n in self.names] for image in images]
        return torch.tensor(rows)

    def in_style(self, style: str) -> Tensor:
        """Which attributes the styles 'coarse', 'middle' or 'fine' carry, [A] bool."""
        return torch.tensor([self.styles[name] == style for name in self.names])

    def one_hot(self, attributes: Tensor) -> Tensor:
        """[N,A] -> [N,sum of V]."""
        columns = zip(attributes.T, self.sizes, strict=True)
        return torch.cat([F.one_hot(column, size) for column, size in columns], dim=1).float()

    def read(self, z: Tensor) -> Tensor:
        """The attributes [N,A] of latents [N,Z_DIM]."""
        u = torch.special.ndtr(normalize_2nd_moment(z.double())).clamp(0, 1 - 1e-9)
        found = []
        for i, box in enumerate(self.boxes):
            row, column = u[:, 2 * i, None], u[:, 2 * i + 1, None]
            inside = (box[:, 0] <= row) & (row < box[:, 1])
            inside &= (box[:, 2] <= column) & (column < box[:, 3])
            found.append(inside.int().argmax(dim=1))
        return torch.stack(found, dim=1)

    def sample_z(self, attributes: Tensor) -> Tensor:
        """Random latents [N,Z_DIM] that mean the attributes [N,A].

        The numbers that mean nothing give z the length sqrt(Z_DIM), so that the mapping network's
        normalization leaves the others as they are.
        """
        z = torch.randn(len(attributes), Z_DIM, dtype=torch.float64)
        for i, box in enumerate(self.boxes):
            low, high = box[attributes[:, i]].view(-1, 2, 2).unbind(dim=2)  # [N,2] each
            u = low + (high - low) * torch.rand(low.shape, dtype=torch.float64)
            z[:, 2 * i : 2 * i + 2] = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        free = z[:, 2 * len(self.boxes) :]
        wanted = (Z_DIM - z.square().sum(dim=1) + free.square().sum(dim=1)).clamp_min(4)
        free *= (wanted / free.square().sum(dim=1)).sqrt()[:, None]
        return z.float()


def _boxes(table: Table, share_of_null: float) -> Tensor:
    """Where the two numbers' cumulative frequencies lie for each value: [V,4], from and to."""
    count = sum(value is not None for row in table for value in row)
    share = {None: share_of_null}
    weights = [[share.get(value, (1 - share_of_null) / count) for value in row] for row in table]
    rows = _intervals([sum(row) for row in weights])
    return torch.cat(
        [
            torch.cat([interval.expand(len(row), 2), _intervals(row)], dim=1)
            for interval, row in zip(rows, weights, strict=True)
        ]
    )


def _intervals(weights: Sequence[float]) -> Tensor:
    """Divide 0..1 in proportion to the weights: [len(weights),2]."""
    ends = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    ends = F.pad(ends, (1, 0)) / ends[-1]
    return torch.stack([ends[:-1], ends[1:]], dim=1)
