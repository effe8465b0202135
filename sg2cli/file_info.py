"""Describe a file: a checkpoint, an image, latents, or weight deltas."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sg2cli import checkpoints
from sg2cli.checkpoints import weight_deltas
from sg2cli.errors import CheckpointError, Sg2Error, UsageError, brief, reason
from sg2cli.images import codecs
from sg2cli.images.structure import HEIC
from sg2cli.latents import direction_names, files
from sg2cli.latents.discovery import METHODS
from sg2cli.provenance import WS_KEY
from sg2cli.settings import GeneratorConfig, shown_size
from sg2cli.storage.paths import kind, refuse_special, user_path
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

START = 30  # bytes that are looked at first
IMAGES_OF_ISO = (b"avif", b"avis", b"mif1", b"msf1", *HEIC)  # in the container of MP4


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
    refuse_special(path)  # a pipe can be read only once
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    if video := _video(start):
        return video
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF")):
        return _image(path)
    if (directions := _directions(path)) is not None:
        return directions
    if files.is_latents(path):
        return _latents(path)
    if start.startswith((b"PK", b"\x80")) and not checkpoints.is_ours(path):
        try:
            return _other_format(path, name)
        except CheckpointError:
            if latents := _torch_latents(path):
                return latents
            raise
    if (provenance := weight_deltas.inspect_weight_deltas(path)) is not None:
        return provenance | {"kind": "weight deltas of a tuned network"}
    return _checkpoint(checkpoints.find_network(path))


def _video(start: bytes) -> dict[str, Any] | None:
    """A GIF, an animated WebP or an MP4, by the first bytes; None for other files."""
    size = None
    if start.startswith(b"GIF8") and len(start) == START:
        what, size = "GIF", struct.unpack("<2H", start[6:10])
    elif start[8:16] == b"WEBPVP8X" and len(start) == START and start[20] & 2:
        width, w, height, h = struct.unpack("<HBHB", start[24:30])
        what, size = "WebP", ((width | w << 16) + 1, (height | h << 16) + 1)
    elif start[4:8] == b"ftyp" and start[8:12] not in IMAGES_OF_ISO:
        what = "MP4"
    else:
        return None
    fields = {"kind": f"video, {what}", "size": f"{size[0]}x{size[1]}" if size else "unknown"}
    return fields | {"made by": "unknown: videos have no metadata of sg2"}


def _image(path: Path) -> dict[str, Any]:
    size, mode, provenance = codecs.inspect_image(path)
    fields: dict[str, Any] = {"kind": "image", "size": f"{size[0]}x{size[1]}", "mode": mode}
    if provenance and isinstance(stored := provenance.get(WS_KEY), dict):
        provenance = {**provenance, WS_KEY: stored.get("shape")}
    return fields | (provenance or {"made by": "unknown: it has no metadata of sg2"})


def _torch_latents(path: Path) -> dict[str, Any] | None:
    """Latents of another project in a file of torch.save; None for any other file."""
    try:
        return _latents(path)
    except Sg2Error:
        return None


def _latents(path: Path) -> dict[str, Any]:
    arrays, provenance = files.inspect_latents(path)
    listed = {name: "x".join(map(str, shape)) for name, shape in arrays.items()}
    return {"kind": "latents", "arrays": listed, **provenance}


def _directions(path: Path) -> dict[str, Any] | None:
    """A .safetensors of directions that sg2 wrote, or whose name says so; None for other files."""
    try:
        with SafetensorsFile(path) as file:
            provenance = sg2_metadata(file.metadata)
            shapes = {name: "x".join(map(str, entry.shape)) for name, entry in file.entries.items()}
            names = direction_names.names_of(file)
    except (OSError, ValueError):
        return None
    if methods := [name for name in METHODS if {name, f"{name}_std"} <= shapes.keys()]:
        what = " and ".join({"sefa": "SeFa", "pca": "PCA"}[name] for name in methods)
        return {"kind": f"directions of W found by {what}", "arrays": shapes, **provenance}
    is_called_so = path.name.endswith(direction_names.SUFFIX)
    if names and (isinstance(provenance.get("directions"), dict) or is_called_so):
        kept = {key: value for key, value in provenance.items() if key != "directions"}
        return {"kind": "named directions, for edit", "directions": names, **kept}
    return None


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
    from sg2cli.checkpoints.importer import read_checkpoint
    from sg2cli.checkpoints.official import convert_command

    found = read_checkpoint(path)
    return {
        "kind": f"StyleGAN2 generator, {found.format}",
        **_facts(read_config(found.fields, found.shapes)),
        "parameters": parameters(found.shapes),
        "also in it": first(found.left_out, 30) or "nothing",
        "missing": ", ".join(found.made_up) or "nothing",
        "sha256": found.fields["source"]["sha256"],
        "to use it": convert_command(name, path.stem),
    }


def _facts(config: GeneratorConfig) -> dict[str, Any]:
    channels = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}[config.img_channels]
    return {
        "resolution": shown_size(config),
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
