"""Networks, projections and commands on a GPU, against NVIDIA's figures, float64 and the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from networks import GOLDEN_NAMES, golden, random_generator, relative

from sg2cli import checkpoints, devices, ops
from sg2cli.latents.directions import find_direction
from sg2cli.latents.mapping import seed_to_z, truncate
from sg2cli.ops import reference, selftest
from sg2cli.sampling.learn import learn_direction
from sg2cli.settings import PRESETS

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
BARS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
TARGETS = Path(__file__).parent / "targets"


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    """Float32 without TF32, as every command has it."""
    devices.resolve("cuda")
    yield
    torch.cuda.empty_cache()


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New memory is full of NaN: what a kernel does not write, or reads beyond, shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


# One layer: N, I, O, H, W. Odd sizes, 1 and 3 channels, no multiples of 16, large batches.
SHAPES = [
    (1, 2, 1, 1, 1),
    (1, 3, 1, 5, 3),
    (3, 17, 3, 9, 31),
    (64, 5, 19, 7, 4),
    (2, 130, 257, 13, 6),
    (5, 48, 63, 33, 129),
    (16, 64, 32, 64, 64),
]


@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_a_layer_with_its_gradients(
    randn: Any, poisoned: None, shape: tuple[int, ...], up: bool, dtype: torch.dtype, layout: str
) -> None:
    n, i, o, h, w = shape
    u = 2 if up else 1
    taps = (1, 2, 4, 1) if up else None
    x, styles = randn(n, i, h, w), randn(n, i) + 1
    weight, bias, noise = randn(o, i, 3, 3), randn(o), randn(n, 1, u * h, u * w)
    how = {"taps": taps, "slope": 0.2, "gain": 2**0.5, "clamp": 2.0}

    def lay_out(t: torch.Tensor) -> torch.Tensor:
        if layout == "sliced":
            return t.repeat_interleave(2, dim=3)[..., ::2]  # every other column of a wider one
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        return t.contiguous(memory_format=form)

    def results(full: torch.dtype, half: torch.dtype, layer: Any) -> list[torch.Tensor]:
        leaves = [x.cuda().to(half), styles.cuda().to(full), noise.cuda().to(full)]
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        y = layer(
            lay_out(leaves[0]),
            weight.cuda().to(full),
            leaves[1],
            bias.cuda().to(full),
            leaves[2],
            **how,
        )
        # A loss that does not jump where the clamp or the activation bends.
        weights = torch.linspace(1, 9, y.numel(), dtype=torch.float64).sin().view(y.shape).to(y)
        return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]

    found = results(torch.float32, dtype, ops.styled_conv)
    expected = results(torch.float64, torch.float64, reference.styled_conv)
    for k, (ours, right) in enumerate(zip(found, expected, strict=True)):
        # Rounded, some numbers are on the other side of a bend of the activation or the clamp.
        bar = 3 * BARS[dtype] if k == 0 else {torch.float32: 1e-3}.get(dtype, 30 * BARS[dtype])
        assert relative(ours.cpu(), right.cpu()) < bar


@pytest.mark.parametrize("name", [name for name, _ in selftest.errors("cpu")])
def test_doctor_finds_each_operation_right(name: str) -> None:
    assert dict(selftest.errors("cuda"))[name] < selftest.TOLERANCE


def test_second_derivatives_are_refused(randn: Any) -> None:
    x = randn(1, 4, 8, 8).float().cuda().requires_grad_()
    given = [randn(*shape).float().cuda() for shape in ((5, 4, 3, 3), (1, 4), (5,))]
    y = ops.styled_conv(x, *given).square().sum()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(y, x, create_graph=True)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_nvidias_figures_in_float32(name: str) -> None:
    G, expected, config = golden(name)
    G = G.cuda()
    z = torch.stack([torch.from_numpy(seed_to_z(s, G.config.z_dim)) for s in config["seeds"]])
    c = torch.eye(config["c_dim"])[config["classes"]].cuda() if config["classes"] else None
    w = G.mapping(z.cuda(), c)[:, None].expand(-1, config["num_ws"], -1)
    for psi in (0.5, 0.7, 1):
        for cutoff in (4, None):
            ws = truncate(w, G.mapping.w_avg, psi, cutoff)
            key = f"psi{psi}_cutoff{cutoff}"
            torch.testing.assert_close(ws.cpu(), expected[f"ws_{key}"], rtol=0, atol=1e-5)
            for noise in ("const", "none"):
                picture = expected[f"image_{key}_{noise}"]
                found = G.synthesis(ws, noise).cpu()
                assert (found - picture).abs().max() < 1e-4 * picture.abs().max()


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_auto_precision_draws_the_same_image(name: str) -> None:
    G, expected, _ = golden(name)
    G.config = replace(G.config, num_fp16_res=4)
    G = G.cuda()
    G.set_precision("auto")
    found = G.synthesis(expected["ws_psi0.7_cutoffNone"].cuda())
    assert found.dtype == torch.float32
    off = (found.cpu() - expected["image_psi0.7_cutoffNone_const"]).abs() * 127.5
    assert 0 < off.median() < 2
    assert G.synthesis(expected["ws_psi1_cutoffNone"].cuda()).isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_image_is_the_same_in_any_batch(precision: Any, randn: Any) -> None:
    G = random_generator(
        img_resolution=128, channels=(64, 64, 64, 48, 32, 32), num_fp16_res=4, conv_clamp=256
    ).cuda()
    G.set_precision(precision)
    ws = randn(16, G.config.num_ws, G.config.w_dim).float().cuda()
    with torch.inference_mode():
        whole = G.synthesis(ws)
        single = torch.cat([G.synthesis(row[None]) for row in ws])
        again = G.synthesis(ws)
    assert torch.equal(whole, again)
    assert relative(single.cpu(), whole.cpu()) < (1e-5 if precision == "fp32" else 1e-2)


def test_a_recorded_function_gives_what_it_gave_before(randn: Any) -> None:
    G = random_generator(img_resolution=32, channels=(20, 16, 16, 8)).cuda()
    replayed = ops.Replayed(lambda ws: (G.synthesis(ws), ws * 2))
    given = [randn(n, G.config.num_ws, G.config.w_dim).float().cuda() for n in (2, 2, 2, 3, 3)]
    with torch.inference_mode():
        found = [replayed(ws) for ws in given]  # the second and fourth are recorded
        for ws, (images, doubled) in zip(given, found, strict=True):
            torch.testing.assert_close(images, G.synthesis(ws), rtol=0, atol=0)
            assert torch.equal(doubled, ws * 2)
        G.synthesis.b4.const += 1
        images, _ = replayed(given[-1])
        torch.testing.assert_close(images, G.synthesis(given[-1]), rtol=0, atol=0)


def test_what_cannot_be_recorded_is_called(randn: Any) -> None:
    calls = []

    def read_back(x: torch.Tensor) -> tuple[torch.Tensor]:
        calls.append(x.sum().item())
        return (x + 1,)

    replayed = ops.Replayed(read_back)
    x = randn(3).float().cuda()
    for _ in range(3):
        torch.testing.assert_close(replayed(x)[0], x + 1)
    assert calls == pytest.approx([x.sum().item()] * 3)


def test_projection_as_on_a_cpu() -> None:
    from sg2cli.images.photos import read_photo
    from sg2cli.inversion.search import Search
    from sg2cli.inversion.start import spread_of_w

    photo = read_photo(TARGETS / "avatar-dev00.png", (64, 64), 3)
    settings = replace(PRESETS["paper"], steps=10, seed=303)
    distances = []
    for device in ("cpu", "cuda"):
        G = golden("uncond-64")[0].to(device)
        search = Search(G, [photo], settings, spread_of_w(G))
        for _ in range(10):
            search.step()
        distances.append([record.lpips for record in search.history[0]])
    assert np.abs(np.subtract(*distances)).max() < 0.02


# Commands.


def test_generate_draws_what_the_cpu_draws(sg2: Any) -> None:
    for device in ("cpu", "cuda"):
        result = sg2("generate", "--seeds", "0-9", "--device", device, "--out", device)
        assert result.code == 0, result.err
        assert len(result.lines) == 10
    for ours, theirs in zip(_pixels("cuda"), _pixels("cpu"), strict=True):
        assert np.abs(ours - theirs).max() <= 1
    skipped = sg2(
        "generate", "--seeds", "0-11", "--device", "cuda", "--out", "cuda", "--skip-existing"
    )
    assert skipped.code == 0 and len(_pixels("cuda")) == 12


def _pixels(folder: str) -> list[np.ndarray[Any, Any]]:
    paths = sorted(Path(folder).glob("*.png"))
    assert paths
    return [np.asarray(PIL.Image.open(path)).astype(int) for path in paths]


def test_batches_are_halved_when_memory_runs_out(sg2: Any) -> None:
    G = random_generator(img_resolution=256, channels=(32,) * 7)
    checkpoints.save_generator(G, Path("net.safetensors"), {})
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(((600 << 20) + torch.cuda.memory_reserved()) / whole)
    try:
        args = ("-n", "net.safetensors", "--device", "cuda", "--seeds", "0-63", "--batch", "64")
        result = sg2("generate", *args)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.code == 0, result.err
    assert "out of memory" in result.err
    assert len(_pixels("out")) == 64


def test_two_processes_share_a_card(in_tmp: Path) -> None:
    command = [sys.executable, "-m", "sg2cli", "generate", "--device", "cuda", "--seeds"]
    running = [
        subprocess.Popen([*command, seeds, "--out", "out"], stderr=subprocess.PIPE)
        for seeds in ("0-15", "16-31")
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert len(_pixels("out")) == 32


def test_hidden_cards_fall_back_to_the_cpu(in_tmp: Path) -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "sg2cli", "generate", "--seeds", "0"]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    refused = subprocess.run(
        [*command, "--device", "cuda", "--overwrite"],
        env=hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("direction", ["sefa:0", "pca:0", "glasses"])
def test_directions_are_those_of_the_cpu(direction: str) -> None:
    steps = [
        find_direction(direction, checkpoints.load(device=device), list(range(12))).step.cpu()
        for device in ("cuda", "cpu")
    ]
    assert relative(*steps) < 1e-3


def test_learning_is_that_of_the_cpu() -> None:
    steps = [
        learn_direction(checkpoints.load(device=device), "0-19", "20-59").steps["learned"].cpu()
        for device in ("cuda", "cpu")
    ]
    assert relative(*steps) < 1e-2
