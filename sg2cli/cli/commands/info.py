"""`sg2 info`: what a file is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sg2cli import checkpoints
from sg2cli.checkpoints import weight_deltas
from sg2cli.cli.console import Console
from sg2cli.cli.inputs import on_disk
from sg2cli.cli.options import NetworkType, json_option
from sg2cli.errors import Sg2Error, printable, reason
from sg2cli.images import codecs
from sg2cli.latents import files
from sg2cli.settings import GeneratorConfig


@click.command()
@click.argument(
    "file", type=NetworkType(), default=checkpoints.DEFAULT_NETWORK, envvar="SG2_NETWORK"
)
@json_option
def info(file: str, as_json: bool) -> None:
    """Say what a checkpoint, picture or file of latents is.

    FILE is a path, the name of a bundled checkpoint, or - for stdin.
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
        # Also where stdout is no terminal: a line of a file's own words must not look like two.
        console.result(printable(f"{name:{width}}  {text}"))


def describe(path: Path, name: str) -> dict[str, Any]:
    """The facts of a file by its content; CheckpointError when it is of no kind that sg2 knows.

    `name` is what the user called it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF")):
        return _picture(path)
    if files.is_latents(path):
        return _latents(path)
    if start.startswith((b"PK", b"\x80")) and not checkpoints.is_ours(path):
        return _other_format(path, name)
    if (provenance := weight_deltas.inspect_weight_deltas(path)) is not None:
        return provenance | {"kind": "differences of weights, for --tuned"}
    return _checkpoint(checkpoints.find_network(path))


def _picture(path: Path) -> dict[str, Any]:
    size, mode, provenance = codecs.inspect_image(path)
    fields: dict[str, Any] = {"kind": "picture", "size": f"{size[0]}x{size[1]}", "mode": mode}
    return fields | (provenance or {"made by": "unknown: no word of sg2 in it"})


def _latents(path: Path) -> dict[str, Any]:
    arrays, provenance = files.inspect_latents(path)
    listed = {name: "x".join(map(str, shape)) for name, shape in arrays.items()}
    return {"kind": "latents", "arrays": listed, **provenance}


def _checkpoint(network: checkpoints.Network) -> dict[str, Any]:
    return {
        "kind": "StyleGAN2 generator",
        **_facts(network.config),
        "parameters": network.parameters,
        "stored as": ", ".join(network.dtypes),
        "sha256": network.sha256,
        **_flat("source", network.source),
    }


def _other_format(path: Path, name: str) -> dict[str, Any]:
    from sg2cli.checkpoints.config import first, parameters, read_config
    from sg2cli.checkpoints.convert import read_checkpoint

    found = read_checkpoint(path)
    return {
        "kind": f"StyleGAN2 generator, {found.format}",
        **_facts(read_config(found.fields, found.shapes)),
        "parameters": parameters(found.shapes),
        "also in it": first(found.left_out, 30) or "nothing",
        "missing": ", ".join(found.made_up) or "nothing",
        "sha256": found.fields["source"]["sha256"],
        "to use it": f"sg2 convert {name} {path.with_suffix('.safetensors').name}",
    }


def _facts(config: GeneratorConfig) -> dict[str, Any]:
    channels = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}[config.img_channels]
    return {
        "resolution": f"{config.img_resolution}x{config.img_resolution}",
        "picture channels": f"{config.img_channels} ({channels})",
        "architecture": config.architecture,
        "classes": config.c_dim or "none",
        "z_dim, w_dim": [config.z_dim, config.w_dim],
        "num_ws": config.num_ws,
        "mapping layers": config.num_layers,
        "feature maps": dict(zip(map(str, config.resolutions), config.channels, strict=True)),
        "conv_clamp": config.conv_clamp or "none",
        "num_fp16_res": config.num_fp16_res,
        "resample_filter": list(config.resample_filter),
        "noise": "yes" if config.use_noise else "no",
    }


def _flat(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}: {key}": value for key, value in fields.items()} or {name: "unknown"}
