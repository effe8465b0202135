"""Pictures and projection steps a second, against a textbook generator. Run by `make bench`.

The candidates are ours, ours in plain torch (SG2_BACKEND=reference), and the textbook. Each runs in
a process of its own, with memory and threads as its users have them; they take turns, so that all
meet the machine in the same mood: as many runs as fill a part of a second, one after the other, as
of somebody who draws many pictures. The median of some turns is quoted. With `--cpu`, for a machine
that others use as well, it is the processor's time of one thread. Other arguments choose rows by a
part of 'NAME/BATCH'.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from networks import random_generator
from safetensors.torch import load_file
from textbook import Textbook
from torch import Tensor

from sg2cli import checkpoints, devices
from sg2cli.generator import Generator
from sg2cli.inversion.losses import LPIPS

# Network, batch, projection or picture, rounds, bar and aim of the ratio.
ROWS: list[tuple[str, int, bool, int, str]] = [
    ("avatars-128", 1, False, 9, ""),
    ("avatars-128", 32, False, 7, "3, aim 5"),
    ("256x256", 1, False, 7, ""),
    ("256x256", 8, False, 5, "4, aim 6"),
    ("1024x1024", 1, False, 5, "3.5, aim 5"),
    ("1024x1024", 8, False, 3, ""),
    ("256x256", 1, True, 5, "2.2, aim 3"),
    ("1024x1024", 1, True, 3, "3, aim 4"),
]
TURN = 0.3  # seconds
WEIGHTS = Path(__file__).parents[1] / "weights" / "lpips-vgg.safetensors"
# The convolutions of VGG16 that LPIPS reads, features.N.
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_POOLS = (5, 10, 17, 24)  # before these it pools


def network(name: str) -> Generator:
    """256x256: channel_base 16384; 1024x1024: 32768; 8 mapping layers; random weights."""
    if name == "avatars-128":
        return checkpoints.load(device="cpu")
    resolution, base = {"256x256": (256, 16384), "1024x1024": (1024, 32768)}[name]
    resolutions = [4 << i for i in range(resolution.bit_length() - 2)]
    return random_generator(
        z_dim=512,
        w_dim=512,
        img_resolution=resolution,
        channels=tuple(min(512, base // r) for r in resolutions),
        mapping_features=(512,) * 8,
    )


class PackageVgg:
    """LPIPS-VGG by the package lpips; the target's features are computed once here, too."""

    def __init__(self) -> None:
        import lpips

        self.lpips = lpips
        tensors = load_file(WEIGHTS)
        self.net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        state = self.net.state_dict()
        for i in VGG_CONVS:
            for kind in ("weight", "bias"):
                (key,) = (k for k in state if k.startswith("net.") and k.endswith(f".{i}.{kind}"))
                state[key] = tensors[f"features.{i}.{kind}"].float()
        for k in range(5):
            state[f"lin{k}.model.1.weight"] = tensors[f"lin.{k}.weight"].float()
        self.net.load_state_dict(state)
        self.net.eval().requires_grad_(False)

    def features(self, x: Tensor) -> Sequence[Tensor]:
        # lpips.normalize_tensor has no gradient where all features of a pixel are 0.
        found = self.net.net(self.net.scaling_layer(x))
        return [x / (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt() for x in found]

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        parts = [
            self.lpips.spatial_average(self.net.lins[k]((x - y).square()))
            for k, (x, y) in enumerate(zip(a, b, strict=True))
        ]
        return torch.stack(parts).sum()


def work(who: str, name: str, batch: int, projects: bool) -> Callable[[], object]:
    G = network(name)
    maps = {layer.noise_name: layer.noise_const.clone() for layer in G.synthesis.layers}
    shape = (batch, G.config.num_ws, G.config.w_dim)
    ws = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if who != "textbook":
        devices.resolve("cpu")
        synthesis: Callable[..., Tensor] = G.synthesis
    else:
        torch.set_num_threads(min(torch.get_num_threads(), devices.available_cores()))
        synthesis = Textbook(G.config, G.state_dict())
    del G
    if not projects:

        def draw() -> None:
            with torch.inference_mode():
                synthesis(ws)

        return draw

    vgg = PackageVgg() if who == "textbook" else LPIPS("vgg")
    target = vgg.features(torch.rand(1, 3, 256, 256) * 255)
    leaves = [ws.requires_grad_(), *(noise.requires_grad_() for noise in maps.values())]

    def step() -> None:
        picture = (synthesis(ws, maps) + 1) * 127.5
        if picture.shape[2] > 256:
            picture = F.interpolate(picture, size=(256, 256), mode="area")
        torch.autograd.grad(vgg.distance(vgg.features(picture), target).sum(), leaves)

    return step


def resident() -> int:
    """MiB in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


def worker(who: str, name: str, batch: str, projects: str, cpu: str) -> None:
    """For each line read: works for a while, and prints seconds a run, MiB before, and peak MiB."""
    clock = time.process_time if cpu == "True" else time.perf_counter
    do = work(who, name, int(batch), projects == "True")
    before = resident()
    for _ in sys.stdin:
        start, runs = clock(), 0
        while runs == 0 or clock() - start < TURN:
            do()
            runs += 1
        seconds = (clock() - start) / runs
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(seconds, before, peak, flush=True)


def measure(
    name: str, batch: int, projects: bool, rounds: int, cpu: bool
) -> dict[str, tuple[float, int]]:
    """Seconds, median of some rounds after one to warm up, and MiB beyond what is there before."""
    what = [name, str(batch), str(projects), str(cpu)]
    processes = {
        who: subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "worker", who, *what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **({"OMP_NUM_THREADS": "1"} if cpu else {}),
                "SG2_BACKEND": "reference" if who == "plain" else "auto",
            },
        )
        for who in ("textbook", "plain", "ours")
    }
    seconds: dict[str, list[float]] = {who: [] for who in processes}
    memory = {}
    for _ in range(rounds + 1):
        for who, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            took, before, peak = process.stdout.readline().split()
            seconds[who].append(float(took))
            memory[who] = int(peak) - int(before)
    for process in processes.values():
        process.communicate()
    return {who: (median(took[1:]), memory[who]) for who, took in seconds.items()}


def convolution_rate() -> float:
    """GFLOP/s of a direct convolution where it is at its best."""
    x = torch.randn(1, 256, 64, 64).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).to(memory_format=torch.channels_last)
    took = []
    for _ in range(20):
        start = time.perf_counter()
        with torch.inference_mode():
            F.conv2d(x, weight, padding=1)
        took.append(time.perf_counter() - start)
    return 2 * weight.numel() * 64 * 64 / min(took) / 1e9


def gigaflops(name: str, batch: int, projects: bool) -> float:
    """Of the 3x3 convolutions, by definition; a projection has gradients, and VGG16 twice."""
    G = network(name)
    total = 0
    for layer in G.synthesis.layers:
        pixels = layer.noise_const.numel() // (4 if layer.taps else 1)
        total += 2 * layer.weight.numel() * pixels
    if not projects:
        return batch * total / 1e9
    pixels = min(256, G.config.img_resolution) ** 2
    for i in VGG_CONVS:
        pixels //= 4 if i in VGG_POOLS else 1
        total += 2 * load_file(WEIGHTS)[f"features.{i}.weight"].numel() * pixels
    return 2 * batch * total / 1e9


def main() -> None:
    chosen = [word for word in sys.argv[1:] if word != "--cpu"]
    cpu = len(chosen) < len(sys.argv) - 1
    devices.resolve("cpu")
    if cpu:
        torch.set_num_threads(1)
    rate = convolution_rate()
    model, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text("utf-8").splitlines()
        model = next((ln.partition(": ")[2] for ln in lines if "model name" in ln), model)
    load = os.getloadavg()[0]
    print(
        f"{torch.get_num_threads()} threads on {model}, torch {torch.__version__}; a direct "
        f"convolution does {rate:.0f} GFLOP/s; load before the run {load:.1f}\n"
    )
    print(
        "| work | batch | ours | plain torch | ratio | textbook | ratio | bar | floor | memory "
        "| textbook's | ratio |"
    )
    print("|" + " --- |" * 12)
    for name, batch, projects, rounds, bar in ROWS:
        label = f"{name}, projection step" if projects else name
        if chosen and not any(word in f"{label}/{batch}" for word in chosen):
            continue
        found = measure(name, batch, projects, rounds, cpu)
        (ours, memory), (textbook, textbook_memory) = found["ours"], found["textbook"]
        plain, _ = found["plain"]
        floor = gigaflops(name, batch, projects) / rate
        print(
            f"| {label} | {batch} | {ours / batch * 1e3:.1f} ms | {plain / batch * 1e3:.1f} ms "
            f"| {plain / ours:.2f} | {textbook / batch * 1e3:.1f} ms | {textbook / ours:.2f} "
            f"| {bar} | {floor / batch * 1e3:.1f} ms | {memory} MiB "
            f"| {textbook_memory} MiB | {memory / textbook_memory:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    worker(*sys.argv[2:]) if sys.argv[1:2] == ["worker"] else main()
