"""Commands killed at random moments, and what must hold whenever that is.

Shared by the tests, which kill a dozen times, and by `make soak`, which does so for hundreds.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from networks import random_generator

from sg2cli import checkpoints
from sg2cli.provenance import HASH_KEY

SG2 = (sys.executable, "-m", "sg2cli")
# Each with what goes on after a kill; OUT is the folder that is watched.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "generate": (
        ("generate", "--seeds", "0-3999", "--grid", "--save-latents", "OUT/all.safetensors"),
        ("--skip-existing",),
    ),
    "mix": (("mix", "--rows", "0-49", "--cols", "50-99"), ("--skip-existing",)),
    "frames": (("interpolate", "--latents", "0-9", "--frames", "1000"), ("--skip-existing",)),
    "video": (
        ("interpolate", "--latents", "0-9", "--frames", "1000", "--out", "OUT/a.gif"),
        ("--overwrite",),
    ),
    "project": (("project", "photos", "--steps", "20", "--batch", "2"), ("--resume",)),
    "convert": (("convert", "net.safetensors", "OUT/a.pt", "--to", "ada"), ("--overwrite",)),
}


def prepare(folder: Path) -> None:
    """The network and the photos that the commands take."""
    checkpoints.save_generator(random_generator(conv_clamp=1.0), folder / "net.safetensors", {})
    (folder / "photos").mkdir()
    for seed in range(3):
        pixels = np.random.RandomState(seed).randint(0, 256, (16, 16, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "photos" / f"{seed}.png")


OWN = (  # files of the user, beside ours and named much like them
    *("notes.txt", "frame.png", "0.png", "summary.csv.bak", ".sg2-notes.tmp"),
    *(".sg2-0123456789abcdef-01234567.tmp", ".sg2-0123456789abcdef.tmp", ".sg2-0123.part"),
    *("0/frames/0000001.png", "0/frames/0000002.png", "0/film.webp", "0/.sg2-x.tmp"),
)


def plant(out: Path) -> dict[Path, bytes]:
    """Put files of the user into an output folder, and one that a link in it leads to."""
    outside = out.parent / f"{out.name}-outside" / "0000001.png"
    owned = {out / name: f"mine: {name}".encode() for name in OWN} | {outside: b"mine, outside"}
    for path, content in owned.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (out / "1").mkdir()
    (out / "1" / "frames").symlink_to(outside.parent)
    return {path: hashlib.sha256(content).digest() for path, content in owned.items()}


def lost(owned: dict[Path, bytes]) -> Iterator[str]:
    """Files of the user that are gone, or not as they were."""
    for path, expected in owned.items():
        if not path.is_file() or hashlib.sha256(path.read_bytes()).digest() != expected:
            yield f"{path}, a file of the user, is lost or changed"


def start(folder: Path, name: str, out: str, more: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Begin a command in the folder; what `more` sets comes instead of the command's own."""
    args = [arg.replace("OUT", out) for arg in COMMANDS[name][0]]
    for option in {*more} & {"--frames", "--cols", "--steps"}:
        place = args.index(option)
        del args[place : place + 2]
    if name != "convert":
        args += ["-n", "net.safetensors"]
        args += [] if "--out" in args else ["--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    command = [*SG2, *args, *more]
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, env=environment)


def unbroken(folder: Path, name: str) -> float:
    """Run a command to its end, into a folder of its own; the seconds that it took."""
    begun = time.monotonic()
    process = start(folder, name, f"{name}-whole")
    _, message = process.communicate()
    assert process.returncode == 0, message
    return time.monotonic() - begun


def kill(folder: Path, name: str, seconds: float, kills: int, dice: random.Random) -> Iterator[str]:
    """Kill a command so many times, each time going on; then end it: every promise that broke."""
    out, again = folder / name, COMMANDS[name][1]
    shutil.rmtree(out, ignore_errors=True)
    owned = plant(out)
    for number in range(kills):
        process = start(folder, name, name, again if number else ())
        try:
            process.communicate(timeout=dice.uniform(seconds / 3, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        yield from differences(folder / f"{name}-whole", out, whole=False)
        yield from lost(owned)
    process = start(folder, name, name, again)
    _, message = process.communicate()
    if process.returncode:
        yield f"{name} does not go on: {message.decode()}"
    yield from differences(folder / f"{name}-whole", out, whole=True, owned=owned)
    yield from lost(owned)


def differences(
    expected: Path, out: Path, whole: bool, owned: Collection[Path] = ()
) -> Iterator[str]:
    """Files that are not as an unbroken run makes them; at its end, too many or too few."""
    found = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    wanted = {path.relative_to(expected) for path in expected.rglob("*") if path.is_file()}
    for path in sorted(found & wanted):
        history = path.name == "summary.csv" or ".sg2" in path.parts  # record the interruptions
        if not history and not alike(out / path, expected / path):
            yield f"{out / path} is not what an unbroken run writes"
    found -= {path.relative_to(out) for path in owned if path.is_relative_to(out)}
    if whole and found != wanted:
        yield f"{out} has other files: {sorted(map(str, found ^ wanted))[:5]}"


def alike(found: Path, expected: Path) -> bool:
    """The same bytes, or images that remember the same, whose pixels differ by 1 at most.

    What goes on has other images beside one in its batch, which some processors round by.
    """
    if found.read_bytes() == expected.read_bytes():
        return True
    # A small image that is cut behind its pixels, Pillow reads without a word.
    if found.suffix != ".png" or not found.read_bytes().endswith(b"IEND\xaeB`\x82"):
        return False
    try:
        with PIL.Image.open(found) as ours, PIL.Image.open(expected) as theirs:
            pixels = [np.asarray(image).astype(int) for image in (ours, theirs)]
            same = provenance(ours) == provenance(theirs)
            return same and bool(abs(pixels[0] - pixels[1]).max() <= 1)
    except OSError:
        return False


def provenance(image: PIL.Image.Image) -> dict[str, object]:
    """But for the hash of the data, which a pixel that differs by 1 changes."""
    return {**json.loads(image.info.get("sg2", "{}")), HASH_KEY: None}


def resident_sizes(folder: Path, counts: Sequence[int]) -> list[int]:
    """Bytes that `generate` has in memory when it has written so many images of 64x64."""
    command = [*SG2, "generate", "--seeds", "0-9999999", "--out", "sizes"]
    sizes, written = [], 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for count in counts:
            while written < count:
                assert process.stdout.readline()
                written += 1
            pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
            sizes.append(int(pages) * resource.getpagesize())
        process.kill()
    return sizes
