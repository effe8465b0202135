"""`sg2 convert`: checkpoints of other code, without running any of it."""

from __future__ import annotations

from pathlib import Path

import click

from sg2cli.cli.console import Console
from sg2cli.cli.options import NETWORK_FILE, json_option, quiet_option
from sg2cli.cli.standard_input import on_disk
from sg2cli.errors import UsageError
from sg2cli.files import check_file, make_folder


@click.command()
@click.argument("checkpoint", metavar="IN")
@click.argument("out", metavar="OUT.safetensors", type=NETWORK_FILE)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@json_option
@quiet_option
def convert(checkpoint: str, out: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Make a checkpoint of ours from another code's, without running a line in it.

    IN is a pickle of NVIDIA's PyTorch or TensorFlow code (.pkl), a .pt of rosinality's
    stylegan2-pytorch, of pSp or e4e, or - for stdin. What is written is read back, compared
    tensor by tensor, and drawn once.

    \b
    sg2 convert ffhq.pkl ffhq.safetensors
    """
    console = Console(as_json, quiet)
    check_file(out, overwrite)
    if checkpoint.startswith(("http://", "https://")):
        raise UsageError("sg2 does not download: fetch the file, then give its path")
    from sg2cli.checkpoints import foreign

    with on_disk(checkpoint) as path:
        make_folder(out.parent)
        read, network, odd = foreign.convert(path, out, overwrite)
    config = network.config
    classes = f"{config.c_dim} classes" if config.c_dim else "no classes"
    clamp = "no clamp" if config.conv_clamp is None else f"clamp {config.conv_clamp:g}"
    source = read.fields["source"]
    console.note(
        f"read {read.format}: {config.img_resolution}x{config.img_resolution}, "
        f"{config.architecture}, {config.img_channels} channels, {classes}, {clamp}, "
        f"{network.parameters:,} parameters, sha256 {source['sha256']}"
    )
    if read.left_out:
        console.note(f"left out: {', '.join(read.left_out)}")
    for what in read.made_up:
        console.note(f"the file lacks, and got: {what}")
    for note in read.notes:
        console.note(note)
    if odd:
        console.note(f"warning: {odd}")
    console.wrote(out, {"format": read.format, "source": source["sha256"], "made_up": read.made_up})
