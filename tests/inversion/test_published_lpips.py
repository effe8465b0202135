"""The figures of reports: the authors' package, built without a classifier or a download."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.published_lpips import PublishedLPIPS
from sg2cli.settings import LpipsNet

from .test_losses import authors_lpips, image

NETS = get_args(LpipsNet)
CPU = torch.device("cpu")
BUILDS = """
import resource, socket, sys
import torch, lpips
from sg2cli.inversion.published_lpips import PublishedLPIPS
def refuse(*args, **kwargs):
    raise AssertionError("connects")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net = PublishedLPIPS("vgg", torch.device("cpu"))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(sum(p.numel() for p in net.network.parameters()), grown // 1024)
"""


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 33, 64, 100, 256, 512])
def test_it_agrees_with_the_distance_that_is_optimised(
    net: LpipsNet, channels: int, size: int
) -> None:
    a, b = (
        torch.nn.functional.interpolate(image(i), size=(size, size), mode="bilinear")
        for i in (0, 1)
    )
    a, b = a[:, :channels], b[:, :channels]
    measured, optimised = PublishedLPIPS(net, CPU)(a, b), LPIPS(net)(a, b)
    torch.testing.assert_close(measured, optimised, rtol=0, atol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_it_is_the_package_with_each_weight_in_its_place(net: LpipsNet, randn: Any) -> None:
    a, b = (randn(2, 3, 96, 96).float().clamp(-1, 1) for _ in range(2))
    expected = authors_lpips(net)(a, b).flatten()
    torch.testing.assert_close(PublishedLPIPS(net, CPU)(a, b), expected, rtol=0, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_neither_a_classifier_nor_a_download(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    environment = {**os.environ, "TORCH_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", BUILDS], capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    parameters, mebibytes = map(int, result.stdout.split())
    assert parameters < 15e6  # of VGG16's features and the heads; the classifier has 124e6
    assert mebibytes < 300  # the classifier takes 470
    assert not list(tmp_path.iterdir())


def test_torchs_compiler_is_not_imported_but_works_afterwards() -> None:
    """It takes nine tenths of the import of torchvision, whose operators LPIPS does not use."""
    script = """
import sys, torch
from sg2cli.inversion.published_lpips import PublishedLPIPS
PublishedLPIPS("alex", torch.device("cpu"))
assert "torch._dynamo" not in sys.modules
assert "torch._dynamo.utils" not in sys.modules
from torchvision.ops import roi_align
assert roi_align.__globals__["is_compile_supported"]("cpu") in (True, False)
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.ones(1)).item() == 2
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
