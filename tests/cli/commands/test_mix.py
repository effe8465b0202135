"""`sg2 mix`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import GOLDEN, golden, random_generator
from safetensors.numpy import save_file

from sg2cli import checkpoints
from sg2cli.images.pixels import to_pixels
from tests.conftest import SG2, one_line

from .test_generate import pixels


def test_a_golden_mix_comes_out(sg2: Any) -> None:
    """NVIDIA's: the ws of seed 0 with rows 0-3 from seed 85, psi 0.8."""
    for name in ("uncond-64", "resnet-32", "gray-16"):
        _, expected, _ = golden(name)
        network = GOLDEN / f"{name}.weights.safetensors"
        args = ["--rows", 0, "--cols", 85, "--styles", "0-3", "--trunc", 0.8, "--out", name]
        assert sg2("mix", "-n", network, *args).code == 0
        image = to_pixels(expected["mix_row0_col1_styles0-3_psi0.8"])[0]
        found = pixels(f"{name}/seed0000-seed0085.png").reshape(image.shape)
        assert abs(found.astype(int) - image).max() <= 1


def test_images_and_grid(sg2: Any) -> None:
    result = sg2("mix", "--rows", "1-2", "--cols", "3,4,5")
    names = ["seed0003", "seed0004", "seed0005"]
    for row in ("seed0001", "seed0002"):
        names += [row, *(f"{row}-seed000{col}" for col in (3, 4, 5))]
    assert result.lines == [*(f"out/{name}.png" for name in names), "out/grid.png"]
    grid = pixels("out/grid.png")
    assert grid.shape == (3 * 128, 4 * 128, 3)
    assert (grid[:128, :128] == 255).all()
    for name, (row, column) in {
        "seed0003": (0, 1),
        "seed0005": (0, 3),
        "seed0002": (2, 0),
        "seed0001-seed0004": (1, 2),
    }.items():
        cell = grid[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
        np.testing.assert_array_equal(cell, pixels(f"out/{name}.png"), err_msg=name)


def test_a_latent_mixed_with_itself_is_itself(sg2: Any) -> None:
    result = sg2("mix", "--rows", "1,2", "--cols", "1", "--styles", "coarse")
    assert result.lines.count("out/seed0001.png") == 1
    np.testing.assert_array_equal(pixels("out/seed0001-seed0001.png"), pixels("out/seed0001.png"))
    assert pixels("out/grid.png").shape == (384, 256, 3)


def test_all_styles_of_a_column_are_the_column(sg2: Any) -> None:
    sg2("mix", "--rows", "1", "--cols", "2", "--styles", "0-11")
    np.testing.assert_array_equal(pixels("out/seed0001-seed0002.png"), pixels("out/seed0002.png"))


def test_rows_bring_their_noise(sg2: Any) -> None:
    name = "synthesis.b64.conv1.noise_const"
    noise = np.random.RandomState(0).randn(64, 64).astype("f4") * 3
    ws = np.random.RandomState(1).randn(1, 12, 256).astype("f4") * 0.1
    save_file({"ws": ws, name: noise}, "a.safetensors")
    save_file({"ws": ws}, "b.safetensors")
    G = checkpoints.load(device="cpu")  # whose noise has no strength
    G.get_submodule("synthesis.b64.conv1").noise_strength.fill_(0.3)  # type: ignore[operator, union-attr]
    checkpoints.save_generator(G, Path("net.safetensors"), {})
    latents = ("--rows", "a.safetensors,b.safetensors", "--cols", "a.safetensors")
    assert sg2("mix", "-n", "net.safetensors", *latents, "--out", "o").code == 0
    row_of_noise, row_without = pixels("o/a-a.png"), pixels("o/b-a.png")
    np.testing.assert_array_equal(row_of_noise, pixels("o/a.png"))
    np.testing.assert_array_equal(row_without, pixels("o/b.png"))
    assert not np.array_equal(row_of_noise, row_without)


def test_files_with_the_same_stem_get_different_names(sg2: Any) -> None:
    for folder, seed in (("a", 1), ("b", 2)):
        ws = np.random.RandomState(seed).randn(1, 12, 256).astype("f4")
        Path(folder).mkdir()
        np.save(f"{folder}/me.npy", ws)
    result = sg2("mix", "--rows", "a/me.npy", "--cols", "b/me.npy")
    names = ["me-2", "me", "me-me-2", "grid"]
    assert result.lines == [f"out/{name}.png" for name in names]


def test_the_provenance_names_both_parents(sg2: Any) -> None:
    *lines, _ = map(json.loads, sg2("mix", "--rows", "1", "--cols", "2", "--json").lines)
    assert lines[2]["row"] == {"seed": 1}
    assert lines[2]["column"] == {"seed": 2}
    assert lines[2]["styles"] == [0, 1, 2, 3, 4, 5, 6]


def test_skip_existing_continues(sg2: Any) -> None:
    args = ["mix", "--rows", "1-2", "--cols", "3,4", "--skip-existing"]
    sg2(*args)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for name in ("seed0003", "seed0001-seed0004", "grid"):
        Path(f"out/{name}.png").unlink()
    assert len(sg2(*args).lines) == 3
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert "other settings" in sg2(*args, "--styles", "fine").err


def test_classes(sg2: Any) -> None:
    G = random_generator(c_dim=3, embed_features=4)
    checkpoints.save_generator(G, Path("c.safetensors"), {})
    args = ["mix", "-n", "c.safetensors", "--rows", "1", "--cols", "2", "--styles", "0"]
    assert "3 classes" in one_line(sg2(*args).err)
    assert sg2(*args, "--class", "2").code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no latents: give --rows"),
        (["--rows", "1"], "no latents: give --cols"),
        (["--rows", "1", "--cols", ""], "'' is not a latent"),
        (["--rows", "1", "--cols", "2", "--styles", "0-12"], "row 12 is out of range"),
        (["--rows", "1", "--cols", "2", "--styles", "huge"], "'huge' is not a style: use coarse"),
        (["--rows", "1", "--cols", "2", "--styles", "6-0"], "did you mean 0-6?"),
        (["--rows", "1", "--cols", "2", "--out", "a.png"], "several images"),
        (["--rows", "1", "--cols", "2", "--out", "-"], "several images"),
        (["--rows", "1", "--cols", "other.npy"], "ws of 4 rows, this network has 12"),
        (["--rows", "1", "--cols", "wide.npy"], "w of dimension 64, this network has 256"),
    ],
)
def test_bad_input(sg2: Any, args: list[str], message: str) -> None:
    np.save("other.npy", np.zeros((1, 4, 256)))
    np.save("wide.npy", np.zeros((1, 12, 64)))
    result = sg2("mix", *args)
    assert result.code == 2
    assert message in one_line(result.err)
    assert result.out == "" and not Path("out").exists()


def test_memory_does_not_grow_with_the_grid(in_tmp: Path) -> None:
    """Peak memory of 12 x 60 mixes against 12 x 6: what differs is less than their pixels."""
    import resource

    peaks = []
    for columns in (6, 60):
        script = (
            "import resource, sys; from sg2cli.cli.main import run;"
            f"run(['mix', '--rows', '0-11', '--cols', '100-{99 + columns}', '--batch', '8',"
            f"'--out', 'o{columns}', '-q']);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        result = subprocess.run([SG2[0], "-c", script], capture_output=True, check=True)
        assert len(result.stdout.splitlines()) == 13 * (columns + 1)
        peaks.append(int(result.stderr) * 1024)
    assert resource.getpagesize()
    assert peaks[1] - peaks[0] < 12 * 54 * 128 * 128 * 3


def test_names_that_would_meet_are_refused(sg2: Any) -> None:
    for name in ("a", "a-b", "c", "b-c"):
        np.save(f"{name}.npy", np.zeros((1, 256)))
    result = sg2("mix", "--rows", "a.npy,a-b.npy", "--cols", "c.npy,b-c.npy")
    assert result.code == 2
    assert "rename the file" in one_line(result.err)
    assert sg2("mix", "--rows", "a.npy", "--cols", "c.npy,b-c.npy").code == 0


def test_grids_have_an_end(sg2: Any) -> None:
    assert "at most" in one_line(sg2("mix", "--rows", "0-9999999", "--cols", "0").err)
    assert "only once" in one_line(sg2("mix", "--rows", "-", "--cols", "-").err)


def test_kept_cells_are_not_held(sg2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --skip-existing: the sources of what is not drawn are gone when the next one comes."""
    import gc
    import weakref

    from sg2cli.sampling.cells import draw_cells
    from sg2cli.sampling.drawing import Cell
    from sg2cli.sampling.grids import Grid
    from sg2cli.sampling.output import ImageOutput

    class Source:
        pass

    alive: list[Any] = []
    monkeypatch.setattr(ImageOutput, "keeps", lambda self, name, provenance, size: name != "grid")
    monkeypatch.setattr(
        "sg2cli.sampling.cells.read_image", lambda path, shape: np.zeros(shape, "u1")
    )

    class Sources:
        """A drawing whose cells are kept."""

        shape, count, columns, rows = (4, 4, 3), 50, 5, 10

        def header(self) -> None:
            return None

        def grid_provenance(self, G: Any) -> Any:
            return {}

        def cells(self, G: Any) -> Any:
            for i in range(50):
                gc.collect()
                assert sum(ref() is not None for ref in alive) <= 2
                source = Source()
                alive.append(weakref.ref(source))
                yield Cell(source, {}, f"n{i}")  # type: ignore[arg-type]

        def render(self, G: Any, sources: Any, on_note: Any, on_point: Any) -> Any:
            return iter(list(sources))

    drawing: Any = Sources()
    no_network: Any = None
    output = ImageOutput(Path("o"), skip_existing=True)
    draw_cells(output, drawing, no_network, grid=Grid(drawing))
    assert pixels("o/grid.png").shape == (40, 20, 3)
