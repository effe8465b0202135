"""Networks under torch's tracers, modes and transforms, copied, pickled and forked.

Each either works or raises a clear error; compiled code must never see what is not plain memory.
What could end the process runs in a process of its own.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import random_generator, relative
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from sg2cli import ops

CHANNELS = (32, 16, 16)  # multiples of 16, which the compiled code takes


@pytest.fixture(scope="module")
def G() -> Any:
    return random_generator(channels=CHANNELS, conv_clamp=50.0)


@pytest.fixture
def ws(G: Any, randn: Any) -> Tensor:
    return randn(2, G.config.num_ws, G.config.w_dim).float()


@pytest.fixture
def expected(G: Any, ws: Tensor) -> Any:
    """The images, which are the same afterwards: nothing a transform made may be kept."""
    images = G.synthesis(ws)
    yield images
    assert torch.equal(G.synthesis(ws), images)


def in_a_new_process(script: str, **environment: str) -> str:
    """What the script prints; it finds G, ws and expected."""
    setup = (
        "import sys, torch; from networks import random_generator; "
        f"G = random_generator(channels={CHANNELS}, conv_clamp=50.0); "
        "ws = torch.linspace(-1, 1, 2 * G.config.num_ws * G.config.w_dim)"
        ".view(2, G.config.num_ws, G.config.w_dim)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_fake_tensors_never_reach_compiled_code() -> None:
    script = """
from torch._subclasses.fake_tensor import FakeTensorMode
mode = FakeTensorMode(allow_non_fake_inputs=True)
with mode:
    print(list(G.synthesis(ws).shape))
    print(list(G.synthesis(mode.from_tensor(ws)).shape))
    print(type(random_generator(channels=(16, 16, 16)).synthesis(ws)).__name__)
image = G.synthesis(ws)
assert type(image) is torch.Tensor and image.isfinite().all()
"""
    assert in_a_new_process(script) == "[2, 3, 16, 16]\n[2, 3, 16, 16]\nFakeTensor\n"


def test_a_network_first_seen_by_a_tracer_is_computed_as_ever() -> None:
    """Filters and transformed weights made under a tracer are not kept."""
    script = """
from torch.fx.experimental.proxy_tensor import make_fx
for mode in ("real", "fake", "symbolic"):
    make_fx(G.synthesis, tracing_mode=mode, _allow_non_fake_inputs=True)(ws)
print(G.synthesis(ws).sum().isfinite().item())
"""
    assert in_a_new_process(script) == "True\n"


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(G: Any, ws: Tensor, expected: Tensor, mode: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(G.synthesis, tracing_mode=mode, _allow_non_fake_inputs=True)(0 * ws)
    assert relative(traced(ws), expected) < 1e-5


@pytest.mark.filterwarnings("ignore")  # torch's, about itself
def test_export() -> None:
    script = """
expected = G.synthesis(ws)
program = torch.export.export(G.synthesis, (0 * ws,))
found = program.module()(ws)
print(((found - expected).norm() / expected.norm() < 1e-5).item())
"""
    assert in_a_new_process(script) == "True\n"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend: str) -> None:
    script = f"""
expected = G.synthesis(ws)
found = torch.compile(G, backend="{backend}").synthesis(ws)
compiled = torch.compile(lambda ws: G.synthesis(ws), backend="{backend}")
leaf = ws.clone().requires_grad_()
for found in (compiled(ws), compiled(leaf)):
    assert (found - expected).norm() / expected.norm() < 1e-5
found.square().sum().backward()
other = ws.clone().requires_grad_()
G.synthesis(other).square().sum().backward()
print(((leaf.grad - other.grad).norm() / other.grad.norm() < 1e-4).item())
"""
    assert in_a_new_process(script) == "True\n"


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated; sizes are constants in a trace
def test_jit_trace(G: Any, ws: Tensor, expected: Tensor) -> None:
    traced = torch.jit.trace(G.synthesis, (0 * ws,), check_trace=False)
    assert relative(traced(ws), expected) < 1e-5


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(G: Any, ws: Tensor, expected: Tensor) -> None:
    found = torch.vmap(lambda one: G.synthesis(one[None])[0])(ws)
    assert relative(found, expected) < 1e-5


def derivative(G: Any, ws: Tensor, along: Tensor) -> Tensor:
    """Of the images along a direction, by central differences in float64."""
    exact, step = copy.deepcopy(G).double(), 1e-6 * along.double()
    return (exact.synthesis(ws + step) - exact.synthesis(ws - step)) / 2e-6


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own use of it
@pytest.mark.parametrize("way", ["jvp", "dual"])
def test_forward_derivatives(G: Any, ws: Tensor, expected: Tensor, way: str) -> None:
    along = torch.linspace(-1, 1, ws.numel()).view(ws.shape)
    if way == "jvp":
        image, tangent = torch.func.jvp(G.synthesis, (ws,), (along,))
    else:
        with forward_ad.dual_level():
            dual = G.synthesis(forward_ad.make_dual(ws, along))
            image, tangent = forward_ad.unpack_dual(dual)
    assert relative(image, expected) < 1e-5
    assert relative(tangent, derivative(G, ws, along)) < 1e-3


def test_functional_gradients(G: Any, ws: Tensor, expected: Tensor) -> None:
    leaf = ws.clone().requires_grad_()
    (right,) = torch.autograd.grad(G.synthesis(leaf).square().sum(), leaf)
    found = torch.func.grad(lambda ws: G.synthesis(ws).square().sum())(ws)
    assert relative(found, right) < 1e-4
    found = torch.func.functionalize(G.synthesis)(ws)
    assert relative(found, expected) < 1e-5


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own use of it
@pytest.mark.parametrize("way", ["batched", "fake"])
def test_transformed_gradients_of_images_computed_before(G: Any, ws: Tensor, way: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    images = G.synthesis(ws.requires_grad_())
    with pytest.raises(RuntimeError, match="cannot compute gradients under a transform"):
        if way == "batched":
            weigh = torch.ones(2, *images.shape)
            torch.autograd.grad(images, ws, weigh, is_grads_batched=True)
        else:
            with FakeTensorMode(allow_non_fake_inputs=True):
                torch.autograd.grad(images.sum(), ws)


@pytest.mark.parametrize("change", ["half", "double", "meta", "fewer", "sparse"])
def test_saved_tensors_that_hooks_change(G: Any, ws: Tensor, change: str) -> None:
    """Refused, or torch's own to convert; never read as something else."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "half": lambda t: t.half(),
        "double": lambda t: t.double(),
        "meta": lambda t: t.to("meta"),
        "fewer": lambda t: t[..., :-1] if t.ndim else t,
        "sparse": lambda t: t.to_sparse(),
    }
    with torch.autograd.graph.saved_tensors_hooks(changes[change], lambda t: t):
        images = G.synthesis(ws.requires_grad_())
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        torch.autograd.grad(images.sum(), ws)


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = 0

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.convolutions += "convolution" in str(f)
        return f(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_all_operations(G: Any, ws: Tensor, expected: Tensor) -> None:
    with Counting() as mode:
        found = G.synthesis(ws)
    assert mode.convolutions > len(G.synthesis.layers)
    assert relative(found, expected) < 1e-5


def test_a_function_mode_sees_all_operations(G: Any, ws: Tensor, expected: Tensor) -> None:
    seen = []

    class Seeing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(f, "__name__", ""))
            return f(*args, **(kwargs or {}))

    with Seeing():
        found = G.synthesis(ws)
    assert seen.count("conv2d") >= len(CHANNELS)
    assert relative(found, expected) < 1e-5


class Labelled(Tensor):
    """A subclass that torch carries through its operations."""


def test_subclasses_stay_what_they_are(G: Any, ws: Tensor, expected: Tensor) -> None:
    found = G.synthesis(ws.as_subclass(Labelled))
    assert type(found) is Labelled
    assert relative(found, expected) < 1e-5


def test_second_derivatives_of_float64_networks(randn: Any) -> None:
    G = random_generator(channels=(16,), img_resolution=4, mapping_features=(16,)).double()
    G8 = random_generator(channels=(2, 3), img_resolution=8).double()
    for net in (G, G8):
        ws = 0.1 * randn(1, net.config.num_ws, net.config.w_dim)
        assert torch.autograd.gradgradcheck(
            lambda ws, net=net: net.synthesis(ws)[:, :, ::2, ::2], ws.requires_grad_()
        )


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")
def test_second_derivatives_of_compiled_code_are_refused(G: Any, ws: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"second derivative.*float64"):
        torch.autograd.grad(G.synthesis(ws.requires_grad_()).sum(), ws, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_of_the_whole_network(
    G: Any, ws: Tensor, expected: Tensor, dtype: torch.dtype
) -> None:
    found = copy.deepcopy(G).to(dtype).synthesis(ws.to(dtype))
    assert found.dtype == dtype
    assert relative(found, expected) < (1e-5 if dtype == torch.float64 else 0.1)


def test_autocast(G: Any, ws: Tensor, expected: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(G.synthesis(ws), expected) < 0.1
        assert relative(random_generator().synthesis(ws), random_generator().synthesis(ws)) == 0


def test_the_meta_device(G: Any, ws: Tensor, expected: Tensor) -> None:
    found = copy.deepcopy(G).to("meta").synthesis(ws.to("meta"))
    assert found.is_meta and found.shape == expected.shape
    with pytest.raises((RuntimeError, NotImplementedError)):  # a mixture is torch's to refuse
        G.synthesis(ws.to("meta"))


def test_an_inference_network(ws: Tensor) -> None:
    with torch.inference_mode():
        G = random_generator(channels=CHANNELS, conv_clamp=50.0)
        expected = G.synthesis(ws)
    assert torch.equal(G.synthesis(ws), expected)
    with pytest.raises(RuntimeError, match="[Ii]nference"):
        G.synthesis(ws.requires_grad_()).sum().backward()


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "deepcopy": lambda G, folder: copy.deepcopy(G),
    "copy": lambda G, folder: copy.copy(G),
    "pickle": lambda G, folder: pickle.loads(pickle.dumps(G)),
    "save": lambda G, folder: (
        torch.save(G, folder / "G.pt"),
        torch.load(folder / "G.pt", weights_only=False),
    )[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_copies(way: str, G: Any, ws: Tensor, expected: Tensor, tmp_path: Path) -> None:
    copied = COPIES[way](G, tmp_path)
    assert torch.equal(copied.synthesis(ws), expected)
    if way != "copy":  # which shares the weights
        for layer in copied.synthesis.layers:
            layer.noise_strength.zero_()
        assert not torch.equal(copied.synthesis(ws), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_computes_by_itself() -> None:
    """OpenMP's threads do not come along: a child that waits for them waits forever."""
    script = """
import os, torch
torch.set_num_threads(2)
expected = G.synthesis(ws)
(torch.ones(2000, 2000) @ torch.ones(2000, 2000)).exp()
child = os.fork()
if child == 0:
    torch.ones(2000, 2000).exp()
    os._exit(0 if torch.equal(G.synthesis(ws), expected) else 1)
print(os.waitpid(child, 0)[1])
"""
    assert in_a_new_process(script) == "0\n"


def test_threads_with_little_stack() -> None:
    """The least that pthreads take: what compiled code needs of memory is not on the stack."""
    script = """
torch.set_num_threads(2)
G = random_generator(img_resolution=64, channels=(64, 48, 32, 32, 16))
leaf = torch.ones(8, G.config.num_ws, G.config.w_dim, requires_grad=True)
G.synthesis(leaf).sum().backward()
with torch.inference_mode():
    G.synthesis(leaf)
print(leaf.grad.isfinite().all().item())
"""
    assert in_a_new_process(script, OMP_STACKSIZE="16k") == "True\n"


@pytest.mark.parametrize(
    "default", ["torch.set_default_dtype(torch.float64)", "torch.set_default_device('meta')"]
)
def test_defaults_of_torch_at_the_first_image_are_not_kept(default: str) -> None:
    """Neither does another default change the image, nor what is drawn after it."""
    script = f"""
from sg2cli.sampling.rendering import random_noise
from sg2cli.ops import conv3x3, unit_distance
a, kernel = torch.linspace(-1, 1, 16 * 64).view(1, 16, 8, 8), torch.ones(16, 16, 3, 3)
weight = torch.ones(1, 16, 1, 1)
def all_of_it():
    leaf = ws.clone().requires_grad_()
    image = G.synthesis(leaf)
    features = conv3x3(a, kernel)
    (gradient,) = torch.autograd.grad(image.sum(), leaf)
    noise = G.synthesis(leaf.detach(), random_noise(G, [3, 4]))
    return image, gradient, features, unit_distance(features, a, weight), noise
{default}
first = all_of_it()
torch.set_default_dtype(torch.float32)
torch.set_default_device(None)
second = all_of_it()
assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(first, second))
print(all(t.isfinite().all() for t in first))
"""
    assert in_a_new_process(script) == "True\n"
