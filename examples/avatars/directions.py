"""Find the directions of W along which one attribute changes, by name.

    python directions.py NETWORK.safetensors

writes NETWORK.directions.safetensors. w is nearly a linear function of the attributes: a regression
gives the vector of each value, free of the other attributes. A direction is the difference of two
groups of values, in the rows of ws that carry the attribute, and zero in the others.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from attributes import Z_DIM, Attributes
from safetensors.torch import save_file
from torch import Tensor

from sg2cli.checkpoints import find_network
from sg2cli.generator import Generator
from sg2cli.latents.mixing import style_rows


def value_vectors(G: Generator, attributes: Attributes, samples: int = 40_000) -> list[Tensor]:
    """A vector for each value of each attribute, [V,w_dim], by ridge regression of w."""
    z = torch.randn(samples, Z_DIM, generator=torch.Generator().manual_seed(0))
    w = torch.cat([G.mapping(part) for part in z.split(1000)]).double()
    x = attributes.one_hot(attributes.read(z)).double()
    x, w = x - x.mean(dim=0), w - w.mean(dim=0)
    table = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ w)
    missed = (w - x @ table).square().sum() / w.square().sum()
    print(f"attributes explain {1 - missed:.1%} of the variance of w")
    return list(table.float().split(attributes.sizes))


def shown(value: str | None) -> str:
    """A value in a description: colours with a #, and "none" for what is absent."""
    if value is None:
        return "none"
    return f"#{value}" if re.fullmatch("[0-9a-f]{6}", value) else value


def main(path: Path) -> None:
    attributes = Attributes(Path(__file__).with_name("attributes.json"))
    network = find_network(path)
    vectors = dict(zip(attributes.names, value_vectors(network.load(), attributes), strict=True))
    tensors, meaning = {}, {}
    for name, (attribute, before, after) in attributes.directions.items():
        values, vector = attributes.values[attribute], vectors[attribute]
        start, end = (vector[[values.index(v) for v in group]].mean(0) for group in (before, after))
        tensors[name] = torch.zeros(network.config.num_ws, network.config.w_dim)
        tensors[name][style_rows((attributes.styles[attribute],), network.config)] = end - start
        groups = [", ".join(map(shown, group)) for group in (before, after)]
        meaning[name] = f"{attribute}: one unit goes from {groups[0]} to {groups[1]}"
    metadata = {"checkpoint": network.sha256, "directions": meaning}
    out = path.with_suffix(".directions.safetensors")
    save_file(tensors, out, metadata={"sg2": json.dumps(metadata)})
    print(f"wrote {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
