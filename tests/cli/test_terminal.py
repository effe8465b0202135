"""What a person sees at a terminal: counts in place of paths, and the first line at once."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SG2
from networks import random_generator
from PIL import Image

from sg2cli.checkpoints import save_generator


@pytest.fixture
def net(in_tmp: Path) -> str:
    save_generator(random_generator(), Path("net.safetensors"), {})
    return "net.safetensors"


def at_terminal(*args: str) -> list[str]:
    """The lines that a command shows at a terminal."""
    import pty

    terminal, end = pty.openpty()
    with subprocess.Popen([*SG2, *args], stdout=end, stderr=end):
        os.close(end)
        seen = b""
        while True:
            try:
                block = os.read(terminal, 1 << 16)
            except OSError:  # nobody is left at the other end
                break
            if not block:
                break
            seen += block
    os.close(terminal)
    return [line.strip() for line in seen.decode().splitlines() if line.strip()]


def test_images_are_counted_in_one_line(net: str) -> None:
    args = ["-n", net, "--out", "a"]
    lines = at_terminal("generate", "0-11", "--grid", *args)
    assert lines == ["13 images in a, seed0000.png to grid.png"]
    assert at_terminal("mix", "0", "1", *args[:-1], "b") == [
        "4 images in b, seed0001.png to grid.png"
    ]
    assert at_terminal("generate", "20", *args) == ["a/seed0020.png"]


def test_what_is_kept_is_counted_too(net: str) -> None:
    at_terminal("generate", "0-2", "-n", net)
    lines = at_terminal("generate", "0-5", "-n", net, "--skip-existing")
    assert lines == [
        "3 images in out, seed0003.png to seed0005.png",
        "sg2: 3 written, 3 skipped",
    ]


def test_json_and_pipes_have_every_path(net: str) -> None:
    lines = at_terminal("generate", "0-2", "-n", net, "--json")
    assert sum('"path"' in line for line in lines) == 3
    done = subprocess.run(
        [*SG2, "generate", "0-2", "-n", net, "--out", "b"], capture_output=True, check=True
    )
    assert done.stdout.splitlines() == [b"b/seed000%d.png" % seed for seed in range(3)]


def test_a_projection_begins_with_a_line_at_once(net: str) -> None:
    """Before torch is loaded; a second, and some more for a busy machine."""
    import pty

    Image.fromarray(np.zeros((16, 16, 3), "u1")).save("me.png")
    terminal, end = pty.openpty()
    start = time.monotonic()
    args = [*SG2, "project", "me.png", "-n", net, "--steps", "1"]
    with subprocess.Popen(args, stderr=end, stdout=subprocess.DEVNULL) as process:
        os.close(end)
        line = os.read(terminal, 1 << 16)
        seconds = time.monotonic() - start
        process.terminate()
    os.close(terminal)
    assert line == b"sg2: projecting me.png: preset paper, steps: 1\r\n"
    assert seconds < 3
