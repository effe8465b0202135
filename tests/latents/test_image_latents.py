"""Images made by sg2 as latents, and folders of latents."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator
from PIL import Image as PillowImage
from safetensors.numpy import save_file

import sg2cli
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.images.codecs import encode, inspect_image
from sg2cli.images.stored_ws import pack_ws, unpack_ws
from sg2cli.latents.image_latents import PhotoGiven
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.notation import parse_latents
from sg2cli.latents.opening import open_latents
from sg2cli.latents.sources import LatentList

G = random_generator()  # z 12, w 16, 6 ws
CONDITIONAL = random_generator(c_dim=3, embed_features=5)
WS = np.random.RandomState(1).randn(3, 6, 16).astype(np.float32)
FORMATS = ("png", "jpg", "webp")


def opened(text: str, network: Any = G) -> LatentList:
    return open_latents(parse_latents(text), network.config)


def ws_of(text: str, psi: float | None = None) -> torch.Tensor:
    return to_ws(G, list(opened(text)), psi)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("psi", [None, 0.5])
@pytest.mark.parametrize("given", ["85", WS[0], WS[0, 0], "avg"], ids=["seed", "ws", "w", "avg"])
def test_an_image_is_drawn_again(in_tmp: Path, format: str, psi: float | None, given: Any) -> None:
    (image,) = sg2cli.generate(G, given, psi=psi)
    image.save(f"a.{format}")
    (again,) = sg2cli.generate(G, f"a.{format}")
    assert (again.pixels == image.pixels).all() and again.name == "a"
    np.testing.assert_array_equal(again.ws, image.ws)


@pytest.mark.parametrize("format", FORMATS)
def test_results_of_every_command_are_latents(in_tmp: Path, format: str) -> None:
    results = [
        sg2cli.mix(G, "1", "2", styles="0-2", psi=0.5)[0],
        sg2cli.edit(G, "1", "sefa:0", 2.0)[0],
        sg2cli.truncate(G, "1", [0.3])[0],
        sg2cli.interpolate(G, "1,2", 5)[2],
    ]
    for image in results:
        image.save(f"a.{format}", overwrite=True)
        for psi in (None, 1.0):
            (again,) = sg2cli.generate(G, f"a.{format}", psi=psi)
            assert (again.pixels == image.pixels).all()


def test_a_seed_needs_no_stored_latent(in_tmp: Path) -> None:
    sg2cli.generate(G, "85", psi=0.5)[0].save("seed.png")
    assert "ws" not in (inspect_image(Path("seed.png"))[2] or {})
    sg2cli.generate(G, WS[0])[0].save("ws.png")
    assert "ws" in (inspect_image(Path("ws.png"))[2] or {})
    assert sg2cli.info("ws.png")["ws"] == [6, 16]


def test_truncation_is_never_applied_twice(in_tmp: Path) -> None:
    at_half = sg2cli.generate(G, "85", psi=0.5, cutoff=4)[0]
    at_half.save("a.png")
    sg2cli.generate(G, "a.png")[0].save("b.webp")
    sg2cli.generate(G, "b.webp", psi=0.5)[0].save("c.png")
    sg2cli.edit(G, "c.png", "sefa:0", 0.0)[0].save("d.png")
    sg2cli.mix(G, "d.png", "c.png")[0].save("e.png")
    for name in ("a.png", "b.webp", "c.png", "d.png", "e.png"):
        (again,) = sg2cli.generate(G, name, psi=0.5)
        np.testing.assert_array_equal(again.ws, at_half.ws)


def test_an_image_without_truncation_can_be_truncated(in_tmp: Path) -> None:
    expected = sg2cli.generate(G, "85", psi=0.5)[0].ws
    sg2cli.generate(G, "85")[0].save("a.png")
    sg2cli.generate(G, "a.png")[0].save("b.png")
    for name in ("a.png", "b.png"):
        np.testing.assert_allclose(sg2cli.generate(G, name, psi=0.5)[0].ws, expected, atol=1e-6)


def test_the_class_of_an_image_is_kept(in_tmp: Path) -> None:
    image = sg2cli.generate(CONDITIONAL, "85", class_index=2)[0]
    image.save("a.png")
    (again,) = sg2cli.generate(CONDITIONAL, "a.png")  # without a class
    assert (again.pixels == image.pixels).all()
    both = sg2cli.generate(CONDITIONAL, ["a.png", 85], class_index=1)
    assert (both[0].pixels == image.pixels).all() and (both[1].pixels != image.pixels).any()
    with pytest.raises(UsageError, match="drawn with class 2: this network has classes 0 to 1"):
        opened("a.png", random_generator(c_dim=2))


def test_another_network_is_a_warning(in_tmp: Path) -> None:
    content = encode(np.zeros((8, 8, 3), "u1"), "png", made(seed=85, checkpoint="abc" * 9))
    Path("a.png").write_bytes(content)
    assert "a was made with another network, abcabcabcabc" in opened("a.png").warnings("other")[0]
    assert opened("a.png").warnings("abc" * 9) == []


def made(**fields: Any) -> dict[str, Any]:
    settings = {"psi": 1.0, "cutoff": None, "class": None, "noise_mode": "const"}
    return {"checkpoint": None, **settings, "precision": "fp32", "version": "0.1.0", **fields}


def save_image(name: str, **fields: Any) -> None:
    Path(name).write_bytes(encode(np.zeros((8, 8, 3), "u1"), "png", made(**fields)))


def test_older_images(in_tmp: Path) -> None:
    """Those of seeds are latents; others did not store theirs."""
    save_image("seed.png", seed=85, psi=0.5)
    torch.testing.assert_close(ws_of("seed.png"), ws_of("85", 0.5), rtol=0, atol=0)
    save_image("edit.png", seed=85, direction="sefa:0", layers=[0], amount=2)
    save_image("grid.png", latents=["0-3"], grid="2x2")
    for name in ("edit.png", "grid.png"):
        with pytest.raises(Sg2Error, match="holds no latent: a grid, a comparison or a target"):
            opened(name)


def test_a_photo_is_answered_with_the_line_that_projects_it(in_tmp: Path) -> None:
    for name in ("me.png", "my photo.jpg", "me.bmp", "me.webp", "me.gif", "me.tiff"):
        PillowImage.new("RGB", (16, 16)).save(name)
        with pytest.raises(PhotoGiven) as raised:
            opened(name)
        shown = "'my photo.jpg'" if " " in name else name
        assert f"`sg2 project {shown}`" in str(raised.value)
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(PhotoGiven):
        opened("broken.jpg")


@pytest.mark.parametrize("selection", ["[1]", ":w", "[0-3]"])
def test_an_image_has_a_single_latent(in_tmp: Path, selection: str) -> None:
    save_image("a.png", seed=1)
    with pytest.raises(UsageError, match="with a single latent: give its name alone"):
        opened(f"a.png{selection}")
    assert len(opened("a.png[0]")) == 1


def packed(content: bytes, shape: Any = (6, 16)) -> dict[str, Any]:
    return {"shape": list(shape), "float32": base64.b85encode(content).decode()}


BOMB = zlib.compress(b"\0" * (64 << 20), 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ws": packed(BOMB)}, "damaged|longer than its shape"),
        ({"ws": packed(zlib.compress(b"\0" * 383))}, "damaged"),
        ({"ws": packed(zlib.compress(b"\0" * 385))}, "damaged"),
        ({"ws": packed(zlib.compress(b"\0" * 384)[:-3])}, "damaged"),
        ({"ws": packed(b"\0" * 384)}, "damaged"),
        ({"ws": packed(zlib.compress(b"\0" * 384), (1 << 19, 1 << 19))}, r"ws of \[524288, 524288"),
        ({"ws": packed(zlib.compress(b"\0" * 384), (-6, -16))}, "no valid shape"),
        ({"ws": packed(zlib.compress(b"\0" * 384), (6.0, 16))}, "no valid shape"),
        ({"ws": packed(zlib.compress(b"\0" * 384), (1,) * 99)}, "no valid shape"),
        ({"ws": {"shape": [6, 16]}}, "damaged"),
        ({"ws": {"shape": [6, 16], "float32": 5}}, "damaged"),
        ({"ws": {"shape": [6, 16], "float32": "\u00e9" * 50}}, "damaged"),
        ({"ws": "text"}, "no valid shape"),
        ({"ws": [1, 2]}, "no valid shape"),
        ({"ws": packed(zlib.compress(b"\0" * 384)), "psi": "x"}, "psi is not a number"),
        ({"seed": -1}, "seed is out of range"),
        ({"seed": 1 << 40}, "seed is out of range"),
        ({"seed": True}, "seed is out of range"),
        ({"seed": "85"}, "seed is out of range"),
        ({"seed": 85, "psi": float("nan")}, "psi is not a number"),
        ({"seed": 85, "psi": 1e300}, "psi is not a number"),
        ({"seed": 85, "cutoff": -1}, "cutoff is not a number"),
        ({"seed": 85, "cutoff": "x"}, "cutoff is not a number"),
        ({"seed": 85, "checkpoint": 5}, "hash of its network is malformed"),
    ],
)
def test_hostile_metadata(in_tmp: Path, fields: dict[str, Any], message: str) -> None:
    save_image("a.png", **fields)
    with pytest.raises(Sg2Error, match=message):
        list(opened("a.png"))


def test_a_latent_that_is_not_finite(in_tmp: Path) -> None:
    ws = WS[0].copy()
    ws[1, 2] = np.nan
    save_image("a.png", ws=pack_ws(ws))
    with pytest.raises(Sg2Error, match="holds NaN or infinity"):
        list(opened("a.png"))


def test_the_latent_of_a_large_network_fits_into_a_jpg(in_tmp: Path) -> None:
    ws = np.random.RandomState(0).randn(18, 512).astype("f4")
    provenance = made(file="x", row=0, sha256="0" * 64)
    for format in FORMATS:
        Path(f"a.{format}").write_bytes(encode(np.zeros((8, 8, 3), "u1"), format, provenance, ws))
        found = inspect_image(Path(f"a.{format}"))[2]
        assert found is not None
        np.testing.assert_array_equal(unpack_ws(found), ws)
    larger = np.random.RandomState(0).randn(40, 512).astype("f4")  # too large: the image counts
    Path("b.jpg").write_bytes(encode(np.zeros((8, 8, 3), "u1"), "jpg", provenance, larger))
    assert "ws" not in (inspect_image(Path("b.jpg"))[2] or {"ws": 1})


def save_projection(folder: str, photo: str | None) -> None:
    Path(folder).mkdir(parents=True)
    fields = {"target": {"file": photo}} if photo else {}
    path = Path(folder, "projected.safetensors")
    save_file({"ws": WS[:1]}, path, {"sg2": json.dumps({"checkpoint": "abc", **fields})})


def names(text: str) -> list[str]:
    return [latent.name for latent in opened(text)]


def test_a_projection_is_named_after_its_photo(in_tmp: Path) -> None:
    save_projection("out/me", "me.jpg")
    save_projection("out/you", "holiday/you.2024.png")
    assert names("out/me") == names("out/me/projected.safetensors") == ["me"]
    assert names("out") == ["me", "you.2024"]
    assert names("out/me,out/me") == ["me", "me-2"]
    shutil.copy("out/me/projected.safetensors", "renamed.safetensors")
    assert names("renamed.safetensors") == ["renamed"]


@pytest.mark.parametrize("photo", ["..", "", "\0", "/", "a/..", "../../x\n.png", "x" * 5000, 5])
def test_the_name_of_a_photo_is_untrusted(in_tmp: Path, photo: Any) -> None:
    save_projection("out", photo)
    (name,) = names("out")
    assert name and "/" not in name and name.isprintable() and len(name) <= 100
    assert name not in (".", "..")


def test_folders_and_patterns(in_tmp: Path) -> None:
    Path("images").mkdir()
    for seed in (3, 1, 2):
        sg2cli.generate(G, seed)[0].save(f"images/seed{seed:04d}.png")
    save_image("images/grid.png", latents=["0-3"], grid="2x2")
    assert names("images") == ["seed0001", "seed0002", "seed0003"]
    assert opened("images").notes == ["images: no latent in grid.png, left out"]
    assert names("images/seed*.png") == ["seed0001", "seed0002", "seed0003"]
    Path("files").mkdir()
    np.save("files/b.npy", WS)
    torch.save(torch.from_numpy(WS[:1]), "files/a.pt")
    sg2cli.generate(G, 5)[0].save("files/image.png")
    save_file({"mapping.w_avg": WS[0]}, "files/network.safetensors")
    assert names("files") == ["a", "b-0000", "b-0001", "b-0002"]
    assert names("files/*.npy[1],7") == ["b-0001", "seed0007"]
    assert names("f?les/b.npy[2]") == ["b-0002"]
    with pytest.raises(ValueError, match="no file matches"):
        parse_latents("nothing*.npy")
    with pytest.raises(ValueError, match="files is a folder: give its name alone"):
        parse_latents("files[0]")
    Path("empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no latents"):
        opened("empty")


def test_a_folder_of_photos_is_answered_with_the_line_that_projects_it(in_tmp: Path) -> None:
    Path("photos").mkdir()
    PillowImage.new("RGB", (16, 16)).save("photos/me.png")
    with pytest.raises(PhotoGiven, match="`sg2 project photos`"):
        opened("photos")


def test_a_list_of_paths(in_tmp: Path) -> None:
    np.save("a.npy", WS)
    save_image("b.png", seed=1)
    images = sg2cli.generate(G, [Path("a.npy"), Path("b.png"), 3])
    assert [image.name for image in images] == ["a-0000", "a-0001", "a-0002", "b", "seed0003"]
