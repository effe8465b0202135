"""`sg2 project`: what users give, and what they get."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from networks import random_generator
from safetensors import safe_open
from safetensors.torch import load_file

from sg2cli import checkpoints
from sg2cli.errors import Sg2Error
from sg2cli.inversion import batch, results, snapshots
from sg2cli.inversion.search import Search
from sg2cli.inversion.verdict import OwnScale, Verdict
from sg2cli.storage import atomic
from tests import conftest
from tests.conftest import SG2

FILES = ["history.csv", "loss.png", "target.png", "projected.png", "compare.png"]
LATENT = "projected.safetensors"


@pytest.fixture
def net(in_tmp: Path) -> Path:
    """A network of 16x16 pixels, whose images stay in range."""
    G = random_generator(conv_clamp=1.0)
    checkpoints.save_generator(G, in_tmp / "net.safetensors", {})
    return in_tmp / "net.safetensors"


def photo(name: str, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), np.uint8)
    PIL.Image.fromarray(coarse).resize(size, PIL.Image.Resampling.BICUBIC).save(name)
    return Path(name)


def pixels(path: Path | str) -> Any:
    with PIL.Image.open(path) as image:
        return np.array(image).astype(int)


def inside(folder: str) -> list[str]:
    """All but the record of what is ours."""
    return sorted(path.name for path in Path(folder).iterdir() if path.name != ".sg2")


def one_line(text: str) -> str:
    """An error, after the line that begins a projection."""
    return conftest.one_line(re.sub(r"^sg2: projecting .+\n", "", text))


def rows_of(table: str) -> list[dict[str, str]]:
    with Path(table).open() as file:
        return list(csv.DictReader(file))


def metadata(path: Path | str) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["sg2"])
    assert isinstance(found, dict)
    return found


def test_a_result_is_whole_and_drawn_again_pixel_for_pixel(sg2: Any, net: Path) -> None:
    photo("me.png")
    # As users of NVIDIA's script have it.
    options = ("--target", "me.png", "--network", net, "--num-steps", 4, "--save-npz")
    result = sg2("project", *options, "--outdir", "o")
    assert result.code == 0, result.err
    names = [*FILES, "projected_w.npz", LATENT]
    assert result.lines == [f"o/me/{name}" for name in names]
    assert inside("o/me") == sorted(names)
    assert "LPIPS-VGG" in result.err and "PSNR" in result.err and "deviations" in result.err

    stored = load_file(f"o/me/{LATENT}")
    G = checkpoints.load(net, device="cpu")
    layers = [layer.noise_name for layer in G.synthesis.layers]
    assert sorted(stored) == sorted(["ws", *layers])
    assert stored["ws"].shape == (1, G.config.num_ws, G.config.w_dim)
    assert np.array_equal(np.load("o/me/projected_w.npz")["w"], stored["ws"].numpy())
    assert sg2("generate", "-n", net, "--latents", f"o/me/{LATENT}", "--out", "again.png").code == 0
    assert (pixels("again.png") == pixels("o/me/projected.png")).all()
    plain = G.synthesis(stored["ws"], {name: stored[name] for name in layers})
    drawn = (plain * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0)
    assert abs(pixels("o/me/projected.png") - drawn.numpy()).max() <= 1

    provenance = metadata(f"o/me/{LATENT}")
    difference = pixels("o/me/projected.png") - pixels("o/me/target.png")
    psnr = 10 * np.log10(255**2 / (difference**2).mean())
    assert provenance["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert provenance["checkpoint"] == checkpoints.find_network(net).sha256
    assert provenance["steps_done"] == 4 and 0 < provenance["lpips_vgg"] < 2
    rows = rows_of("o/me/history.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert {"lr", "lpips", "noise_penalty", "w_distance"} < rows[0].keys()
    with PIL.Image.open("o/me/compare.png") as compared:
        assert compared.size[0] == 3 * 256


def test_the_report_says_what_was_reached_of_which_part(sg2: Any, net: Path) -> None:
    photo("me.png", size=(20, 40))
    photo("as-it-is.png", 1, size=(16, 16))
    args = ("me.png", "as-it-is.png", "-n", net, "--steps", 2, "--out", "o")
    result = sg2("project", *args)
    made = [metadata(f"o/{name}/{LATENT}") for name in ("me", "as-it-is")]
    rows = rows_of("o/summary.csv")
    lines = [line for line in result.err.splitlines() if "LPIPS-VGG" in line]
    for name, each, row, line in zip(("me.png", "as-it-is.png"), made, rows, lines, strict=True):
        assert each["verdict"] == row["verdict"]
        assert each["own_ratio"] == float(row["own_ratio"]) > 0
        assert each["own_percentile"] == float(row["own_percentile"])
        outside = "outside what this network can draw, or what 2 steps can find"
        text = {"outside": outside}.get(row["verdict"], row["verdict"])
        assert line.startswith(f"sg2: {name}: {text}: LPIPS-VGG ")
        ratio, percentile = each["own_ratio"], each["own_percentile"]
        assert f"({ratio:.2f} of the distance between similar samples, percentile " in line
        assert f"percentile {percentile:.0f})" in line
    assert lines[0].endswith("; cropped 20x40 to its centre 20x20, scaled to 16x16")
    assert lines[1].endswith("from the mean")
    region = {"photo": [20, 40], "crop": [0, 10, 20, 20], "scaled": [16, 16]}
    assert made[0]["region"] == region
    again = sg2("project", *args, "--resume").err.splitlines()
    assert [line for line in again if "LPIPS-VGG" in line] == lines


def test_options_that_are_set_are_not_suggested(sg2: Any, net: Path) -> None:
    photo("me.png", size=(20, 40))
    args = ("project", "me.png", "-n", net, "--steps", 1, "--out")
    always = lambda word: lambda *_: Verdict(word, 0.5, 50.0)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnScale, "judge", always("recognisable"))
        text = sg2(*args, "a").err
        assert "not close: --preset best or --space w+ or --tune may improve that" in text
        options = ("--preset", "best", "--space", "w+", "--tune", "--tune-steps", 1)
        text = sg2(*args, "b", *options).err
        assert "recognisable" in text and "may improve" not in text
        patch.setattr(OwnScale, "judge", always("outside"))
        text = sg2(*args, "c").err
        assert "--crop chooses another part" in text and "--preset" not in text
        assert "--crop chooses" not in sg2(*args, "d", "--crop", "0,0,16,16").err


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ((), "--preset fast or --time-limit shorten that, --resume continues an interrupted run"),
        (("--preset", "fast", "--resume"), "--time-limit shortens that"),
    ],
)
def test_a_long_batch_is_announced(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], hint: str
) -> None:
    monkeypatch.setattr(batch, "LONG", 0)
    photo("me.png")
    result = sg2("project", "me.png", "-n", net, "--steps", 8, "--out", "o", *options)
    assert f"minutes for this batch of 1: {hint}\n" in result.err


def test_results_of_older_versions_have_no_verdict_and_are_kept(sg2: Any, net: Path) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--steps", 2, "--out", "o")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "provenance_of", lambda verdict: {"outside": None})
        assert sg2(*args).code == 0
    result = sg2(*args, "--resume")
    assert result.code == 0 and result.lines == []
    assert "sg2: me.png: LPIPS-VGG 0." in result.err


def test_without_matplotlib_all_but_the_curve_is_there(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    photo("me.png")
    result = sg2("project", "me.png", "-n", net, "--steps", 1, "--out", "o")
    assert result.code == 0 and "without matplotlib: run `pip install " in result.err
    assert inside("o/me") == sorted({*FILES, LATENT} - {"loss.png"})


def test_existing_results_are_spared_resumed_or_replaced(sg2: Any, net: Path) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--out", "o", "--steps")
    assert sg2(*args, 2).code == 0
    before = Path(f"o/me/{LATENT}").read_bytes()
    result = sg2(*args, 3)
    assert result.code == 1
    assert "--overwrite" in one_line(result.err) and "--resume" in result.err
    result = sg2(*args, 3, "--resume")
    assert result.code == 1 and "other settings" in one_line(result.err)
    kept = sg2(*args, 2, "--resume")
    assert kept.code == 0 and kept.lines == []
    assert Path(f"o/me/{LATENT}").read_bytes() == before
    assert sg2(*args, 3, "--overwrite").code == 0
    assert metadata(f"o/me/{LATENT}")["steps_done"] == 3
    assert sg2(*args, 3, "--overwrite", "--resume").code == 2


def test_many_photos_get_folders_and_a_summary(sg2: Any, net: Path) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
    photo("a/x.png", 1)
    photo("a/y.jpg", 2)
    photo("b/x.png", 3)
    Path("a/notes.txt").write_text("not an image, and of no such name")
    result = sg2(
        "project", "a", "b/*.png", "-n", net, "--steps", 2, "--batch", 2, "--out", "o", "--json"
    )
    assert result.code == 0, result.err
    assert inside("o") == ["summary.csv", "x", "x-2", "y"]
    rows = rows_of("o/summary.csv")
    assert [(row["photo"], row["state"]) for row in rows] == [
        ("a/x.png", "done"),
        ("a/y.jpg", "done"),
        ("b/x.png", "done"),
    ]
    *message, summary = [json.loads(line) for line in result.lines]
    assert summary == {"summary": {"done": 3, "skipped": 0, "failed": {}}}
    latents = [line for line in message if line["path"].endswith(LATENT)]
    for row, line in zip(rows, latents, strict=True):
        assert float(row["lpips_vgg"]) == line["lpips_vgg"] == metadata(line["path"])["lpips_vgg"]


def test_a_photo_that_cannot_be_read_costs_the_others_nothing(sg2: Any, net: Path) -> None:
    photo("good.png", 1)
    photo("too.png", 1, size=(1, 1))
    Path("empty.jpg").touch()
    Path("words.png").write_text("no image")
    files = ("empty.jpg", "good.png", "words.png", "too.png")
    result = sg2("project", *files, "-n", net, "--steps", 2, "--out", "o")
    assert result.code == 1
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("sg2: 3 of 4 photos failed: empty.jpg, words.png, too.png")
    assert Path(f"o/good/{LATENT}").exists()
    assert inside("o") == ["good", "summary.csv"]
    states = {row["photo"]: (row["state"], row["says"]) for row in rows_of("o/summary.csv")}
    assert states["good.png"] == ("done", "")
    assert states["empty.jpg"][0] == "failed" and "empty" in states["empty.jpg"][1]
    alone = sg2("project", "good.png", "-n", net, "--steps", 2, "--out", "alone")
    assert alone.code == 0
    a, b = (load_file(f"{out}/good/{LATENT}")["ws"] for out in ("o", "alone"))
    assert (a - b).norm() < 1e-4 * b.norm()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "no photo"),
        (["none*.jpg"], 2, "no photo"),
        (["missing.jpg"], 2, "no photo"),
        (["empty"], 2, "no images in the folder"),
        (["words.png"], 1, "not an image"),
        (["me.png", "--mask", "me.png", "--crop", "0,0,20,2"], 1, "20 x 2 pixels: too few"),
        (["me.png", "--mask", "small.png"], 2, "10 x 10"),
        (["me.png", "--crop", "0,0,90,90"], 2, "reaches beyond"),
        (["me.png", "--crop", "a,b"], 2, "not a crop"),
        (["me.png", "--crop", "0,0,0,9"], 2, "is empty"),
        (["me.png", "--background", "blurple"], 2, "not a colour"),
        (["me.png", "--time-limit", "soon"], 2, "not a duration"),
        (["me.png", "--class", "3"], 2, "no classes"),
        (["me.png", "--steps", "0"], 2, "--steps has one value, but is given 2 times"),
        (["me.png", "--seed", "-1"], 2, "--seed"),
        (["me.png", "--lr", "-1"], 2, "--lr"),
        (["me.png", "--lr", "nan"], 2, "--lr"),
        (["me.png", "--tune-steps", "4"], 2, "--tune"),
        (["me.png", "--init", "0-1"], 2, "2 latents for 1 photo"),
        (["-", "-"], 2, "once"),
        (["me.png", "--tuned", "x"], 2, "No such option"),
    ],
)
def test_bad_input_is_one_line(sg2: Any, net: Path, args: list[str], code: int, says: str) -> None:
    photo("me.png")
    photo("small.png", size=(10, 10))
    Path("words.png").write_text("words")
    Path("empty").mkdir()
    result = sg2("project", "-n", net, "--steps", 1, "--out", "o", *args)
    assert (result.code, says in one_line(result.err)) == (code, True), result.err
    assert not list(Path("o").glob("*/projected.safetensors"))


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 2, "no file mask.png"),
        (b"words", 1, "mask.png is damaged"),
        (b"", 1, "mask.png is empty"),
    ],
)
def test_a_wrong_mask_is_found_before_any_work(
    sg2: Any,
    net: Path,
    content: bytes | None,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(checkpoints.Network, "load", lambda *args: loaded.append(args))
    photo("me.png")
    if content is not None:
        Path("mask.png").write_bytes(content)
    result = sg2("project", "me.png", "-n", net, "--mask", "mask.png", "--out", "out")
    assert result.code == code and message in one_line(result.err)
    assert not loaded and not Path("out").exists()


def test_a_photo_from_stdin(shell: Any, net: Path) -> None:
    content = photo("me.png").read_bytes()
    args = ("project", "-", "-n", net, "--steps", 1, "--out", "o", "-q")
    result = shell(*args, input=content)
    assert result.returncode == 0 and result.stderr == b""
    assert result.stdout.splitlines()[-1] == f"o/stdin/{LATENT}".encode()


def test_grey_networks_and_classes(sg2: Any, in_tmp: Path) -> None:
    G = random_generator(img_channels=1, c_dim=3, embed_features=8, conv_clamp=1.0)
    checkpoints.save_generator(G, in_tmp / "net.safetensors", {})
    photo("me.png")
    args = ("project", "me.png", "-n", "net.safetensors", "--steps", 2, "--out")
    assert "give --class" in one_line(sg2(*args, "o").err)
    assert sg2(*args, "o", "--class", 1).code == 0
    assert sg2(*args, "p", "--class", 2).code == 0
    assert pixels("o/me/target.png").shape == (16, 16)
    a, b = (load_file(f"{out}/me/{LATENT}")["ws"] for out in "op")
    assert (a - b).norm() > 1e-3 * b.norm()


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_start_and_a_seed_are_honoured(sg2: Any, net: Path, space: str) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--steps", 1, "--w-noise", 0, "--space", space)
    ws = {}
    for out, more in {"a": (), "b": ("--init", "7"), "c": ("--seed", "5")}.items():
        assert sg2(*args, *more, "--out", out).code == 0
        stored = load_file(f"{out}/me/{LATENT}")
        ws[out] = stored["ws"]
        maps = [stored[name] for name in stored if name != "ws"]
        assert all(noise_map.isfinite().all() for noise_map in maps)
    sg2("generate", "-n", net, "--seeds", 7, "--save-latents", "seven.npy", "--out", "g")
    # The first step has a learning rate of 0.
    assert np.allclose(ws["b"], np.load("seven.npy"), atol=1e-5)
    assert not torch.equal(ws["a"], ws["b"]) and torch.equal(ws["a"], ws["c"])
    b4 = "synthesis.b4.conv1.noise_const"
    assert not torch.equal(load_file(f"a/me/{LATENT}")[b4], load_file(f"c/me/{LATENT}")[b4])
    assert sg2(*args, "--init", f"b/me/{LATENT}", "--seed", 9, "--out", "d").code == 0
    # The map is made white again, as it is already but for its last bits.
    assert torch.allclose(load_file(f"b/me/{LATENT}")[b4], load_file(f"d/me/{LATENT}")[b4], 1e-5)


def test_noise_maps_can_be_left_alone(sg2: Any, net: Path) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--steps", 2, "--noise-maps", "off", "--out", "o")
    assert sg2(*args).code == 0
    assert list(load_file(f"o/me/{LATENT}")) == ["ws"]


def test_a_video_of_the_steps(sg2: Any, net: Path) -> None:
    photo("me.png")
    result = sg2("project", "me.png", "-n", net, "--steps", 5, "--save-video", "--out", "o")
    assert result.code == 0, result.err
    assert "o/me/film.mp4" in result.lines and not Path("o/me/.sg2/frames").exists()
    import av

    with av.open("o/me/film.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5 + 1 and frames[0].shape == (16, 32, 3)  # and the result
    assert abs(frames[0][:, :16].astype(int) - pixels("o/me/target.png")).mean() < 25


def test_tuning_gives_weights_that_draw_the_photo(sg2: Any, net: Path) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--steps", 3)
    assert sg2(*args, "--out", "plain").code == 0
    result = sg2(*args, "--tune", "--tune-steps", 12, "--out", "o")
    assert result.code == 0, result.err
    assert result.lines[-1] == f"o/me/{LATENT}" and "o/me/tuned.safetensors" in result.lines
    plain, provenance = metadata(f"plain/me/{LATENT}"), metadata(f"o/me/{LATENT}")
    assert provenance["lpips_vgg"] < plain["lpips_vgg"]
    tuned = load_file("o/me/tuned.safetensors")
    assert all(t.dtype == torch.float16 for t in tuned.values())
    assert any(t.abs().max() > 0 for t in tuned.values())

    draw = ("generate", "-n", net, "--latents", f"o/me/{LATENT}", "--out")
    result = sg2(*draw, "untuned.png")
    assert "--tuned" in result.err  # it says what is missing
    assert sg2(*draw, "tuned.png", "--tuned", "o/me/tuned.safetensors").code == 0
    assert (pixels("tuned.png") == pixels("o/me/projected.png")).all()
    assert (pixels("untuned.png") == pixels("plain/me/projected.png")).all()
    for command in (
        ("mix", "--rows", f"o/me/{LATENT}", "--cols", "1"),
        ("truncate", "--latents", f"o/me/{LATENT}", "--psi", "0,1"),
        ("interpolate", "--latents", f"1,o/me/{LATENT}", "--frames", "2"),
        ("edit", f"o/me/{LATENT}", "--direction", "sefa:0", "--amount", "0"),
    ):
        out = f"with-{command[0]}"
        options = ("-n", net, "--tuned", "o/me/tuned.safetensors", "--out", out)
        assert sg2(*command, *options).code == 0
        same = [
            abs(pixels(path) - pixels("tuned.png")).max() <= 1
            for path in Path(out).glob("*.png")
            if pixels(path).shape == (16, 16, 3)
        ]
        assert any(same), command
    assert sg2(*args, "--tune", "--tune-steps", 12, "--out", "o", "--resume").lines == []

    merge = ("convert", net, "merged.safetensors", "--merge", "o/me/tuned.safetensors")
    assert sg2(*merge).lines == ["merged.safetensors"]
    draw = ("generate", "-n", "merged.safetensors", "--latents", f"o/me/{LATENT}")
    assert sg2(*draw, "--out", "merged.png").code == 0
    assert (pixels("merged.png") == pixels("tuned.png")).all()


@pytest.mark.parametrize("tune", [["--tune-together"], ["--tune", "together"]])
def test_tuning_together_makes_one_network_for_all(sg2: Any, net: Path, tune: list[str]) -> None:
    """With the older spelling, too."""
    photo("a.png", 1)
    photo("b.png", 2)
    args = ("project", "a.png", "b.png", "-n", net, "--steps", 2, "--out", "o")
    result = sg2(*args, *tune, "--tune-steps", 3)
    assert result.code == 0, result.err
    assert inside("o") == ["a", "b", "summary.csv", "tuned.safetensors"]
    for name in "ab":
        latent = f"o/{name}/{LATENT}"
        draw = ("generate", "-n", net, "--latents", latent, "--out", f"{name}{name}.png")
        assert sg2(*draw, "--tuned", "o/tuned.safetensors").code == 0
        assert (pixels(f"{name}{name}.png") == pixels(f"o/{name}/projected.png")).all()


@pytest.mark.parametrize("tune", ["--tune", "--tune-together"])
def test_a_photo_called_together_is_a_photo(sg2: Any, net: Path, tune: str) -> None:
    photo("a.png", 1)
    photo("together.png", 2).rename("together")
    args = ("project", "a.png", "-n", net, "--steps", 1, "--out", "o", tune, "together")
    assert sg2(*args, "--tune-steps", 1).code == 0
    assert Path(f"o/together/{LATENT}").exists()
    assert Path("o/tuned.safetensors").exists() == (tune == "--tune-together")


@pytest.mark.parametrize("together", [False, True])
def test_interrupted_tuning_resumes_to_the_same_weights(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    from sg2cli.inversion.tuning import Tuning

    photo("a.png", 1)
    photo("b.png", 2)
    tune = "--tune-together" if together else "--tune"
    args = ("project", "a.png", "b.png", "-n", net, "--steps", 2, tune, "--tune-steps", 3)
    assert sg2(*args, "--out", "whole").code == 0
    step = Tuning.step

    def stopped(self: Any) -> float:
        if self.state.step == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "step", stopped)
        assert sg2(*args, "--out", "o").code == 130
    assert Path("o/tuning.safetensors" if together else "o/a/tuning.safetensors").exists()
    assert sg2(*args, "--out", "o").code == 1  # it says what to do with what is there
    result = sg2(*args, "--out", "o", "--resume")
    assert result.code == 0 and "resuming at step 2 of tuning" in result.err
    assert inside("o") == inside("whole") and inside("o/a") == inside("whole/a")
    for file in Path("whole").rglob("*.safetensors"):
        assert file.read_bytes() == Path("o", file.relative_to("whole")).read_bytes()


def test_a_time_limit_counts_tuning(sg2: Any, net: Path) -> None:
    photo("me.png")
    start = time.monotonic()
    args = ("--steps", 200_000, "--tune", "--tune-steps", 50_000, "--time-limit", "4s")
    assert sg2("project", "me.png", "-n", net, *args, "--out", "o").code == 0
    assert time.monotonic() - start < 60
    provenance = metadata("o/me/tuned.safetensors")
    assert 0 < provenance["tune_steps_done"] < 50_000
    assert metadata(f"o/me/{LATENT}")["ended"] == "time"


@pytest.mark.parametrize("damage", ["other network", "no differences", "cut", "nan", "missing"])
def test_tuned_files_that_do_not_fit_are_refused(sg2: Any, net: Path, damage: str) -> None:
    from sg2cli.checkpoints.weight_deltas import save_weight_deltas

    G = checkpoints.load(net, device="cpu")
    provenance = {"checkpoint": checkpoints.find_network(net).sha256}
    name = "synthesis.b8.conv0.weight"
    difference = torch.zeros_like(G.get_parameter(name)).half()
    if damage == "other network":
        provenance = {"checkpoint": "0" * 64}
    if damage == "nan":
        difference[0, 0] = torch.nan
    path = Path("t.safetensors")
    if damage != "missing":
        save_weight_deltas(path, {name: difference}, provenance)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    file = net if damage == "no differences" else path
    result = sg2("generate", "-n", net, "--seeds", 1, "--tuned", file)
    assert result.code == (2 if damage in ("other network", "missing") else 3)
    one_line(result.err)
    if damage == "other network":
        assert sg2("info", "t.safetensors").code == 0
        result = sg2("generate", "-n", "t.safetensors", "--seeds", 1)
        assert result.code == 3 and "--tuned" in one_line(result.err)


def test_a_loss_that_is_not_finite_keeps_the_best_and_says_so(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Search.loss

    def broken(self: Any, *args: Any) -> Any:
        total, distance, penalty = loss(self, *args)
        spoilt = torch.nan if self.state.step == 3 else 1.0
        return total * spoilt, distance * spoilt, penalty

    monkeypatch.setattr(Search, "loss", broken)
    photo("me.png")
    result = sg2("project", "me.png", "-n", net, "--steps", 6, "--out", "o")
    assert result.code == 1 and "NaN or infinite" in result.err
    provenance = metadata(f"o/me/{LATENT}")
    assert provenance["ended"] == "not finite" and provenance["steps_done"] == 4
    assert load_file(f"o/me/{LATENT}")["ws"].isfinite().all()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_resumes_to_the_same_latents(
    shell: Any, net: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in "abc":
        photo(f"{name}.png", ord(name))
    args = ("project", "a.png", "b.png", "c.png", "-n", net, "--steps", 12, "--batch", 2)
    assert shell(*args, "--out", "whole").returncode == 0
    command = [*SG2, *map(str, args), "--out", "o", "--resume"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    first = Path("o/a/snapshot.safetensors")
    begun = first if stop == signal.SIGKILL else first.parent
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    if stop != signal.SIGKILL:
        assert process.returncode == 128 + stop
        assert b"sg2: stopped: " in err
        assert (b"to continue: sg2 project --resume" in err) == first.exists()
    again = shell(*args, "--out", "o", "--resume")
    assert again.returncode == 0, again.stderr
    for name in "abc":
        for file in (LATENT, "history.csv"):
            a, b = (Path(out, name, file).read_bytes() for out in ("whole", "o"))
            assert a == b, (name, file)
    assert not list(Path("o").glob("*/snapshot.safetensors"))
    assert not list(Path("o").glob("**/.sg2-*"))


def test_a_photo_that_ended_before_the_interruption_is_kept(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on in a batch without it, and so come out as in an unbroken run."""
    ended, step, stop_at = Search.ended, Search.step, 100

    def first_ends(self: Any, part: float = 0) -> Any:
        if self.state.step == 3 and 0 in self.state.members:
            state = self.state
            self.restore(state.only([state.members.index(0)]))
            found, _ = ended(self, part=1)
            others = [row for row, member in enumerate(state.members) if member]
            return found, state.only(others)
        return ended(self, part)

    def stopped(self: Any, part: float = 0) -> None:
        if self.state.step == stop_at:
            raise KeyboardInterrupt
        step(self, part)

    monkeypatch.setattr(Search, "ended", first_ends)
    monkeypatch.setattr(Search, "step", stopped)
    for name in "abc":
        photo(f"{name}.png", ord(name))
    args = ("project", "a.png", "b.png", "c.png", "-n", net, "--steps", 8, "--resume", "--out")
    assert sg2(*args, "whole").code == 0
    stop_at = 5
    assert sg2(*args, "o").code == 130
    assert inside("o/a") == sorted([*FILES, LATENT, "snapshot.safetensors"])
    before = Path(f"o/a/{LATENT}").stat().st_mtime_ns
    stop_at = 100
    result = sg2(*args, "o")
    assert result.code == 0 and "resuming at step 5" in result.err
    assert Path(f"o/a/{LATENT}").stat().st_mtime_ns == before
    for name in "abc":
        assert (
            Path(f"o/{name}/{LATENT}").read_bytes() == Path(f"whole/{name}/{LATENT}").read_bytes()
        )
        assert inside(f"o/{name}") == sorted([*FILES, LATENT])


def interrupted(sg2: Any, monkeypatch: pytest.MonkeyPatch, at: int, *args: object) -> None:
    """Run a command, and stop it before step `at`."""
    step = Search.step

    def stopped(self: Any, part: float = 0) -> None:
        if self.state.step == at:
            raise KeyboardInterrupt
        step(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "step", stopped)
        assert sg2(*args).code == 130


def test_resume_needs_the_same_settings_and_photos(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        photo(f"{name}.png", ord(name))
    args = ("project", "-n", net, "--steps", 6, "--batch", 2, "--out", "o", "--resume")
    interrupted(sg2, monkeypatch, 3, *args, "b.png", "c.png")
    before = Path("o/b/snapshot.safetensors").read_bytes()
    for other in (("b.png", "c.png", "--lr", 0.05), ("b.png", "a.png"), ("b.png",)):
        result = sg2(*args, *other)
        assert result.code == 1 and "start again" in result.err, other
        assert Path("o/b/snapshot.safetensors").read_bytes() == before
    result = sg2(*args, "a.png", "b.png", "c.png")
    assert result.code == 1 and "other photos or batch size" in result.err
    result = sg2(*args, "b.png", "c.png")
    assert result.code == 0 and "resuming at step 3" in result.err


def test_a_result_that_was_removed_is_found_again(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the snapshot of its batch has it no more."""
    for name in "ab":
        photo(f"{name}.png", ord(name))
    args = ("project", "a.png", "b.png", "-n", net, "--steps", 8, "--out", "o", "--resume")
    ended = Search.ended

    def second_ends(self: Any, part: float = 0) -> Any:
        if self.state.step == 3 and self.state.members == (0, 1):
            whole = self.state
            self.restore(whole.only([1]))
            return ended(self, part=1)[0], whole.only([0])
        return ended(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "ended", second_ends)
        patch.setattr(snapshots, "EVERY", 0.0)
        interrupted(sg2, monkeypatch, 5, *args)
    assert Path(f"o/b/{LATENT}").exists() and not Path(f"o/a/{LATENT}").exists()
    shutil.rmtree("o/b")
    assert sg2(*args).code == 0
    assert metadata(f"o/b/{LATENT}")["steps_done"] == 8
    assert [row["state"] for row in rows_of("o/summary.csv")] == ["done", "done"]


def test_a_result_that_cannot_be_written_is_not_lost(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--steps", 3, "--out", "o")

    def fails(*_: Any, **__: Any) -> Any:
        raise Sg2Error("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_result", fails)
        result = sg2(*args, "--resume")
    assert result.code == 1 and "the disk is full" in one_line(result.err)
    assert Path("o/me/snapshot.safetensors").exists()
    assert sg2(*args, "--resume").code == 0
    assert metadata(f"o/me/{LATENT}")["steps_done"] == 3


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_name_that_is_a_folder_is_found_before_any_work(sg2: Any, net: Path, option: str) -> None:
    photo("me.png")
    Path("o/me/projected.png").mkdir(parents=True)
    result = sg2("project", "me.png", "-n", net, "--steps", 3, "--out", "o", option)
    assert result.code == 1 and "projected.png is a folder" in one_line(result.err)
    assert inside("o/me") == ["projected.png"]


@pytest.mark.parametrize("missing", ["video", "latent"])
def test_a_video_survives_interruptions(
    sg2: Any, net: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    photo("me.png")
    args = ("project", "me.png", "-n", net, "--steps", 6, "--save-video", "--out")
    assert sg2(*args, "whole").code == 0
    if missing == "video":
        interrupted(sg2, monkeypatch, 4, *args, "o")
        (Path("o/me/.sg2/frames") / "0000006.png").write_bytes(b"of a run that was killed later")
    else:

        def killed(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(results, "write_result", killed)
            assert sg2(*args, "o").code == 130
    assert sg2(*args, "o", "--resume").code == 0
    assert Path("o/me/film.mp4").read_bytes() == Path("whole/me/film.mp4").read_bytes()
    assert not Path("o/me/.sg2/frames").exists()


def test_names_lead_nowhere_but_into_the_folder(sg2: Any, net: Path) -> None:
    photo("a.png").rename("...png")
    photo("b.png").rename("..png")
    photo("c.png").rename("-c d é.png")
    args = ("./...png", "./..png", "./-c d é.png")
    result = sg2("project", *args, "-n", net, "--steps", 1, "--out", "deep/o")
    assert result.code == 0, result.err
    assert inside("deep") == ["o"]
    assert all(LATENT in inside(f"deep/o/{name}") for name in ("photo", ".", "-c d é")[::2])
    assert len(inside("deep/o")) == 4


def test_tuned_networks_of_others_are_spared(sg2: Any, net: Path) -> None:
    for name in "ab":
        photo(f"{name}.png", ord(name))
    options = ("-n", net, "--steps", 1, "--tune-steps", 1, "--out", "o", "--tune-together")
    assert sg2("project", "a.png", *options).code == 0
    before = Path("o/tuned.safetensors").read_bytes()
    result = sg2("project", "b.png", *options)
    assert result.code == 1 and "tuned.safetensors exists" in one_line(result.err)
    assert Path("o/tuned.safetensors").read_bytes() == before
    Path("o/tuned.safetensors").write_bytes(b"of another run")
    result = sg2("project", "a.png", *options, "--resume")
    assert result.code == 1 and "not as sg2 wrote it" in one_line(result.err)
    assert Path("o/tuned.safetensors").read_bytes() == b"of another run"
    Path("o/tuned.safetensors").unlink()
    assert sg2("project", "a.png", *options, "--resume").code == 0
    assert Path("o/tuned.safetensors").read_bytes() == before


def test_leftovers_of_a_killed_run_are_removed(sg2: Any, net: Path) -> None:
    photo("me.png")
    Path("o/me").mkdir(parents=True)
    leftover, file = atomic._temporary(Path("o/me"))
    file.write(b"half a file")
    file.close()
    assert sg2("project", "me.png", "-n", net, "--steps", 1, "--out", "o").code == 0
    assert inside("o/me") == sorted([*FILES, LATENT]) and not leftover.exists()


def test_two_runs_do_not_share_a_folder(sg2: Any, net: Path) -> None:
    import fcntl

    photo("me.png")
    Path("o").mkdir()
    handle = os.open("o", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    result = sg2("project", "me.png", "-n", net, "--steps", 1, "--out", "o")
    assert result.code == 1 and "another sg2 project" in one_line(result.err)
    os.close(handle)
    assert sg2("project", "me.png", "-n", net, "--steps", 1, "--out", "o").code == 0


def test_a_time_limit_is_kept(sg2: Any, net: Path) -> None:
    photo("me.png")
    start = time.monotonic()
    args = ("--steps", 100_000, "--time-limit", "2s", "--out", "o")
    result = sg2("project", "me.png", "-n", net, *args)
    assert result.code == 0 and time.monotonic() - start < 60
    assert metadata(f"o/me/{LATENT}")["ended"] == "time"


def test_presets_set_what_no_option_does(sg2: Any, net: Path) -> None:
    from dataclasses import asdict

    from sg2cli.settings import PRESETS

    photo("me.png")
    for preset, settings in PRESETS.items():
        args = ("--preset", preset, "--steps", 1, "--lr", 0.07, "--out", preset)
        assert sg2("project", "me.png", "-n", net, *args).code == 0
        message = metadata(f"{preset}/me/{LATENT}")
        expected = {**asdict(settings), "steps": 1, "lr": 0.07}
        expected["restarts"] = [{**restart, "lr": 0.07} for restart in expected["restarts"]]
        assert {name: message[name] for name in expected} == expected
