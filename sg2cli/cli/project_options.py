"""The options of `sg2 project` for the search and for reading photos."""

from __future__ import annotations

import re

import click

from sg2cli.cli.options import PATH, ParsedType, number, together
from sg2cli.errors import brief
from sg2cli.images.photos import Crop
from sg2cli.settings import LPIPS_NETS, SPACES


def _crop(text: str) -> Crop:
    if text in ("center", "none"):
        return text  # type: ignore[return-value]
    match = re.fullmatch(r"(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})", text, re.ASCII)
    if not match:
        raise ValueError(f"{brief(text)} is not a crop: give center, none or X,Y,W,H in pixels")
    x, y, width, height = map(int, match.groups())
    if not width * height:
        raise ValueError(f"the crop {text} is empty: give a width and a height")
    return x, y, width, height


def _colour(text: str) -> str:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(f"{brief(text)} is not a colour: give a name or #rrggbb") from None
    return text


def _duration(text: str) -> float:
    match = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?:in)?)?(?:(\d{1,9})s?)?", text, re.ASCII)
    parts = [int(digits or 0) for digits in match.groups()] if match else [0, 0, 0]
    total = 3600 * parts[0] + 60 * parts[1] + parts[2]
    if not total:
        raise ValueError(f"{brief(text)} is not a duration: give 90s, 30m or 1h30m")
    return total


def _weight(text: str) -> float:
    weight = number(text)
    if not 0 <= weight <= 1e12:
        raise ValueError(f"{brief(text)} is not a weight: give a number of 0 or more")
    return weight


def _positive(text: str) -> float:
    weight = _weight(text)
    if not weight:
        raise ValueError("0 is not a learning rate: give a number above 0")
    return weight


WEIGHT = ParsedType("number", _weight)
POSITIVE = ParsedType("number", _positive)
CROP = ParsedType("crop", _crop)
COLOUR = ParsedType("colour", _colour)
DURATION = ParsedType("time", _duration)

search_options = together(
    click.option(
        "--space",
        type=click.Choice(SPACES, case_sensitive=False),
        help="One w for all layers, or one per layer. [w]",
    ),
    click.option(
        "--steps",
        "--num-steps",
        type=click.IntRange(1, 1_000_000),
        metavar="N",
        help="Optimisation steps. [1000]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        metavar="N",
        help="Random seed of a photo. [303]",
    ),
    click.option("--lr", type=POSITIVE, help="Peak learning rate. [0.1]"),
    click.option("--w-noise", type=WEIGHT, help="Initial noise on w, in std of w. [0.05]"),
    click.option("--noise-weight", type=WEIGHT, help="Weight of the noise map penalty. [1e5]"),
    click.option(
        "--noise-maps",
        type=click.Choice(("on", "off")),
        help="Optimise noise maps as well. [on]",
    ),
    click.option("--wplus-weight", type=WEIGHT, help="Weight of the spread of W+ rows. [0]"),
    click.option("--pixel-weight", type=WEIGHT, help="Weight of the pixel MSE. [0]"),
    click.option(
        "--lpips", type=click.Choice(LPIPS_NETS), help="Network of the perceptual loss. [vgg]"
    ),
    click.option(
        "--start-samples",
        type=click.IntRange(0, 10_000),
        metavar="N",
        help="Images to estimate a start; 0: mean w. [0]",
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        metavar="N",
        help="Stop after N steps without improvement.",
    ),
)
photo_options = together(
    click.option(
        "--mask",
        type=PATH,
        metavar="IMAGE",
        help="Weights, as large as the photo; black: 0.",
    ),
    click.option(
        "--crop",
        type=CROP,
        default="center",
        show_default=True,
        metavar="CROP",
        help="center, none (squeezed) or X,Y,W,H.",
    ),
    click.option(
        "--background",
        type=COLOUR,
        default="white",
        show_default=True,
        metavar="COLOUR",
        help="Behind transparency.",
    ),
)
