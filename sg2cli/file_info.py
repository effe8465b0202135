"""Describe a file: a checkpoint, an image, latents, or weight deltas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sg2cli import checkpoints
from sg2cli.checkpoints import weight_deltas
from sg2cli.errors import Sg2Error, UsageError, brief, reason
from sg2cli.images import codecs
from sg2cli.latents import files, named_directions
from sg2cli.provenance import WS_KEY
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.paths import kind, user_path


def info(file: str | Path = checkpoints.DEFAULT_NETWORK) -> dict[str, Any]:
    """Describe a checkpoint, an image or latents: `sg2cli.info("seed0007.png")["seed"]`.

    Args:
        file: a path, or the name of a bundled network.

    Returns: its kind; for a checkpoint its configuration, hash and origin; for a file that sg2
    wrote, its provenance.

    Raises UsageError if there is no such file, Sg2Error if it cannot be read, and CheckpointError
    if sg2 does not know its format.
    """
    path = user_path(str(file))
    if kind(path) == "nothing":
        if str(file) not in checkpoints.bundled():
            known = ", ".join(checkpoints.bundled())
            raise UsageError(f"no file {brief(str(file))}, nor a bundled network: {known}")
        path = checkpoints.bundled()[str(file)]
    return describe(path, str(file))


def describe(path: Path, name: str) -> dict[str, Any]:
    """Describe a file by its content; CheckpointError for an unknown format.

    `name` is the text that the user gave.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF")):
        return _image(path)
    if path.name.endswith(named_directions.SUFFIX) and (names := _directions(path)):
        return names
    if files.is_latents(path):
        return _latents(path)
    if start.startswith((b"PK", b"\x80")) and not checkpoints.is_ours(path):
        return _other_format(path, name)
    if (provenance := weight_deltas.inspect_weight_deltas(path)) is not None:
        return provenance | {"kind": "weight deltas of a tuned network"}
    return _checkpoint(checkpoints.find_network(path))


def _image(path: Path) -> dict[str, Any]:
    size, mode, provenance = codecs.inspect_image(path)
    fields: dict[str, Any] = {"kind": "image", "size": f"{size[0]}x{size[1]}", "mode": mode}
    if provenance and isinstance(stored := provenance.get(WS_KEY), dict):
        provenance = {**provenance, WS_KEY: stored.get("shape")}
    return fields | (provenance or {"made by": "unknown: it has no metadata of sg2"})


def _latents(path: Path) -> dict[str, Any]:
    arrays, provenance = files.inspect_latents(path)
    listed = {name: "x".join(map(str, shape)) for name, shape in arrays.items()}
    return {"kind": "latents", "arrays": listed, **provenance}


def _directions(path: Path) -> dict[str, Any] | None:
    names = named_directions.read_names(path)
    return {"kind": "named directions, for edit", "directions": names} if names else None


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
        "image channels": f"{config.img_channels} ({channels})",
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
