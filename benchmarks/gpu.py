"""Images a second, projection steps and kernels on a GPU, as tables. Run by `make bench-gpu`.

The candidates take turns in one process: our kernels, our plain torch, and that compiled by
torch. A run is timed with CUDA events after some to warm up, and the median quoted. Random weights
in the shapes of NVIDIA's networks. Arguments choose tables (images, compiled, steps, kernels)
and words of their rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

import numpy as np
import torch
from networks import random_generator
from torch import Tensor

from sg2cli import devices, ops
from sg2cli.generator import Generator
from sg2cli.images.photos import Photo
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.search import Search
from sg2cli.inversion.start import spread_of_w
from sg2cli.settings import PRESETS

SIZES = {256: 16384, 1024: 32768}  # the resolution, and NVIDIA's channel_base
BATCHES = (1, 4, 16, 64)
ROUNDS, TURN = 7, 0.12  # seconds of a turn, at least one run

Draw = Callable[[Tensor], Tensor]
Candidates = Mapping[str, Callable[[Generator, str], Draw]]  # from a generator and 'fp32' or 'fp16'


def network(resolution: int, precision: str) -> Generator:
    """8 mapping layers, clamped at 256, fp16 in the highest 4 resolutions where it is chosen."""
    resolutions = [4 << i for i in range(resolution.bit_length() - 2)]
    G = random_generator(
        z_dim=512,
        w_dim=512,
        img_resolution=resolution,
        channels=tuple(min(512, SIZES[resolution] // r) for r in resolutions),
        mapping_features=(512,) * 8,
        conv_clamp=256,
        num_fp16_res=4,
    ).cuda()
    G.set_precision("auto" if precision == "fp16" else "fp32")
    return G


@contextmanager
def plain_torch() -> Iterator[None]:
    """As with SG2_BACKEND=reference."""
    supports = ops._supports_cuda
    ops._supports_cuda = lambda *tensors: False  # type: ignore[assignment]
    try:
        yield
    finally:
        ops._supports_cuda = supports


def ours(G: Generator, precision: str) -> Draw:
    replayed = ops.Replayed(lambda ws: (G.synthesis(ws),))  # as `sampling.rendering` does
    return lambda ws: replayed(ws)[0]


def plain(G: Generator, precision: str) -> Draw:
    def draw(ws: Tensor) -> Tensor:
        with plain_torch():
            return G.synthesis(ws)

    return draw


def compiled(G: Generator, precision: str) -> Draw:
    """Our plain torch as torch compiles it: our kernels are not used under its tracer."""
    torch._dynamo.reset()
    draw: Draw = torch.compile(G.synthesis, mode="max-autotune", dynamic=False)
    return draw


OURS: Candidates = {"ours": ours, "plain torch": plain}
COMPILED: Candidates = {"ours": ours, "torch.compile": compiled}


def timed(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, taking turns; those that run out of memory are left out."""
    working: dict[str, tuple[Callable[[], object], int]] = {}
    for name, run in runs.items():
        with suppress(torch.cuda.OutOfMemoryError):
            for _ in range(3):
                run()
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            working[name] = run, max(1, int(TURN / (time.perf_counter() - start)))
        torch.cuda.empty_cache()
    seconds: dict[str, list[float]] = {name: [] for name in working}
    for _ in range(ROUNDS):
        for name, (run, count) in working.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            run()
            begin.record()
            for _ in range(count):
                run()
            end.record()
            torch.cuda.synchronize()
            seconds[name].append(begin.elapsed_time(end) / 1e3 / count)
    return {name: median(took) for name, took in seconds.items()}


def peak_memory(run: Callable[[], object]) -> int:
    """MiB beyond what is there before, of the first run of what is to be recorded later."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) >> 20


def networks(words: Sequence[str]) -> Iterator[tuple[str, str, Generator]]:
    """The label of each row that the words choose, its precision and its network."""
    for resolution in SIZES:
        for precision in ("fp32", "fp16"):
            label = f"{resolution}x{resolution} {precision}"
            if not words or any(word in label for word in words):
                yield label, precision, network(resolution, precision)


def compared(found: Mapping[str, float], names: Sequence[str], count: int) -> list[str]:
    """Milliseconds each of `count`, and the ratio of the others to ours; - where none was found."""
    each = [f"{found[n] / count * 1e3:.3f}" if n in found else "-" for n in names]
    ratios = [f"{found[n] / found['ours']:.2f}" if n in found else "-" for n in names[1:]]
    return each + ratios


def images(candidates: Candidates, words: Sequence[str], batches: Sequence[int] = BATCHES) -> None:
    names = list(candidates)
    head = [f"{name}, ms an image" for name in names] + [f"{name} / ours" for name in names[1:]]
    print("| images | batch | " + " | ".join(head) + " | images a second | MiB |")
    print("|" + " --- |" * (len(head) + 4))
    for label, precision, G in networks(words):
        draws = {name: make(G, precision) for name, make in candidates.items()}
        for batch in batches:
            ws = torch.randn(batch, G.config.num_ws, G.config.w_dim, device="cuda")
            runs = {name: _drawing(draw, ws) for name, draw in draws.items()}
            found = timed(runs)
            cells = compared(found, names, batch)
            memory = peak_memory(_drawing(ours(G, precision), ws))
            cells += [f"{batch / found['ours']:.0f}", str(memory)]
            print(f"| {label} | {batch} | " + " | ".join(cells) + " |", flush=True)


def _drawing(draw: Draw, ws: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return draw(ws)

    return run


def projection(G: Generator, count: int) -> Callable[[], object]:
    """A step of the projector with NVIDIA's settings."""
    size = G.config.img_resolution
    numbers = np.random.RandomState(0)
    photos = [Photo(numbers.randint(0, 256, (size, size, 3), np.uint8)) for _ in range(count)]
    search = Search(G, photos, PRESETS["paper"], spread_of_w(G), LPIPS("vgg"))
    return search.step


def steps(candidates: Mapping[str, Any], words: Sequence[str]) -> None:
    names = list(candidates)
    head = [f"{name}, ms a photo" for name in names] + [f"{name} / ours" for name in names[1:]]
    print("\n| projection step | photos | " + " | ".join(head) + " | MiB |")
    print("|" + " --- |" * (len(head) + 3))
    for label, _, G in networks(words):
        for count in (1, 8):
            runs = {name: make(G, count) for name, make in candidates.items()}
            found = timed(runs)
            cells = [*compared(found, names, count), str(peak_memory(projection(G, count)))]
            print(f"| {label} | {count} | " + " | ".join(cells) + " |", flush=True)


def plain_projection(G: Generator, count: int) -> Callable[[], object]:
    run = projection(G, count)

    def step() -> object:
        with plain_torch():
            return run()

    return step


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy."""
    x = torch.empty(1 << 30, dtype=torch.float32, device="cuda").normal_()
    y = torch.empty_like(x)
    return 2 * x.numel() * 4 / timed({"copy": lambda: y.copy_(x)})["copy"]


def kernels(words: Sequence[str]) -> None:
    """Each kernel against the time that its bytes take in a copy: every operand once."""
    bandwidth = copy_bandwidth()
    print(f"\nA copy moves {bandwidth / 1e12:.2f} TB/s.\n")
    print("| kernel | type | N,C,H,W | µs | floor, µs | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dtype in (torch.float16, torch.float32):
        for shape in ((16, 32, 1024, 1024), (16, 128, 256, 256), (64, 512, 32, 32)):
            for name, (run, moved) in kernel_runs(shape, dtype).items():
                if words and not any(word in name for word in words):
                    continue
                took, floor = timed({name: run})[name], moved / bandwidth
                cells = [name, str(dtype).removeprefix("torch."), ",".join(map(str, shape))]
                cells += [f"{took * 1e6:.1f}", f"{floor * 1e6:.1f}", f"{took / floor:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


def kernel_runs(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> dict[str, tuple[Callable[[], object], int]]:
    """What runs a kernel for maps [N,C,H,W], and the bytes that it must move."""
    from sg2cli.ops.cuda import autograd as fused

    n, c, h, w = shape
    x, tall, rgb = (_map(n, *s, dtype) for s in ((c, h, w), (c, h + 1, w + 1), (3, h, w)))
    scale, then, bias = (torch.rand(*s, device="cuda") for s in ((n, c), (n, c), (c,)))
    noise = torch.randn(h, w, device="cuda")
    img = torch.randn(n, 3, h // 2, w // 2, device="cuda")
    blur = (1.0, 3.0, 3.0, 1.0)

    def finish(v: Tensor, taps: Any) -> Tensor:
        return fused.finish(v, scale, bias, noise, taps, 0.2, 2**0.5, 256.0, then)

    def backward(v: Tensor, taps: Any) -> Callable[[], object]:
        leaf = v.requires_grad_()
        y = finish(leaf, taps)
        return lambda: torch.autograd.grad(y, leaf, x, retain_graph=True)

    size = x.numel() * x.element_size()
    own = tall.detach().clone(memory_format=torch.preserve_format)
    return {
        "epilogue": (lambda: finish(x, None), 2 * size),
        "filter and epilogue": (lambda: finish(own, blur), 2 * size),
        "epilogue, backward": (backward(x.clone(), None), 3 * size),
        "filter and epilogue, backward": (backward(tall, blur), 3 * size),
        "sum of images": (
            lambda: fused.add_rgb(rgb, bias[:3].contiguous(), 256.0, img, blur),
            rgb.numel() * (rgb.element_size() + 5),  # reads a quarter of float32, writes float32
        ),
    }


def _map(n: int, c: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(n, c, h, w, device="cuda", dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def main(draws: Candidates = OURS, projections: Mapping[str, Any] | None = None) -> None:
    devices.resolve("cuda")
    projections = projections or {"ours": projection, "plain torch": plain_projection}
    import triton

    print(
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}, "
        f"Triton {triton.__version__}\n"
    )
    tables = [word for word in sys.argv[1:] if word in ("images", "compiled", "steps", "kernels")]
    words = [word for word in sys.argv[1:] if word not in tables]
    if not tables or "images" in tables:
        images(draws, words)
    if "compiled" in tables:  # takes minutes
        images(COMPILED, words, (1, 16))
    if not tables or "steps" in tables:
        steps(projections, words)
    if not tables or "kernels" in tables:
        kernels(words)


if __name__ == "__main__":
    main()
