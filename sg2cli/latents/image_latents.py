"""Images made by sg2 as latents: their provenance has the seed, or their metadata the ws."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import inspect_image
from sg2cli.images.photos import PHOTO_SUFFIXES
from sg2cli.images.stored_ws import stored_shape, unpack_ws
from sg2cli.latents.notation import MAX_SEED
from sg2cli.latents.photo_names import name_of
from sg2cli.latents.sources import ImageOrigin, Latent
from sg2cli.provenance import is_of_seed
from sg2cli.settings import GeneratorConfig
from sg2cli.storage import reading

MAX_PSI = 1e6
TRUNCATED = "truncated"


class NoLatentInImage(Sg2Error):
    """An image without a latent."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} holds no latent: a grid, a comparison or a target has none, nor have images "
            "of older versions; give one of the images, or the folder of the projection"
        )


class PhotoGiven(NoLatentInImage):
    """A photo where a latent is expected."""

    def __init__(self, name: str) -> None:
        self.command = shlex.join(["sg2", "project", name])
        Sg2Error.__init__(
            self,
            f"{name} is not an image that sg2 made, so it holds no latents: find the latent of a "
            f"photo by `{self.command}`, and give the folder that it writes",
        )


def is_image(path: Path, start: bytes) -> bool:
    """Whether a file is an image, by its first bytes and its name."""
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    known = start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or webp
    return known or path.suffix.lower() in PHOTO_SUFFIXES


def read_image_latent(source: Path | bytes, name: str, config: GeneratorConfig) -> Latent:
    """The latent of an image, as it was drawn: its truncation is part of it.

    `source`: the file, or its bytes; `name`: as the user gave it. PhotoGiven for an image that sg2
    did not make, NoLatentInImage for a grid, UsageError for a latent that does not fit the network,
    Sg2Error for damaged metadata.
    """
    try:
        provenance = inspect_image(source, name)[2]
    except Sg2Error as error:
        raise PhotoGiven(name) if Path(name).suffix in PHOTO_SUFFIXES else error from error
    if provenance is None or not {"checkpoint", "version"} <= provenance.keys():
        raise PhotoGiven(name)
    stem = name_of(Path(name).stem, provenance)
    if isinstance(source, Path):
        digest = reading.sha256(source)
    else:
        digest = hashlib.sha256(source).hexdigest()
    made: dict[str, Any] = {"image": stem, "sha256": digest}
    try:
        origin = _origin(provenance)
        if origin.is_truncated:
            made[TRUNCATED] = True  # for images that are made from it
        if is_of_seed(provenance):
            _check_class(origin, config, name)
            return Latent(stem, "seed", None, made, _seed(provenance), image=origin)
        shape = stored_shape(provenance)
        if shape is None:
            raise NoLatentInImage(name)
        if shape not in ((config.w_dim,), (config.num_ws, config.w_dim)):
            raise UsageError(
                f"{name} has ws of {list(shape)}, this network has "
                f"[{config.num_ws}, {config.w_dim}]"
            )
        return Latent(stem, "w", unpack_ws(provenance), made, seed=0, image=origin)
    except ValueError as error:
        raise Sg2Error(f"{name} has damaged metadata: {error}") from error


def _origin(provenance: Mapping[str, Any]) -> ImageOrigin:
    """How the image was drawn; ValueError for values that sg2 does not write."""
    psi, cutoff = provenance.get("psi"), provenance.get("cutoff")
    if psi is not None and not (type(psi) in (int, float) and abs(psi) <= MAX_PSI):
        raise ValueError("its psi is not a number")
    if cutoff is not None and not (type(cutoff) is int and 0 <= cutoff < 1 << 20):
        raise ValueError("its cutoff is not a number of rows")
    checkpoint, tuned = provenance.get("checkpoint"), provenance.get("tuned")
    if not all(found is None or isinstance(found, str) for found in (checkpoint, tuned)):
        raise ValueError("the hash of its network is malformed")
    truncated = _is_truncated(provenance)
    return ImageOrigin(checkpoint, tuned, psi, cutoff, provenance.get("class"), truncated)


def _is_truncated(provenance: Mapping[str, Any]) -> bool:
    """Whether the image, or one that it was made from, was drawn with a psi other than 1."""
    listed = provenance.get("walk")
    latents = [provenance, provenance.get("row"), provenance.get("column")]
    latents += listed if isinstance(listed, list) else []
    earlier = any(isinstance(found, dict) and found.get(TRUNCATED) is True for found in latents)
    return earlier or provenance.get("psi") not in (None, 1)


def _seed(provenance: Mapping[str, Any]) -> int:
    seed = provenance["seed"]
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise ValueError("its seed is out of range")
    return seed


def _check_class(origin: ImageOrigin, config: GeneratorConfig, name: str) -> None:
    """UsageError if the network has classes, but not that of the image."""
    index = origin.class_index
    if config.c_dim and not (type(index) is int and 0 <= index < config.c_dim):
        raise UsageError(
            f"{name} was drawn with class {index!r:.20}: this network has classes "
            f"0 to {config.c_dim - 1}"
        )
