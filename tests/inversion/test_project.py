"""The function `project`: a photo and a network suffice, and the command finds the same latent."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from networks import random_generator
from safetensors import safe_open
from safetensors.torch import load_file

import sg2cli
from sg2cli import checkpoints
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.events import Events
from sg2cli.inversion.batch_results import BatchOptions
from sg2cli.inversion.project import project
from sg2cli.inversion.project_batch import project_batch
from sg2cli.inversion.projection import Projection
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.sources import Latent
from sg2cli.settings import PRESETS, ProjectSettings, TuneSettings, project_settings

FILES = ["compare.png", "history.csv", "loss.png", "projected.png"]
FILES += ["projected.safetensors", "target.png"]


@pytest.fixture
def net(in_tmp: Path) -> Path:
    """A network of 16x16 pixels, whose images stay in range."""
    checkpoints.save_generator(random_generator(conv_clamp=1.0), in_tmp / "net.safetensors", {})
    return in_tmp / "net.safetensors"


@pytest.fixture
def G(net: Path) -> Any:
    return sg2cli.load(net, device="cpu")


def photo(seed: int = 0, size: tuple[int, int] = (20, 16)) -> PIL.Image.Image:
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), np.uint8)
    return PIL.Image.fromarray(coarse).resize(size, PIL.Image.Resampling.BICUBIC)


def same(a: Projection, b: Projection) -> bool:
    """The same latent, to the bit."""
    assert a.noise.keys() == b.noise.keys()
    maps = all(np.array_equal(a.noise[name], b.noise[name]) for name in a.noise)
    return maps and np.array_equal(a.ws, b.ws) and np.array_equal(a.image, b.image)


class Recorded(Events):
    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.paths: list[Path] = []

    def step(self, stage: str, done: int, total: int, lpips: float | None) -> None:
        self.steps.append((stage, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def wrote(self, path: Path, provenance: Any) -> None:
        self.paths.append(path)


def test_a_network_and_a_photo_suffice_and_nothing_is_written(
    G: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "paper", ProjectSettings(steps=3))
    before = sorted(Path().iterdir())
    found = project(G, photo())
    assert sorted(Path().iterdir()) == before and capfd.readouterr() == ("", "")
    assert found.ws.shape == (G.config.num_ws, G.config.w_dim) and found.ws.dtype == np.float32
    assert {*found.noise} == {layer.noise_name for layer in G.synthesis.layers}
    assert found.image.shape == found.target.shape == (16, 16, 3)
    assert found.image.dtype == np.uint8
    assert 0 < found.lpips < 2 and len(found.history) == found.steps == 3
    assert found.ended == "done" and found.provenance["checkpoint"] == G.checkpoint


def test_an_image_and_its_file_and_its_pixels_give_the_same_bits(G: Any) -> None:
    image = photo()
    image.save("me.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by the camera
    image.save("turned.png", exif=exif)
    found = [project(G, given, steps=3) for given in ("me.png", Path("me.png"), image)]
    assert same(found[0], found[1]) and same(found[0], found[2])
    assert same(found[0], project(G, np.array(image), steps=3))
    assert [each.name for each in found] == ["me", "me", "photo"]
    with PIL.Image.open("turned.png") as turned:
        assert same(project(G, "turned.png", steps=1), project(G, turned, steps=1))


def test_the_command_finds_the_same_latent_and_writes_the_same_files(
    sg2: Any, net: Path, G: Any
) -> None:
    photo().save("me.png")
    args = ("me.png", "-n", net, "--preset", "fast", "--steps", 4, "--space", "w+", "--init", 7)
    assert sg2("project", *args, "--out", "o", "--device", "cpu").code == 0
    found = project(G, "me.png", "fast", steps=4, space="w+", init=7)
    paths = found.save("mine")
    assert sorted(path.name for path in paths) == FILES
    for name in FILES:
        assert (Path("mine") / name).read_bytes() == (Path("o/me") / name).read_bytes(), name


def test_a_saved_projection_is_drawn_again_and_not_replaced(G: Any) -> None:
    found = project(G, photo(), steps=2)
    found.save("deep/me")
    stored = load_file("deep/me/projected.safetensors")
    assert np.array_equal(stored["ws"][0].numpy(), found.ws)
    with safe_open("deep/me/projected.safetensors", "pt") as file:
        made = json.loads(file.metadata()["sg2"])
    assert made["lpips_vgg"] == round(found.lpips, 6) and made["target"]["file"] == "photo"
    for latent in (found, "deep/me/projected.safetensors"):
        (image,) = sg2cli.generate(G, latent)
        assert np.array_equal(image.pixels, found.image)
    before = Path("deep/me/projected.png").read_bytes()
    with pytest.raises(Sg2Error, match="exists"):
        project(G, photo(1), steps=2).save("deep/me")
    assert Path("deep/me/projected.png").read_bytes() == before
    project(G, photo(1), steps=2).save("deep/me", overwrite=True)
    assert Path("deep/me/projected.png").read_bytes() != before


def test_it_displays_in_a_notebook(G: Any) -> None:
    found = project(G, photo(), steps=1)
    assert found.verdict is not None
    shown = f"LPIPS {found.lpips:.3f}, {found.verdict.word}"
    assert repr(found) == f"Projection('photo', 16x16, {shown})"
    with PIL.Image.open(io.BytesIO(found._repr_png_())) as shown:
        assert shown.size[0] == 3 * 256


def test_a_latent_to_start_from_is_one(G: Any) -> None:
    seven = to_ws(G, [Latent("7", "seed", None, {}, 7)])[0]
    for init in (7, seven, project(G, photo(), steps=1, init=7)):
        found = project(G, photo(), steps=1, w_noise=0.0, space="w+", init=init)
        assert np.allclose(found.ws, seven, atol=1e-5)  # the first step has a learning rate of 0
    with pytest.raises(UsageError, match="2 latents for one photo"):
        project(G, photo(), init="7,8")


def test_a_mask_weighs_pixels(G: Any) -> None:
    first = np.array(photo(0, (16, 16)))
    white, half = np.full((16, 16), 255, np.uint8), np.zeros((16, 16), np.uint8)
    half[:, :8] = 255
    plain = project(G, first, steps=4)
    all_counts, some_count = (project(G, first, steps=4, mask=mask) for mask in (white, half))
    assert np.allclose(all_counts.ws, plain.ws, atol=1e-3)
    assert not np.allclose(some_count.ws, plain.ws, atol=1e-3)
    left = np.abs(some_count.image[:, :8].astype(float) - first[:, :8]) ** 2
    psnr = 10 * np.log10(255**2 / left.mean())  # the figures are those of what counts
    assert some_count.figures.psnr == pytest.approx(psnr, abs=1e-3)
    # LPIPS is 0 where nothing counts, so that half of it is twice as much in the other half.
    assert plain.verdict and all_counts.verdict and some_count.verdict
    scale = plain.lpips / plain.verdict.ratio
    assert all_counts.verdict.ratio == pytest.approx(all_counts.lpips / scale)
    assert some_count.verdict.ratio == pytest.approx(2 * some_count.lpips / scale)
    with pytest.raises(UsageError, match="must have the same size"):
        project(G, first, mask=half[:8])
    with pytest.raises(UsageError, match="is black everywhere"):
        project(G, first, mask=0 * half)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing.png", "missing.png"),
        ("words.png", "words.png is damaged, or not an image"),
        (np.zeros((16, 16, 3)), r"float64 \[16, 16, 3\]"),
        (np.zeros((16, 16, 2), np.uint8), r"uint8 \[16, 16, 2\]"),
        (np.zeros((0, 16, 3), np.uint8), "empty"),
        (np.zeros((2, 2, 3), np.uint8), "too few"),
        (7, "a int is not a photo"),
    ],
)
def test_a_bad_photo_is_an_error_that_says_so(G: Any, given: Any, message: str) -> None:
    Path("words.png").write_text("words")
    with pytest.raises(Sg2Error, match=message):
        project(G, given)


def test_settings_that_do_not_fit_are_refused(G: Any) -> None:
    for arguments, message in {
        (("slow",), ()): "no preset 'slow': use one of paper, fast, best",
        ((), (("speed", 2),)): "unknown setting of projections: 'speed'",
        ((), (("class_index", 1),)): "no classes",
        ((), (("settings", ProjectSettings()), ("steps", 3))): "not both",
    }.items():
        with pytest.raises(UsageError, match=message):
            project(G, photo(), *arguments[0], **dict(arguments[1]))


def test_a_preset_is_changed_in_its_restarts_too() -> None:
    changed = project_settings("best", steps=9, lr=0.07, w_noise=0.5, pixel_weight=0.7)
    assert changed.steps == 9 and changed.lr == 0.07
    for restart, before in zip(changed.restarts, PRESETS["best"].restarts, strict=True):
        assert (restart.lr, restart.w_noise, restart.pixel_weight) == (0.07, 0.5, 0.7)
        assert (restart.at, restart.start_samples) == (before.at, before.start_samples)
    assert not project_settings("paper").keep_best
    assert project_settings("paper", patience=5).keep_best  # a plateau is one of scores
    assert project_settings("fast") == PRESETS["fast"]


def stopping(at: int) -> Events:
    class Stops(Events):
        def step(self, stage: str, done: int, total: int, lpips: float | None) -> None:
            if done == at:
                raise KeyboardInterrupt

    return Stops()


def test_an_interrupted_projection_continues_from_its_snapshot(G: Any) -> None:
    whole, events = project(G, photo(), steps=6), Recorded()
    with pytest.raises(KeyboardInterrupt):
        project(G, photo(), steps=6, snapshot="s.safetensors", events=stopping(4))
    with pytest.raises(Sg2Error, match="other settings"):
        project(G, photo(), steps=7, snapshot="s.safetensors")
    found = project(G, photo(), steps=6, snapshot="s.safetensors", events=events)
    assert same(found, whole) and found.history == whole.history
    assert events.notes == ["resuming at step 4"]
    assert events.steps == [("Projecting", 5, 6), ("Projecting", 6, 6)]
    assert not Path("s.safetensors").exists()


def test_a_tuned_network_is_named_in_the_provenance(G: Any) -> None:
    assert "tuned" not in project(G, photo(), steps=1).provenance
    G.tuned = "0" * 64
    assert project(G, photo(), steps=1).provenance["tuned"] == "0" * 64


def test_a_batch_is_yielded_as_it_is_written(G: Any) -> None:
    Path("photos").mkdir()
    for seed in range(3):
        photo(seed).save(f"photos/{seed}.png")
    events, options = Recorded(), BatchOptions(together=2)
    batch = project_batch(G, "photos", "out", steps=2, options=options, events=events)
    found = []
    for projection in batch:
        assert (Path("out") / projection.name / "projected.safetensors").exists()
        found.append(projection)
    assert [projection.name for projection in found] == ["0", "1", "2"]
    names = {path.name for path in Path("out").iterdir()} - {".sg2"}
    assert names == {"0", "1", "2", "summary.csv"}
    assert len(events.paths) == 3 * len(FILES) and events.steps[-1] == ("Projecting", 4, 4)
    assert same(found[2], project(G, "photos/2.png", steps=2))
    with pytest.raises(Sg2Error, match="exists"):
        project_batch(G, "photos", "out", steps=2)
    assert not list(project_batch(G, "photos", "out", steps=2, options=options, resume=True))


def test_a_batch_that_is_left_early_is_resumed(G: Any) -> None:
    names = [f"{seed}.png" for seed in range(3)]
    for seed, name in enumerate(names):
        photo(seed).save(name)
    options = BatchOptions(together=1)
    call: Callable[..., Any] = lambda **more: project_batch(  # noqa: E731
        G, names, "out", steps=2, options=options, **more
    )
    for projection in call():
        assert projection.name == "0"
        break
    assert [projection.name for projection in call(resume=True)] == ["1", "2"]


def test_a_photo_that_fails_does_not_affect_the_others(G: Any) -> None:
    photo().save("good.png")
    Path("words.png").write_text("words")
    batch, events = [], Recorded()
    with pytest.raises(Sg2Error, match=r"^words.png is damaged"):
        list(project_batch(G, "words.png", "alone", steps=1))
    with pytest.raises(Sg2Error, match=r"1 of 2 photos failed: words.png is damaged"):
        for projection in project_batch(
            G, ["words.png", "good.png"], "out", steps=1, events=events
        ):
            batch.append(projection)
    assert [projection.name for projection in batch] == ["good"]
    assert any("words.png" in note for note in events.notes)


@pytest.mark.parametrize("together", [False, True])
def test_a_batch_is_tuned(G: Any, together: bool) -> None:
    for seed in range(2):
        photo(seed).save(f"{seed}.png")
    weights = {name: weight.clone() for name, weight in G.state_dict().items()}
    tune, events = TuneSettings(steps=3), Recorded()
    found = list(
        project_batch(
            G,
            ["0.png", "1.png"],
            "out",
            steps=2,
            tune=tune,
            tune_together=together,
            events=events,
        )
    )
    assert all(torch.equal(weight, weights[name]) for name, weight in G.state_dict().items())
    assert Path("out/tuned.safetensors").exists() == together
    for projection in found:
        assert projection.provenance["tune"]["steps"] == 3
        assert (Path("out") / projection.name / "tuned.safetensors").exists() != together
    assert [step for step in events.steps if step[0] == "Tuning"][-1][1] == (6 if together else 3)
