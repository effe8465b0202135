"""What `sg2 generate` costs beyond computing the pictures, and how soon it answers.

Run by `make bench`. Candidates alternate in one process; medians are quoted.
"""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from networks import random_generator

import sg2cli
from sg2cli import checkpoints
from sg2cli.generator import Generator
from sg2cli.images.writer import ImageWriter


def full_size() -> Generator:
    """1024x1024 as published: channel_base 32768, 8 mapping layers; random weights."""
    resolutions = [4 << i for i in range(9)]
    return random_generator(
        z_dim=512,
        w_dim=512,
        img_resolution=1024,
        channels=tuple(min(512, 32768 // r) for r in resolutions),
        mapping_features=(512,) * 8,
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compute(G: Generator, count: int) -> None:
    for _ in sg2cli.generate(G, f"0-{count - 1}"):
        pass


def compute_and_write(G: Generator, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ImageWriter(lambda *_: None) as writer:
        for image in sg2cli.generate(G, f"0-{count - 1}"):
            writer.put(Path(folder) / f"{image.name}.png", image.pixels, image.provenance)


def pipeline(name: str, G: Generator, count: int, rounds: int, bar: str) -> None:
    compute_and_write(G, count)
    computing, both = [], []
    for _ in range(rounds):
        computing.append(seconds(lambda: compute(G, count)) / count)
        both.append(seconds(lambda: compute_and_write(G, count)) / count)
    alone, more = statistics.median(computing), statistics.median(both)
    extra = more - alone
    print(
        f"| {name} | {alone * 1e3:.2f} ms | {more * 1e3:.2f} ms | {extra * 1e3:.2f} ms "
        f"({extra / alone:.1%}) | {bar} |"
    )


def startup(args: list[str], rounds: int = 9) -> float:
    command = [sys.executable, "-m", "sg2cli", *args]
    return statistics.median(
        seconds(lambda: subprocess.run(command, capture_output=True, check=False))
        for _ in range(rounds)
    )


def resident_after(counts: list[int]) -> list[int]:
    """MiB in use by one process after as many pictures of ten million."""
    command = [sys.executable, "-m", "sg2cli", "generate", "--seeds", "0-9999999", "--out"]
    sizes = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*command, folder], stdout=subprocess.PIPE, stderr=-3) as process,
    ):
        assert process.stdout is not None
        done = 0
        for count in counts:
            while done < count:
                process.stdout.readline()
                done += 1
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            sizes.append(pages * resource.getpagesize() >> 20)
        process.terminate()
        process.stdout.read()
    return sizes


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}\n")
    print("| `sg2 generate`, a picture | computing | and writing | beyond computing | bar |")
    print("| --- | --- | --- | --- | --- |")
    pipeline("128x128, avatars-128", checkpoints.load(device="cpu"), 512, 5, "1.5 ms")
    pipeline("1024x1024, random weights", full_size(), 4, 5, "15%")
    print("\n| command | time to its end | bar |")
    print("| --- | --- | --- |")
    for args in (["--help"], ["generate", "--help"], ["generate", "--seeds", "7-3"], ["info"]):
        print(f"| `sg2 {' '.join(args)}` | {startup(args):.3f} s | 0.3 s |")
    counts = [500, 1000, 2000, 4000]
    sizes = resident_after(counts)
    print("\n| pictures of `--seeds 0-9999999` | " + " | ".join(map(str, counts)) + " |")
    print("| --- |" + " --- |" * len(counts))
    print("| resident MiB | " + " | ".join(map(str, sizes)) + " |")


if __name__ == "__main__":
    main()
