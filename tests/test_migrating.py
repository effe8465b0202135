"""The lines of docs/migrating.md run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).parent.parent
FORMATS = ROOT / "tests/golden/formats"
DOCUMENT = (ROOT / "docs/migrating.md").read_text("utf-8")
SECTIONS = {
    title: [line for line in block.splitlines() if line.startswith("sg2 ")]
    for title, block in re.findall(r"^## (.+?)$.*?^```sh\n(.*?)^```$", DOCUMENT, re.M | re.S)
}
NETWORKS = {  # files that users bring, and small ones of the same kind
    "metfaces.pkl": "ada-uncond-32.pkl",
    "ffhq.pkl": "ada-uncond-32.pkl",
    "cifar10.pkl": "ada-cond-32.pkl",
    "stylegan2-car-config-f.pkl": "tf-32.pkl",
    "stylegan2-ffhq-256x256.pkl": "stylegan3repo-sg2-32.pkl",
    "checkpoint.pt": "rosinality-train-32.pt",
}
MADE = {  # of each section, files that its lines leave
    "NVIDIA: stylegan2-ada-pytorch": ["ada/seed0849.png", "mixed/grid.png", "again.pkl"],
    "NVIDIA: stylegan2 (TensorFlow)": ["cars/seed6025.png", "own-found/summary.csv"],
    "NVIDIA: stylegan3": ["lerp.gif", "draggan.pkl"],
    "rosinality: stylegan2-pytorch": ["samples/seed0019.png", "faces/you/projected.png"],
    "PTI": ["pti/me/tuned.safetensors", "me.safetensors"],
    "SeFa": ["semantics/grid.png"],
}


def test_every_section_has_lines() -> None:
    assert SECTIONS.keys() == MADE.keys()


@pytest.mark.parametrize("title", MADE)
def test_the_lines_do_what_they_say(title: str, sg2: Any) -> None:
    for name, sample in NETWORKS.items():
        shutil.copy(FORMATS / sample, name)
    Path("photos").mkdir()
    for name in ("mytargetimg.png", "me.png", "you.png", "photos/car.png"):
        shutil.copy(ROOT / "tests/targets/avatar-dev01.png", name)
    sg2("convert", "ffhq.pkl", "ffhq.safetensors", "-q")
    for line in SECTIONS[title]:
        if line == "sg2 convert ffhq.pkl ffhq.safetensors":
            continue
        program, *args = shlex.split(line)
        assert program == "sg2"
        args = [str(p) for arg in args for p in (sorted(Path().glob(arg)) if "*" in arg else [arg])]
        short = {"project": ["--steps", "2"]}.get(args[0], [])
        args = [arg.replace("350", "2") for arg in args]  # the steps of tuning
        result = sg2(*args, *short)
        assert result.code == 0, f"{line}: {result.err}"
    for name in MADE[title]:
        assert Path(name).stat().st_size > 100, name
        if name.endswith(".png"):
            assert np.asarray(PIL.Image.open(name)).std() > 1
