"""The canonical names of a generator's tensors, as far as they are computed."""

from __future__ import annotations

import re
from collections.abc import Iterable

CONST = "synthesis.b4.const"  # the constant input, which every generator has


def conv_name(index: int) -> str:
    """A convolution by its place in the network: 0 is b4's only one, 1 and 2 are those of b8."""
    resolution, layer = 4 << (index + 1) // 2, (index + 1) % 2
    return f"synthesis.b{resolution}.conv{layer}"


def last_mapping_bias(names: Iterable[str]) -> str:
    """The bias of the last mapping layer, which is as wide as w."""
    layers = sum(re.fullmatch(r"mapping\.fc\d{1,3}\.bias", name) is not None for name in names)
    return f"mapping.fc{layers - 1}.bias"


def prefix_before(mark: str, name: str) -> str | None:
    """What comes before a mark in a name with dots: 'G_ema.' in 'G_ema.synthesis.b4.const'."""
    return name[: -len(mark)] if name == mark or name.endswith(f".{mark}") else None
