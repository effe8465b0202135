"""`sg2 info`: describe a file."""

from __future__ import annotations

import json

import click

from sg2cli import checkpoints
from sg2cli.cli.console import Console
from sg2cli.cli.help import Command
from sg2cli.cli.inputs import on_disk
from sg2cli.cli.options import NetworkType, json_option
from sg2cli.errors import printable
from sg2cli.file_info import describe


@click.command(cls=Command)
@click.argument(
    "file", type=NetworkType(), default=checkpoints.DEFAULT_NETWORK, envvar="SG2_NETWORK"
)
@json_option
def info(file: str, as_json: bool) -> None:
    """Describe a checkpoint, an image, latents, or directions.

    FILE is a path, the name of a bundled checkpoint, or - for stdin.

    \b
    sg2 info faces/seed0007.png
    sg2 info ffhq.safetensors
    sg2 info found.safetensors --json
    """
    with on_disk(file) as path:
        fields = {"file": "stdin" if file == "-" else str(path), **describe(path, file)}
    console = Console()
    if as_json:
        console.result(json.dumps(fields))
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # Escaped even if stdout is not a terminal: text of a file must not span two lines.
        console.result(printable(f"{name:{width}}  {text}"))
