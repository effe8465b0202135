"""The public API: what `import sg2cli` offers, and what comes back from it."""

from __future__ import annotations

import ast
import inspect
import pickle
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from networks import random_generator

import sg2cli
from sg2cli.images.codecs import inspect_image
from sg2cli.latents.mapping import seed_to_z, truncate

NAMES = ["convert", "directions", "edit", "generate", "info", "interpolate", "load", "mix"]
NAMES += ["project", "project_batch", "truncate"]


@pytest.fixture(scope="module")
def G() -> Any:
    return sg2cli.load(device="cpu")


def ws_of(G: Any, seed: int, psi: float = 1.0) -> torch.Tensor:
    w = G.mapping(torch.from_numpy(seed_to_z(seed, G.config.z_dim))[None])
    ws = w[:, None].expand(-1, G.config.num_ws, -1)
    return truncate(ws, G.mapping.w_avg, psi)[0]


def test_the_import_is_light() -> None:
    """No torch, numpy or Pillow before the first use; in milliseconds, as it imports nothing."""
    code = "import sys; before = set(sys.modules); import sg2cli; dir(sg2cli);"
    code += "print(*{m.partition('.')[0] for m in sys.modules.keys() - before} - {'sg2cli'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert not loaded


def test_completion_and_help_show_all_of_it() -> None:
    assert {*NAMES} <= {*dir(sg2cli)}
    text = pydoc.render_doc(sg2cli, renderer=pydoc.plaintext)
    for name in NAMES:
        function = getattr(sg2cli, name)
        assert f"{name}(" in text
        assert inspect.getdoc(function) and f"sg2cli.{name}(" in inspect.getdoc(function)  # type: ignore[operator]
        hints = inspect.signature(function)
        assert all(p.annotation is not p.empty for p in hints.parameters.values()), name
        assert hints.return_annotation is not hints.empty
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sg2cli.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(sg2cli.__file__).with_suffix(".pyi")
    imported = [
        node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    found = {node.names[0].name: node.module for node in imported}
    assert found == sg2cli._MODULES  # type: ignore[attr-defined]


def test_generate(G: Any, in_tmp: Path) -> None:
    images = sg2cli.generate(G, "0-2,85", psi=0.7)
    assert len(images) == 4 and repr(images) == "Images(4 of 128x128)"
    drawn = list(images)
    assert [image.name for image in drawn] == ["seed0000", "seed0001", "seed0002", "seed0085"]
    last = drawn[-1]
    assert repr(last) == "Image('seed0085', 128x128)"
    np.testing.assert_allclose(last.ws, ws_of(G, 85, 0.7), atol=1e-5)
    expected = (G.synthesis(ws_of(G, 85, 0.7)[None]) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    difference = expected[0].permute(1, 2, 0).int() - torch.from_numpy(last.pixels).int()
    assert difference.abs().max() <= 1
    assert (last.provenance["seed"], last.provenance["psi"]) == (85, 0.7)
    assert last.provenance["checkpoint"] == G.checkpoint == sg2cli.info()["sha256"]
    np.testing.assert_array_equal(np.asarray(last), last.pixels)
    np.testing.assert_array_equal(images[-1].pixels, last.pixels)
    np.testing.assert_array_equal(images[1].pixels, drawn[1].pixels)
    with pytest.raises(IndexError):
        images[4]


def test_images_are_those_of_the_command(G: Any, sg2: Any) -> None:
    assert sg2("mix", "--rows", "0,1", "--cols", "5", "--styles", "coarse").code == 0
    assert sg2("edit", "3", "--direction", "sefa:1", "--amount", "2", "--out", "edits").code == 0
    mixed = sg2cli.mix(G, [0, 1], 5, "coarse")
    edited = sg2cli.edit(G, 3, "sefa:1", 2)
    for folder, image in [("out", mixed[0]), ("out", mixed[1]), ("edits", edited[0])]:
        with PIL.Image.open(f"{folder}/{image.name}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image.pixels)
        made = inspect_image(Path(folder, f"{image.name}.png"))[2]
        assert made is not None and made.pop("payload_sha256")
        assert made.pop("ws")["float32"]
        assert made == dict(image.provenance)


def test_results_are_latents(G: Any) -> None:
    """An image, its latent, its ws as an array or tensor all draw the same image again."""
    (image,) = sg2cli.generate(G, 7, psi=0.5)
    forms = [image, image.latent, image.ws, torch.from_numpy(image.ws), [image]]
    for form in forms:
        (again,) = sg2cli.generate(G, form)
        np.testing.assert_array_equal(again.pixels, image.pixels)
    (mixed,) = sg2cli.mix(G, rows=image, cols="55", styles="0-3")
    np.testing.assert_array_equal(mixed.ws[4:], image.ws[4:])
    np.testing.assert_allclose(mixed.ws[:4], ws_of(G, 55)[:4], atol=1e-5)
    both = list(sg2cli.generate(G, sg2cli.truncate(G, 7, psis=(0, 0.5))))
    np.testing.assert_array_equal(both[1].pixels, image.pixels)
    names = [i.name for i in sg2cli.generate(G, [image, image, "7"])]
    assert names == ["seed0007-2", "seed0007-3", "seed0007"]


def test_latents_of_an_image_with_noise_maps_keep_them(in_tmp: Path) -> None:
    G = random_generator()
    name = "synthesis.b8.conv0.noise_const"
    own = np.random.RandomState(0).randn(8, 8).astype("f4")
    latent = sg2cli.Latent("a", "seed", None, {}, 1, {name: own})
    (image,) = sg2cli.generate(G, latent)
    image.latent.save("a.safetensors")
    for again in (sg2cli.generate(G, image)[0], sg2cli.generate(G, "a.safetensors")[0]):
        np.testing.assert_array_equal(again.pixels, image.pixels)
    without = sg2cli.generate(G, image.ws)[0]
    assert (without.pixels != image.pixels).any()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_images_are_saved(G: Any, in_tmp: Path, suffix: str) -> None:
    (image,) = sg2cli.generate(G, 1)
    path = Path("new", f"a{suffix}")
    image.save(path)
    made = inspect_image(path)[2]
    assert made is not None and made["seed"] == 1
    before = path.read_bytes()
    with pytest.raises(sg2cli.Sg2Error, match="exists"):
        image.save(path)
    assert path.read_bytes() == before
    image.save(path, overwrite=True)
    with pytest.raises(sg2cli.UsageError, match="images are saved as"):
        image.save("a.bmp")


def test_images_together_become_a_grid_a_folder_or_a_video(G: Any, in_tmp: Path) -> None:
    sg2cli.truncate(G, "0-1", psis=(0, 1)).save("grid.png")
    with PIL.Image.open("grid.png") as grid:
        assert grid.width == 256 and grid.height > 256  # a header with the values of psi
    sg2cli.truncate(G, "0-1", psis=(0, 1)).save("folder")
    assert len(list(Path("folder").iterdir())) == 4
    frames = sg2cli.interpolate(G, "0,1", 5)
    assert len(frames) == 5
    frames.save("a.gif", fps=10)
    frames.save("a.webp")
    for name in ("a.gif", "a.webp"):
        with PIL.Image.open(name) as video:
            assert video.n_frames == 5  # type: ignore[attr-defined]
    sg2cli.edit(G, 0, "sefa:0", 1.5).save("one.png")
    with PIL.Image.open("one.png") as single:
        assert single.size == (128, 128)


def test_notebooks_show_results(G: Any, in_tmp: Path) -> None:
    import io

    (image,) = sg2cli.generate(G, 1)
    with PIL.Image.open(io.BytesIO(image._repr_png_())) as shown:
        np.testing.assert_array_equal(np.asarray(shown), image.pixels)
    with PIL.Image.open(io.BytesIO(sg2cli.mix(G, "0-1", "2-4")._repr_png_())) as shown:
        assert shown.size == (128 * 4, 128 * 3)


def test_results_are_frozen_and_can_be_sent_to_another_process(G: Any) -> None:
    (image,) = sg2cli.generate(G, 1)
    with pytest.raises(AttributeError):
        image.name = "b"
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(again.ws, image.ws)


def test_directions(G: Any, in_tmp: Path) -> None:
    found = sg2cli.directions(G, samples=2000)
    assert repr(found) == "Directions(sefa [256, 256], pca [256, 256])"
    found.save("d.safetensors")
    by_file = sg2cli.edit(G, 0, "d.safetensors:sefa:0", 1)[0]
    by_name = sg2cli.edit(G, 0, "sefa:0", 1)[0]
    assert np.abs(by_file.pixels.astype(int) - by_name.pixels).max() <= 3
    with pytest.raises(sg2cli.Sg2Error, match="exists"):
        found.save("d.safetensors")


def test_images_are_counted_as_they_are_iterated(G: Any) -> None:
    drawn = [
        sg2cli.generate(G, "0-2"),
        sg2cli.mix(G, "0-1", "2-4"),
        sg2cli.truncate(G, "0-1", psis=(0, 1)),
        sg2cli.edit(G, "0-1", "glasses", (0, 1)),
        sg2cli.interpolate(G, "0,1", 3),
    ]
    for images in drawn:
        listed = list(images)
        assert len(images) == len(listed) > 1
        assert images[len(images) - 1].name == images[-1].name == listed[-1].name


def test_named_directions(G: Any) -> None:
    plain, edited = (sg2cli.edit(G, 85, "glasses", amount)[0] for amount in (0, 1))
    changed = np.abs(edited.ws - plain.ws).max(axis=1) > 0
    assert changed[3:7].any() and not changed[:3].any() and not changed[7:].any()
    with pytest.raises(sg2cli.UsageError, match="did you mean glasses"):
        sg2cli.edit(G, 85, "glases")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "is not a latent"),
        ("7-3", "descending"),
        ("nothing.npz", "no file"),
        ([], "no latents"),
        (-1, "is not a latent"),
        (2**32, "beyond the largest seed"),
        (1.5, "a float is not a latent"),
        (None, "a NoneType is not a latent"),
        (np.zeros(7), "has ws of"),
        (torch.zeros(2, 3, 128), "has ws of"),
    ],
)
def test_what_is_not_a_latent(G: Any, given: Any, message: str) -> None:
    with pytest.raises(sg2cli.UsageError, match=message):
        sg2cli.generate(G, given)


def test_images_that_are_not_finite_are_errors(G: Any) -> None:
    with pytest.raises(sg2cli.Sg2Error, match="NaN or infinity"):
        list(sg2cli.generate(G, torch.full((256,), torch.nan)))


def test_convert_and_info(in_tmp: Path) -> None:
    source = Path(__file__).parent / "golden/formats/ada-uncond-32.pkl"
    made = sg2cli.convert(source, "a.safetensors")
    assert made.path == Path("a.safetensors") and "read" in made.notes[0]
    assert sg2cli.info("a.safetensors")["resolution"] == "32x32"
    (image,) = sg2cli.generate(sg2cli.load("a.safetensors", device="cpu"), 0)
    assert image.pixels.shape == (32, 32, 3)
    sg2cli.convert("a.safetensors", "a.pt", to="ada")
    with pytest.raises(sg2cli.Sg2Error, match="exists"):
        sg2cli.convert(source, "a.safetensors")
    with pytest.raises(sg2cli.UsageError, match="must end in"):
        sg2cli.convert(source, "a.npz")
    with pytest.raises(sg2cli.UsageError, match="no file"):
        sg2cli.info("nothing")
