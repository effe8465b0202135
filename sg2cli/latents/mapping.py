"""The mapping from z to w to ws, and truncation.

z [N,z_dim] -> mapping -> w [N,w_dim] -> one row per layer -> ws [N,num_ws,w_dim]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator
    from sg2cli.latents.sources import Latent
    from sg2cli.storage.array_files import Array


def truncate(ws: Tensor, w_avg: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
    """Move the first `cutoff` rows to the mean (StyleGAN appendix B): psi 1 keeps, 0 is w_avg.

    ws [N,num_ws,w_dim], w_avg [w_dim] -> [N,num_ws,w_dim]
    """
    import torch

    reached = w_avg.lerp(ws[:, :cutoff], psi)
    return reached if cutoff is None else torch.cat([reached, ws[:, cutoff:]], dim=1)


def seed_to_z(seed: int, z_dim: int) -> Array:
    """The z [z_dim] of a seed, float32, as in NVIDIA's scripts."""
    import numpy as np

    return np.random.RandomState(seed).randn(1, z_dim)[0].astype(np.float32)


def z_of(latent: Latent, z_dim: int) -> Array:
    """The z [z_dim] of a latent in Z or of a seed."""
    own = latent.values if latent.space == "z" else None
    return seed_to_z(latent.seed, z_dim) if own is None else own


def class_vectors(G: Generator, classes: Sequence[int]) -> Tensor | None:
    """One-hot c [N,c_dim] for the mapping network; None for a network without classes."""
    import torch

    if not G.config.c_dim:
        return None
    c = torch.zeros(len(classes), G.config.c_dim, device=G.device)
    c[range(len(classes)), list(classes)] = 1
    return c


def to_ws(
    G: Generator,
    latents: Sequence[Latent],
    psi: float | None = None,
    cutoff: int | None = None,
    class_index: int | None = None,
) -> Tensor:
    """Map and truncate: -> ws [N,num_ws,w_dim] on the device of the network.

    With psi None nothing is truncated; else w and ws are truncated like seeds and z. A conditional
    network requires a class for seeds and z.
    """
    import numpy as np
    import torch

    config = G.config
    rows: list[Tensor] = []
    # All latents go through the mapping network, so that its batch size, and so its rounding, does
    # not depend on their kind.
    zs = [z_of(latent, config.z_dim) for latent in latents]
    c = class_vectors(G, [_class_of(latent, class_index) for latent in latents])
    mapped = G.mapping(torch.from_numpy(np.stack(zs)).to(G.device), c)
    for latent, w in zip(latents, mapped, strict=True):
        own, own_cutoff = psi, cutoff
        if latent.space == "avg":
            w = G.mapping.w_avg
        elif latent.space == "w":
            w = torch.from_numpy(latent.values).to(G.device)
        ws = w.expand(1, config.num_ws, -1)
        image = latent.image
        if image and image.is_truncated:  # as its image was drawn, and never twice
            own, own_cutoff = (image.psi, image.cutoff) if latent.space == "seed" else (None, None)
        rows.append(ws if own is None else truncate(ws, G.mapping.w_avg, own, own_cutoff))
    return torch.cat(rows)


def _class_of(latent: Latent, class_index: int | None) -> int:
    """The class that a latent is mapped with; any for a latent that needs none."""
    own = latent.image.class_index if latent.image else class_index
    return own or 0
