"""Types of option values, and the options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from sg2cli import checkpoints
from sg2cli.errors import brief
from sg2cli.latents import notation
from sg2cli.latents.files import SUFFIXES
from sg2cli.latents.mixing import parse_styles
from sg2cli.settings import NOISE_MODES, PRECISIONS
from sg2cli.storage.paths import user_path

MAX_FACTOR = 1e6  # of a latent; float32 overflows far beyond it
Command = TypeVar("Command", bound=Callable[..., Any])


class ParsedType(click.ParamType):  # type: ignore[type-arg]
    """An option parsed by a function of the library; its ValueError becomes the message."""

    def __init__(self, name: str, parse: Callable[[str], Any], complete: str = "plain") -> None:
        self.name = name
        self.parse = parse
        self.complete = complete

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [] if self.complete == "plain" else [CompletionItem(incomplete, type="file")]


class NetworkType(click.ParamType):  # type: ignore[type-arg]
    """A checkpoint; completes to bundled networks, else to files."""

    name = "network"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [name for name in checkpoints.bundled() if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", text):
        raise ValueError(f"{brief(text)} is not a device: use auto, cpu, cuda, cuda:N or mps")
    return text


def number(text: str) -> float:
    """A number; ValueError for any other text."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{brief(text)} is not a number") from None


def _psi(text: str) -> float:
    psi = number(text)
    if not abs(psi) <= MAX_FACTOR:
        raise ValueError(
            f"{brief(text)} is out of range: psi is between -{MAX_FACTOR:g} and {MAX_FACTOR:g} "
            "(0 is the mean, 1 no truncation)"
        )
    return psi


def _grid(text: str) -> tuple[int, int] | str:
    if text == "auto":
        return text
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII)
    if not match or not int(match[1]) * int(match[2]):
        raise ValueError(f"{brief(text)} is not a grid: give columns x rows, such as --grid=8x4")
    return int(match[1]), int(match[2])


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(
            f"{brief(text)} is not a shard: give I/N, such as 1/8 for the first of eight"
        )
    return int(match[1]), int(match[2])


def _latents_file(text: str) -> Path:
    if not text.endswith(SUFFIXES):
        raise ValueError(f"{brief(text)}: latents are saved as {', '.join(SUFFIXES)}")
    return user_path(text)


def _hash(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError(f"{brief(text)} is not a SHA-256: give 64 hexadecimal digits")
    return text


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_psi(part.strip()) for part in text.split(","))


SEEDS = ParsedType("seeds", notation.parse_seeds)
LATENTS = ParsedType("latents", notation.parse_latents, complete="file")
DEVICE = ParsedType("device", _device)
PSI = ParsedType("psi", _psi)
LATENTS_FILE = ParsedType("file", _latents_file, complete="file")
PSI_LIST = ParsedType("psi,psi", _numbers)
STYLES = ParsedType("styles", parse_styles)


def _joined(ctx: click.Context, param: click.Parameter, value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(value))


def sources_option(
    *names: str, type: ParsedType, **attributes: Any
) -> Callable[[Command], Command]:
    """An option for latents that may be given several times."""
    metavar = type.name.upper()
    return click.option(
        *names, type=type, metavar=metavar, multiple=True, callback=_joined, **attributes
    )


def latents_argument(required: bool = False) -> Callable[[Command], Command]:
    """Any number of latents as arguments."""
    return click.argument(
        "given", type=LATENTS, metavar="LATENTS...", nargs=-1, callback=_joined, required=required
    )


HASH = ParsedType("hex", _hash)
TUNED_FILE = ParsedType("file", user_path, complete="file")
PATH = ParsedType("path", str, complete="file")
GRID = ParsedType("wxh", _grid)
SHARD = ParsedType("i/n", _shard)

network_option = click.option(
    "-n",
    "--network",
    type=NetworkType(),
    default=checkpoints.DEFAULT_NETWORK,
    envvar="SG2_NETWORK",
    show_default=True,
    help="Checkpoint or bundled name.",
)
device_option = click.option(
    "--device",
    type=DEVICE,
    default="auto",
    envvar="SG2_DEVICE",
    show_default=True,
    help="auto, cpu, cuda, cuda:N or mps.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    envvar="SG2_PRECISION",
    show_default=True,
    metavar="TYPE",
    help="auto, fp32, fp16 or bf16.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print results as JSON, one object per line."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar and no messages.")


def together(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help text."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


network_options = together(network_option, device_option, precision_option)
truncation_options = together(
    click.option(
        "--trunc",
        "psi",
        type=PSI,
        help="Truncation psi; default 1, files unchanged.",
    ),
    click.option(
        "--trunc-cutoff",
        "cutoff",
        type=click.IntRange(0),
        metavar="N",
        help="Truncate only the first N rows of ws.",
    ),
)
class_option = click.option(
    "--class",
    "class_index",
    type=click.IntRange(0),
    metavar="N",
    help="Class of a conditional network, from 0.",
)
class_and_noise_options = together(
    class_option,
    click.option(
        "--noise-mode",
        type=click.Choice(NOISE_MODES),
        default="const",
        show_default=True,
        metavar="MODE",
        help="const, random or none.",
    ),
)
batch_option = click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Images per batch; default by resolution.",
)
tuned_option = click.option(
    "--tuned",
    type=TUNED_FILE,
    metavar="FILE",
    help="Weight deltas of `sg2 project --tune`.",
)
drawing_options = together(truncation_options, class_and_noise_options, batch_option, tuned_option)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing files.")
labels_option = click.option("--labels", is_flag=True, help="Write seeds and names into the grid.")
out_option = click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR",
    help="Output folder.",
)
output_options = together(
    overwrite_option,
    click.option(
        "--skip-existing",
        is_flag=True,
        help="Continue a run: keep existing results.",
    ),
    json_option,
    quiet_option,
)
