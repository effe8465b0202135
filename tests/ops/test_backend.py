"""Which backend computes: SG2_BACKEND, platforms, kernels that fail, and what they are given."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from networks import random_generator, relative

from sg2cli import ops
from sg2cli.ops import backend, reference, selftest
from sg2cli.ops.backend import KernelUnavailable
from sg2cli.ops.cpu import runtime
from sg2cli.ops.cpu.runtime import Arguments, Buffer, Float, Int, Map

compiled = pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
    )


def test_the_backend_of_the_environment() -> None:
    script = (
        "import sys, torch, sg2cli; from sg2cli import ops; G = sg2cli.load(device='cpu');"
        "G(torch.ones(1, G.config.z_dim));"
        "print(ops.describe_backend('cpu'), 'llvmlite' in sys.modules)"
    )
    assert run(script, SG2_BACKEND="reference").stdout == (
        "torch's own operations: SG2_BACKEND=reference False\n"
    )
    assert run(script, SG2_BACKEND="auto").stdout == run(script).stdout


@pytest.mark.parametrize("value", ["", "Reference", "cuda", "x" * 1000])
def test_another_backend_is_a_usage_error(value: str, shell: Any) -> None:
    env = {**os.environ, "SG2_BACKEND": value, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = shell("generate", "--seeds", "0", env=env)
    message = done.stderr.decode()
    assert done.returncode == 2
    assert message.count("\n") == 1 and "set it to auto or reference" in message
    assert len(message) < 300 and done.stdout == b""


@pytest.mark.parametrize(
    ("system", "machine"), [("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]
)
def test_platforms_that_are_not_tested_use_the_reference(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime._unsupported.cache_clear()
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    try:
        assert "Linux x86-64" in str(runtime.why_not())
    finally:
        runtime._unsupported.cache_clear()


@compiled
@pytest.mark.parametrize("part", ["llvmlite", "fma", "openmp", "executable"])
def test_what_compiled_code_needs(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("no such module")

    replaced, by, message = {
        "llvmlite": ("processor", missing, "pip install llvmlite"),
        "fma": ("processor", lambda: ("nehalem", {"fma": False}), "FMA"),
        "openmp": ("_openmp", lambda: None, "OpenMP"),
        "executable": ("_may_execute", lambda: False, "executable"),
    }[part]
    runtime._unsupported.cache_clear()
    monkeypatch.setattr(runtime, replaced, by)
    try:
        assert message in str(runtime.why_not())
        x = torch.ones(2, 16)
        assert torch.equal(ops.linear(x, x), reference.linear(x, x))
    finally:
        runtime._unsupported.cache_clear()


@compiled
@pytest.mark.parametrize(
    ("number", "gradient"), [*((i, False) for i in range(5)), *((i, True) for i in range(9))]
)
def test_a_kernel_that_cannot_be_compiled_costs_one_warning(
    number: int, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is of those that a network needs: the reference takes over, for good."""
    G = random_generator(channels=(32, 16, 16))
    ws = torch.linspace(-1, 1, 2 * G.config.num_ws * 16).view(2, -1, 16).requires_grad_(gradient)
    G.double()
    expected = G.synthesis(ws.double())
    G.float()
    real, count = runtime._compile, 0

    def failing(code: str) -> Any:
        nonlocal count
        count += 1
        if count > number:
            raise RuntimeError("no memory that may be executed")
        return real(code)

    monkeypatch.setattr(runtime, "_compile", failing)
    monkeypatch.setattr(backend, "_FAILED", {})
    runtime.kernel.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [G.synthesis(ws) for _ in range(2)]
            if gradient:
                found[0].sum().backward()
    finally:
        runtime.kernel.cache_clear()
    assert count == number + 1
    assert [w.category for w in caught] == [RuntimeWarning]
    assert "cannot compile" in str(caught[0].message)
    assert "cannot compile" in ops.describe_backend("cpu")
    assert all(relative(image.detach(), expected.detach()) < 1e-5 for image in found)


@compiled
@pytest.mark.parametrize("avx512", [True, False])
def test_kernels_need_little_stack(avx512: bool) -> None:
    """Less than 2 KiB of the 16 that OMP_STACKSIZE may leave to a thread."""
    import llvmlite.binding as llvm

    from sg2cli.ops.cpu import kernels_distance, kernels_layers, kernels_pixels, kernels_winograd
    from sg2cli.ops.cpu.winograd import ALGORITHMS

    sources = [kernels_winograd.convolution(algorithm, 0.2, 0.2) for algorithm in ALGORITHMS]
    sources += [kernels_layers.filtered(0.2), kernels_layers.sums(0.2, True)]
    sources += [kernels_pixels.pixels(3), kernels_pixels.pixels_back(3)]
    sources += [kernels_pixels.linear(), kernels_pixels.linear_back()]
    sources += [kernels_distance.distance(), kernels_distance.distance_back()]
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = ("x86-64-v4", "") if avx512 else ("haswell", "-avx512f")
    machine = llvm.Target.from_default_triple().create_target_machine(name, features, opt=2)
    for source in sources:
        assembly = machine.emit_assembly(llvm.parse_assembly(source.code))
        frames = re.findall(r"sub\w*\s+\$(\w+), %rsp", assembly)
        assert sum(int(size, 0) for size in frames) < 2048
        assert "alloca" not in source.code


def test_a_lack_of_memory_is_not_a_kernel_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a batch can be halved."""
    monkeypatch.setattr(runtime, "SPARE", 1 << 58)
    runtime.kernel.cache_clear()
    with pytest.raises(RuntimeError, match="memory") as caught:
        runtime.kernel("kernels_pixels", "linear")
    assert not isinstance(caught.value, KernelUnavailable)


def test_every_tuned_operation_agrees_with_its_reference() -> None:
    errors = dict(selftest.errors("cpu"))
    assert len(errors) == len(selftest.CHECKS)
    assert max(errors.values()) < 1e-5


@compiled
def test_arguments_are_declared(randn: Any) -> None:
    from dataclasses import dataclass

    @dataclass
    class Some(Arguments):
        count: Int
        limit: Float
        x: Map
        y: Buffer

        def sizes(self) -> dict[str, tuple[int, ...] | int]:
            return {"x": (1, 16, 2, self.count), "y": 32}

    x = torch.zeros(1, 16, 2, 3).contiguous(memory_format=runtime.LAST)
    some = Some(3, 1.0, x, torch.zeros(32))
    some.check()
    assert some.pack() == [3, 0x3F800000, x.data_ptr(), 96, 48, some.y.data_ptr()]
    for name, wrong in {
        "x": x[..., :2],
        "y": torch.zeros(31),
        "count": 4,
    }.items():
        with pytest.raises(ValueError, match="the kernel needs"):
            Some(**{**vars(some), name: wrong}).check()
    for name, unfit in {
        "x": torch.zeros(1, 16, 2, 3),
        "y": torch.zeros(64)[::2],
    }.items():
        with pytest.raises(ValueError, match="strides"):
            Some(**{**vars(some), name: unfit}).pack()
    with pytest.raises(TypeError, match="float32"):
        Some(3, 1.0, x.double(), torch.zeros(32)).pack()


@compiled
def test_sizes_are_checked_before_a_call(randn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a caller gets wrong ends in an error, not in another's memory."""
    from sg2cli.ops.cpu import layers, products
    from sg2cli.ops.cpu.convolution import convolve
    from sg2cli.ops.cpu.epilogue import Epilogue
    from sg2cli.ops.cpu.winograd import SAME

    x = randn(2, 16, 6, 6).float().contiguous(memory_format=runtime.LAST)
    weight, rows = randn(32, 16, 3, 3).float(), slice(0, 6)
    some = torch.ones
    calls: list[Any] = [
        lambda: convolve(SAME, x, weight[:, :8], rows, 6),
        lambda: convolve(SAME, x, weight, rows, 6, some(2, 8)),
        lambda: convolve(SAME, x, weight, rows, 6, some(1, 16)[:, :8]),
        lambda: convolve(SAME, x, weight, rows, 6, None, Epilogue(scale=some(2, 16))),
        lambda: convolve(SAME, x, weight, rows, 6, None, Epilogue(bias=some(16))),
        lambda: convolve(SAME, x, weight, rows, 6, None, Epilogue(noise=some(2, 1, 5, 6))),
        lambda: convolve(SAME, x, weight, rows, 6, None, Epilogue(noise=some(3, 1, 6, 6))),
        lambda: convolve(SAME, x, weight, rows, 6, out=runtime.new_map(2, 16, 6, 6)),
        lambda: convolve(SAME, x, weight, rows, 6, signs=x[:, :, :5], slope=0.5),
        lambda: products.linear(some(2, 32), some(4, 16)),
        lambda: products.linear_backward(some(2, 8), some(4, 16)),
        lambda: products.pixels(x, some(2, 3, 8), some(2, 3, 6, 6)),
        lambda: products.pixels(x, some(1, 3, 16), some(2, 3, 6, 6)),
        lambda: products.pixels(x, some(2, 3, 16), some(2, 3, 6, 5)),
        lambda: products.pixels_backward(x, some(2, 3, 16), some(2, 3, 6, 5)),
        lambda: products.distance(x, x[:, :, :5], some(16)),
        lambda: products.distance(x, x, some(8)),
        lambda: layers.backward(
            x[:, :, :5], x, weight[:16], some(2, 16), None, Epilogue(some(2, 16), some(16)), x
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="needs|contiguous"):
            call()
