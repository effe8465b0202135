"""The options of `sg2 project`: the fields of its settings, and how photos are read."""

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
        raise ValueError(f"{brief(text)} is no crop: give center, none or X,Y,W,H in pixels")
    x, y, width, height = map(int, match.groups())
    if not width * height:
        raise ValueError(f"{text} is a box of no size")
    return x, y, width, height


def _colour(text: str) -> str:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(f"{brief(text)} is no colour: give a name, or #rrggbb") from None
    return text


def _duration(text: str) -> float:
    match = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?:in)?)?(?:(\d{1,9})s?)?", text, re.ASCII)
    parts = [int(digits or 0) for digits in match.groups()] if match else [0, 0, 0]
    total = 3600 * parts[0] + 60 * parts[1] + parts[2]
    if not total:
        raise ValueError(f"{brief(text)} is no time: give 90s, 30m or 1h30m")
    return total


def _weight(text: str) -> float:
    weight = number(text)
    if not 0 <= weight <= 1e12:
        raise ValueError(f"{brief(text)} is no weight: give a number of 0 or more")
    return weight


def _positive(text: str) -> float:
    weight = _weight(text)
    if not weight:
        raise ValueError("0 would change nothing: give a number above it")
    return weight


WEIGHT = ParsedType("number", _weight)
POSITIVE = ParsedType("number", _positive)
CROP = ParsedType("crop", _crop)
COLOUR = ParsedType("colour", _colour)
DURATION = ParsedType("time", _duration)

search_options = together(
    click.option(
        "--space", type=click.Choice(SPACES), help="One w for all layers, or one each. [w]"
    ),
    click.option("--steps", "--num-steps", type=click.IntRange(1, 1_000_000), help="[paper: 1000]"),
    click.option(
        "--seed", type=click.IntRange(0, 2**63 - 1), help="Of noise, for each photo. [303]"
    ),
    click.option("--lr", type=POSITIVE, help="The highest learning rate. [paper: 0.1]"),
    click.option("--w-noise", type=WEIGHT, help="On w at first, in standard deviations. [0.05]"),
    click.option("--noise-weight", type=WEIGHT, help="Of structure in noise maps. [1e5]"),
    click.option(
        "--noise-maps",
        type=click.Choice(("on", "off")),
        help="Optimise noise maps too, or leave the checkpoint's own. [on]",
    ),
    click.option("--wplus-weight", type=WEIGHT, help="Keeps rows of W+ together."),
    click.option("--pixel-weight", type=WEIGHT, help="Of the mean square of pixels."),
    click.option("--lpips", type=click.Choice(LPIPS_NETS), help="The perceptual network. [vgg]"),
    click.option(
        "--start-samples",
        type=click.IntRange(0, 10_000),
        metavar="N",
        help="Images that a start is estimated from; 0: the mean of w.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        help="End a photo after so many steps without gain; 0: never.",
    ),
)
photo_options = together(
    click.option(
        "--mask",
        type=PATH,
        metavar="IMAGE",
        help="As large as the photo: white counts, grey weighs, black is left alone.",
    ),
    click.option(
        "--crop",
        type=CROP,
        default="center",
        show_default=True,
        metavar="CROP",
        help="center: the largest square; none: all, squeezed; or X,Y,W,H in pixels.",
    ),
    click.option(
        "--background",
        type=COLOUR,
        default="white",
        show_default=True,
        metavar="COLOUR",
        help="Behind what is transparent.",
    ),
)
