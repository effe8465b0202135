"""Networks in any container, under any wrapper, with the names of any code."""

from __future__ import annotations

import pickle
import re
import shlex
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import fake_modules, rosinality_state, write_ada, write_tensorflow
from networks import random_generator, same
from safetensors.torch import load_file, save_file

from sg2cli import checkpoints
from sg2cli.checkpoints import Network
from sg2cli.checkpoints.importer import read_checkpoint, to_generator
from sg2cli.errors import CheckpointError
from sg2cli.generator import Generator

CASES = Path(__file__).parents[1] / "cases"
EQUAL = {  # file, and words of what is said of it
    "jojo_g.pt": "read g, as there is no network of averaged weights",
    "bare.pt": None,
    "ada_state_G_ema.pt": "does not record conv_clamp, activation, lr_multiplier",
    "ada_state_bare.pt": "assuming none, lrelu, 0.01 and 0",
    "pti_model.pt": "a single module",
    "g_only.pkl": "read G, as there is no network of averaged weights",
    "ada_module_only.pkl": "a single module",
    "projected_gan.pkl": "left out: D",
    "ros_state.safetensors": None,
}


def images(G: Generator) -> torch.Tensor:
    z = torch.randn(2, G.config.z_dim, generator=torch.Generator().manual_seed(0))
    return G(z)


@pytest.mark.parametrize("name", EQUAL)
def test_files_of_users_draw_what_their_network_draws(name: str, sg2: Any) -> None:
    result = sg2("convert", CASES / name, "net.safetensors")
    assert result.code == 0, result.err
    if words := EQUAL[name]:
        assert words in result.err
    else:  # nothing but the summary and the mean of w
        assert [line.split()[1] for line in result.err.splitlines()] == ["read", "missing"]
    G = Network.open(Path("net.safetensors")).load()
    expected = checkpoints.load(CASES / "network.safetensors", device="cpu")
    torch.testing.assert_close(images(G), images(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["human.pt", "human.pkl"])
def test_images_that_are_not_square(name: str, sg2: Any) -> None:
    sg2("convert", CASES / name, "net.safetensors")
    G = Network.open(Path("net.safetensors")).load()
    expected = load_file(CASES / "human.expected.safetensors")
    ws = expected["w"][:, None].expand(-1, G.config.num_ws, -1)
    torch.testing.assert_close(G.synthesis(ws), expected["image_psi1_const"], rtol=0, atol=1e-4)
    assert "8x16" in sg2("info", "net.safetensors").out


@pytest.mark.parametrize("base", [(4, 2), (5, 3), (3, 7)])
def test_tensorflow_blocks_are_called_by_doublings(base: tuple[int, int], tmp_path: Path) -> None:
    G, path = random_generator(base=base), tmp_path / "net.pkl"
    write_tensorflow(G, path)
    same(to_generator(read_checkpoint(path)), G)


def nested(G: Generator, keys: str) -> Any:
    """NVIDIA's or rosinality's state below keys, as in 'ros g_ema' or 'ada state_dict G.'."""
    kind, *path = keys.split()
    state: Any = rosinality_state(G) if kind == "ros" else dict(G.state_dict())
    while path and path[-1].endswith("."):
        prefix = path.pop()
        state = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    for key in reversed(path):
        state = {key: state}
    return state


WRAPPERS = [
    *("ros", "ros g", "ros g_ema", "ros module.", "ros generator.", "ros g_ema module."),
    *("ros state_dict generator.", "ros state_dict decoder.", "ros model g_ema module."),
    *("ada", "ada G_ema", "ada state_dict", "ada state_dict G_ema.", "ada module.", "ada ema G."),
]


@pytest.mark.parametrize("keys", WRAPPERS)
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors", "pickle 0", "pickle 5"])
def test_any_wrapper_in_any_container(keys: str, container: str, tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "net"
    contents = nested(G, keys)
    if container == "safetensors":
        while isinstance(next(iter(contents.values())), dict):
            (key,) = contents
            contents = {f"{key}.{name}": tensor for name, tensor in contents[key].items()}
        save_file({name: tensor.clone() for name, tensor in contents.items()}, path)
    elif container.startswith("pickle"):
        path.write_bytes(pickle.dumps(contents, int(container[-1])))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=container == "zip")
    found = to_generator(read_checkpoint(path))
    if keys.startswith("ros"):
        found.mapping.w_avg.copy_(G.mapping.w_avg)  # which is not in such a state dict
    same(found, G)


@pytest.mark.parametrize("protocol", range(6))
def test_nvidias_pickles_of_any_protocol(protocol: int, tmp_path: Path) -> None:
    G, path = random_generator(c_dim=2, embed_features=16), tmp_path / "net.pkl"
    write_ada(G, path, protocol=protocol)
    same(to_generator(read_checkpoint(path)), G)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    G = random_generator()
    state = {key: tensor.to(dtype) for key, tensor in G.state_dict().items()}
    torch.save({"G_ema": state}, tmp_path / "net.pt")
    found = to_generator(read_checkpoint(tmp_path / "net.pt"))
    for key, tensor in found.state_dict().items():
        assert tensor.equal(state[key].float()), key


def test_an_average_comes_before_the_last_step(tmp_path: Path) -> None:
    last, average = random_generator(1), random_generator(2)
    for wrapped in (
        {"g": rosinality_state(last), "g_ema": rosinality_state(average)},
        {
            "state_dict": {"generator." + k: v for k, v in last.state_dict().items()}
            | {"generator_ema." + k: v for k, v in average.state_dict().items()}
        },
    ):
        torch.save(wrapped, tmp_path / "net.pt")
        checkpoint = read_checkpoint(tmp_path / "net.pt")
        assert not any("read " in note for note in checkpoint.notes)
        found = to_generator(checkpoint).synthesis.b4.const
        assert found.equal(average.synthesis.b4.const)


def test_tensorflows_generator_alone(tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "net.pkl"
    for wrapper in (lambda Gs: Gs, lambda Gs: {"Gs": Gs}, lambda Gs: (None, None, Gs)):
        write_tensorflow(G, path, wrapper=wrapper)
        same(to_generator(read_checkpoint(path)), G)
    write_tensorflow(G, path, wrapper=lambda Gs: {"G": Gs})
    checkpoint = read_checkpoint(path)
    assert any(note.startswith("read G, as there is no") for note in checkpoint.notes)


def test_the_lr_multiplier_of_a_file_that_does_not_record_it(sg2: Any) -> None:
    G = random_generator(lr_multiplier=0.1)
    torch.save({"G_ema": dict(G.state_dict())}, "net.pt")
    result = sg2("convert", "net.pt", "net.safetensors")
    assert "does not fit an lr_multiplier of 0.01" in result.err
    assert "convert it with --lr-multiplier 0.1" in result.err
    result = sg2("convert", "net.pt", "net.safetensors", "--overwrite", "--lr-multiplier", 0.1)
    assert "warning" not in result.err
    torch.testing.assert_close(
        images(Network.open(Path("net.safetensors")).load()), images(G), rtol=0, atol=1e-4
    )


class Layer:
    """An instance of a class that nobody knows, such as a layer of a discriminator."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


def test_unknown_classes_beside_the_generator_stay_inert(tmp_path: Path) -> None:
    G, path = random_generator(), tmp_path / "net.pkl"
    with fake_modules(**{"pg_modules__discriminator": {"Layer": Layer}}):
        D = Layer(_modules=OrderedDict(a=Layer(x=1)), hooks={Layer: 3, (1, 2): 4}, s={1, (2, 3)})
        for protocol in range(6):
            write_ada(G, path, D=D, protocol=protocol)
            checkpoint = read_checkpoint(path)
            assert checkpoint.left_out == ["D"]
            same(to_generator(checkpoint), G)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_module_of_an_unknown_class_is_read(tmp_path: Path) -> None:
    """torch.save of a whole module of rosinality's, whose class is `model.Generator`."""
    G, path = random_generator(), tmp_path / "net.pt"
    with fake_modules(model={"Generator": type("Generator", (torch.nn.Module,), {})}):
        import model  # type: ignore[import-not-found]

        root = model.Generator()
        for name, tensor in rosinality_state(G).items():
            *path_, last = name.split(".")
            module = root
            for part in path_:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(last, tensor)
        for new in (True, False):
            torch.save({"g_ema": root}, path, _use_new_zipfile_serialization=new)
            found = to_generator(read_checkpoint(path))
            found.mapping.w_avg.copy_(G.mapping.w_avg)
            same(found, G)


REFUSED: dict[str, tuple[Any, str]] = {
    "lucidrains": ({"GAN": {"G.initial_block": torch.zeros(8, 4, 4)}}, "lucidrains"),
    "FastGAN": ({"g": {"module.feat_8.1.weight_orig": torch.zeros(3)}}, "a FastGAN network"),
    "SWAGAN": ({"g_ema": {"to_rgbs.0.iwt.ll": torch.zeros(2, 2)}}, "a SWAGAN network"),
    "StyleGAN3": ({"G_ema": {"synthesis.L0_36_512.weight": torch.zeros(3)}}, "a StyleGAN3 network"),
    "GFPGAN": (
        {"params_ema": {"stylegan_decoder.constant_input.weight": torch.zeros(1, 8, 4, 4)}},
        "GFPGAN's face restoration network",
    ),
    "StyleGAN": ({"g": {"generator.progression.0.conv1.weight": torch.zeros(3)}}, "first StyleGAN"),
    "discriminator": ({"D": {"b4.out.weight": torch.zeros(1, 8)}}, "a discriminator, but no gener"),
    "latents": (torch.zeros(3, 6, 16), "its tensors are [3, 6, 16]"),
    "nothing": ({"epoch": 3}, "it holds no tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_by_name(name: str, sg2: Any) -> None:
    contents, message = REFUSED[name]
    torch.save(contents, "net.pt")
    result = sg2("convert", "net.pt", "net.safetensors")
    assert result.code == 3
    assert message in result.err
    assert "unsafe" not in result.err


def test_a_lost_label_embedding_is_the_reason(sg2: Any) -> None:
    for path in (CASES / "cond_export.pt", Path("wide.pt")):
        state = rosinality_state(random_generator(z_dim=30, mapping_features=(16, 16)))
        torch.save({"g_ema": state}, "wide.pt")
        result = sg2("convert", path, "net.safetensors")
        assert result.code == 3
        assert "exported without its label embedding" in result.err


def zip_of(**members: bytes) -> bytes:
    with zipfile.ZipFile("a.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), content)
    return Path("a.zip").read_bytes()


KINDS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "a pointer of Git LFS",
    b"<!DOCTYPE html><html>": "a web page",
    b"\n\n<HTML>": "a web page",
    b"\x1f\x8b" + bytes(20): "a gzip archive: unpack it",
    b"\x89PNG\r\n\x1a\n" + bytes(20): "a PNG image",
    b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x001Qs.": "give the .pt itself",
}


@pytest.mark.parametrize("content", KINDS)
def test_files_that_are_no_checkpoints_are_named(content: bytes, sg2: Any) -> None:
    Path("net.pkl").write_bytes(content)
    result = sg2("convert", "net.pkl", "net.safetensors")
    assert result.code == 3
    assert KINDS[content] in result.err
    assert "unsafe" not in result.err
    if content[:1] != b"\x80":
        assert KINDS[content] in sg2("generate", "--seeds", 0, "-n", "net.pkl").err


def test_archives_around_a_checkpoint(in_tmp: Path) -> None:
    for content, message in (
        (zip_of(folder__net_pkl=b"x"), "unpack it, and give 'folder/net.pkl'"),
        (zip_of(**{"w.npy": b"x"}), "an .npz of NumPy arrays"),
        (zip_of(net__data_pkl=b"x", net__constants_pkl=b"x"), "a TorchScript program"),
    ):
        Path("net.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(message)):
            read_checkpoint(Path("net.pt"))


def test_other_names_in_a_safetensors_file(sg2: Any) -> None:
    """What draws gives the command that converts it."""
    result = sg2("generate", "--seeds", 0, "-n", CASES / "ros_state.safetensors")
    assert result.code == 3
    assert f"sg2 convert {CASES / 'ros_state.safetensors'} ros_state-sg2.safetensors" in result.err


def test_a_command_that_is_proposed_can_be_typed(sg2: Any) -> None:
    Path("my dir").mkdir()
    shutil.copy(CASES / "ros_state.safetensors", "my dir/net.safetensors")
    shutil.copy(CASES / "bare.pt", "my dir/bare.pt")
    for name in ("my dir/net.safetensors", "my dir/bare.pt"):
        match = re.search("`(.+)`", sg2("generate", "--seeds", 0, "-n", name).err)
        assert match is not None
        program, *args = shlex.split(match[1])
        assert program == "sg2"
        assert sg2(*args).code == 0


def test_unknown_keys_are_reported_with_the_naming_scheme(tmp_path: Path) -> None:
    for scheme, mark in (
        ("BasicSR", "constant_input.weight"),
        ("genforce", "synthesis.early_layer.const"),
    ):
        torch.save(
            {"params_ema": {mark: torch.zeros(1, 8, 4, 4), "x.y": torch.zeros(1)}}, tmp_path / "n"
        )
        with pytest.raises(CheckpointError, match=f"unknown {scheme} key 'x.y'"):
            read_checkpoint(tmp_path / "n")


def test_folders_are_not_checkpoints(sg2: Any) -> None:
    Path("net").mkdir()
    assert "net: a folder: give the checkpoint inside" in sg2("convert", "net", "a.safetensors").err
    Path("net/data.pkl").write_bytes(b"")
    result = sg2("convert", "net", "a.safetensors")
    assert result.code == 3
    assert "an unpacked .pt: pack it with `(cd . && zip -0 -r net.pt net)`" in result.err
