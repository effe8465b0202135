"""`sg2 generate` as users call it."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from networks import GOLDEN, golden, random_generator
from safetensors.numpy import load_file

from sg2cli import checkpoints
from sg2cli.errors import Sg2Error
from sg2cli.images import codecs
from sg2cli.images.pixels import to_pixels
from sg2cli.provenance import HASH_KEY
from sg2cli.sampling import cells
from tests.conftest import SG2, one_line

HASH = checkpoints.find_network().sha256


def pixels(path: str | Path) -> Any:
    with PIL.Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def classes(in_tmp: Path) -> str:
    G = random_generator(c_dim=3, embed_features=4)
    checkpoints.save_generator(G, Path("classes.safetensors"), {})
    return "classes.safetensors"


def test_paths_go_to_stdout_in_order(sg2: Any) -> None:
    result = sg2("generate", "--seeds", "5,0-2")
    assert result.code == 0
    assert result.lines == [f"out/seed000{seed}.png" for seed in (5, 0, 1, 2)]
    assert result.err == ""
    assert pixels("out/seed0005.png").shape == (128, 128, 3)
    assert len(list(Path("out").iterdir())) == 4


def test_a_golden_image_comes_out(sg2: Any) -> None:
    """From the file to the pixels: class, psi and cutoff reach the network."""
    _, expected, config = golden("cond-32")
    network = GOLDEN / "cond-32.weights.safetensors"
    for i, (seed, index) in enumerate(zip(config["seeds"], config["classes"], strict=True)):
        args = ["--seeds", seed, "--class", index, "--trunc", 0.7, "--trunc-cutoff", 4]
        assert sg2("generate", "-n", network, *args, "--noise-mode", "none").code == 0
        image = to_pixels(expected["image_psi0.7_cutoff4_none"][[i]])[0]
        assert abs(pixels(f"out/seed{seed:04d}.png").astype(int) - image).max() <= 1


def test_the_provenance_of_an_image(sg2: Any) -> None:
    (line,) = sg2("generate", "--seeds", "7", "--trunc", "0.5", "--json").lines
    account = json.loads(line)
    assert account.pop("path") == "out/seed0007.png"
    assert account == {
        "checkpoint": HASH,
        "seed": 7,
        "psi": 0.5,
        "cutoff": None,
        "class": None,
        "noise_mode": "const",
        "precision": "fp32",
        "version": "0.1.0",
    }
    provenance = codecs.inspect_image(Path("out/seed0007.png"))[2]
    assert provenance and len(provenance.pop(HASH_KEY)) == 64
    assert provenance == account


@pytest.mark.parametrize(
    ("args", "size"),
    [(["--grid"], (4, 2)), (["--grid=3x5"], (3, 5)), (["--grid", "8x1"], (8, 1))],
)
def test_a_grid_in_a_folder_comes_with_its_images(sg2: Any, args: Any, size: Any) -> None:
    result = sg2("generate", "--seeds", "0-7", *args)
    assert result.lines[-1] == "out/grid.png"
    assert len(result.lines) == 9
    grid = pixels("out/grid.png")
    assert grid.shape == (128 * size[1], 128 * size[0], 3)
    x, y = 5 % size[0] * 128, 5 // size[0] * 128
    np.testing.assert_array_equal(grid[y : y + 128, x : x + 128], pixels("out/seed0005.png"))


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (2, (2, 1)), (7, (3, 3)), (12, (4, 3)), (32, (8, 4))]
)
def test_grid_alone_is_nearly_square(count: int, shape: tuple[int, int]) -> None:
    from sg2cli.sampling.drawing import grid_shape

    assert grid_shape(count) == shape


def test_a_grid_in_a_file_comes_alone(sg2: Any) -> None:
    assert sg2("generate", "--seeds", "0-3", "--grid", "--out", "a/b.png").lines == ["a/b.png"]
    assert [path.name for path in Path("a").iterdir()] == ["b.png"]


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.webp"])
def test_a_file_takes_its_format_from_its_name(sg2: Any, name: str) -> None:
    assert sg2("generate", "--seeds", "3", "--out", name).lines == [name]
    with PIL.Image.open(name) as image:
        assert image.format in ("PNG", "JPEG", "WEBP")
        assert (image.format == "PNG") == name.endswith("png")
    assert codecs.inspect_image(Path(name))[2]["seed"] == 3  # type: ignore[index]


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_formats(sg2: Any, format: str) -> None:
    assert sg2("generate", "--seeds", "3", "--format", format).lines == [f"out/seed0003.{format}"]


def test_an_existing_file_is_kept_unless_told(sg2: Any) -> None:
    assert sg2("generate", "--seeds", "0-2").code == 0
    before = Path("out/seed0002.png").stat().st_mtime_ns
    clash = sg2("generate", "--seeds", "2-3")
    assert clash.code == 1
    message = one_line(clash.err)
    assert (
        "out/seed0002.png" in message and "--overwrite" in message and "--skip-existing" in message
    )
    assert clash.out == ""
    assert not Path("out/seed0003.png").exists()
    assert Path("out/seed0002.png").stat().st_mtime_ns == before
    assert sg2("generate", "--seeds", "2", "--overwrite").lines == ["out/seed0002.png"]
    assert Path("out/seed0002.png").stat().st_mtime_ns > before


def test_skip_existing_continues(sg2: Any) -> None:
    sg2("generate", "--seeds", "0-4", "--batch", "2")
    expected = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    Path("out/seed0001.png").unlink()
    Path("out/seed0003.png").unlink()
    result = sg2("generate", "--seeds", "0-4", "--batch", "2", "--skip-existing")
    assert result.lines == ["out/seed0001.png", "out/seed0003.png"]
    assert "2 written, 3 skipped" in result.err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == expected
    other = sg2("generate", "--seeds", "0-4", "--skip-existing", "--trunc", "0.5")
    assert other.code == 1
    *notes, counts, error = other.err.splitlines()
    assert len(notes) == 5 and all("other settings" in note for note in notes)
    assert counts == "sg2: 0 written, 0 skipped, 5 failed"
    assert error.startswith("sg2: 5 of 5 images failed: seed0000, seed0001")


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_skip_existing_completes_a_grid_from_what_is_there(sg2: Any, format: str) -> None:
    args = ["generate", "--seeds", "0-4", "--grid", "--format", format, "--skip-existing"]
    assert len(sg2(*args).lines) == 6
    grid = pixels(f"out/grid.{format}").astype(int)
    assert sg2(*args).lines == []
    Path(f"out/grid.{format}").unlink()
    Path(f"out/seed0003.{format}").unlink()
    assert sg2(*args).lines == [f"out/seed0003.{format}", f"out/grid.{format}"]
    assert abs(pixels(f"out/grid.{format}") - grid).mean() < (0.01 if format == "png" else 2)


def test_saved_latents_draw_the_same_image(sg2: Any) -> None:
    for suffix in ("safetensors", "npz", "npy"):
        save = ["--save-latents", f"l.{suffix}"]
        result = sg2("generate", "--seeds", "0-2", "--trunc", "0.6", "--overwrite", *save)
        assert result.lines[0] == f"l.{suffix}"
        again = sg2("generate", "--latents", f"l.{suffix}[1]", "--out", suffix)
        assert again.lines == [f"{suffix}/l-0001.png"]
        np.testing.assert_allclose(
            pixels(f"{suffix}/l-0001.png").astype(int), pixels("out/seed0001.png"), atol=1
        )
    assert load_file("l.safetensors")["ws"].shape == (3, 12, 256)
    assert np.load("l.npz")["w"].shape == (3, 12, 256)


def test_latents_remember_their_network(sg2: Any) -> None:
    sg2("generate", "--seeds", "0", "--save-latents", "l.safetensors")
    other = random_generator(
        img_resolution=128, channels=(4, 4, 4, 4, 4, 4), w_dim=256, mapping_features=(256,)
    )
    checkpoints.save_generator(other, Path("other.safetensors"), {})
    result = sg2("generate", "-n", "other.safetensors", "--latents", "l.safetensors", "--out", "o")
    assert result.code == 0
    assert "warning: l was made with another network" in result.err
    assert sg2("generate", "--latents", "l.safetensors", "--out", "p").err == ""


def test_skip_existing_and_saved_latents(sg2: Any) -> None:
    args = ["generate", "--seeds", "0", "--save-latents", "l.safetensors", "--skip-existing"]
    assert sg2(*args).lines == ["l.safetensors", "out/seed0000.png"]
    assert sg2(*args).lines == []
    assert (
        "l.safetensors was made with other settings"
        in sg2(*args, "--trunc", "0.5", "--out", "o").err
    )
    assert "--overwrite" in sg2(*args[:-1], "--out", "o").err


def test_noise_of_latents_is_saved_with_them(sg2: Any) -> None:
    from safetensors.numpy import save_file

    noise = np.random.RandomState(0).randn(64, 64).astype("f4")
    name = "synthesis.b64.conv1.noise_const"
    save_file({"ws": np.zeros((1, 12, 256), "f4"), name: noise}, "a.safetensors")
    args = ["generate", "--latents", "a.safetensors,avg", "--save-latents", "b.safetensors"]
    assert sg2(*args).code == 0
    saved = load_file("b.safetensors")
    np.testing.assert_array_equal(saved[name][0], noise)
    assert not np.array_equal(saved[name][1], noise)
    assert sg2("generate", "--latents", "b.safetensors").lines[0] == "out/b-0000.png"
    np.testing.assert_array_equal(pixels("out/b-0000.png"), pixels("out/a.png"))


def test_options_of_nvidias_scripts_are_known(sg2: Any) -> None:
    sg2("generate", "--seeds", "1", "--save-latents", "projected_w.npz")
    args = ["--outdir", "o", "--trunc", "1", "--noise-mode", "const"]
    assert sg2("generate", "--projected-w", "projected_w.npz", *args).lines == ["o/projected_w.png"]


def test_environment_stands_in_for_options(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SG2_NETWORK", "no-such")
    assert "no network 'no-such'" in sg2("generate", "--seeds", "0").err
    assert sg2("generate", "--seeds", "0", "-n", "avatars-128").code == 0
    monkeypatch.setenv("SG2_NETWORK", "avatars-128")
    monkeypatch.setenv("SG2_PRECISION", "bf16")
    result = sg2("generate", "--seeds", "0", "--json", "--overwrite")
    assert json.loads(result.out)["precision"] == "bf16"
    monkeypatch.setenv("SG2_DEVICE", "cuda:99")
    assert "no device cuda:99" in sg2("generate", "--seeds", "0", "--overwrite").err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--seeds", "7-3"], 2, "did you mean 3-7?"),
        (["--seeds", "x"], 2, "'x' is not a seed"),
        (["--seeds", ""], 2, "'' is not a seed"),
        ([], 2, "give --seeds or --latents"),
        (["--seeds", "1", "--trunc", "half"], 2, "'half' is not a number"),
        (["--seeds", "1", "--trunc", "nan"], 2, "'nan' is out of range"),
        (["--seeds", "1", "--trunc-cutoff", "13"], 2, "beyond this network's 12 rows"),
        (["--seeds", "1", "--trunc-cutoff", "-1"], 2, "--trunc-cutoff"),
        (["--seeds", "1", "--class", "0"], 2, "no classes"),
        (["--seeds", "1", "-n", "classes.safetensors"], 2, "3 classes: give --class 0 to 2"),
        (
            ["--seeds", "1", "-n", "classes.safetensors", "--class", "3"],
            2,
            "class 3 is out of range",
        ),
        (["--seeds", "1", "-n", "missing.safetensors"], 2, "no network 'missing.safetensors'"),
        (["--seeds", "1", "-n", "empty.safetensors"], 3, "empty.safetensors: empty"),
        (["--seeds", "1", "-n", "net.pkl"], 3, "sg2 convert net.pkl net.safetensors"),
        (["--seeds", "1", "-n", "a.png"], 3, "a.png: a PNG image"),
        (["--seeds", "1", "--noise-mode", "loud"], 2, "'loud' is not one of"),
        (["--seeds", "1", "--device", "tpu"], 2, "'tpu' is not a device: use auto, cpu, cuda"),
        (["--seeds", "1", "--grid=0x3"], 2, "--grid=8x4"),
        (["--seeds", "0-8", "--grid=2x4"], 2, "too small for 9 images"),
        (["--seeds", "0-9999999", "--grid", "--format", "jpg"], 2, "beyond what jpg holds"),
        (["--seeds", "0-1", "--out", "-"], 2, "2 images do not fit into one"),
        (["--seeds", "0-1", "--out", "b.png"], 2, "2 images do not fit into one"),
        (["--seeds", "0", "--out", "b.gif"], 2, "png, jpg or webp"),
        (["--seeds", "0", "--out", "b.png", "--format", "jpg"], 2, "contradicts"),
        (["--seeds", "0", "--out", "-", "--json"], 2, "--json"),
        (["--seeds", "0", "--overwrite", "--skip-existing"], 2, "mutually exclusive"),
        (["--seeds", "0", "--save-latents", "l.txt"], 2, ".safetensors, .npz, .npy"),
        (["--seeds", "0", "--out", "a.png/sub"], 1, "cannot make the folder"),
        (["--latents", ",".join(map(str, range(1000))) + ",x"], 2, "'x' is not a latent"),
        (["--latents", "x" * 5000], 2, "is not a latent"),
        (["--seeds", "0", "-n", "x" * 300], 2, "no network 'xxx"),
        (["--seeds", "0", "-n", "."], 3, "not a regular file"),
        (["--seeds", "0", "--out", "x" * 300 + ".png"], 1, "file name too long"),
        (["--seeds", "0", "--device", "cuda:77"], 1, "no device cuda:77"),
        (["--seeds", "0", "-n", "nan.safetensors"], 3, "holds NaN"),
        (["--seeds", "0", "--save-latents", "l.npz", "--skip-existing"], 2, "save a .safetensors"),
        (["--seeds", "0", "--out", "empty.safetensors"], 1, "cannot make the folder"),
        (["--seeds", "0", "--batch", "0"], 2, "--batch"),
        (["--latents", "missing.npy"], 2, "no file missing.npy"),
        (["--latents", "a.png"], 1, "holds no latents"),
        (["--frobnicate"], 2, "No such option"),
        (["--seeds", "1", "extra"], 2, "'extra' is not a latent"),
    ],
)
def test_bad_input(sg2: Any, classes: str, args: list[str], code: int, message: str) -> None:
    Path("empty.safetensors").touch()
    Path("net.pkl").write_bytes(b"\x80\x04\x95" + bytes(20))
    PIL.Image.new("RGB", (8, 8)).save("a.png")
    broken = random_generator()
    broken.mapping.w_avg[0] = float("nan")
    checkpoints.save_generator(broken, Path("nan.safetensors"), {})
    before = sorted(Path().rglob("*"))
    result = sg2("generate", *args)
    assert result.code == code
    assert message in one_line(result.err)
    assert result.out == ""
    assert sorted(Path().rglob("*")) == before


def test_a_full_disk(shell: Any) -> None:
    """A limit on file sizes stands in for it: what is whole stays, and nothing else."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    result = shell("generate", "--seeds", "0-7", "--grid", preexec_fn=limit)
    assert result.returncode == 1
    assert "cannot write out/grid.png: file too large" in one_line(result.stderr.decode())
    message = result.stdout.decode().split()
    assert message == sorted(map(str, Path("out").iterdir()))
    assert message == [f"out/seed000{seed}.png" for seed in range(len(message))]
    for path in message:
        assert pixels(path).shape == (128, 128, 3)


def test_stdout_that_is_full(shell: Any) -> None:
    with Path("/dev/full").open("w") as full:
        for args in (["--out", "-"], ["--out", "out"]):
            command = [*SG2, "generate", "--seeds", "0", *args]
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
            assert result.returncode == 1
            assert "cannot write to stdout: no space left" in one_line(result.stderr.decode())


def test_an_image_on_stdout(shell: Any) -> None:
    result = shell("generate", "--seeds", "5", "--out", "-")
    assert result.returncode == 0
    assert result.stderr == b""
    with PIL.Image.open(io.BytesIO(result.stdout)) as image:
        assert image.size == (128, 128)
    assert list(Path().iterdir()) == []


def test_a_closed_pipe_ends_quietly(in_tmp: Path) -> None:
    command = f"{' '.join(SG2)} generate --seeds 0-99 --batch 4 | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False, timeout=120
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"out/seed0000.png\n", b"")
    assert len(list(Path("out").iterdir())) < 100
    for path in Path("out").iterdir():
        assert pixels(path).shape == (128, 128, 3)


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_whole_files(in_tmp: Path, kind: int, code: int) -> None:
    command = [*SG2, "generate", "--seeds", "0-9999999", "--batch", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(kind)
        lines += process.stdout.readlines()
        stderr = process.stderr.read().decode()
    assert process.returncode == code
    assert "--skip-existing" in one_line(stderr)
    assert f"{len(lines)} written" in stderr
    listed = sorted(line.decode().strip() for line in lines)
    assert listed == sorted(map(str, Path("out").iterdir()))
    assert all(pixels(path).shape == (128, 128, 3) for path in listed)


def test_ten_million_seeds_start_at_once(in_tmp: Path) -> None:
    command = [*SG2, "generate", "--seeds", "0-9999999"]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert time.monotonic() - start < 60  # parsing ten million seeds would take minutes
        process.kill()


def test_quiet_prints_nothing(sg2: Any) -> None:
    sg2("generate", "--seeds", "0-2")
    result = sg2("generate", "--seeds", "0-2", "--skip-existing", "-q")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_the_image_on_stdout_is_alone(shell: Any) -> None:
    result = shell("generate", "--seeds", "5", "--out", "-", "--save-latents", "s.safetensors")
    assert result.returncode == 0
    assert result.stdout.startswith(b"\x89PNG")
    assert Path("s.safetensors").exists()


def test_a_folder_does_not_hide_the_bundled_network(sg2: Any) -> None:
    Path("avatars-128").mkdir()
    assert sg2("generate", "--seeds", "0").code == 0


def test_options_given_twice_add_up(sg2: Any) -> None:
    result = sg2("generate", "--seeds", "1", "--seeds", "0", "--latents", "avg", "--latents", "5")
    names = ["seed0001", "seed0000", "avg", "seed0005"]
    assert result.lines == [f"out/{name}.png" for name in names]


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_a_closed_stderr_does_not_end_the_work(in_tmp: Path, closed: str) -> None:
    command = f"{' '.join(SG2)} generate --seeds 0-3 --skip-existing {closed}"
    for _ in range(2):  # the second time there is something to say
        result = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, check=True)
    assert result.stdout == b""


def test_a_gone_reader_of_stderr_does_not_end_the_work(in_tmp: Path) -> None:
    command = f"{{ {' '.join(SG2)} generate --seeds 0-3 --skip-existing; }} 2> >(true)"
    for _ in range(2):
        subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)
    assert len(list(Path("out").iterdir())) == 4


def test_closed_stdout_is_an_error(in_tmp: Path) -> None:
    command = f"{' '.join(SG2)} generate --seeds 0 >&-"
    result = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1
    assert "stdout is closed" in one_line(result.stderr.decode())


def test_paths_are_printed_as_the_file_system_spells_them(in_tmp: Path) -> None:
    command = [*map(os.fsencode, SG2), b"generate", b"--seeds", b"0", b"--out", b"b\xffd \xc3\xbc"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert result.stdout == b"b\xffd \xc3\xbc/seed0000.png\n"
    assert Path(os.fsdecode(result.stdout[:-1])).exists()


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_reader_that_stands_still_does_not_hold_the_end(
    in_tmp: Path, kind: int, code: int
) -> None:
    """The pipe is full, and a writing thread waits in it for ever."""
    command = [*SG2, "generate", "--seeds", "0-99999", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        before = -1
        while before != (now := len(list(Path().glob("out/*.png")))) or now < 10:
            before = now
            time.sleep(1)
        process.send_signal(kind)
        assert process.wait(timeout=30) == code
    assert all(pixels(path).shape == (128, 128, 3) for path in Path("out").glob("*.png"))
    assert not list(Path("out").glob(".sg2-*"))


def test_an_interruption_while_loading_is_one_too(in_tmp: Path) -> None:
    """At any moment after Python itself has started: no traceback."""
    for milliseconds in (40, 80, 120, 300, 900):
        command = [*SG2, "generate", "--seeds", "0-9999"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            time.sleep(milliseconds / 1000)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            message = process.stderr.read().decode()
        if (
            "sg2cli" in message and "Fatal Python error" not in message
        ):  # that is Python's own start
            assert "Traceback" not in message


def test_bad_files_do_not_affect_the_others(sg2: Any) -> None:
    Path("out").mkdir()
    Path("out/seed0040.png").write_bytes(b"junk")
    sg2("generate", "--seeds", "7", "--trunc", "0.5")
    sg2("generate", "--seeds", "0-3")
    result = sg2("generate", "--seeds", "0-63", "--batch", "32", "--skip-existing", "--json")
    assert result.code == 1
    *wrote, last = map(json.loads, result.lines)
    assert len(wrote) == 58
    assert last["summary"].items() >= {"done": 58, "skipped": 4}.items()
    assert list(last["summary"]["failed"]) == ["seed0007", "seed0040"]
    assert "other settings" in last["summary"]["failed"]["seed0007"]
    *notes, error = result.err.splitlines()
    assert "out/seed0007.png" in notes[0] and "out/seed0040.png" in notes[1]
    assert notes[2] == "sg2: 58 written, 4 skipped, 2 failed"
    assert error.startswith("sg2: 2 of 64 images failed: seed0007, seed0040")
    assert Path("out/seed0040.png").read_bytes() == b"junk"


def test_a_grid_shows_what_could_not_be_written(sg2: Any) -> None:
    sg2("generate", "--seeds", "0-3", "--grid", "--out", "whole")
    Path("out").mkdir()
    Path("out/seed0002.png").write_bytes(b"junk")
    assert sg2("generate", "--seeds", "0-3", "--grid", "--skip-existing").code == 1
    assert (pixels("out/grid.png") == pixels("whole/grid.png")).all()


def test_a_damaged_image_stays_and_is_drawn_again_on_the_grid(sg2: Any) -> None:
    args = ["generate", "--seeds", "0-3", "--grid", "--skip-existing"]
    assert sg2(*args).code == 0
    grid = Path("out/grid.png").read_bytes()
    Path("out/grid.png").unlink()
    damaged = Path("out/seed0002.png").read_bytes()[:2000]
    Path("out/seed0002.png").write_bytes(damaged)
    result = sg2(*args)
    assert result.code == 1
    changed, counts, error = result.err.splitlines()
    assert changed.startswith("sg2: out/seed0002.png was changed or cut short")
    assert counts == "sg2: 1 written, 3 skipped, 1 failed"
    assert error.startswith("sg2: 1 of 4 images failed: seed0002")
    assert Path("out/grid.png").read_bytes() == grid
    assert Path("out/seed0002.png").read_bytes() == damaged


def test_a_grid_with_holes_is_not_written(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run would keep it, holes and all."""
    args = ["generate", "--seeds", "0-3", "--grid", "--skip-existing"]
    assert sg2(*args).code == 0
    Path("out/grid.png").unlink()
    read = cells.read_image

    def removed_meanwhile(path: Path, shape: tuple[int, ...]) -> Any:
        if path.name == "seed0002.png":
            raise Sg2Error(f"cannot read {path}: no such file or directory")
        return read(path, shape)

    with monkeypatch.context() as patch:
        patch.setattr(cells, "read_image", removed_meanwhile)
        result = sg2(*args)
    assert result.code == 1
    *_, hole, counts, error = result.err.splitlines()
    assert hole == "sg2: the grid is not written because some of its images failed"
    assert counts == "sg2: 0 written, 3 skipped, 1 failed"
    assert error.startswith("sg2: 1 of 4 images failed: seed0002")
    assert sg2(*args).lines == ["out/grid.png"]


@pytest.mark.parametrize("batch", ["1", "3", "8"])
def test_latents_that_cannot_be_drawn_do_not_affect_the_others(sg2: Any, batch: str) -> None:
    """Rows that are no numbers, and one so far out that the network overflows."""
    sg2("generate", "--seeds", "0-5", "--save-latents", "good.npy", "--out", "seeds")
    ws = np.load("good.npy")
    ws[1, 3, 4], ws[3], ws[4] = np.nan, 3e38, np.inf
    np.save("bad.npy", ws)
    args = ["--latents", "bad.npy", "--batch", batch, "--out", "bad", "--json"]
    result = sg2("generate", *args)
    assert result.code == 1
    *wrote, last = map(json.loads, result.lines)
    assert [Path(line["path"]).stem for line in wrote] == ["bad-0000", "bad-0002", "bad-0005"]
    summary = last["summary"]
    assert (summary["done"], list(summary["failed"])) == (3, ["bad-0001", "bad-0003", "bad-0004"])
    assert all("NaN or infinity" in why for why in summary["failed"].values())
    assert result.err.splitlines()[-1].startswith("sg2: 3 of 6 images failed: bad-0001")
    for line in wrote:
        seed = line["path"].replace("bad", "seeds", 1).replace("bad-", "seed")
        assert abs(pixels(line["path"]).astype(int) - pixels(seed)).max() <= 1
    assert sg2("generate", *args, "--skip-existing").lines[-1] == json.dumps(
        {"summary": {**summary, "done": 0, "skipped": 3}}
    )
    saved = sg2("generate", *args, "--overwrite", "--save-latents", "l.npy")
    assert "row 1 of bad holds NaN" in one_line(saved.err)
    assert not Path("l.npy").exists()
    grid = sg2("generate", "--latents", "bad.npy", "--grid", "--out", "grid.png")
    assert (grid.code, Path("grid.png").exists()) == (1, False)
    assert "NaN or infinity" in one_line(grid.err)


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (["mix", "--rows", "bad.npy", "--cols", "0-1"], 5),
        (["truncate", "--latents", "bad.npy", "--psi", "0.5,1"], 2),
        (["edit", "bad.npy", "--direction", "sefa:0", "--amount", "1"], 1),
    ],
)
def test_a_bad_latent_of_a_grid_does_not_affect_the_others(
    sg2: Any, args: list[str], count: int
) -> None:
    network = GOLDEN / "uncond-64.weights.safetensors"
    sg2("generate", "-n", network, "--seeds", "0-1", "--save-latents", "good.npy", "--out", "a")
    ws = np.load("good.npy")
    ws[0] = np.nan
    np.save("bad.npy", ws)
    result = sg2(*args, "-n", network)
    assert result.code == 1
    assert len(result.lines) == count
    assert "the grid is not written" in result.err
    assert "images failed: bad-0000" in result.err.splitlines()[-1]
    assert not Path("out/grid.png").exists()


def test_a_thousand_failures_are_no_accident(sg2: Any, classes: str) -> None:
    sg2("generate", "-n", classes, "--class", "0", "--seeds", "0-1099", "-q")
    result = sg2("generate", "-n", classes, "--class", "1", "--seeds", "0-1099", "--skip-existing")
    assert result.code == 1
    lines = result.err.splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("sg2: more than 1,000 images failed; the last: out/seed1000.png")


def test_a_grid_larger_than_pillows_limit_is_read_back(sg2: Any) -> None:
    from sg2cli.images.grid import ImageGrid

    with Path("big.png").open("wb") as file:
        grid = ImageGrid(file, "png", 8, 8, (2000, 2000, 1), {"seed": 1})
        grid.finish()
    result = sg2("info", "big.png", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["size"] == "16000x16000"
