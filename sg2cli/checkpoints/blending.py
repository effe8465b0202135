"""Blend two networks by resolution (Pinkney and Adler 2020, arXiv:2010.05334)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sg2cli.checkpoints import find_network
from sg2cli.checkpoints.conversion import Conversion
from sg2cli.checkpoints.native import Network, save_generator
from sg2cli.errors import UsageError
from sg2cli.settings import GeneratorConfig
from sg2cli.storage.atomic import check_file, make_folder
from sg2cli.storage.paths import refuse_inputs, user_path

if TYPE_CHECKING:
    from torch import Tensor

UNRELATED = 0.9  # relative difference of weights; those of unrelated networks differ by 1.4
LAYER = re.compile(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip|const)")


def blend(
    a: str | Path,
    b: str | Path,
    out: str | Path,
    *,
    at: int,
    width: int = 0,
    overwrite: bool = False,
    on_note: Callable[[str], object] = lambda text: None,
) -> Conversion:
    """Combine the layers of A below a resolution with those of B from that resolution up.

    With a network and its fine-tuned copy: `sg2cli.blend("ffhq.safetensors",
    "toons.safetensors", "blended.safetensors", at=32)` has poses and shapes of A, and surfaces
    and colours of B.

    Args:
        a: a .safetensors, or the name of a bundled network. Its mapping network is kept.
        b: another one, of the same shapes.
        out: the .safetensors to write.
        at: the resolution of the first block of B, such as 32.
        width: the number of layers over which the weights go from A's to B's; 0: at once.
        overwrite: replace `out` if it exists.
        on_note: receives messages; they are in the result as well.

    Raises UsageError for networks whose shapes differ, a resolution that they do not have, and
    another suffix than .safetensors; Sg2Error where `out` exists.
    """
    path = user_path(str(out))
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: the output must end in .safetensors")
    check_file(path, overwrite)
    first, second = find_network(a), find_network(b)
    refuse_inputs([path], [first.path, second.path])
    _check(first, second, at, width)
    G, other = first.load(), second.load().state_dict()
    own = G.state_dict()
    notes = _notes(own, other, first.config, second.config)
    for note in notes:
        on_note(note)
    for name, tensor in own.items():
        share = share_of_b(name, at, width)
        if name.endswith(".noise_const"):  # a mean of noise maps would not be noise
            share = float(share > 0.5)
        tensor.lerp_(other[name], share)
    source = {"a": first.sha256, "b": second.sha256, "at": at, "width": width}
    provenance = {"format": "blend", **source}
    make_folder(path.parent)
    save_generator(G, path, provenance, overwrite)
    return Conversion(path, provenance, tuple(notes))


def share_of_b(name: str, at: int, width: int) -> float:
    """The share of B in a tensor, by its layer: 0 below the resolution `at`, 1 from there on.

    Convolutions are counted, and the ramp is centred where block `at` begins; ToRGB and skip
    belong to the last convolution of their block, the constant to the first one.
    """
    match = LAYER.match(name)
    if not match:
        return 0.0
    layer = _layer(int(match[1]), match[2])
    distance = layer + 0.5 - _layer(at, "conv0")
    return min(max(distance / width + 0.5, 0), 1) if width else float(distance > 0)


def _layer(resolution: int, part: str) -> int:
    block = resolution.bit_length() - 3
    return max(0, 2 * block - (part == "conv0"))


def _check(first: Network, second: Network, at: int, width: int) -> None:
    resolutions = first.config.resolutions
    if at not in resolutions:
        raise UsageError(
            f"no block of resolution {at}: the network has {', '.join(map(str, resolutions))}"
        )
    layers = first.config.num_ws - 1
    if not 0 <= width <= layers:
        raise UsageError(f"a width of {width} is out of range: the network has {layers} layers")
    pair = [  # without the fields that are always taken from A
        replace(network.config, lr_multiplier=0.01, num_fp16_res=0, conv_clamp=None)
        for network in (first, second)
    ]
    if pair[0] != pair[1] or first.shapes != second.shapes:
        ours, theirs = (vars(config) for config in pair)
        field = next((name for name in ours if ours[name] != theirs[name]), "shapes")
        detail = f": {ours[field]} and {theirs[field]}" if field in ours else ""
        raise UsageError(
            f"{first.path} and {second.path} cannot be blended: they differ in {field}{detail}"
        )


def _notes(
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    config_a: GeneratorConfig,
    config_b: GeneratorConfig,
) -> list[str]:
    """Whose mapping network is kept, and how far the weights differ."""
    mapping = _difference(own, other, "mapping.fc")
    synthesis = _difference(own, other, "synthesis.")
    notes = [
        f"the mapping network of A is kept; B's weights differ from A's by {mapping:.0%} in the "
        f"mapping and {synthesis:.0%} in the synthesis network"
    ]
    if synthesis > UNRELATED:
        notes.append(
            "warning: the networks seem unrelated, so the blend is unlikely to give meaningful "
            "images: blend a network with a fine-tuned copy of it"
        )
    if config_a.conv_clamp != config_b.conv_clamp:
        notes.append(
            f"the conv_clamp of A is kept: {config_a.conv_clamp}, not {config_b.conv_clamp}"
        )
    return notes


def _difference(own: Mapping[str, Tensor], other: Mapping[str, Tensor], prefix: str) -> float:
    """The relative difference of weights in the 2-norm, without biases and noise maps."""
    names = [n for n in own if n.startswith(prefix) and n.endswith(".weight")]
    apart = sum((own[n] - other[n]).square().sum().item() for n in names)
    length = sum(own[n].square().sum().item() for n in names)
    return float((apart / length) ** 0.5) if length else 0.0
