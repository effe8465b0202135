"""`sg2 doctor`: check the installation."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click

from sg2cli import __version__, checkpoints, devices
from sg2cli.cli.console import Console
from sg2cli.cli.help import Command
from sg2cli.cli.options import json_option, network_options
from sg2cli.errors import Sg2Error
from sg2cli.settings import LpipsNet, Precision
from sg2cli.storage.reading import sha256


@click.command(cls=Command)
@network_options
@json_option
def doctor(network: str, device: str, precision: Precision, as_json: bool) -> None:
    """Check the installation, and draw an image.

    The exit code is 1 if a check fails.

    \b
    sg2 doctor
    sg2 doctor --device cuda
    sg2 doctor --network ffhq.safetensors --json
    """
    console = Console()
    broken = 0
    checks: dict[str, Callable[[str], str]] = {
        **CHECKS,
        "network": partial(_network, network, precision),
    }
    for name, check in checks.items():
        try:
            state, message = "ok", check(device)
        except (Sg2Error, ImportError, OSError, RuntimeError) as error:
            state, message = "BROKEN", " ".join(str(error).split())
            broken += 1
        if as_json:
            console.result(json.dumps({"check": name, "ok": state == "ok", "says": message}))
        else:
            console.result(f"{state:6}  {name:8}  {message}")
    if broken:
        raise Sg2Error(f"{broken} of {len(checks)} checks failed: see above")


def _versions(device: str) -> str:
    import numpy
    import PIL
    import torch

    return (
        f"sg2 {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {numpy.__version__}, Pillow {PIL.__version__}, {platform.system()} "
        f"{platform.machine()}"
    )


def _device(device: str) -> str:
    import torch

    used = devices.resolve(device)
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("MPS")
    if not found:
        why = "no GPU or driver" if torch.version.cuda else "this torch is built without CUDA"
        found = [f"no GPU found: {why}"]
    return f"{used} is used; {', '.join(found)}"


def _ops(device: str) -> str:
    """Compare each compiled operation with its reference in float64."""
    from sg2cli.ops import describe_backend, selftest

    used = devices.resolve(device)
    errors = dict(selftest.errors(used))
    if wrong := [f"{name} ({e:.0e})" for name, e in errors.items() if e > selftest.TOLERANCE]:
        raise Sg2Error(
            f"wrong results on {used} (relative error): {', '.join(wrong)}; "
            "set SG2_BACKEND=reference, and report this with your processor's name"
        )
    worst = max(errors.values())
    return (
        f"{describe_backend(used)}; {len(errors)} operations agree with plain torch to {worst:.0e}"
    )


def _weights(device: str) -> str:
    """Compare the bundled files with the hashes in weights/README.md."""
    folder = checkpoints.weights_folder()
    listed = dict(_listed(folder / "README.md"))
    if not listed:
        raise Sg2Error(f"{folder / 'README.md'} lists no files: reinstall sg2")
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise Sg2Error(f"{folder / name} is missing: reinstall sg2")
        if sha256(folder / name) != digest:
            raise Sg2Error(f"{folder / name} differs from the published file: reinstall sg2")
    return f"{', '.join(listed)} in {folder}, as published"


def _listed(readme: Path) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of each file in the table."""
    for line in readme.read_text("utf-8").splitlines():
        if match := re.match(r"\| `([\w.-]+\.safetensors)` \|.*`([0-9a-f]{64})`", line):
            yield match[1], match[2]


def _lpips(device: str) -> str:
    """Compare LPIPS of two images with the value of the authors' code."""
    import torch

    from sg2cli.inversion.losses import LPIPS

    used = devices.resolve(device)
    ramp = torch.linspace(-1, 1, 64, device=used)
    across, down = ramp.expand(1, 3, 64, 64), ramp[:, None].expand(1, 3, 64, 64)
    for net, expected in RAMPS_APART.items():
        found = LPIPS(net).to(used)(across, down).item()
        if abs(found - expected) > 1e-3:
            raise Sg2Error(f"LPIPS-{net} of two images is {found:.4f}, not {expected:.4f}")
    return "LPIPS-VGG and LPIPS-Alex agree with the published values"


def _memory(device: str) -> str:
    import torch

    memory = ["size of main memory unknown"]
    if hasattr(os, "sysconf"):  # not on Windows
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = [f"{pages >> 20} MiB of main memory"]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        memory.append(f"cuda:{i} {free >> 20} of {total >> 20} MiB free")
    return ", ".join(memory)


def _threads(device: str) -> str:
    import torch

    devices.resolve("cpu")
    host, own = os.cpu_count() or 1, devices.available_cores()
    share = "" if own == host else f", of {host} in this machine"
    variables = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    settings = ", ".join(variables) or "none of " + ", ".join(THREAD_VARIABLES) + " is set"
    return f"torch uses {torch.get_num_threads()} on {own} cores{share}; {settings}"


def _drawing(device: str) -> str:
    """Compare an image of the default network with the published one."""
    from sg2cli.sampling.generate import generate

    G = checkpoints.load(device=device)
    start = time.perf_counter()
    (image,) = generate(G, 0)
    elapsed = time.perf_counter() - start
    means = image.pixels.reshape(2, 64, 2, 64, 3).mean(axis=(1, 3)).ravel()
    if max(abs(means - SEED_0_MEANS)) > 1:
        raise Sg2Error(f"seed 0 is wrong: its brightness is {means.round(1).tolist()}")
    return f"seed 0 is correct, drawn in {elapsed * 1000:.0f} ms"


def _network(name: str, precision: Precision, device: str) -> str:
    network = checkpoints.find_network(name)
    used = network.load(devices.resolve(device)).set_precision(precision)
    size = network.config.img_resolution
    return f"{name}, {size}x{size}, is complete, and drawn in {used}"


# Mean of each quarter of seed 0 of the default network, red, green and blue.
SEED_0_MEANS = (
    176.3,
    210.9,
    183.7,
    176.7,
    212.0,
    184.5,
    184.3,
    206.6,
    180.7,
    183.6,
    207.1,
    181.1,
)
# LPIPS of a horizontal and a vertical ramp from black to white, by the package lpips 0.1.4.
RAMPS_APART: dict[LpipsNet, float] = {"vgg": 0.516976, "alex": 0.510964}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
CHECKS: dict[str, Callable[[str], str]] = {
    "versions": _versions,
    "device": _device,
    "ops": _ops,
    "weights": _weights,
    "lpips": _lpips,
    "memory": _memory,
    "threads": _threads,
    "drawing": _drawing,
}
