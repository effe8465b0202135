"""`sg2 interpolate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.numpy import save_file

from sg2cli import checkpoints
from tests.conftest import one_line

from .test_generate import pixels


@pytest.mark.parametrize("method", ["linear", "slerp", "cubic"])
@pytest.mark.parametrize("space", ["z", "w"])
def test_the_interpolation_passes_through_its_latents(sg2: Any, method: str, space: str) -> None:
    args = ["--latents", "85,265,297", "--method", method, "--space", space, "--frames", "9"]
    result = sg2("interpolate", *args, "--out", "w", "--batch", "4")
    assert result.lines == [f"w/frame{i:04d}.png" for i in range(9)]
    sg2("generate", "--seeds", "85,265,297", "--out", "g", "--batch", "4")
    for frame, seed in ((0, 85), (4, 265), (8, 297)):
        found = pixels(f"w/frame{frame:04d}.png").astype(int)
        assert abs(found - pixels(f"g/seed{seed:04d}.png")).max() <= 1
    between = pixels("w/frame0002.png").astype(int)
    assert abs(between - pixels("g/seed0085.png")).mean() > 1
    assert abs(between - pixels("g/seed0265.png")).mean() > 1


def test_folders_have_names_of_any_kind(sg2: Any) -> None:
    args = ["interpolate", "--latents", "1,2", "--frames", "2"]
    assert sg2(*args, "--out", "frames.v2").lines[0] == "frames.v2/frame0000.png"
    for folder in ("my.jpg", "a.mov"):
        assert sg2(*args, "--out", f"{folder}/w.gif").lines == [f"{folder}/w.gif"]


def test_a_loop_closes(sg2: Any) -> None:
    sg2("interpolate", "--latents", "0,1,2", "--loop", "--frames", "90", "--out", "w")
    frames = [pixels(f"w/frame{i:04d}.png").astype(int) for i in range(90)]
    pairs = zip(frames, [*frames[1:], frames[0]], strict=True)
    steps = [abs(a - b).mean() for a, b in pairs]
    assert steps[-1] < 2 * np.median(steps)


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4"])
def test_videos(sg2: Any, suffix: str) -> None:
    args = ["--latents", "85,265", "--frames", "20", "--fps", "25", "--out", f"a/path.{suffix}"]
    assert sg2("interpolate", *args).lines == [f"a/path.{suffix}"]
    if suffix == "mp4":
        av = pytest.importorskip("av")
        with av.open(f"a/path.{suffix}") as video:
            stream = video.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (128, 128, 25)
            assert len(list(video.decode(stream))) == 20
    else:
        with PIL.Image.open(f"a/path.{suffix}") as video:
            assert (video.n_frames, video.size) == (20, (128, 128))  # type: ignore[attr-defined]
    assert [path.name for path in Path("a").iterdir()] == [f"path.{suffix}"]
    assert "exists" in one_line(sg2("interpolate", *args).err)
    assert "--overwrite" in one_line(sg2("interpolate", *args, "--skip-existing").err)
    assert sg2("interpolate", *args, "--overwrite").code == 0


def test_noise_maps_are_blended(sg2: Any) -> None:
    """Between two latents of one ws, that differ in their noise: as strong in the middle."""
    name = "synthesis.b64.conv1.noise_const"
    G = checkpoints.load(device="cpu")
    G.get_submodule("synthesis.b64.conv1").noise_strength = torch.nn.Parameter(torch.tensor(0.3))
    checkpoints.save_generator(G, Path("n.safetensors"), {})
    ws = G.mapping.w_avg.expand(1, 12, -1).numpy()
    for i in range(2):
        noise = np.random.RandomState(i).randn(64, 64).astype("f4")
        save_file({"ws": np.ascontiguousarray(ws), name: noise}, f"{i}.safetensors")
    save_file({"ws": np.ascontiguousarray(ws), name: 0 * noise}, "quiet.safetensors")
    common = ["-n", "n.safetensors", "--latents", "0.safetensors,1.safetensors"]
    sg2("interpolate", *common, "--frames", "3", "--out", "w")
    sg2("generate", *common, "--latents", "quiet.safetensors", "--out", "g")
    first, middle, last = (pixels(f"w/frame000{i}.png").astype(int) for i in range(3))
    assert abs(first - pixels("g/0.png")).max() <= 1
    assert abs(last - pixels("g/1.png")).max() <= 1
    strength = [np.std(frame - pixels("g/quiet.png")) for frame in (first, middle, last)]
    assert min(strength) > 2
    assert strength[1] == pytest.approx((strength[0] + strength[2]) / 2, rel=0.1)


def test_frames_are_continued(sg2: Any) -> None:
    args = ["interpolate", "--latents", "0,1", "--frames", "6", "--out", "w", "--skip-existing"]
    sg2(*args)
    Path("w/frame0003.png").unlink()
    assert sg2(*args).lines == ["w/frame0003.png"]
    assert "other settings" in sg2(*args, "--method", "slerp").err.splitlines()[0]


def test_random_noise_does_not_flicker(sg2: Any) -> None:
    args = ["--latents", "avg,avg", "--frames", "3", "--noise-mode", "random", "--out", "w"]
    sg2("interpolate", *args)
    np.testing.assert_array_equal(pixels("w/frame0000.png"), pixels("w/frame0002.png"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "w"], "no latents: give two or more"),
        (["--latents", "1,2"], "/ '--out'"),
        (["--latents", "1", "--out", "w"], "two latents"),
        (["--latents", "0-9", "--frames", "5", "--out", "w"], "5 frames are too few"),
        (["--latents", "1,2", "--frames", "1", "--out", "w"], "--frames"),
        (["--latents", "1,2", "--fps", "0", "--out", "w"], "--fps"),
        (["--latents", "1,2", "--out", "w.avi"], "give a folder, or a video"),
        (["--latents", "1,2", "--out", "w.png"], "give a folder, or a video"),
        (["--latents", "1,2", "--out", "-", "--json"], "--json cannot be used with --out -"),
        (["--latents", "1,2", "--out", "w", "--grid", "0x2"], "is not a grid"),
        (["--latents", "0-6", "--out", "w", "--grid", "2x2"], "give a multiple of 4"),
        (["--latents", "0-3", "--out", "w", "--grid", "2x2"], "at least two latents"),
        (
            ["--latents", "0-1", "--out", "w", "--frames", "9", "--frames-per-latent", "9"],
            "--frames and --frames-per-latent are mutually exclusive",
        ),
        (
            ["--latents", "0-7", "--out", "w", "--grid", "2x2", "--save-latents", "l.npz"],
            "--save-latents cannot be used with --grid",
        ),
        (["--latents", "1,2", "--fps", "240", "--out", "w.gif"], "at most 100 frames per second"),
        (["--latents", "1,avg", "--space", "z", "--out", "w"], "space z requires seeds"),
        (["--latents", "1,", "--out", "w"], "'' is not a latent"),
    ],
)
def test_bad_input(sg2: Any, args: list[str], message: str) -> None:
    result = sg2("interpolate", *args)
    assert result.code == 2
    assert message in one_line(result.err)
    assert list(Path().iterdir()) == []


def test_mp4_without_pyav(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "av" else real(name)
    )
    result = sg2("interpolate", "--latents", "1,2", "--out", "w.mp4")
    assert result.code == 2
    assert "run `pip install 'av" in one_line(result.err)
    assert sg2("interpolate", "--latents", "1,2", "--frames", "3", "--out", "w.gif").code == 0


@pytest.mark.parametrize("format", ["gif", "webp", "mp4"])
def test_a_video_on_stdout_is_that_of_a_file(shell: Any, format: str) -> None:
    if format == "mp4":
        pytest.importorskip("av")
    args = ["interpolate", "1,2", "--frames", "3", "--scale", "2"]
    streamed = shell(*args, "--out", "-", "--format", format)
    assert shell(*args, "--out", f"a.{format}").returncode == 0
    assert streamed.returncode == 0 and streamed.stderr == b""
    assert streamed.stdout == Path(f"a.{format}").read_bytes()


def test_a_grid_of_paths(sg2: Any) -> None:
    args = ["0-23", "--grid", "4x2", "--frames-per-latent", "2", "--out", "a.gif"]
    assert sg2("interpolate", *args).lines == ["a.gif"]
    with PIL.Image.open("a.gif") as video:
        assert (video.size, video.n_frames) == ((512, 256), 5)
    frames = sg2("interpolate", *args[:-1], "frames")
    again = sg2("interpolate", *args[:-1], "frames", "--skip-existing")
    assert len(frames.lines) == 5 and again.lines == []
    assert (
        "other settings"
        in sg2("interpolate", *args[:-1], "frames", "--skip-existing", "--scale", 2).err
    )
