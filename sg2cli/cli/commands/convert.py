"""`sg2 convert`: checkpoints of other code bases, without running code in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sg2cli.checkpoints import conversion
from sg2cli.checkpoints.conversion import Target, check_conversion
from sg2cli.checkpoints.export import SUFFIXES
from sg2cli.cli.console import Console, Terminated
from sg2cli.cli.help import Command
from sg2cli.cli.inputs import on_disk
from sg2cli.cli.options import (
    HASH,
    PATH,
    TUNED_FILE,
    json_option,
    overwrite_option,
    quiet_option,
)
from sg2cli.errors import is_address
from sg2cli.storage.paths import kind, user_path


@click.command(cls=Command)
@click.argument("checkpoint", metavar="IN")
@click.argument("out", metavar="OUT", type=PATH)
@click.option(
    "--to",
    "target",
    type=click.Choice(tuple(SUFFIXES)),
    help="Export for other code: a state dict (.pt), or NVIDIA's pickle (.pkl).",
)
@click.option(
    "--merge",
    type=TUNED_FILE,
    metavar="FILE",
    help="Add weight deltas of `sg2 project --tune`.",
)
@click.option("--sha256", type=HASH, help="Expected SHA-256 of a downloaded file.")
@click.option(
    "--lr-multiplier",
    type=float,
    help="Of the mapping network, for files that do not record it. [0.01]",
)
@overwrite_option
@json_option
@quiet_option
def convert(
    checkpoint: str,
    out: str,
    target: Target | None,
    merge: Path | None,
    sha256: str | None,
    lr_multiplier: float | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert a checkpoint to .safetensors, without running any code in it.

    IN is a network of NVIDIA's PyTorch or TensorFlow code, of rosinality's, pSp or e4e, of BasicSR,
    MMGeneration, genforce or adriansahlman's: a path, - for stdin, an http(s) address, or the name
    of an official network (docs/networks.md). OUT is read back, compared tensor by tensor, and
    one image is generated as a check.

    \b
    sg2 convert ffhq.pkl ffhq.safetensors
    sg2 convert https://example.org/ffhq.pkl ffhq.safetensors
    sg2 convert ffhq.safetensors ffhq.pt --to rosinality
    sg2 convert ffhq.safetensors ffhq.pkl --to stylegan3
    sg2 convert ffhq.safetensors me.safetensors --merge out/me/tuned.safetensors
    """
    console = Console(as_json, quiet)
    path_out = user_path(out)
    check_conversion(checkpoint, path_out, target, merge, sha256, overwrite, lr_multiplier)
    try:
        with _source(checkpoint) as source, console.progress("Fetching", 0, "B") as bar:
            bar.unit_scale = True

            def progress(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            made = conversion.convert(
                source,
                path_out,
                to=target,
                merge=merge,
                sha256=sha256,
                lr_multiplier=lr_multiplier,
                overwrite=overwrite,
                on_progress=progress,
                on_note=console.note,
            )
    except (KeyboardInterrupt, Terminated):
        console.note(f"stopped: {path_out} is not written; run the same command again")
        raise
    console.wrote(made.path, made.provenance)


@contextmanager
def _source(name: str) -> Iterator[str | Path]:
    """The name unchanged; for stdin and pipes, a temporary file."""
    if name == "-" or (not is_address(name) and kind(user_path(name)) in ("pipe", "other")):
        with on_disk(name) as path:
            yield path
    else:
        yield name
