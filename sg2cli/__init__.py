"""sg2: sample, mix, truncate, edit, interpolate and invert StyleGAN2 networks.

    import sg2cli

    G = sg2cli.load()                                       # the bundled network, or a file
    for image in sg2cli.generate(G, "0-9,85", psi=0.7):     # drawn lazily, in batches
        image.save(f"{image.name}.png")
    found = sg2cli.project(G, "photo.jpg", preset="fast")   # found.ws, found.image, found.lpips
    older = sg2cli.edit(G, found, "sefa:0", 2.0)
    mixed = sg2cli.mix(G, rows=found, cols="55", styles="coarse")
    sg2cli.convert("ffhq.pkl", "ffhq.safetensors")

`sg2cli.Sg2Error` is the base of all errors that files and arguments cause. Importing this module
does not import torch; functions are imported when they are first used (PEP 562).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {  # where the names of the API are defined; __init__.pyi has them for type checkers
    "load": "sg2cli.checkpoints",
    "convert": "sg2cli.checkpoints.conversion",
    "blend": "sg2cli.checkpoints.blending",
    "info": "sg2cli.file_info",
    "generate": "sg2cli.sampling.generate",
    "mix": "sg2cli.sampling.mix",
    "truncate": "sg2cli.sampling.truncate",
    "interpolate": "sg2cli.sampling.interpolate",
    "edit": "sg2cli.sampling.edit",
    "directions": "sg2cli.latents.discovery",
    "learn_direction": "sg2cli.sampling.learn",
    "name_directions": "sg2cli.latents.named_directions",
    "named_directions": "sg2cli.latents.named_directions",
    "project": "sg2cli.inversion.project",
    "project_batch": "sg2cli.inversion.project_batch",
    "Generator": "sg2cli.generator",
    "Image": "sg2cli.sampling.images",
    "Images": "sg2cli.sampling.images",
    "Latent": "sg2cli.latents.sources",
    "Directions": "sg2cli.latents.discovery",
    "NamedDirections": "sg2cli.latents.named_directions",
    "Projection": "sg2cli.inversion.projection",
    "Conversion": "sg2cli.checkpoints.conversion",
    "Sg2Error": "sg2cli.errors",
    "UsageError": "sg2cli.errors",
    "CheckpointError": "sg2cli.errors",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sg2cli' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
