"""What the README says to type works as it stands."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
SG2_COMMANDS = [line for line in COMMANDS if line.startswith("sg2 ")]


# Images of the README, and the files that the commands above them write. The projection is not
# among them: it ends elsewhere on another processor.
SHOWN = {
    ROOT / "docs/avatars.png": "avatars/grid.png",
    ROOT / "docs/mix-coarse.png": "coarse/grid.png",
    ROOT / "docs/edit-glasses.png": "glasses/grid.png",
    ROOT / "docs/edit-beard.png": "beard/grid.png",
    ROOT / "docs/edit-smile.png": "smile/grid.png",
    ROOT / "docs/edit-hair-blond.png": "blond/grid.png",
}


@pytest.mark.long
def test_the_shell_commands_work(in_tmp: Path) -> None:
    """In the order in which they stand, in one folder, as later ones use what earlier ones made."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shutil.copy(ROOT / "tests/golden/formats/ada-uncond-32.pkl", "ffhq.pkl")  # a user's own
    shutil.copytree(ROOT / "tests/targets", "tests/targets")
    script = "\n".join(["set -euo pipefail", *SG2_COMMANDS])
    environment = {**os.environ, "PATH": path}
    subprocess.run(["bash", "-c", script], check=True, env=environment, capture_output=True)
    assert len(list(Path("faces").iterdir())) == 200
    for shown, made_again in SHOWN.items():
        one, two = (np.asarray(PIL.Image.open(path)).astype(int) for path in (shown, made_again))
        assert np.abs(one - two).max() <= 1, shown
    made = ["five.png", "85.webp", "three.png", "ten.safetensors", "out/grid.png", "loop.webp"]
    made += [f"{folder}/grid.png" for folder in ("mixes", "trick", "moved")]
    assert all(Path(name).stat().st_size > 1000 for name in made)


def test_the_python_examples_work(in_tmp: Path) -> None:
    shutil.copy(ROOT / "tests/golden/formats/ada-uncond-32.pkl", "ffhq.pkl")  # a user's own
    for example in blocks("python"):
        subprocess.run([sys.executable, "-W", "error", "-c", example], check=True)
    names = {path.name for path in Path().iterdir()} - {"ffhq.pkl"}
    made = {"out", "older.png", "mixed.png", "faces.gif", "ffhq2.safetensors"}
    assert names == {*(f"seed{i:04d}.png" for i in (*range(10), 85)), *made}
    assert Path("out/seed0085/projected.safetensors").is_file()


@pytest.mark.parametrize("command", [line for line in COMMANDS if not line.startswith("sg2 ")])
def test_the_other_commands_are_run_by_ci(command: str) -> None:
    script = (ROOT / ".ci" / "run").read_text()
    standing_in = {"pip install .": 'install --quiet "$work"/sg2cli-*.whl'}
    assert standing_in.get(command, command) in script


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_weight_is_in_the_package() -> None:
    from sg2cli import checkpoints

    names = {path.name for path in (ROOT / "weights").glob("*.safetensors")}
    assert names == {path.name for path in checkpoints.weights_folder().glob("*.safetensors")}


def test_every_dependency_has_its_licence_listed() -> None:
    parts = configparser.ConfigParser()
    parts.read(ROOT / "setup.cfg")
    extras = parts["options.extras_require"]
    requirements = parts["options"]["install_requires"] + extras["plot"] + extras["video"]
    names = {re.split("[<>=;]", line)[0] for line in requirements.split("\n") if line}
    table = (ROOT / "docs/licences.md").read_text("utf-8")
    assert names == set(re.findall(r"^\| (?!package)(\w+)", table, re.MULTILINE))
