"""The notation of latents."""

from __future__ import annotations

from pathlib import Path

import pytest

from sg2cli.latents.notation import LatentFile, MeanLatent, SeedRange, parse_latents, parse_seeds


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("85", [(85, 85)]),
        ("0-99", [(0, 99)]),
        ("85,100-105", [(85, 85), (100, 105)]),
        (" 1 , 2-3", [(1, 1), (2, 3)]),
        ("7-7", [(7, 7)]),
        ("007", [(7, 7)]),
        ("0-4294967295", [(0, 2**32 - 1)]),
        ("0-100:10", [(0, 100, 10)]),
        ("0-5:1,3-9:4", [(0, 5), (3, 9, 4)]),
        ("1 2  3-5", [(1, 1), (2, 2), (3, 5)]),
        (" 1, 2 3 ,4-8:2", [(1, 1), (2, 2), (3, 3), (4, 8, 2)]),
    ],
)
def test_seeds(text: str, ranges: list[tuple[int, ...]]) -> None:
    assert parse_seeds(text) == tuple(SeedRange(*each) for each in ranges)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a seed"),
        ("x", "'x' is not a seed"),
        ("1,,2", "is not a seed"),
        ("1.5", "is not a seed"),
        ("-1", "is not a seed"),
        ("1-2-3", "is not a seed"),
        ("١٢", "is not a seed"),
        ("7-3", "did you mean 3-7?"),
        ("0-9:0", "0-9:0 has the step 0"),
        ("5:2", "is not a seed"),
        ("0-9:", "is not a seed"),
        ("0-9:99999999999", "largest seed"),
        ("4294967296", "largest seed"),
        ("1" * 5000, "largest seed"),
    ],
)
def test_invalid_seeds_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_seeds(text)


def test_latent_notation(in_tmp: Path) -> None:
    for name in ("a.npy", "b.safetensors", "c.pt", "c,d.npz", "e[1].npy"):
        Path(name).write_bytes(b"")
    assert parse_latents("85,avg,0-2") == (SeedRange(85, 85), MeanLatent(), SeedRange(0, 2))
    assert parse_latents("a.npy") == (LatentFile(Path("a.npy")),)
    assert parse_latents("a.npy:z[2]") == (LatentFile(Path("a.npy"), 2, 2, "z"),)
    assert parse_latents("a.npy[2]:w") == (LatentFile(Path("a.npy"), 2, 2, "w"),)
    assert parse_latents("c.pt:me.jpg") == (LatentFile(Path("c.pt"), key="me.jpg"),)
    assert parse_latents("b.safetensors[0-9],3") == (
        LatentFile(Path("b.safetensors"), 0, 9),
        SeedRange(3, 3),
    )
    assert parse_latents("c,d.npz") == (LatentFile(Path("c,d.npz")),)
    assert parse_latents("e[1].npy") == (LatentFile(Path("e[1].npy")),)
    assert parse_latents("1 avg  0-4:2, a.npy") == (
        *(SeedRange(1, 1), MeanLatent(), SeedRange(0, 4, 2)),
        LatentFile(Path("a.npy")),
    )
    assert parse_latents("-[1]") == (LatentFile(Path("-"), 1, 1),)
    for text, message in {
        "": "is not a latent",
        "mean": "is not a latent",
        "no.npy": "no file no.npy",
        "b.safetensors[9-0]": "descending",
        "a.npy:w[1]:z": "names two arrays",
        "3-1": "did you mean 1-3",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_latents(text)


def test_a_long_list_is_no_file_name(in_tmp: Path) -> None:
    assert len(parse_latents(",".join(map(str, range(1000))))) == 1000


def test_seeds_are_seeds_whatever_files_there_are(in_tmp: Path) -> None:
    for name in ("85", "avg", "1,2"):
        Path(name).write_bytes(b"")
    assert parse_latents("85") == (SeedRange(85, 85),)
    assert parse_latents("avg") == (MeanLatent(),)
    assert len(parse_latents("1,2")) == 2
