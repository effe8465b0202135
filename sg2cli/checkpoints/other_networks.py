"""Recognise networks that sg2 does not support by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from sg2cli.checkpoints.config import first
from sg2cli.errors import CheckpointError

NOT_SUPPORTED = "whose architecture sg2 does not support"
OTHERS: dict[str, str] = {  # a pattern that a name must contain, and what the network is
    r"synthesis\.(input\.(weight|freqs|transform|affine)|L\d+_\d+_\d+\.)": (
        f"a StyleGAN3 network, {NOT_SUPPORTED}"
    ),
    r"(^|\.)(GE?\.initial_block|SE?\.net\.\d+\.weight)$": (
        "a network of lucidrains' stylegan2_pytorch: another architecture in spite of its name"
    ),
    r"stylegan_decoder\.|condition_scale\.\d|(^|\.)final_body_up\.": (
        "GFPGAN's face restoration network: another architecture around a StyleGAN2"
    ),
    r"to_rgbs?\d?\.(\d+\.)?(iwt|dwt)\.|(^|\.)iwt\.": f"a SWAGAN network, {NOT_SUPPORTED}",
    r"(^|\.)(init\.init\.\d|se_64\.main|feat_8\.\d)": f"a FastGAN network, {NOT_SUPPORTED}",
    r"(^|\.)(generator\.)?progression\.\d|synthesis\.layer\d+\.epilogue|(^|\.)epi1\.": (
        f"a network of the first StyleGAN, {NOT_SUPPORTED}"
    ),
}
DISCRIMINATOR = (
    r"(^|\.)(b4\.(out|fc|conv)\.(weight|bias)|final_conv\.\d|final_linear\.\d|fromrgb\.weight"
    r"|mini_discs\.|feature_networks?\.|convs\.0\.0\.weight)"
)


def refuse(shapes: Mapping[str, tuple[int, ...]]) -> NoReturn:
    """CheckpointError that says what a file without a known generator holds, by its shapes."""
    names = list(shapes)
    for pattern, what in OTHERS.items():
        if any(re.search(pattern, name) for name in names):
            raise CheckpointError(what)
    if any(re.search(DISCRIMINATOR, name) for name in names):
        raise CheckpointError("it holds a discriminator, but no generator: give the whole file")
    if not names:
        raise CheckpointError("it holds no tensors: not a checkpoint")
    described = [f"{name[:60]} {list(shapes[name])}".lstrip() for name in names]
    raise CheckpointError(f"no StyleGAN2 generator found; its tensors are {first(described)}")
