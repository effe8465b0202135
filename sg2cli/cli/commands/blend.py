"""`sg2 blend`: two networks joined at a resolution."""

from __future__ import annotations

import click

from sg2cli.cli.console import Console
from sg2cli.cli.help import Command
from sg2cli.cli.options import PATH, NetworkType, json_option, overwrite_option, quiet_option


@click.command(cls=Command)
@click.argument("a", type=NetworkType())
@click.argument("b", type=NetworkType())
@click.option(
    "--at",
    type=click.IntRange(4),
    required=True,
    metavar="RES",
    help="Resolution of the first block of B: 8, 16, 32, ...",
)
@click.option(
    "--width",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Blend gradually over N layers; 0 switches at once.",
)
@click.option(
    "-o", "--out", type=PATH, required=True, metavar="FILE", help="The .safetensors to write."
)
@overwrite_option
@json_option
@quiet_option
def blend(
    a: str, b: str, at: int, width: int, out: str, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Combine the layers of A below a resolution with those of B from that resolution up.

    B is usually a copy of A that was fine-tuned on other images: its colours and textures on the
    shapes of A, or, with A and B exchanged, the other way round. The mapping network is that of A.

    \b
    sg2 blend ffhq.safetensors toons.safetensors --at 32 --out blended.safetensors
    sg2 blend ffhq.safetensors toons.safetensors --at 32 --width 4 --out smooth.safetensors
    """
    from sg2cli.checkpoints import blending

    console = Console(as_json, quiet)
    made = blending.blend(a, b, out, at=at, width=width, overwrite=overwrite, on_note=console.note)
    console.wrote(made.path, made.provenance)
