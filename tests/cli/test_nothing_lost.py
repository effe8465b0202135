"""Files of the user beside ours: none is deleted, replaced or taken for ours."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from networks import random_generator

from sg2cli import checkpoints
from tests.conftest import SG2, one_line

STEPS = ["--steps", "2"]


@pytest.fixture
def net(in_tmp: Path) -> Path:
    """A network of 16x16 pixels in an otherwise empty folder."""
    checkpoints.save_generator(random_generator(conv_clamp=1.0), in_tmp / "net.safetensors", {})
    return Path("net.safetensors")


def photo(name: str, seed: int = 0) -> None:
    pixels = np.random.RandomState(seed).randint(0, 256, (16, 16, 3), np.uint8)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(name, "PNG")


def own(*names: str) -> Callable[[], None]:
    """Files of the user; call the result to see that they are as they were."""
    hashes = {}
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"mine: {name}".encode())
        hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()

    def check() -> None:
        for path, expected in hashes.items():
            assert path.exists(), f"{path} is gone"
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected, path

    return check


# `sg2 project` beside other files.


@pytest.mark.parametrize("options", [[], ["--save-video"], ["--overwrite"], ["--resume"]])
def test_frames_of_an_interpolation_stay(sg2: Any, net: Path, options: list[str]) -> None:
    photo("85.png")
    frames = ["interpolate", "--latents", "0,1", "--frames", "3", "--out", "o/85/frames"]
    assert sg2(*frames, "-n", net).code == 0
    before = {path: path.read_bytes() for path in Path("o/85/frames").iterdir()}
    intact = own("o/85/frames/0000009.png", "o/85/frames/²³.png", "o/85/.sg2-notes.tmp")
    assert sg2("project", "85.png", "-n", net, *STEPS, "--out", "o", *options).code == 0
    assert len(before) == 3 and all(path.read_bytes() == before[path] for path in before)
    intact()


@pytest.mark.parametrize("options", [[], ["--save-video"], ["--save-video", "--overwrite"]])
def test_a_link_named_frames_is_not_followed(sg2: Any, net: Path, options: list[str]) -> None:
    photo("85.png")
    intact = own("holiday/0000001.png", "holiday/0000002.png")
    Path("o/85").mkdir(parents=True)
    Path("o/85/frames").symlink_to(Path("holiday").resolve())
    assert sg2("project", "85.png", "-n", net, *STEPS, "--out", "o", *options).code == 0
    intact()


NAMES = ["history.csv", "loss.png", "target.png", "projected.png", "compare.png", "film.gif"]
NAMES += ["film.mp4", "projected_w.npz", "tuned.safetensors", "tuning.safetensors"]
NAMES += ["snapshot.safetensors", "projected.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_resume_replaces_nothing_that_sg2_did_not_write(sg2: Any, net: Path, name: str) -> None:
    photo("me.png")
    intact = own(f"o/me/{name}")
    options = ["--save-video", "--save-npz", "--tune", "--tune-steps", "1", "--out", "o"]
    result = sg2("project", "me.png", "-n", net, *STEPS, *options, "--resume")
    intact()
    other_video = name.startswith("film") and result.code == 0  # the one that is not written
    assert other_video or name in one_line(result.err)


def test_a_summary_of_the_users_own_stays(sg2: Any, net: Path) -> None:
    photo("a.png"), photo("b.png", 1)
    intact = own("o/summary.csv")
    args = ["project", "a.png", "b.png", "-n", net, *STEPS, "--out", "o"]
    assert "summary.csv exists" in one_line(sg2(*args).err)
    result = sg2(*args, "--resume")
    assert result.code == 1 and "summary.csv exists and is not as sg2 wrote it" in result.err
    intact()


def test_a_summary_that_was_edited_stays(sg2: Any, net: Path) -> None:
    photo("a.png"), photo("b.png", 1)
    args = ["project", "a.png", "b.png", "-n", net, *STEPS, "--out", "o"]
    assert sg2(*args).code == 0
    assert sg2(*args, "--resume").code == 0  # ours is replaced
    with Path("o/summary.csv").open("a") as file:
        file.write("my notes\n")
    assert sg2(*args, "--resume").code == 1
    assert Path("o/summary.csv").read_text().endswith("my notes\n")


@pytest.mark.parametrize("edited", [False, True])
def test_overwrite_removes_only_what_an_earlier_run_wrote(
    sg2: Any, net: Path, edited: bool
) -> None:
    """Of what the new run does not write itself."""
    photo("me.png")
    args = ["project", "me.png", "-n", net, *STEPS, "--out", "o"]
    assert sg2(*args, "--save-npz", "--tune", "--tune-steps", "1").code == 0
    intact = own("o/me/film.gif", "o/me/film.mp4")
    if edited:
        intact = own("o/me/film.gif", "o/me/projected_w.npz", "o/me/tuned.safetensors")
    assert sg2(*args, "--overwrite").code == 0
    intact()
    for name in ("projected_w.npz", "tuned.safetensors"):
        assert Path("o/me", name).exists() == edited


def test_the_result_before_stays_until_the_new_one_is_there(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sg2cli.inversion.search import Search

    photo("a.png"), photo("b.png", 1)
    args = ["project", "a.png", "b.png", "-n", net, "--batch", "1", "--out", "o"]
    assert sg2(*args, *STEPS).code == 0
    before = {path: path.read_bytes() for path in Path("o").glob("?/*.*g")}
    take = Search.step

    def interrupt(run: Any, part: float = 0) -> None:
        if run.state.step == 2:
            raise KeyboardInterrupt
        take(run, part)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "step", interrupt)
        stopped = sg2(*args, "--steps", "3", "--overwrite")
    assert stopped.code == 130
    assert all(path.read_bytes() == content for path, content in before.items())
    # The command that is printed goes on, also for the photo whose turn had not come.
    command = shlex.split(stopped.err.strip().split("to continue: ")[1])
    assert command[:3] == ["sg2", "project", "--resume"] and "--overwrite" not in command
    assert sg2(*command[1:]).code == 0
    for name in "ab":
        assert len(Path(f"o/{name}/history.csv").read_text().splitlines()) == 1 + 3
    assert sg2(*args, *STEPS, "--resume").code == 1  # other settings, as ever


@pytest.mark.parametrize(
    "names",
    [
        ["tuned.safetensors.png", "tuning.safetensors.png"],
        ["summary.csv.png", "SUMMARY.csv.png"],
        [".sg2.png", ".SG2.jpg"],
        ["x/a.png", "y/A.png", "z/a.jpg", "a-2.png"],
        ["x/\u00e9.png", "y/e\u0301.png"],
    ],
)
def test_names_of_photos_do_not_collide(sg2: Any, net: Path, names: list[str]) -> None:
    for seed, name in enumerate([*names, "other.png"]):
        photo(name, seed)
    args = ["project", *names, "other.png", "-n", net, *STEPS, "--out", "o"]
    result = sg2(*args, "--tune", "together", "--tune-steps", "1")
    assert result.code == 0, result.err
    assert Path("o/summary.csv").is_file() and Path("o/tuned.safetensors").is_file()
    folders = [path.parent.name for path in Path("o").glob("*/projected.safetensors")]
    assert len({name.casefold() for name in folders}) == len(names) + 1
    assert sg2(*args, "--tune", "together", "--tune-steps", "1", "--resume").code == 0


def test_a_photo_is_not_replaced_by_its_own_result(sg2: Any, net: Path) -> None:
    photo("o/target/target.png")
    Path("link").symlink_to("o")
    before = Path("o/target/target.png").read_bytes()
    for out in ("o", "link"):
        args = ["project", "o/target/target.png", "-n", net, *STEPS, "--out", out, "--overwrite"]
        result = sg2(*args)
        assert result.code == 2 and "would replace o/target/target.png" in one_line(result.err)
    assert Path("o/target/target.png").read_bytes() == before


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "--seeds", "0", "--save-latents", "net.safetensors"],
        ["generate", "--latents", "l.npz[0]", "--save-latents", "l.npz"],
        ["directions", "--out", "net.safetensors"],
        ["convert", "net.safetensors", "net.safetensors", "--merge", "l.npz"],
        ["generate", "--seeds", "0", "--out", "o.npz", "--save-latents", "o.npz"],
    ],
)
def test_what_is_read_is_not_overwritten(sg2: Any, net: Path, args: list[str]) -> None:
    saved = ["generate", "-n", net, "--seeds", "0,1", "--save-latents", "l.npz", "--out", "x"]
    assert sg2(*saved).code == 0
    before = {path: path.read_bytes() for path in (net, Path("l.npz"))}
    args = [*args, *([] if args[0] == "convert" else ["-n", str(net)])]
    result = sg2(*args, "--overwrite")
    assert result.code == 2 and "name" in one_line(result.err)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_name_that_is_taken_is_found_before_the_first_step(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sg2cli.inversion.search import Search

    def steps(*_: Any) -> None:
        raise AssertionError("it takes a step")

    monkeypatch.setattr(Search, "step", steps)
    photo("me.png"), photo("b.png")
    intact = own("o/me/compare.png", "p/summary.csv")
    assert sg2("project", "me.png", "-n", net, "--out", "o", "--resume").code == 1
    assert sg2("project", "me.png", "b.png", "-n", net, "--out", "p", "--resume").code == 1
    intact()


def test_replacing_is_allowed_for_the_photos_of_that_run_only(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sg2cli.inversion.search import Search

    for name in "abc":
        photo(f"{name}.png", ord(name))
    args = ["-n", net, "--batch", "1", "--out", "o"]
    assert sg2("project", "a.png", "b.png", *args, "--steps", "2").code == 0

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Search, "step", interrupt)
        assert sg2("project", "a.png", *args, "--steps", "3", "--overwrite").code == 130
    intact = own("o/c/target.png")
    for name in "bc":
        assert sg2("project", f"{name}.png", *args, "--steps", "3", "--resume").code == 1
    photo("x/a.png", 5)  # another photo of that name
    assert sg2("project", "x/a.png", *args, "--steps", "3", "--resume").code == 1
    intact()
    assert sg2("project", "a.png", *args, "--steps", "3", "--resume").code == 0


def without_records(folder: str) -> None:
    """As versions left it that kept no record."""
    for own_folder in [*Path(folder).rglob(".sg2")]:
        shutil.rmtree(own_folder)


def test_of_older_versions_only_what_shows_its_origin_is_ours(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("me.png")
    args = ["project", "me.png", "-n", net, "--steps", "3", "--out", "o"]
    assert sg2(*args).code == 0
    without_records("o")
    intact = own("o/me/film.mp4", "o/me/film.gif", "o/me/projected_w.npz")
    assert sg2(*args, "--overwrite").code == 0
    intact()

    # Killed before its latent was written.
    Path("o/me/projected.safetensors").unlink()
    without_records("o")
    assert sg2(*args, "--resume").code == 0
    Path("o/me/projected.safetensors").unlink()
    without_records("o")
    intact = own("o/me/target.png")
    assert sg2(*args, "--resume").code == 1
    intact()


# What is kept.


DRAWING = {
    "generate": ["generate", "--seeds", "0-2"],
    "grid": ["generate", "--seeds", "0-2", "--grid"],
    "mix": ["mix", "--rows", "0", "--cols", "1,2"],
    "truncate": ["truncate", "--seeds", "0"],
    "frames": ["interpolate", "--latents", "0,1", "--frames", "3"],
    "edit": ["edit", "0", "--direction", "sefa:0"],
}


@pytest.mark.parametrize("command", DRAWING)
@pytest.mark.parametrize("damage", ["cut", "painted", "resized"])
def test_changed_images_are_not_kept_and_not_replaced(
    sg2: Any, net: Path, command: str, damage: str
) -> None:
    args = [*DRAWING[command], "-n", net, "--out", "o"]
    assert sg2(*args).code == 0
    path = sorted(Path("o").glob("*.png"))[0]
    with PIL.Image.open(path) as image:
        info = PIL.PngImagePlugin.PngInfo()
        info.add_text("sg2", image.info["sg2"])
        changed = image.convert("RGB")
    if damage == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - 30])
    elif damage == "painted":
        changed.paste("red", (0, 0, *changed.size))
        changed.save(path, pnginfo=info)
    else:
        changed.resize((9, 9)).save(path, pnginfo=info)
    before = path.read_bytes()
    result = sg2(*args, "--skip-existing")
    assert result.code == 1 and str(path) in result.err
    assert path.read_bytes() == before
    assert sg2(*args, "--overwrite").code == 0
    assert sg2(*args, "--skip-existing").code == 0


@pytest.mark.parametrize("format", ["jpg", "webp"])
def test_changed_images_of_other_formats(sg2: Any, net: Path, format: str) -> None:
    args = ["generate", "-n", net, "--seeds", "0-2", "--format", format, "--out", "o", "--grid"]
    assert sg2(*args).code == 0
    assert sg2(*args, "--skip-existing").code == 0
    for name in ("seed0001", "grid"):
        path = Path(f"o/{name}.{format}")
        with PIL.Image.open(path) as image:
            exif = image.getexif()
            changed = image.convert("RGB")
        changed.paste("red", (0, 0, *changed.size))
        changed.save(path, exif=exif)
        before = path.read_bytes()
        result = sg2(*args, "--skip-existing")
        assert result.code == 1 and f"{path} was changed" in result.err
        assert path.read_bytes() == before


def test_changed_latents_are_not_kept(sg2: Any, net: Path) -> None:
    args = ["generate", "-n", net, "--seeds", "0-2", "--save-latents", "a.safetensors"]
    assert sg2(*args).code == 0
    path = Path("a.safetensors")
    changed = path.read_bytes()[:-2] + b"\x01\x02"
    path.write_bytes(changed)
    result = sg2(*args, "--skip-existing")
    assert result.code == 1 and "settings, or changed after sg2 wrote it" in result.err
    assert path.read_bytes() == changed


def test_a_result_whose_latent_was_changed_is_not_kept(sg2: Any, net: Path) -> None:
    photo("me.png")
    args = ["project", "me.png", "-n", net, *STEPS, "--out", "o"]
    assert sg2(*args).code == 0
    path = Path("o/me/projected.safetensors")
    path.write_bytes(path.read_bytes()[:-2] + b"\x01\x02")
    result = sg2(*args, "--resume")
    assert result.code == 1 and "changed after sg2 wrote it" in one_line(result.err)


def test_a_result_whose_files_were_changed_is_named(sg2: Any, net: Path) -> None:
    photo("me.png")
    args = ["project", "me.png", "-n", net, *STEPS, "--out", "o"]
    assert sg2(*args).code == 0
    Path("o/me/target.png").unlink()
    Path("o/me/projected.png").write_bytes(b"edited")
    result = sg2(*args, "--resume")
    assert result.code == 0
    for name in ("target.png", "projected.png"):
        assert f"o/me/{name} is missing, or was changed" in result.err
    assert Path("o/me/projected.png").read_bytes() == b"edited"


# What is no file.


def special(path: str, kind: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        Path(path).symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket"])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("a.png", ["generate", "--seeds", "0", "--out", "a.png"]),
        ("a.png", ["generate", "--seeds", "0", "--out", "a.png", "--skip-existing"]),
        ("a.png", ["generate", "--seeds", "0", "--out", "a.png", "--overwrite"]),
        ("o/grid.png", ["generate", "--seeds", "0-1", "--grid", "--out", "o", "--skip-existing"]),
        ("l.safetensors", ["generate", "--seeds", "0", "--save-latents", "l.safetensors"]),
        (
            "l.safetensors",
            ["generate", "--seeds", "0", "--save-latents", "l.safetensors", "--skip-existing"],
        ),
        ("l.npz", ["generate", "--seeds", "0", "--save-latents", "l.npz", "--overwrite"]),
        ("a.gif", ["interpolate", "--latents", "0,1", "--out", "a.gif", "--overwrite"]),
        ("d.safetensors", ["directions", "--out", "d.safetensors", "--overwrite"]),
        ("o/p/snapshot.safetensors", ["project", "p.png", "--out", "o", "--resume"]),
        ("o/p/projected.safetensors", ["project", "p.png", "--out", "o", "--resume"]),
        ("o/p/projected.safetensors", ["project", "p.png", "--out", "o", "--overwrite"]),
        ("o/p/history.csv", ["project", "p.png", "--out", "o", "--resume"]),
        ("c.pt", ["convert", "net.safetensors", "c.pt", "--to", "ada", "--overwrite"]),
    ],
)
def test_outputs_that_are_not_files_are_refused_at_once(
    sg2: Any, net: Path, kind: str, name: str, args: list[str]
) -> None:
    photo("p.png")
    special(name, kind)
    mode = Path(name).lstat().st_mode
    args = [*args, *([] if args[0] == "convert" else ["-n", str(net)])]
    result = sg2(*args, *(STEPS if args[0] == "project" else []))
    assert result.code == 1
    assert f"{name} is a {kind}" in result.err or f"{name} was made" in result.err
    assert Path(name).lstat().st_mode == mode


@pytest.mark.parametrize("name", [".sg2-0123456789abcdef-00000000.tmp", ".sg2-x.tmp", ".sg2-.tmp"])
@pytest.mark.parametrize("kind", ["file", "FIFO", "link"])
def test_names_like_those_of_temporary_files(sg2: Any, net: Path, name: str, kind: str) -> None:
    intact = own("elsewhere")
    Path("out").mkdir()
    if kind == "file":
        intact = own(f"out/{name}")
    elif kind == "FIFO":
        os.mkfifo(f"out/{name}")
    else:
        Path("out", name).symlink_to("../elsewhere")
    assert sg2("generate", "-n", net, "--seeds", "0").code == 0
    assert os.path.lexists(f"out/{name}")
    intact()


def test_an_input_from_a_fifo_is_read(in_tmp: Path, net: Path) -> None:
    photo("p.png")
    command = f"{shlex.join(SG2)} project <(cat p.png) -n net.safetensors --steps 1 --out o"
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert list(Path("o").glob("*/projected.safetensors"))


# Before the work, not after it.


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "--seeds", "0", "--out", "/proc/x"],
        ["generate", "--seeds", "0", "--out", "/proc/x/a.png"],
        ["generate", "--seeds", "0", "--out", "o", "--save-latents", "/proc/l.safetensors"],
        ["interpolate", "--latents", "0,1", "--out", "/proc/a.gif"],
        ["directions", "--out", "/proc/d.safetensors"],
        ["project", "p.png", "--out", "/proc/x"],
        ["convert", "net.safetensors", "/proc/a.pt", "--to", "ada"],
    ],
)
def test_where_nothing_can_be_written_nothing_is_computed(
    sg2: Any, net: Path, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sg2cli.checkpoints.native import Network

    def computes(*_: object) -> None:
        raise AssertionError("it computes")

    monkeypatch.setattr(Network, "load", computes)
    photo("p.png")
    args = [*args, *([] if args[0] == "convert" else ["-n", str(net)])]
    result = sg2(*args)
    assert result.code == 1 and "cannot write" in one_line(result.err)


# An interruption.


@pytest.mark.parametrize("there", [False, True])
def test_stopped_before_the_first_step(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    from sg2cli.inversion.search import Search

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    photo("me.png")
    if there:
        Path("o").mkdir()
    monkeypatch.setattr(Search, "step", interrupt)
    result = sg2("project", "me.png", "-n", net, *STEPS, "--out", "o")
    assert result.code == 130
    assert one_line(result.err) == "sg2: stopped: nothing is written yet"
    assert Path("o").exists() == there and not list(Path().glob("o/*"))


def test_the_bar_is_not_drawn_below_the_note(in_tmp: Path, net: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    def read(terminal: int) -> bytes:
        try:
            return os.read(terminal, 1 << 16)
        except OSError:  # nobody is left at the other end
            return b""

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))  # rows, columns
    args = ["generate", "-n", str(net), "--seeds", "0-99999999", "--out", "o"]
    with subprocess.Popen([*SG2, *args], stderr=end, stdout=subprocess.DEVNULL) as process:
        os.close(end)
        seen = b""
        while b"Generating" not in seen:
            block = read(terminal)
            assert block, seen
            seen += block
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        while block := read(terminal):
            seen += block
    os.close(terminal)
    assert process.returncode == 130
    note = seen.index(b"stopped: ")
    assert b"to continue: sg2 generate --skip-existing" in seen[note:]
    assert b"Generating" not in seen[note:]


INTERRUPTED = {
    "plain": [],
    "overwrite": ["--overwrite"],
    "skip": ["--skip-existing"],
    "latents": ["--save-latents", "l.npz"],
    "latents=": ["--save-latents=l.npy"],
}


@pytest.mark.parametrize("options", INTERRUPTED)
def test_the_printed_command_continues(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    from sg2cli.sampling.output import ImageOutput

    out = "a  b\n\u00a0\u00e9'"
    args = ["generate", "-n", net, "--seeds", "0-9", "--out", out]
    if options == "overwrite":
        assert sg2(*args, "--trunc", "0.5").code == 0  # other settings
        for path in Path(out).glob("*.png"):
            path.touch()
    put = ImageOutput.put

    def interrupt(self: ImageOutput, name: str, *rest: Any) -> None:
        if name == "seed0005":
            while not self.written:
                time.sleep(0.01)
            raise KeyboardInterrupt
        put(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ImageOutput, "put", interrupt)
        stopped = sg2(*args, *INTERRUPTED[options])
    assert stopped.code == 130
    line = stopped.err.strip().split("to continue: ")[1]
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True)
    command = [os.fsdecode(arg) for arg in printed.stdout.split(b"\0")][:-1]
    assert out in command
    assert sg2(*command[1:]).code == 0
    assert len(list(Path(out).glob("*.png"))) == 10
    assert sg2(*args, "--skip-existing").code == 0


# Messages.


def test_names_do_not_control_the_terminal(in_tmp: Path, net: Path) -> None:
    import pty

    terminal, end = pty.openpty()
    args = ["generate", "-n", str(net), "--seeds", "0", "--out", "a\x1b]0;evil\x07b"]
    process = subprocess.Popen([*SG2, *args], stdout=end, stderr=end)
    os.close(end)
    seen = b""
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not block:
            break
        seen += block
    os.close(terminal)
    assert process.wait(60) == 0
    assert b"\x1b]0" not in seen and b"\\x1b]0;evil\\x07b" in seen


def test_photos_from_a_closed_stdin(in_tmp: Path, net: Path) -> None:
    for command in ("project -", "generate --latents -", "info -"):
        photo("p.png")
        line = f"{shlex.join(SG2)} {command} -n net.safetensors <&-"
        line = line.replace(" -n net.safetensors", "") if "info" in command else line
        result = subprocess.run(["bash", "-c", line], capture_output=True, timeout=300, check=False)
        assert result.returncode in (1, 2), (command, result.stderr)
        assert "unexpected" not in one_line(result.stderr.decode())


def test_an_output_that_appears_while_stdin_is_read(in_tmp: Path, net: Path) -> None:
    content = net.read_bytes()
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [*SG2, "convert", "-", "a.pt", "--to", "ada"]
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        time.sleep(3)
        Path("a.pt").write_text("mine")
        _, err = process.communicate(content, timeout=300)
    assert process.returncode == 1
    assert "a.pt exists: --overwrite replaces it" in one_line(err.decode())
    assert Path("a.pt").read_text() == "mine"


@pytest.mark.parametrize("options", [["project", "p.png", *STEPS], ["generate", "--seeds", "0-9"]])
def test_closed_stderr_does_not_end_the_work(in_tmp: Path, net: Path, options: list[str]) -> None:
    photo("p.png")
    command = shlex.join([*SG2, *options, "-n", str(net), "--out", "o"])
    result = subprocess.run(["bash", "-c", f"{command} 2>&-"], capture_output=True, timeout=300)
    assert result.returncode == 0
    closed = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, timeout=300)
    assert closed.returncode == 1
    assert "stdout is closed" in one_line(closed.stderr.decode())


def test_a_bad_backend_of_matplotlib(shell: Any, net: Path) -> None:
    photo("p.png")
    environment = {**os.environ, "MPLBACKEND": "abc"}
    Path("matplotlibrc").write_text("nonsense\n")
    result = shell("project", "p.png", "-n", net, *STEPS, env=environment)
    assert result.returncode == 0, result.stderr
    assert b"nonsense" not in result.stderr and Path("out/p/loss.png").exists()


@pytest.mark.parametrize("name", ["NCOLS", "MININTERVAL", "BAR_FORMAT", "ASCII", "POSITION"])
def test_settings_of_tqdm_in_the_environment(shell: Any, net: Path, name: str) -> None:
    environment = {**os.environ, f"TQDM_{name}": "abc{x}"}
    result = shell("generate", "-n", net, "--seeds", "0", env=environment)
    assert result.returncode == 0, result.stderr


def test_a_working_directory_that_was_deleted(in_tmp: Path, net: Path) -> None:
    script = Path(sys.executable).parent / "sg2"
    for args in ("generate --seeds 0", "doctor", "project ../p.png", "directions"):
        photo("p.png")
        Path("gone").mkdir()
        line = f"cd gone && rmdir ../gone && {script} {args}"
        result = subprocess.run(["bash", "-c", line], capture_output=True, timeout=300, check=False)
        assert result.returncode == 1, (args, result.stderr)
        message = one_line(result.stderr.decode())
        assert message == "sg2: the working directory was deleted: change to another"


@pytest.mark.parametrize("psi", ["1e308", "-1e308", "1e39"])
def test_a_psi_beyond_float32(sg2: Any, net: Path, psi: str) -> None:
    result = sg2("generate", "-n", net, "--seeds", "0", f"--trunc={psi}")
    assert result.code == 2 and "--trunc" in one_line(result.err)


@pytest.mark.parametrize("grid", ["--grid=100000x100000", "--grid=999999x999999"])
def test_a_grid_that_no_memory_holds(sg2: Any, net: Path, grid: str) -> None:
    for out in ("o", "a.png", "a.webp"):
        result = sg2("generate", "-n", net, "--seeds", "0", grid, "--out", out)
        assert result.code in (1, 2)
        line = one_line(result.err)
        assert "grid of" in line or "pixels" in line
        assert "--batch" not in line
