"""Style mixing: the rows of ws of each resolution (StyleGAN section 3.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sg2cli.errors import UsageError
from sg2cli.settings import GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {"coarse": (4, 8), "middle": (16, 32), "fine": (64, 1 << 30)}  # resolutions
Styles = tuple[str | tuple[int, int], ...]


def parse_styles(text: str) -> Styles:
    """'0-6', '0,3-5', 'coarse,middle' -> names and ranges; ValueError for other text."""
    styles: list[str | tuple[int, int]] = []
    for part in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part, re.ASCII)
        if part in NAMES:
            styles.append(part)
        elif not match:
            raise ValueError(
                f"{part!r} is not a style: use {', '.join(NAMES)} or rows of ws such as 0-6"
            )
        elif int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"range {part} is descending; did you mean {match[2]}-{match[1]}?")
        else:
            styles.append((int(match[1]), int(match[2] or match[1])))
    return tuple(styles)


def format_styles(styles: Styles) -> str:
    """The text that `parse_styles` reads."""
    return ",".join(s if isinstance(s, str) else f"{s[0]}-{s[1]}" for s in styles)


def style_rows(styles: Styles, config: GeneratorConfig) -> list[int]:
    """The rows of ws of these styles, sorted; UsageError if the network lacks some.

    The row of a convolution belongs to its resolution, that of the last ToRGB to the highest.
    """
    resolutions = [4, *(r for r in config.resolutions[1:] for _ in range(2)), config.img_resolution]
    rows: set[int] = set()
    for style in styles:
        if isinstance(style, str):
            low, high = NAMES[style]
            named = [row for row, r in enumerate(resolutions) if low <= r <= high]
            if not named:
                raise UsageError(
                    f"this network has no {style} styles: they begin at {low}x{low}, its "
                    f"highest resolution is {config.img_resolution}"
                )
            rows.update(named)
        elif style[1] >= config.num_ws:
            raise UsageError(
                f"row {style[1]} is out of range: this network has rows of ws "
                f"0 to {config.num_ws - 1}"
            )
        else:
            rows.update(range(style[0], style[1] + 1))
    return sorted(rows)


def layer_rows(layers: str | None, config: GeneratorConfig) -> list[int]:
    """The rows of ws of the argument `layers`, "0-5" or "coarse,middle"; None: all rows.

    UsageError for other text, and for rows that the network lacks.
    """
    if layers is None:
        return list(range(config.num_ws))
    if not isinstance(layers, str):
        raise UsageError(
            f"a {type(layers).__name__} is not a choice of `layers`: give text such as '0-5'"
        )
    try:
        return style_rows(parse_styles(layers), config)
    except ValueError as error:
        raise UsageError(str(error)) from error


def format_rows(rows: Sequence[int]) -> str:
    """[0, 3, 4, 5] -> '0,3-5'."""
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row == ranges[-1][-1] + 1:
            ranges[-1][1:] = [row]
        else:
            ranges.append([row])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def default_styles(config: GeneratorConfig) -> Styles:
    """NVIDIA's 0-6, which is coarse and middle; in a small network all rows except the last."""
    return ((0, min(6, config.num_ws - 2)),)


def mix(row: Tensor, column: Tensor, rows: Sequence[int]) -> Tensor:
    """ws [num_ws,w_dim] of the row, with the given rows taken from the column."""
    mixed = row.clone()
    mixed[list(rows)] = column[list(rows)]
    return mixed
