"""`sg2 convert`: checkpoints of other code, without running any of it."""

from __future__ import annotations

from pathlib import Path

import click

from sg2cli import checkpoints
from sg2cli.checkpoints import export
from sg2cli.checkpoints.config import first
from sg2cli.checkpoints.export import TARGETS
from sg2cli.checkpoints.official import LICENCE, OFFICIAL_NETWORKS
from sg2cli.checkpoints.weight_deltas import open_weight_deltas
from sg2cli.cli.console import Console, Terminated
from sg2cli.cli.inputs import errors_named, on_disk
from sg2cli.cli.options import HASH, PATH, TUNED_FILE, json_option, quiet_option
from sg2cli.errors import Sg2Error, UsageError, brief, is_address, public
from sg2cli.storage.atomic import check_file, make_folder
from sg2cli.storage.downloads import Download, download
from sg2cli.storage.paths import kind, refuse_inputs, user_path


@click.command()
@click.argument("checkpoint", metavar="IN")
@click.argument("out", metavar="OUT", type=PATH)
@click.option(
    "--to",
    "target",
    type=click.Choice(TARGETS),
    help="Write the other way: a checkpoint of ours as a .pt of plain tensors, for the "
    "load_state_dict of stylegan2-ada-pytorch or of rosinality's stylegan2-pytorch.",
)
@click.option(
    "--merge",
    type=TUNED_FILE,
    metavar="FILE",
    help="A checkpoint of ours with the differences that `sg2 project --tune` saved.",
)
@click.option("--sha256", type=HASH, help="What a file from the web must have; else it is refused.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@json_option
@quiet_option
def convert(
    checkpoint: str,
    out: str,
    target: str | None,
    merge: Path | None,
    sha256: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a checkpoint of ours from another code's, without running a line in it.

    IN is a pickle of NVIDIA's PyTorch or TensorFlow code (.pkl), a .pt of rosinality's
    stylegan2-pytorch, of pSp or e4e; a path, - for stdin, an http(s) address, or the name of an
    official network, as docs/networks.md lists them. What is written is read back, compared
    tensor by tensor, and drawn once.

    \b
    sg2 convert ffhq.pkl ffhq.safetensors
    sg2 convert ffhq.safetensors ffhq.pt --to rosinality
    sg2 convert ffhq.safetensors me.safetensors --merge out/me/tuned.safetensors
    """
    console = Console(as_json, quiet)
    path_out = user_path(out)
    suffix = ".pt" if target else ".safetensors"
    if path_out.suffix != suffix:
        raise UsageError(f"{path_out}: this is saved as {suffix}")
    check_file(path_out, overwrite)
    inputs = [] if is_address(checkpoint) else [user_path(checkpoint)]
    refuse_inputs([path_out], [*inputs, *([merge] if merge else [])])
    if (target or merge) and sha256:
        raise UsageError("--sha256 is for files from the web")
    try:
        if target or merge:
            _write_ours(checkpoint, path_out, target, merge, overwrite, console)
        else:
            _read_other(checkpoint, path_out, sha256, overwrite, console)
    except (KeyboardInterrupt, Terminated):
        console.note(f"stopped: {path_out} is not written; the same command does it")
        raise


def _write_ours(
    name: str,
    out: Path,
    target: str | None,
    merge: Path | None,
    overwrite: bool,
    console: Console,
) -> None:
    """A checkpoint of ours, with differences or as it is, for us or for other code."""
    with on_disk(name) as path:
        network = checkpoints.find_network(path)
        provenance = {"format": target or "safetensors", "source": network.sha256}
        differences = open_weight_deltas(merge, network) if merge else None
        G = network.load()
        if differences:
            differences.apply(G)
            provenance["merged"] = differences.sha256
        make_folder(out.parent)
        if target:
            export.save_as(G, out, target, overwrite)
        else:
            checkpoints.save_generator(G, out, provenance, overwrite)
    console.wrote(out, provenance)


def _read_other(
    name: str, out: Path, sha256: str | None, overwrite: bool, console: Console
) -> None:
    from sg2cli.checkpoints import convert as conversion

    address = name if is_address(name) else None
    bundled = name in ("-", *checkpoints.bundled())
    if not address and not bundled and kind(user_path(name)) == "nothing":
        if name not in OFFICIAL_NETWORKS:
            official = first(list(OFFICIAL_NETWORKS), 7)
            raise UsageError(f"no file {brief(name)}, nor an official network: {official}")
        address = OFFICIAL_NETWORKS[name]
        console.note(LICENCE)
    if sha256 and not address:
        raise UsageError("--sha256 is for files from the web")
    make_folder(out.parent)
    if address:
        url = public(address)
        origin = {"url": url, "file": url.rpartition("/")[2]}
        with _fetch(address, out.parent, sha256, console) as found, errors_named(found.path, url):
            read, network, odd = conversion.convert(found.path, out, overwrite, origin)
            if network.source["sha256"] != found.sha256:
                raise Sg2Error(f"{url} was changed on the disk: remove {out} and convert it again")
    else:
        with on_disk(name) as path:
            if checkpoints.is_ours(path):
                raise UsageError(
                    f"{name} is a .safetensors, which sg2 reads as it is: --to ada or "
                    "--to rosinality writes it for other code"
                )
            read, network, odd = conversion.convert(path, out, overwrite)
    config = network.config
    classes = f"{config.c_dim} classes" if config.c_dim else "no classes"
    clamp = "no clamp" if config.conv_clamp is None else f"clamp {config.conv_clamp:g}"
    console.note(
        f"read {read.format}: {config.img_resolution}x{config.img_resolution}, "
        f"{config.architecture}, {config.img_channels} channels, {classes}, {clamp}, "
        f"{network.parameters:,} parameters, sha256 {network.source['sha256']}"
    )
    if read.left_out:
        console.note(f"left out: {first(read.left_out, 30)}")
    for what in read.made_up:
        console.note(f"the file lacks, and got: {what}")
    for note in read.notes:
        console.note(note)
    if odd:
        console.note(f"warning: {odd}")
    console.wrote(
        out, {"format": read.format, "source": network.source["sha256"], "made_up": read.made_up}
    )


def _fetch(address: str, folder: Path, sha256: str | None, console: Console) -> Download:
    with console.progress("Fetching", 0, "B") as bar:
        bar.unit_scale = True

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return download(address, folder, sha256, progress, console.note)
