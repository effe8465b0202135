"""What holds whatever happens: kills, full disks, crowded folders, little memory, no network."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import killing
import numpy as np
import PIL.Image
import pytest
import torch
from networks import GOLDEN, random_generator

from sg2cli import checkpoints, ops
from sg2cli.storage import atomic
from sg2cli.storage.atomic import NameTaken, make_folder, new_file
from tests.conftest import SG2, one_line


@pytest.fixture
def net(in_tmp: Path) -> Path:
    """A network of 16x16 pixels in an otherwise empty folder."""
    checkpoints.save_generator(random_generator(conv_clamp=1.0), in_tmp / "net.safetensors", {})
    return Path("net.safetensors")


def photo(name: str, seed: int = 0) -> None:
    pixels = np.random.RandomState(seed).randint(0, 256, (16, 16, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(name)


# Kills and signals.


@pytest.mark.parametrize("name", killing.COMMANDS)
def test_killed_at_any_moment(in_tmp: Path, name: str) -> None:
    killing.prepare(in_tmp)
    seconds = killing.unbroken(in_tmp, name)
    assert not list(killing.kill(in_tmp, name, seconds, 2, random.Random(name)))


NAMES = ("expected", "near", "far", "cut")


def test_what_the_kills_find(in_tmp: Path) -> None:
    """The check itself: a file cut short, one too many and one too few are reported."""
    for folder, names in {"a-whole": "123", "a": "124"}.items():
        Path(folder).mkdir()
        for file in names:
            Path(folder, file).write_text("half" if folder + file == "a1" else "whole")
    found = list(killing.differences(Path("a-whole"), Path("a"), whole=True))
    assert len(found) == 2
    assert "a/1 is not" in found[0] and "['3', '4']" in found[1]
    for name, value in (("expected", 100), ("near", 101), ("far", 102)):
        PIL.Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(f"{name}.png")
    Path("cut.png").write_bytes(Path("expected.png").read_bytes()[:-20])
    alike = {name: killing.alike(Path(f"{name}.png"), Path("expected.png")) for name in NAMES}
    assert alike == {"expected": True, "near": True, "far": False, "cut": False}
    owned = killing.plant(Path("b"))
    assert not list(killing.lost(owned))
    Path("b/notes.txt").unlink()
    Path("b/0/frames/0000001.png").write_text("changed")
    Path("b-outside/0000001.png").unlink()
    assert len(list(killing.lost(owned))) == 3


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["mix", "frames", "video", "project"])
def test_signals_end_with_a_message(in_tmp: Path, name: str, kind: int, code: int) -> None:
    killing.prepare(in_tmp)
    more = ["--frames", "100000"] if name in ("frames", "video") else []
    more = ["--cols", "50-9999"] if name == "mix" else more
    more = ["--steps", "2000"] if name == "project" else more
    with killing.start(in_tmp, name, "out", more) as process:
        deadline = time.monotonic() + 300
        while not list(Path("out").rglob("*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(kind)
        _, message = process.communicate(timeout=300)
    assert process.returncode == code
    assert "stopped" in one_line(message.decode())
    assert not list(Path("out").rglob(".sg2-*"))


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_conversion_that_is_stopped(in_tmp: Path, kind: int, code: int) -> None:
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*SG2, "convert", "-", "a.safetensors"], **pipes) as process:  # type: ignore[call-overload]
        time.sleep(3)  # it waits for the file
        process.send_signal(kind)
        _, message = process.communicate(timeout=300)
    assert process.returncode == code
    assert "a.safetensors is not written" in one_line(message.decode())
    assert list(Path().iterdir()) == []


def test_what_a_killed_run_left_is_cleaned(tmp_path: Path) -> None:
    """And nothing else: not what another process, or this one, is writing."""
    (dead, left), (alive, file) = (atomic._temporary(tmp_path) for _ in range(2))
    left.close()
    theirs = tmp_path / ".sg2-4567.tmp"
    theirs.write_text("of the user")
    with file, new_file(tmp_path / "a") as mine:
        make_folder(tmp_path)
        assert not dead.exists()
        assert alive.exists() and theirs.exists()
        mine.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert {path.name for path in tmp_path.iterdir()} == {theirs.name, alive.name, "a"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """On disks that have no links, too."""
    if not links:

        def no_links(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a"
    with pytest.raises(NameTaken), new_file(path) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]
    with new_file(path, overwrite=True) as file:
        file.write(b"ours")
    with new_file(tmp_path / "b") as file:
        file.write(b"ours")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"ours"] * 2


def test_cleaning_beside_writing_loses_nothing(tmp_path: Path) -> None:
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            make_folder(tmp_path)

    thread = threading.Thread(target=clean)
    thread.start()
    try:
        for i in range(500):
            with new_file(tmp_path / str(i)) as file:
                file.write(b"whole")
    finally:
        stop.set()
        thread.join()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(500))


# Disks and folders.


@pytest.mark.parametrize(
    ("size", "args"),
    [
        (900, ["mix", "--rows", "0-3", "--cols", "4-7"]),
        (900, ["truncate", "--seeds", "0-3"]),
        (900, ["interpolate", "--latents", "0-3", "--out", "out/a.gif"]),
        (900, ["directions", "--out", "out/d.safetensors"]),
        (900, ["generate", "--seeds", "0", "--save-latents", "out/a.safetensors"]),
        (900, ["convert", "net.safetensors", "out/a.pt", "--to", "ada"]),
        (900, ["project", "photo.png", "--steps", "1"]),
        (60_000, ["project", "photo.png", "--steps", "1", "--save-video"]),
    ],
)
def test_a_full_disk(shell: Any, net: Path, size: int, args: list[str]) -> None:
    """A limit on the size of files stands in for it."""
    photo("photo.png")
    args = [*args, *([] if args[0] == "convert" else ["-n", str(net)])]
    whole = shell(*args, "--overwrite")
    assert whole.returncode == 0, whole.stderr
    expected = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    for path in expected:
        path.unlink()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    result = shell(*args, preexec_fn=limit)
    if size < max(map(len, expected.values())):
        assert result.returncode == 1
        assert "file too large" in one_line(result.stderr.decode())
    for path in filter(Path.is_file, Path("out").rglob("*")):
        assert path.name.startswith("snapshot") or path.read_bytes() == expected[path]


def unprivileged() -> None:
    """What root may read and write, whatever its mode, is not so for this process any more."""
    drop, read, override = 24, 2, 1  # PR_CAPBSET_DROP and two capabilities
    for capability in (read, override):
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "--seeds", "0", "--out", "fixed"], "cannot write into fixed"),
        (["generate", "--seeds", "0", "--out", "fixed/new/a.png"], "cannot write into fixed/new"),
        (["generate", "--seeds", "0", "--out", "locked/a.png"], "cannot access locked/a.png"),
        (["generate", "--seeds", "0", "-n", "locked/a"], "cannot access locked/a"),
        (["generate", "--latents", "locked/a.npy"], "cannot access locked/a.npy"),
        (["generate", "--latents", "closed.npy"], "cannot read closed.npy"),
        (["interpolate", "--latents", "0,1", "--out", "fixed/a.gif"], "cannot write into fixed"),
        (["directions", "--out", "fixed/a.safetensors"], "cannot write into fixed"),
        (["project", "photo.png", "--out", "fixed"], "cannot write into fixed"),
        (["project", "locked"], "cannot read or write locked"),
        (["project", "locked/a.png"], "cannot access locked/a.png"),
        (["project", "closed.png"], "cannot read closed.png"),
        (["convert", "net.safetensors", "fixed/a.pt", "--to", "ada"], "cannot write into fixed"),
        (["convert", "closed.pt", "a.safetensors"], "closed.pt"),
        (["info", "closed.png"], "cannot read closed.png"),
    ],
)
def test_what_may_not_be_read_or_written(
    shell: Any, net: Path, args: list[str], message: str
) -> None:
    photo("photo.png")
    Path("fixed").mkdir(mode=0o555)
    Path("locked").mkdir(mode=0)
    for name in ("closed.npy", "closed.png", "closed.pt"):
        Path(name).write_bytes(b"x")
        Path(name).chmod(0)
    args = [*args, *([] if {"-n", "convert", "info"} & set(args) else ["-n", str(net)])]
    result = shell(*args, preexec_fn=unprivileged)
    assert result.returncode == 1
    line = one_line(result.stderr.decode())
    assert message in line and "permission denied" in line
    assert not list(Path("fixed").iterdir())


def test_a_folder_removed_on_the_way(in_tmp: Path) -> None:
    killing.prepare(in_tmp)
    with killing.start(in_tmp, "generate", "out", ["--seeds", "0-999999"]) as process:
        while not list(Path("out").glob("seed*")):
            time.sleep(0.01)
        Path("out").rename("gone")
        _, message = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "cannot write out/" in one_line(message.decode())
    assert not Path("out").exists()
    for path in Path("gone").glob("seed*.png"):
        with PIL.Image.open(path) as image:
            image.load()


@pytest.mark.parametrize(
    "name",
    ["-out", "a b", "照片", "‮evil", "a\nb", "'\"$(x)", "é", "e\u0301", "x" * 250, "a,b", "a[0]"],
)
def test_names_of_any_kind(sg2: Any, net: Path, name: str) -> None:
    net.rename(f"{name}.st")
    # Only what `--network` reads has to end so, whatever comes before it.
    network = f"./{name}.safetensors"[:257]
    Path(f"{name}.st").rename(Path(network).name)
    assert sg2("generate", "--seeds", "0", "-n", network, f"--out={name}").code == 0
    Path(name, "seed0000.png").rename(f"{name}.png")
    assert sg2("info", "--", f"{name}.png").code == 0
    saved = sg2("generate", "--seeds=1", "-n", network, "--save-latents", f"{name}.npy", "--out=b")
    assert saved.code == 0, saved.err
    assert sg2("generate", "-n", network, f"--latents={name}.npy", "--out=b").code == 0
    args = ["project", "-n", network, "--steps=1", "--out=c", "--", f"{name}.png"]
    assert sg2(*args).code == 0
    assert Path("c", name, "projected.png").exists()


def test_links_are_followed_and_not_replaced_by_halves(sg2: Any, net: Path) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    Path("net2.safetensors").symlink_to(net)
    args = ["generate", "--seeds", "1", "-n", "net2.safetensors", "--out", "link"]
    assert sg2(*args).code == 0
    assert Path("link").is_symlink() and Path("real/seed0001.png").exists()
    Path("real/seed0001.png").unlink()
    Path("real/seed0001.png").symlink_to("nowhere.png")  # its name is taken, but nothing is there
    assert "link/seed0001.png exists" in one_line(sg2(*args).err)
    assert sg2(*args, "--overwrite").code == 0
    assert not Path("real/seed0001.png").is_symlink()


def test_names_taken_by_other_than_files(sg2: Any, net: Path) -> None:
    """A pipe would be waited for, for ever; a link that leads nowhere is there all the same."""
    Path("out").mkdir()
    os.mkfifo("out/seed0001.png")
    Path("out/seed0002.png").symlink_to("nowhere.png")
    Path("out/seed0003.png").mkdir()
    result = sg2("generate", "-n", net, "--seeds", "0-4", "--skip-existing")
    assert result.code == 1
    assert result.lines == ["out/seed0000.png", "out/seed0004.png"]
    assert "3 of 5 images failed: seed0001, seed0002, seed0003" in result.err


def test_pipes_in_a_folder_of_photos(sg2: Any, net: Path) -> None:
    Path("in").mkdir()
    photo("in/a.png")
    os.mkfifo("in/b.png")
    Path("in/c.png").mkdir()
    Path("in/d.png").symlink_to("nowhere.png")
    result = sg2("project", "-n", net, "in", "--steps", "1", "-q")
    assert result.code == 1
    assert "1 of 2 photos failed: in/d.png" in one_line(result.err)
    assert Path("out/a/projected.png").exists()


def test_a_hundred_thousand_files_in_a_folder(sg2: Any, net: Path) -> None:
    Path("out").mkdir()
    for i in range(100_000):
        Path("out", f"other{i}").touch()
    start = time.process_time()
    assert sg2("generate", "-n", net, "--seeds", "0-9").code == 0
    assert sg2("generate", "-n", net, "--seeds", "0-9", "--skip-existing").code == 0
    assert time.process_time() - start < 20  # looking at each of them for each image takes more


# Two at once.


def test_two_runs_share_a_folder(in_tmp: Path) -> None:
    killing.prepare(in_tmp)
    killing.unbroken(in_tmp, "generate")
    more = ["--skip-existing", "--json"]
    both = [killing.start(in_tmp, "generate", "out", more) for _ in range(2)]
    summaries = []
    for process in both:
        out, message = process.communicate(timeout=600)
        assert process.returncode == 0, message
        summaries.append(json.loads(out.splitlines()[-1])["summary"])
    assert not list(killing.differences(Path("generate-whole"), Path("out"), whole=True))
    assert sum(summary["done"] for summary in summaries) == 4001
    assert all(summary["done"] + summary["skipped"] == 4001 for summary in summaries)


def test_two_projections_do_not_share_a_folder(in_tmp: Path) -> None:
    killing.prepare(in_tmp)
    with killing.start(in_tmp, "project", "out", ["--steps", "100000"]) as first:
        while not list(Path("out").rglob("*")):
            time.sleep(0.01)
        with killing.start(in_tmp, "project", "out", ["--resume"]) as second:
            _, message = second.communicate(timeout=300)
        first.terminate()
        first.communicate(timeout=300)
    assert second.returncode == 1
    assert "another sg2 project is writing to out" in one_line(message.decode())


def test_shards_are_a_whole(sg2: Any, net: Path) -> None:
    args = ["generate", "-n", net, "--seeds", "3,0-9", "--latents", "avg,7"]
    whole = sg2(*args, "--out", "whole").lines
    shares = [sg2(*args, "--shard", f"{i}/5", "--out", "parts").lines for i in range(1, 6)]
    names = sorted(Path(path).name for share in shares for path in share)
    assert names == sorted(Path(path).name for path in whole)  # each once
    assert {len(share) for share in shares} == {2, 3}
    for name in names:
        ours, theirs = (np.asarray(PIL.Image.open(Path(f, name))) for f in ("parts", "whole"))
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_more_shards_than_images(sg2: Any, net: Path) -> None:
    result = sg2("generate", "-n", net, "--seeds", "0-1", "--shard", "3/3")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shard", "0/8"], "is not a shard"),
        (["--shard", "9/8"], "is not a shard"),
        (["--shard", "1/0"], "is not a shard"),
        (["--shard", "1"], "is not a shard"),
        (["--shard", "1/2", "--grid"], "--grid cannot be used with --shard"),
        (
            ["--shard", "1/2", "--save-latents", "a.npz"],
            "--save-latents cannot be used with --shard",
        ),
    ],
)
def test_no_shards(sg2: Any, net: Path, args: list[str], message: str) -> None:
    result = sg2("generate", "-n", net, "--seeds", "0-1", *args)
    assert result.code == 2
    assert message in one_line(result.err)


# Memory.


def out_of_memory(above: int) -> Callable[..., torch.Tensor]:
    """The styled convolution on a device that has room for so many images."""
    whole = ops.styled_convs

    def limited(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if len(x) > above:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(x, *args, **options)

    return limited


def test_batches_are_halved_without_memory(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["-n", net, "--seeds", "0-19", "--batch", "16"]
    assert sg2("generate", *args, "--out", "whole").code == 0
    monkeypatch.setattr("sg2cli.ops.styled_convs", out_of_memory(above=5))
    result = sg2("generate", *args)
    assert result.code == 0
    message = [line.partition(": ")[2] for line in result.err.splitlines()]
    assert message == [f"out of memory: continuing with {n} images at once" for n in (8, 4)]
    for path in result.lines:
        ours, theirs = (np.asarray(PIL.Image.open(f)) for f in (path, path.replace("out", "whole")))
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    monkeypatch.setattr("sg2cli.ops.styled_convs", out_of_memory(above=0))
    result = sg2("generate", *args, "--overwrite", "-q")
    assert result.code == 1
    assert "out of memory: use a smaller --batch" in one_line(result.err)


def test_onednn_that_failed_once_fails_in_its_thread_for_good(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it had no memory for its scratchpad, it lacks one for all that comes after."""
    failed = set()
    whole = ops.styled_convs

    def limited(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        thread = threading.current_thread()
        if len(x) > 4 or thread in failed:
            failed.add(thread)
            raise RuntimeError("could not create a primitive")
        return whole(x, *args, **options)

    monkeypatch.setattr("sg2cli.ops.styled_convs", limited)
    result = sg2("generate", "-n", net, "--seeds", "0-9", "--batch", "16")
    assert result.code == 0, result.err
    assert len(result.lines) == 10
    assert len(failed) == 2


def test_photos_are_halved_without_memory(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        photo(f"{seed}.png", seed)
    args = ["project", "-n", net, "--steps", "3", *(f"{i}.png" for i in range(4))]
    assert sg2(*args, "--out", "whole", "--batch", "2").code == 0
    monkeypatch.setattr("sg2cli.ops.styled_convs", out_of_memory(above=2))
    result = sg2(*args, "--batch", "4")
    assert result.code == 0, result.err
    assert "out of memory: continuing with 2 photos at once" in result.err
    for i in range(4):
        ours, theirs = (Path(f, str(i), "projected.png").read_bytes() for f in ("out", "whole"))
        assert ours == theirs
    assert not list(Path("out").rglob("snapshot*"))


def test_little_address_space(shell: Any) -> None:
    """Room for a few images of 64x64 at once, not for 4096."""
    peak = "import resource as r; from sg2cli.cli.main import run; run(['generate', '--seeds', '0',"
    peak += (
        "'--out', 'one']); print(open('/proc/self/status').read().split('VmPeak:')[1].split()[0])"
    )
    one = subprocess.run([sys.executable, "-c", peak], capture_output=True, check=True)
    room = (int(one.stdout.split()[-1]) << 10) + (512 << 20)
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (room, room))  # noqa: E731
    result = shell("generate", "--seeds", "0-99", "--batch", "4096", preexec_fn=limit)
    assert result.returncode == 0, result.stderr
    assert b"out of memory" in result.stderr
    assert len(result.stdout.split()) == 100


# The network.


def test_no_command_connects(sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **options: Any) -> Any:
        raise AssertionError("no command may connect unasked")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    photo("a.png")
    n = ["-n", str(net)]
    commands: Sequence[Sequence[object]] = [
        ["generate", *n, "--seeds", "0"],
        ["mix", *n, "--rows", "0", "--cols", "1", "--out", "m"],
        ["truncate", *n, "--seeds", "0", "--out", "t"],
        ["interpolate", *n, "--latents", "0,1", "--frames", "2", "--out", "f"],
        ["project", *n, "a.png", "--steps", "1", "--out", "p", "--tune", "--tune-steps", "1"],
        ["directions", *n, "--out", "d.safetensors"],
        ["edit", *n, "0", "--direction", "d.safetensors:0", "--out", "e"],
        ["convert", str(net), "a.pt", "--to", "ada"],
        ["convert", GOLDEN / "formats/ada-cond-32.pkl", "b.safetensors"],
        ["info", str(net)],
        ["doctor", *n],
    ]
    for command in commands:
        result = sg2(*command)
        assert result.code == 0, (command, result.err)
    assert sg2("convert", "http://localhost:1/a.pkl", "c.safetensors").code == 1  # asked for


# Long runs.


def test_a_run_over_good_and_bad_photos_sums_up(sg2: Any, net: Path) -> None:
    Path("in").mkdir()
    for seed in range(4):
        photo(f"in/{seed}.png", seed)
    Path("in/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("in/empty.jpg").touch()
    args = ["project", "-n", net, "in", "--steps", "1", "--json"]
    assert sg2(*args[:3], "in/2.png", *args[4:]).code == 0
    result = sg2(*args, "--resume")
    assert result.code == 1
    summary = json.loads(result.lines[-1])["summary"]
    assert {**summary, "failed": sorted(summary["failed"])} == {
        "done": 3,
        "skipped": 1,
        "failed": ["in/bad.png", "in/empty.jpg"],
    }
    *_, counts, error = result.err.splitlines()
    assert counts == "sg2: 3 written, 1 skipped, 2 failed"
    assert error.startswith("sg2: 2 of 6 photos failed: in/bad.png, in/empty.jpg")


def test_resident_size_is_flat(in_tmp: Path) -> None:
    """Between the 1,000th and the 3,000th image of 10,000,000; `make soak` has 10,000."""
    first, last = killing.resident_sizes(in_tmp, (1000, 3000))
    assert last < first * 1.03  # an arena more is no leak; 2,000 images that stay are 24 MB
