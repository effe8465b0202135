"""Scripts and options of other code, under the names that users know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import one_line

NETWORK = Path(__file__).parents[1] / "cases" / "network.safetensors"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("style_mixing --outdir=out --rows=85,100 --cols=55", "sg2 mix --outdir=out --rows=85,100"),
        ("style-mixing.py --rows 1 --cols 2", "sg2 mix --rows 1 --cols 2"),
        ("generate.py --seeds=1", "sg2 generate --seeds=1"),
        ("gen_images.py --seeds=2", "sg2 generate --seeds=2"),
        ("projector --target=me.png", "sg2 project --target=me.png"),
        ("scripts/run_pti.py me.png", "sg2 project --tune me.png"),
        ("gen_video --output=lerp.mp4 --seeds=0-31 --grid=4x2", "sg2 interpolate --output=lerp"),
        ("closed_form_factorization", "sg2 directions"),
        (
            "run_generator.py style-mixing-example --row-seeds=1 --col-seeds=2 --network=x.pkl",
            "sg2 mix --row-seeds=1 --col-seeds=2 --network=x.pkl",
        ),
        ("gen_images --network=https://u:pw@a.org/n.pkl?key=1", "sg2 generate --network=https://a"),
    ],
)
def test_scripts_answer_with_the_command(typed: str, line: str, sg2: Any) -> None:
    result = sg2(*typed.split())
    assert result.code == 2
    assert f"run `{line}" in one_line(result.err)
    assert "pw" not in result.err
    assert "key" not in result.err


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("apply_factor -i 2 -d 5 -n 10 --ckpt net.pt factor.pt", "edit"),
        ("convert_weight --repo stylegan2 x.pkl", "convert"),
        ("legacy.py --source=a.pkl --dest=b.pkl", "convert"),
        ("generate.py --sample 1 --pics 20 --ckpt net.pt", "generate"),
        ("projector.py --ckpt net.pt --size 256 me.png", "project"),
        ("closed_form_factorization.py net.pt", "directions"),
    ],
)
def test_scripts_whose_arguments_do_not_fit_name_the_command(
    typed: str, command: str, sg2: Any
) -> None:
    result = sg2(*typed.split())
    assert result.code == 2
    assert f"`sg2 {command}` replaces it, with other arguments: see docs/migrating.md" in one_line(
        result.err
    )


@pytest.mark.parametrize(
    "options",
    [
        "--ckpt {n} --seeds 3 --out a.png",
        "--network_pkl={n} --seeds 3 --outfile a.png",
        "--checkpoint {n} --seeds 3 --output=a.png",
        "--network {n} --seeds 3 --psi 1 --noise_mode const --out a.png",
        "-n {n} --seeds 3 --truncation-psi=1 --quiet=true --out a.png",
        "-n {n} --seeds 3 --trunc 1 --quiet false --out a.png",
    ],
)
def test_options_of_other_code_do_the_same(options: str, sg2: Any) -> None:
    assert sg2("generate", "-n", NETWORK, "--seeds", 3, "--out", "b.png").code == 0
    result = sg2("generate", *options.format(n=NETWORK).split())
    assert result.lines == ["a.png"], result.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_flags_of_the_projectors(sg2: Any) -> None:
    """NVIDIA's --save-video=true and --num-steps, rosinality's --w_plus, and --space W+."""
    drawing = Path(__file__).parents[1] / "targets" / "avatar-dev00.png"
    for n, options in enumerate(
        (
            ["--num-steps", 2, "--save-video=false"],
            ["--step=2", "--w_plus"],
            ["--steps", 2, "--space", "W+"],
        )
    ):
        result = sg2(*("project", drawing, "-n", NETWORK, "--out", str(n), *options))
        assert result.code == 0, result.err
        assert not list(Path(str(n)).rglob("film*"))
    found = [sg2("info", f"{n}/avatar-dev00/projected.safetensors").out for n in range(3)]
    assert [('"space": "w+"' in text or "w+" in text) for text in found] == [False, True, True]


def test_sizes_are_in_the_file(sg2: Any) -> None:
    for name in ("--size", "--channel_multiplier"):
        err = sg2("generate", "--seeds", 1, name, 2).err
        assert f"No such option '{name}': the network's file records its size" in err


def test_what_is_no_known_name_stays_unknown(sg2: Any) -> None:
    assert "Did you mean '--trunc'?" in sg2("generate", "--seeds", 1, "--trunk", 1).err
    assert "no command 'train'" in sg2("train").err
    assert sg2("generate", "--seeds", 1, "--", "--ckpt").code == 2
