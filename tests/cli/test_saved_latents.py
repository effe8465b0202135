"""`--save-latents` of every drawing command: what is saved is what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import one_line
from networks import random_generator
from PIL import Image
from safetensors.numpy import load_file, save_file

from sg2cli.checkpoints import save_generator

NOISE = "synthesis.b8.conv1.noise_const"
COMMANDS: dict[str, list[str]] = {
    "generate": ["generate", "--latents", "l.safetensors"],
    "edit": ["edit", "l.safetensors", "--direction", "sefa:0", "--amount=-1..1", "--steps", "3"],
    "mix": ["mix", "--rows", "l.safetensors", "--cols", "5,6", "--styles", "0-2"],
    "truncate": ["truncate", "--latents", "l.safetensors", "--psi", "0.5,1"],
    "interpolate": ["interpolate", "--latents", "l.safetensors", "--frames", "4"],
}
COUNTS = {"generate": 2, "edit": 6, "mix": 4, "truncate": 4, "interpolate": 4}


@pytest.fixture
def net(in_tmp: Path) -> str:
    save_generator(random_generator(), Path("net.safetensors"), {})
    ws = np.random.RandomState(1).randn(2, 6, 16).astype("f4")
    noise = np.random.RandomState(2).randn(2, 8, 8).astype("f4")
    save_file({"ws": ws, NOISE: noise}, "l.safetensors")
    return "net.safetensors"


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("command", COMMANDS)
def test_saved_latents_draw_the_images_again(
    sg2: Callable[..., Any], net: str, command: str
) -> None:
    args = [*COMMANDS[command], "-n", net, "--save-latents", "s.safetensors", "--out", "o/"]
    result = sg2(*args)
    assert result.code == 0 and result.lines[0] == "s.safetensors"
    drawn = [Path(line) for line in result.lines[1:] if not line.endswith("grid.png")]
    if command == "mix":  # without the unmixed images
        drawn = [path for path in drawn if path.stem.count("-") > 1]
    assert len(drawn) == COUNTS[command]
    stored = load_file("s.safetensors")
    assert len(stored["ws"]) == len(stored[NOISE]) == len(drawn)
    again = sg2("generate", "-n", net, "--latents", "s.safetensors", "--out", "again")
    for line, path in zip(again.lines, drawn, strict=True):
        assert (pixels(line) == pixels(path)).all(), path


@pytest.mark.parametrize("command", COMMANDS)
def test_an_existing_file_is_kept_or_refused(
    sg2: Callable[..., Any], net: str, command: str
) -> None:
    args = [*COMMANDS[command], "-n", net, "--save-latents", "s.safetensors", "--out", "o/"]
    assert sg2(*args).code == 0
    before = Path("s.safetensors").read_bytes()
    assert sg2(*args, "--skip-existing").code == 0
    refused = sg2(*args[:-1], "p/")
    assert refused.code == 1 and "s.safetensors exists" in one_line(refused.err)
    other = sg2(*args, "--skip-existing", "--noise-mode", "none")
    assert other.code == 1 and "made with other settings" in other.err
    assert Path("s.safetensors").read_bytes() == before
    assert sg2(*args, "--overwrite").code == 0
    assert Path("s.safetensors").read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--save-latents", "l.safetensors"], "would replace l.safetensors, which is an input"),
        (["--save-latents", "net.safetensors"], "would replace net.safetensors"),
        (["--save-latents", "l.png"], "latents are saved as .safetensors, .npz, .npy"),
        (["--save-latents", "s.npz", "--skip-existing"], "save a .safetensors"),
        (["--save-latents", "s.npy"], "cannot hold noise maps"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_any_image(
    sg2: Callable[..., Any], net: str, command: str, more: list[str], message: str
) -> None:
    result = sg2(
        *COMMANDS[command],
        "-n",
        net,
        *more,
        "--overwrite" if "--skip" not in str(more) else "-q",
        "--out",
        "o/",
    )
    assert result.code == 2 and message in one_line(result.err)
    assert not list(Path().glob("o/*.png"))


def test_edits_are_chained_mixed_and_animated(sg2: Callable[..., Any], net: str) -> None:
    edit = ["edit", "-n", net, "--amount", "1"]
    assert sg2(*edit, "1", "--direction", "sefa:0", "--save-latents", "a.npz").code == 0
    assert (
        sg2(*edit, "a.npz", "--direction", "pca:1", "--save-latents", "b.npy", "--out", "b").code
        == 0
    )
    both = ["b.npy", "--cols", "3", "--save-latents", "c.safetensors", "--out", "c"]
    assert sg2("mix", "-n", net, "--rows", *both).code == 0
    latents = ["a.npz,b.npy,c.safetensors", "--frames", "6", "--out", "path.gif"]
    assert sg2("interpolate", "-n", net, "--latents", *latents).code == 0
