"""The generator against the float64 reference, NVIDIA's figures, and its own promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import GOLDEN_NAMES, golden, random_generator, relative
from reference import Reference

from sg2cli import ops
from sg2cli.generator import SynthesisBlock
from sg2cli.latents.mapping import seed_to_z, truncate

NETWORKS: dict[str, dict[str, Any]] = {
    "skip": {},
    "resnet": {"architecture": "resnet"},
    "orig": {"architecture": "orig"},
    "clamp": {"conv_clamp": 0.7},
    "resnet-clamp": {"architecture": "resnet", "conv_clamp": 0.7},
    "classes": {"c_dim": 3, "embed_features": 11},
    "grey": {"img_channels": 1},
    "grey-alpha": {"img_channels": 2},
    "rgba": {"img_channels": 4, "architecture": "orig"},
    "asymmetric": {"resample_filter": (1, 2, 4, 1)},
    "asymmetric-resnet": {"resample_filter": (1, 2, 4, 1), "architecture": "resnet"},
    "one-tap": {"resample_filter": (1,)},
    "two-taps": {"resample_filter": (1, 3)},
    "three-taps": {"resample_filter": (1, 2, 3), "architecture": "resnet"},
    "eight-taps": {"resample_filter": (-1, 2, 5, 9, 9, 5, 2, -1)},
    "twelve-taps": {"resample_filter": tuple(range(12))},
    "no-product": {"resample_filter": ((1.0, 2.0, 0.0), (0.0, 3.0, 1.0), (1.0, 0.0, 4.0))},
    "4x4": {"img_resolution": 4, "channels": (5,)},
    "8x8": {"img_resolution": 8, "channels": (5, 1), "architecture": "resnet"},
    "64x64": {"img_resolution": 64, "channels": (7, 5, 4, 3, 2)},
    "relu": {"activation": "relu"},
    "linear": {"activation": "linear"},
    "no-noise": {"use_noise": False},
    # Channels that compiled code takes, in every layer.
    "compiled": {"channels": (48, 32, 16)},
    "compiled-clamp": {"channels": (32, 16, 16), "conv_clamp": 0.7, "img_channels": 1},
    "compiled-resnet": {"channels": (16, 48, 32), "architecture": "resnet"},
    "compiled-orig": {"channels": (16, 32, 16), "architecture": "orig", "activation": "relu"},
    "compiled-asymmetric": {"channels": (32, 16, 16), "resample_filter": (1, 2, 4, 1)},
    "compiled-64x64": {"img_resolution": 64, "channels": (64, 48, 32, 16, 16)},
    "deep-mapping": {"mapping_features": (5, 20, 9, 16), "lr_multiplier": 0.1},
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    return random_generator(**NETWORKS[request.param])


def inputs(G: Any, randn: Any, n: int = 2) -> tuple[Any, Any]:
    c = torch.eye(G.config.c_dim, dtype=torch.float64)[:n] if G.config.c_dim else None
    return randn(n, G.config.z_dim), c


def maps_of(G: Any, randn: Any, n: int) -> dict[str, torch.Tensor]:
    layers = [layer for layer in G.synthesis.layers if layer.use_noise]
    return {layer.noise_name: randn(n, 1, *layer.noise_const.shape) for layer in layers}


@pytest.mark.parametrize("noise", ["const", "none"])
def test_float64_agrees_with_the_reference(network: Any, randn: Any, noise: str) -> None:
    G = network.double()
    reference = Reference(G.config, G.state_dict())
    z, c = inputs(G, randn)
    w = reference.mapping(z, c)
    torch.testing.assert_close(G.mapping(z, c), w, rtol=1e-11, atol=1e-11)
    ws = w[:, None].repeat(1, G.config.num_ws, 1) + 0.3 * randn(2, G.config.num_ws, w.shape[1])
    assert relative(G.synthesis(ws, noise), reference.synthesis(ws, noise)) < 1e-10


def test_float32_agrees_with_the_reference(network: Any, randn: Any) -> None:
    reference = Reference(network.config, network.state_dict())
    z, c = inputs(network, randn)
    ws = reference.mapping(z, c)[:, None].repeat(1, network.config.num_ws, 1)
    found = network(z.float(), None if c is None else c.float())
    assert relative(found, reference.synthesis(ws)) < 1e-5


def test_gradients_in_ws_and_noise_agree_with_the_reference(network: Any, randn: Any) -> None:
    reference = Reference(network.config, network.state_dict())
    shape = (2, network.config.num_ws, network.config.w_dim)
    ws, maps = randn(*shape), maps_of(network, randn, 2)
    size = network.config.img_resolution
    weight = randn(2, network.config.img_channels, size, size)

    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [leaf.to(dtype, copy=True).requires_grad_() for leaf in (ws, *maps.values())]
        noise = dict(zip(maps, leaves[1:], strict=True))
        if dtype == torch.float64:
            each = [{key: value[i, 0] for key, value in noise.items()} for i in range(2)]
            img = torch.stack([reference.image(leaves[0][i], each[i]) for i in range(2)])
        else:
            img = network.synthesis(leaves[0], noise)
        return list(torch.autograd.grad((img * weight.to(dtype)).sum(), leaves))

    pairs = zip(gradients(torch.float32), gradients(torch.float64), strict=True)
    assert max(relative(found, expected) for found, expected in pairs) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fused_layers_agree_with_the_layers_one_by_one(
    network: Any, randn: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    G, tolerance = network.to(dtype), 1e-12 if dtype == torch.float64 else 1e-5
    shape = (2, G.config.num_ws, G.config.w_dim)
    ws = randn(*shape).to(dtype)
    maps = {name: noise_map.to(dtype) for name, noise_map in maps_of(G, randn, 2).items()}
    fused = [G.synthesis(ws, noise) for noise in ("const", "none", maps)]
    with monkeypatch.context() as patch:
        patch.setattr(ops, "only_reference", lambda: True)
        patch.setattr(SynthesisBlock, "fused", None)
        one_by_one = [G.synthesis(ws, noise) for noise in ("const", "none", maps)]
    for found, expected in zip(fused, one_by_one, strict=True):
        assert relative(found, expected) < tolerance


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="no compiled code here")
@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("compiled")])
def test_networks_of_whole_vectors_are_compiled(
    name: str, randn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every layer, so that the comparisons above are of compiled code."""

    def unexpected(*args: Any) -> Any:
        raise AssertionError("the reference is used")

    for operation in ("styled_conv", "to_rgb", "upsample2d"):
        monkeypatch.setattr(ops.reference, operation, unexpected)
    G = random_generator(**NETWORKS[name])
    ws = randn(2, G.config.num_ws, G.config.w_dim).float()
    G.synthesis(ws)
    G.synthesis(ws.requires_grad_()).sum().backward()
    assert ws.grad is not None


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_figures(name: str) -> None:
    G, expected, config = golden(name)
    z = torch.stack([torch.from_numpy(seed_to_z(s, G.config.z_dim)) for s in config["seeds"]])
    torch.testing.assert_close(z, expected["z"].float(), rtol=0, atol=0)
    c = torch.eye(config["c_dim"])[config["classes"]] if config["classes"] else None
    w = G.mapping(z, c)[:, None].expand(-1, config["num_ws"], -1)
    for psi in (0.5, 0.7, 1):
        for cutoff in (4, None):
            ws = truncate(w, G.mapping.w_avg, psi, cutoff)
            key = f"psi{psi}_cutoff{cutoff}"
            torch.testing.assert_close(ws, expected[f"ws_{key}"], rtol=0, atol=1e-5)
            for noise in ("const", "none"):
                picture = expected[f"image_{key}_{noise}"]
                found = G.synthesis(ws, noise)
                assert (found - picture).abs().max() < 1e-4 * picture.abs().max()


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_mix(name: str) -> None:
    G, expected, config = golden(name)
    z = torch.stack([torch.from_numpy(seed_to_z(seed, G.config.z_dim)) for seed in (0, 85)])
    c = torch.eye(config["c_dim"])[config["classes"][:2]] if config["classes"] else None
    w = G.mapping(z, c)[:, None].repeat(1, config["num_ws"], 1)
    row, column = truncate(w, G.mapping.w_avg, 0.8)
    row[:4] = column[:4]
    picture = expected["mix_row0_col1_styles0-3_psi0.8"]
    assert (G.synthesis(row[None]) - picture).abs().max() < 1e-4 * picture.abs().max()


def test_a_map_left_out_is_the_checkpoints_own(randn: Any) -> None:
    G = random_generator()
    ws = randn(2, G.config.num_ws, G.config.w_dim).float()
    name = "synthesis.b8.conv0.noise_const"
    own = {name: G.state_dict()[name]}
    torch.testing.assert_close(G.synthesis(ws, own), G.synthesis(ws, "const"))
    other = {name: own[name] + 1}
    assert relative(G.synthesis(ws, other), G.synthesis(ws, "const")) > 1e-3


def test_weights_take_no_gradient(randn: Any) -> None:
    G = random_generator()
    ws = randn(1, G.config.num_ws, G.config.w_dim).float().requires_grad_()
    G.synthesis(ws).sum().backward()
    assert ws.grad is not None
    assert all(parameter.grad is None for parameter in G.parameters())


@pytest.mark.parametrize(("precision", "bar"), [("fp16", 1e-2), ("bf16", 3e-2)])
@pytest.mark.parametrize("name", ["uncond-64", "resnet-32", "cond-32"])
def test_half_precision_is_close_to_float32(name: str, precision: Any, bar: float) -> None:
    G, expected, _ = golden(name)
    ws = expected["ws_psi1_cutoffNone"]
    assert G.set_precision(precision) == precision
    found = G.synthesis(ws)
    assert found.dtype == torch.float32
    picture = expected["image_psi1_cutoffNone_const"]
    assert 0 < relative(found, picture) < bar


def test_half_precision_withstands_large_styles_and_weights(randn: Any) -> None:
    """Sums that would overflow float16 are scaled down; the result is what float32 gives."""
    G = random_generator()
    for layer in G.synthesis.layers:
        layer.weight *= 1e4
        layer.affine.bias *= 1e4
    ws = randn(2, G.config.num_ws, G.config.w_dim).float()
    expected = G.synthesis(ws)
    G.set_precision("fp16")
    assert relative(G.synthesis(ws), expected) < 1e-2


def test_auto_precision_on_a_cpu_is_float32() -> None:
    G = random_generator(num_fp16_res=2)
    assert G.set_precision("auto") == "fp32"
    assert G.set_precision("fp16") == "fp16"
    assert G.set_precision("fp32") == "fp32"
    assert all(block.dtype is None for block in G.synthesis.blocks)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_demodulation_cancels_the_scale_of_styles(randn: Any, scale: float) -> None:
    from sg2cli.ops.reference import modulated_conv2d

    x, weight, styles = randn(2, 3, 8, 8), randn(5, 3, 3, 3), randn(2, 3)
    expected = modulated_conv2d(x, weight, styles)
    torch.testing.assert_close(modulated_conv2d(x, weight, scale * styles), expected)


def test_one_filter_is_fit_for_drawing_and_for_gradients(randn: Any) -> None:
    """The shared kernel is made when it is first needed, be that in inference mode."""
    from sg2cli.ops import reference

    reference._shared_filter_kernel.cache_clear()
    G = random_generator()
    ws = randn(1, G.config.num_ws, G.config.w_dim).float()
    with torch.inference_mode():
        G.synthesis(ws)
    ws.requires_grad_()
    G.synthesis(ws).sum().backward()
    assert ws.grad is not None
    assert ws.grad.norm() > 0


@pytest.mark.skipif(not ops.has_compiled_cpu(), reason="plain torch rounds by the batch")
@pytest.mark.parametrize(
    "changes",
    [
        {"z_dim": 12, "w_dim": 20, "mapping_features": (14, 20)},
        {"c_dim": 5, "embed_features": 9},
        {"architecture": "orig", "resample_filter": (1, 2, 1)},
        {"base": (4, 2), "conv_clamp": 0.5},
    ],
)
def test_an_image_does_not_depend_on_its_batch(changes: dict[str, Any]) -> None:
    """To the last bit, for any widths of z, w and mapping layers."""
    G = random_generator(**{"channels": (32, 32, 16), **changes})
    z = torch.randn(7, G.config.z_dim, generator=torch.Generator().manual_seed(0))
    c = torch.eye(G.config.c_dim)[torch.arange(7) % G.config.c_dim] if G.config.c_dim else None
    images = G(z, c)
    for i in range(7):
        alone = G(z[i : i + 1], None if c is None else c[i : i + 1])
        assert alone[0].equal(images[i])
