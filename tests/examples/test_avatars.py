"""The example of training: each stage for a few steps, on 50 drawings."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import sg2cli

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "avatars"
TARGETS = sorted((REPOSITORY / "tests" / "targets").glob("*.png"))
DEFINITION = json.loads((EXAMPLE / "attributes.json").read_text("utf-8"))
ROWS = {"coarse": range(0, 3), "middle": range(3, 7), "fine": range(7, 12)}  # at 128x128


def call(*command: object) -> str:
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def make_drawings(out: Path) -> None:
    """50 of render.mjs where it can run, else the repository's drawings with random attributes."""
    if shutil.which("node") and (EXAMPLE / "node_modules").is_dir():
        call("node", EXAMPLE / "render.mjs", 50, out)
        return
    numbers = random.Random(0)
    images = [
        Image.open(TARGETS[i % len(TARGETS)]).convert("RGB").resize((128, 128)) for i in range(50)
    ]
    out.with_suffix(".bin").write_bytes(np.stack([np.asarray(image) for image in images]).tobytes())
    attributes = [
        {name: numbers.choice(sum(a["values"], [])) for name, a in DEFINITION["attributes"].items()}
        for _ in images
    ]
    out.with_suffix(".json").write_text(json.dumps(attributes))


@pytest.mark.long
def test_a_network_is_trained_and_gets_directions(sg2, in_tmp: Path) -> None:
    make_drawings(in_tmp / "drawings")
    train = [sys.executable, EXAMPLE / "train.py", "drawings", "run", "--scale", "0.0002"]
    out = call(*train)
    losses = {
        stage: [float(loss) for loss in re.findall(rf"{stage} \S+ loss (\S+),", out)]
        for stage in ("embeddings", "mapping", "joint", "details")
    }
    assert losses["embeddings"][-1] < 0.5 * losses["embeddings"][0]
    assert losses["mapping"][-1] < losses["mapping"][0]
    assert max(losses["joint"] + losses["details"]) < 0.5 * losses["embeddings"][0]
    assert "loss" not in call(*train)  # finished stages are not repeated

    network = in_tmp / "run" / "details.safetensors"
    G = sg2cli.load(network)
    assert (G.config.z_dim, G.config.w_dim, G.config.img_resolution) == (64, 256, 128)
    assert sg2("generate", "-n", network, "--seeds", "0-1", "--out", "images").code == 0
    image = Image.open(in_tmp / "images" / "seed0000.png")
    assert image.size == (128, 128)
    assert np.asarray(image).std() > 1

    call(sys.executable, EXAMPLE / "directions.py", network)
    with safe_open(network.with_suffix(".directions.safetensors"), "pt") as file:
        metadata = json.loads(file.metadata()["sg2"])
        directions = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["checkpoint"] == G.checkpoint
    assert directions.keys() == metadata["directions"].keys() == DEFINITION["directions"].keys()
    for name, (attribute, *_) in DEFINITION["directions"].items():
        assert directions[name].shape == (12, 256)
        used = torch.arange(12)[directions[name].abs().sum(dim=1) > 0]
        assert used.tolist() == list(ROWS[DEFINITION["attributes"][attribute]["style"]])
