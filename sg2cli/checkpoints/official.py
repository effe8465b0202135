"""The official networks: names, addresses as their publishers' READMEs give them, and terms."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from urllib.parse import urlsplit

from sg2cli.errors import is_address, public

LICENCE = "NVIDIA's networks are for non-commercial use: see the publisher's licence"
_ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
_NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
_TF = "https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/"

OFFICIAL_NETWORKS: dict[str, str] = {
    **{
        name: f"{_ADA}{name}.pkl"
        for name in ("ffhq", "metfaces", "afhqcat", "afhqdog", "afhqwild", "brecahad", "cifar10")
    },
    **{
        f"stylegan2-{name}": f"{_NGC}stylegan2-{name}.pkl"
        for name in (
            *("ffhq-1024x1024", "ffhq-512x512", "ffhq-256x256", "ffhqu-1024x1024"),
            *("ffhqu-256x256", "metfaces-1024x1024", "metfacesu-1024x1024", "afhqv2-512x512"),
            *("afhqcat-512x512", "afhqdog-512x512", "afhqwild-512x512", "brecahad-512x512"),
            *("cifar10-32x32", "celebahq-256x256", "lsundog-256x256"),
        )
    },
    **{
        f"stylegan2-{name}-config-f": f"{_TF}stylegan2-{name}-config-f.pkl"
        for name in ("ffhq", "car", "cat", "church", "horse")
    },
}


def convert_command(source: str | PurePath, out: str) -> str:
    """The command that makes a .safetensors called `out`, or out-sg2 where that is the source."""
    if PurePath(source).name == f"{out}.safetensors":
        out = f"{out}-sg2"
    return shlex.join(["sg2", "convert", str(source), f"{out}.safetensors"])


def fetching_command(name: str) -> str | None:
    """The command that fetches and converts a network by its name, file name or address."""
    if is_address(name):
        address = public(name)
        return convert_command(address, PurePath(urlsplit(address).path).stem or "network")
    stem = PurePath(name).stem if name.endswith((".pkl", ".safetensors")) else name
    return convert_command(stem, stem) if stem in OFFICIAL_NETWORKS else None
