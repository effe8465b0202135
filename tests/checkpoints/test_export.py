"""Networks written in the formats of other code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import fake_modules
from networks import GOLDEN, random_generator, same
from safetensors.torch import load_file

from sg2cli.checkpoints import Network, save_generator
from sg2cli.checkpoints.export import to_rosinality
from sg2cli.checkpoints.importer import read_checkpoint, to_generator
from sg2cli.checkpoints.pickle_globals import GLOBALS
from sg2cli.checkpoints.pickle_reader import budget_for, load
from sg2cli.checkpoints.tensor_tree import tensor_tree
from sg2cli.checkpoints.torch_tensors import read_torch
from sg2cli.generator import Generator

from .test_convert import FORMATS


def tensors_of(contents: Any) -> dict[str, torch.Tensor]:
    return {key: tensor.tensor() for key, tensor in contents.items()}


@pytest.mark.parametrize("name", ["rosinality-32.pt", "rosinality-train-32.pt"])
def test_back_to_rosinality_is_the_file_that_it_was(name: str, sg2: Any) -> None:
    """Every key, shape and number of the sample's g_ema, so that a strict loader takes it."""
    sg2("convert", FORMATS / name, "net.safetensors")
    G = Network.open(Path("net.safetensors")).load()
    found = to_rosinality(G)  # whose channels are not those of their table
    sample = read_torch((FORMATS / name).read_bytes(), GLOBALS)
    expected = tensors_of(sample["g_ema"])
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-7, msg=key)
    torch.save({"g_ema": found, "latent_avg": G.mapping.w_avg}, "back.pt")
    same(to_generator(read_checkpoint(Path("back.pt"))), G)


def rosinality_generator(**changes: Any) -> Generator:
    """A generator that rosinality's code can express."""
    widths = {
        "z_dim": 16,
        "mapping_features": (16, 16),
        "img_resolution": 8,
        "channels": (512,) * 2,
    }
    return random_generator(**(widths | changes))


def test_rosinality_is_written_with_the_mean_of_w(sg2: Any) -> None:
    G = rosinality_generator()
    save_generator(G, Path("net.safetensors"), {})
    assert sg2("convert", "net.safetensors", "net.pt", "--to", "rosinality").lines == ["net.pt"]
    found = torch.load("net.pt", weights_only=True)
    assert found["latent_avg"].equal(G.mapping.w_avg)
    same(to_generator(read_checkpoint(Path("net.pt"))), G)


def test_a_clamp_is_left_out_for_rosinality_only_if_no_image_reaches_it(sg2: Any) -> None:
    for clamp, code in ((1e4, 0), (1.0, 2)):
        save_generator(
            rosinality_generator(conv_clamp=clamp), Path("net.safetensors"), {}, overwrite=True
        )
        result = sg2("convert", "net.safetensors", "net.pt", "--to", "rosinality", "--overwrite")
        assert result.code == code
        expected = (
            "64 seeds do not reach it" if code == 0 else "without it images of seeds 0 to 63 differ"
        )
        assert expected in result.err


@pytest.mark.parametrize("code_base", ["ada", "stylegan3"])
@pytest.mark.parametrize(
    "name", ["cond-32", "clamp-resnet-32", "filter8-16", "gray-16", "orig-32", "uncond-64"]
)
def test_pickles_for_nvidia_read_back(name: str, code_base: str, sg2: Any) -> None:
    path = GOLDEN / f"{name}.weights.safetensors"
    assert sg2("convert", path, "net.pkl", "--to", code_base).lines == ["net.pkl"]
    found = to_generator(read_checkpoint(Path("net.pkl")))
    expected = Network.open(path).load()
    same(found, expected)
    assert found.config == expected.config


@pytest.mark.parametrize("code_base", ["ada", "stylegan3"])
@pytest.mark.parametrize("channels", [(10, 9, 6), (16, 16, 8)])
def test_nvidias_code_reconstructs_what_a_pickle_holds(
    code_base: str, channels: tuple[int, ...], in_tmp: Path, sg2: Any
) -> None:
    """Run the source in the pickle against a stand-in for NVIDIA's class, as their loader does."""
    G = random_generator(channels=channels, conv_clamp=256, c_dim=2, embed_features=16)
    save_generator(G, Path("net.safetensors"), {})
    sg2("convert", "net.safetensors", "net.pkl", "--to", code_base)
    made: dict[str, Any] = {}

    class Block(torch.nn.Module):
        def __init__(self, inputs: int, outputs: int, **init_kwargs: Any) -> None:
            super().__init__()
            self.channels, self.init_kwargs = (inputs, outputs), init_kwargs

    class Theirs(torch.nn.Module):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__()
            made["arguments"] = kwargs
            self.synthesis = torch.nn.Module()
            self.synthesis.block_resolutions = [4, 8, 16]
            for resolution in self.synthesis.block_resolutions:
                setattr(self.synthesis, f"b{resolution}", Block(1, 1, resolution=resolution))

        def load_state_dict(self, state: Any) -> None:  # type: ignore[override]
            made["tensors"] = dict(state)

    def reconstruct(meta: dict[str, Any]) -> Any:
        assert (meta["type"], meta["version"]) == ("class", 6)
        scope: dict[str, Any] = {}
        exec(meta["module_src"], scope)
        instance = scope[meta["class_name"]].__new__(scope[meta["class_name"]])
        instance.__setstate__(meta["state"])
        return instance

    name = "networks" if code_base == "ada" else "networks_stylegan2"
    with fake_modules(
        **{
            f"training__{name}": {"Generator": Theirs},
            "torch_utils__persistence": {"_reconstruct_persistent_obj": reconstruct},
        }
    ):
        contents = pickle.loads(Path("net.pkl").read_bytes())
    assert contents["G"] is contents["G_ema"]
    assert isinstance(contents["D"], torch.nn.Module)
    arguments = made["arguments"]
    synthesis = arguments["synthesis_kwargs"] if code_base == "ada" else arguments
    assert synthesis["conv_clamp"] == 256
    assert arguments["mapping_kwargs"]["embed_features"] == 16
    blocks = [getattr(contents["G"].synthesis, f"b{r}").channels for r in (4, 8, 16)]
    if channels == (10, 9, 6):
        assert blocks == [(0, 10), (10, 9), (9, 6)]
    else:
        base, most = synthesis["channel_base"], synthesis["channel_max"]
        assert channels == tuple(min(base // r, most) for r in (4, 8, 16))
    assert set(G.state_dict()) <= made["tensors"].keys()


def test_what_nvidias_constructors_cannot_express(sg2: Any) -> None:
    for changes, message in (
        ({"base": (4, 2)}, "images that are not square"),
        ({"mapping_features": (5, 20, 16)}, "hidden ones must be of one width"),
    ):
        save_generator(random_generator(**changes), Path("net.safetensors"), {}, overwrite=True)
        result = sg2("convert", "net.safetensors", "net.pkl", "--to", "ada")
        assert result.code == 2
        assert message in result.err


def test_the_suffix_fits_the_code_base(sg2: Any) -> None:
    for target, suffix in (("stylegan3", ".pkl"), ("rosinality", ".pt"), ("ada", ".pt or .pkl")):
        result = sg2("convert", "avatars-128", "net.npz", "--to", target)
        assert result.code == 2
        assert f"net.npz: the output must end in {suffix}" in result.err


@pytest.mark.parametrize(
    "name", ["ada-cond-32.pkl", "ada-uncond-32.pkl", "stylegan3repo-sg2-32.pkl"]
)
def test_back_to_ada_is_the_state_that_it_was(name: str, sg2: Any) -> None:
    sg2("convert", FORMATS / name, "net.safetensors")
    assert sg2("convert", "net.safetensors", "back.pt", "--to", "ada").code == 0
    found = torch.load("back.pt", weights_only=True)
    content = (FORMATS / name).read_bytes()
    pickled, _ = load(memoryview(content), GLOBALS, budget_for(len(content)))
    expected = tensors_of(tensor_tree(pickled).below("G_ema."))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", ["clamp-resnet-32", "filter8-16", "orig-32"])
def test_filters_of_ada_are_those_of_its_own_files(name: str, sg2: Any) -> None:
    """The golden files keep NVIDIA's buffers: of one dimension from eight taps on."""
    golden_file = GOLDEN / f"{name}.weights.safetensors"
    sg2("convert", golden_file, "back.pt", "--to", "ada")
    found, expected = torch.load("back.pt", weights_only=True), load_file(golden_file)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": (4, 2)}, "a constant input of 4x2"),
        ({"resample_filter": (1, 2, 1)}, "a filter of 3 taps"),
        ({}, "channels of 10, 9, 6"),
        ({"c_dim": 3, "embed_features": 4}, "3 classes"),
        ({"architecture": "resnet"}, "the architecture resnet"),
        ({"activation": "relu"}, "the activation relu"),
        ({"img_channels": 1}, "1 image channels"),
        ({"use_noise": False}, "without noise"),
        ({}, "mapping layers of (14, 16) for z of 12"),
    ],
)
def test_what_rosinality_cannot_express(sg2: Any, changes: dict[str, Any], message: str) -> None:
    save_generator(random_generator(**changes), Path("net.safetensors"), {})
    result = sg2("convert", "net.safetensors", "net.pt", "--to", "rosinality")
    assert result.code == 2
    assert message in result.err
    assert not Path("net.pt").exists()
    assert sg2("convert", "net.safetensors", "net.pt", "--to", "ada").code == 0
