"""The notation of latents, their files, and the way from z to ws."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_generator
from safetensors.numpy import save_file

from sg2cli import latents as latents_module
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latent_files import Stream, inspect, is_latents, save_latents
from sg2cli.latents import (
    LatentFile,
    LatentList,
    MeanLatent,
    SeedRange,
    _Names,
    open_latents,
    parse_latents,
    parse_seeds,
    to_ws,
    truncate,
)
from sg2cli.storage.reading import Source

G = random_generator()  # z 12, w 16, 6 ws
WS = np.random.RandomState(1).randn(3, 6, 16).astype(np.float32)


def opened(text: str) -> LatentList:
    return open_latents(parse_latents(text), G.config)


def names(text: str) -> list[str]:
    return [latent.name for latent in opened(text)]


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
    ],
)
def test_seeds(text: str, ranges: list[tuple[int, int]]) -> None:
    assert parse_seeds(text) == tuple(SeedRange(*each) for each in ranges)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no seed"),
        ("x", "'x' is no seed"),
        ("1,,2", "is no seed"),
        ("1.5", "is no seed"),
        ("-1", "is no seed"),
        ("1-2-3", "is no seed"),
        ("١٢", "is no seed"),
        ("7-3", "write 3-7"),
        ("4294967296", "largest seed"),
        ("1" * 5000, "largest seed"),
    ],
)
def test_what_is_no_seed(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_seeds(text)


def test_latent_notation(in_tmp: Path) -> None:
    for name in ("a.npy", "b.safetensors", "c,d.npz", "e[1].npy"):
        Path(name).write_bytes(b"")
    assert parse_latents("85,avg,0-2") == (SeedRange(85, 85), MeanLatent(), SeedRange(0, 2))
    assert parse_latents("a.npy") == (LatentFile(Path("a.npy")),)
    assert parse_latents("a.npy:z[2]") == (LatentFile(Path("a.npy"), 2, 2, holds_z=True),)
    assert parse_latents("b.safetensors[0-9],3") == (
        LatentFile(Path("b.safetensors"), 0, 9),
        SeedRange(3, 3),
    )
    assert parse_latents("c,d.npz") == (LatentFile(Path("c,d.npz")),)
    assert parse_latents("e[1].npy") == (LatentFile(Path("e[1].npy")),)
    assert parse_latents("-[1]") == (LatentFile(Path("-"), 1, 1),)
    for text, told in {
        "": "is no latent",
        "mean": "is no latent",
        "no.npy": "no file no.npy",
        "b.safetensors[9-0]": "fall",
        "b.safetensors:z": "':z'",
        "3-1": "write 1-3",
    }.items():
        with pytest.raises(ValueError, match=told):
            parse_latents(text)


def test_every_latent_has_a_name_of_its_own(in_tmp: Path) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        np.save(f"{folder}/one.npy", WS[:1])
        np.save(f"{folder}/three.npy", WS)
    np.save("seed0001.npy", WS[:1])
    assert names("5,0-1,1,1") == ["seed0005", "seed0000", "seed0001", "seed0001-2", "seed0001-3"]
    assert names("12345") == ["seed12345"]
    assert names("a/one.npy,b/one.npy,a/one.npy") == ["one", "one-2", "one-3"]
    assert names("a/three.npy") == ["three-0000", "three-0001", "three-0002"]
    assert names("a/three.npy[1-2],b/three.npy[2]") == ["three-0001", "three-0002", "three-0002-2"]
    assert names("seed0001.npy,0-3")[0] == "seed0001-2"
    assert names("seed0001.npy,7")[0] == "seed0001"
    assert names("avg,avg") == ["avg", "avg-2"]
    assert [latent.name for latent in open_latents([MeanLatent()], G.config, ["avg"])] == ["avg-2"]


def test_millions_of_seeds_are_counted_without_making_them() -> None:
    latents = opened("0-9999999,5")
    assert len(latents) == 10_000_001
    assert next(iter(latents)).name == "seed0000"


def save_as(name: str, **arrays: np.ndarray) -> None:
    if name.endswith(".npz"):
        np.savez(name, **arrays)  # type: ignore[arg-type]
    elif name.endswith(".npy"):
        np.save(name, *arrays.values())
    else:
        save_file(arrays, name)


@pytest.mark.parametrize("name", ["f.safetensors", "f.npz", "f.npy"])
@pytest.mark.parametrize(
    ("key", "array", "ws"),
    [
        ("ws", WS, WS),
        ("w", WS, WS),  # NVIDIA's projected_w.npz
        ("w", WS[:, 0], np.broadcast_to(WS[:, :1], WS.shape)),
        ("w", WS[0, 0], np.broadcast_to(WS[:1, :1], (1, 6, 16))),
        ("ws", WS.astype(np.float64), WS),
    ],
    ids=["ws", "w-is-ws", "w", "one-w", "float64"],
)
def test_files_of_w(in_tmp: Path, name: str, key: str, array: np.ndarray, ws: np.ndarray) -> None:
    save_as(name, **{key: np.ascontiguousarray(array)})
    found = to_ws(G, list(opened(name)))
    torch.testing.assert_close(found, torch.from_numpy(ws.copy()), rtol=0, atol=0)


def test_a_single_ws_needs_no_batch_dimension(in_tmp: Path) -> None:
    save_as("f.npz", ws=WS[0])
    torch.testing.assert_close(to_ws(G, list(opened("f.npz"))), torch.from_numpy(WS[:1]))


def test_z_in_a_file_is_the_seeds_z(in_tmp: Path) -> None:
    z = np.random.RandomState(85).randn(1, 12)
    save_as("f.npz", z=z)
    save_as("f.safetensors", z=z)
    np.save("f.npy", z)
    expected = to_ws(G, list(opened("85")), psi=0.5)
    for text in ("f.npz", "f.safetensors", "f.npy:z"):
        torch.testing.assert_close(to_ws(G, list(opened(text)), psi=0.5), expected, rtol=0, atol=0)


def test_rows_are_chosen(in_tmp: Path) -> None:
    np.save("f.npy", WS)
    latents = list(opened("f.npy[1-2]"))
    torch.testing.assert_close(to_ws(G, latents), torch.from_numpy(WS[1:]))
    assert [latent.made_of["row"] for latent in latents] == [1, 2]
    with pytest.raises(UsageError, match="3 rows, 0 to 2: there is no row 3"):
        opened("f.npy[3]")


def test_stdin_is_a_file(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("f.npy", "f.npz", "f.safetensors"):
        save_as(name, ws=WS)
        with Path(name).open() as file:
            monkeypatch.setattr("sys.stdin", file)
            latents = list(opened("-"))
        assert [latent.name for latent in latents] == ["stdin-0000", "stdin-0001", "stdin-0002"]
        torch.testing.assert_close(to_ws(G, latents), torch.from_numpy(WS), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"ws": np.zeros((1, 6, 32), "f4")}, "w of 32 numbers, this network has 16"),
        ({"ws": np.zeros((1, 8, 16), "f4")}, "ws of 8 rows, this network has 6"),
        ({"z": np.zeros((1, 16), "f4")}, "z of 16 numbers, this network has 12"),
        ({"ws": np.zeros((0, 6, 16), "f4")}, "shape"),
        ({"ws": np.zeros((1, 1, 6, 16), "f4")}, "shape"),
        ({"w": np.zeros((1, 16), "i8")}, "holds (int|I)64, not float16, float32 or float64"),
        ({"other": np.zeros((1, 16), "f4")}, "named z, w or ws"),
        ({"ws": WS, "synthesis.b64.conv0.noise_const": np.zeros((64, 64), "f4")}, "no layer"),
        ({"ws": WS, "synthesis.b4.conv0.noise_const": np.zeros((4, 4), "f4")}, "no layer"),
        ({"ws": WS, "synthesis.b8.conv0.noise_const": np.zeros((4, 4), "f4")}, r"not \[8, 8\]"),
        (
            {"ws": WS, "synthesis.b4.conv1.noise_const": np.full((4, 4), np.nan, "f4")},
            "NaN or infinity",
        ),
    ],
)
@pytest.mark.parametrize("name", ["f.safetensors", "f.npz"])
def test_latents_of_another_network_are_refused(
    in_tmp: Path, name: str, arrays: dict[str, np.ndarray], told: str
) -> None:
    save_as(name, **arrays)
    with pytest.raises(Sg2Error, match=told):
        opened(name)


def test_a_row_that_is_not_finite_is_refused(in_tmp: Path) -> None:
    ws = WS.copy()
    ws[1, 2, 3] = np.nan
    np.save("f.npy", ws)
    with pytest.raises(Sg2Error, match="row 1 of f holds NaN"):
        list(opened("f.npy"))
    names = [latent.name for latent in opened("f.npy").unchecked()]
    assert names == ["f-0000", "f-0001", "f-0002"]


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("canary"),)


def test_pickles_in_arrays_are_never_loaded(in_tmp: Path) -> None:
    np.save("f.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez("f.npz", w=np.array([Evil()], dtype=object))
    for name in ("f.npy", "f.npz"):
        with pytest.raises(Sg2Error, match="damaged or holds no latents"):
            opened(name)
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.safetensors"])
def test_a_file_cut_at_any_byte_is_refused(in_tmp: Path, name: str) -> None:
    save_as(name, ws=WS[:1])
    content = Path(name).read_bytes()
    for length in range(0, len(content), 1 if len(content) < 700 else 7):
        Path(name).write_bytes(content[:length])
        with pytest.raises(Sg2Error):
            list(opened(name))


def test_an_archive_that_unpacks_to_too_much_is_refused(in_tmp: Path) -> None:
    np.savez_compressed("f.npz", w=np.zeros((1 << 20, 16), "f4"))
    with pytest.raises(
        Sg2Error, match="unpacks from .* to 67,108,992 bytes, more than 20 times its size"
    ):
        opened("f.npz")


def test_psi_of_latents_that_come_as_w_is_theirs_unless_given(in_tmp: Path) -> None:
    np.save("f.npy", WS)
    latents = list(opened("f.npy"))
    untouched, halved = to_ws(G, latents), to_ws(G, latents, psi=0.5)
    torch.testing.assert_close(untouched, torch.from_numpy(WS))
    torch.testing.assert_close(halved, (untouched + G.mapping.w_avg) / 2)


def test_truncation() -> None:
    ws, w_avg = torch.from_numpy(WS), G.mapping.w_avg
    torch.testing.assert_close(truncate(ws, w_avg, 1.0), ws, rtol=0, atol=0)
    torch.testing.assert_close(truncate(ws, w_avg, 0.0), w_avg.expand_as(ws))
    torch.testing.assert_close(truncate(ws, w_avg, -1.0), 2 * w_avg - ws)
    cut = truncate(ws, w_avg, 0.5, cutoff=2)
    torch.testing.assert_close(cut[:, :2], (ws + w_avg)[:, :2] / 2)
    torch.testing.assert_close(cut[:, 2:], ws[:, 2:], rtol=0, atol=0)
    torch.testing.assert_close(truncate(ws, w_avg, 0.5, cutoff=0), ws, rtol=0, atol=0)


def test_avg_is_w_avg_and_needs_no_class() -> None:
    latents = opened("avg")
    assert not latents.need_mapping
    expected = G.mapping.w_avg.expand(1, 6, -1)
    torch.testing.assert_close(to_ws(G, list(latents)), expected, rtol=0, atol=0)


def test_classes_reach_the_mapping_network() -> None:
    C = random_generator(c_dim=3, embed_features=5)
    latents = list(open_latents(parse_seeds("1"), C.config))
    ws = [to_ws(C, latents, class_index=index) for index in range(3)]
    z = torch.from_numpy(np.random.RandomState(1).randn(1, 12).astype("f4"))
    for index in range(3):
        torch.testing.assert_close(ws[index][0, 0], C.mapping(z, torch.eye(3)[[index]])[0])
    assert not torch.equal(ws[0], ws[1])


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy"])
def test_saved_latents_come_back(in_tmp: Path, suffix: str) -> None:
    path = Path(f"saved{suffix}")
    streams = {"ws": Stream(WS.shape, iter(WS))}
    noise = np.random.RandomState(2).randn(3, 8, 8).astype("f4")
    if suffix != ".npy":
        streams["synthesis.b8.conv1.noise_const"] = Stream(noise.shape, iter(noise))
    save_latents(path, streams, {"checkpoint": "abc"})
    latents = opened(str(path))
    torch.testing.assert_close(to_ws(G, list(latents)), torch.from_numpy(WS), rtol=0, atol=0)
    if suffix != ".npy":
        found = [latent.noise["synthesis.b8.conv1.noise_const"] for latent in latents]
        np.testing.assert_array_equal(np.stack(found), noise)
    if suffix == ".safetensors":
        assert inspect(path)[1] == {"checkpoint": "abc"}
        assert "another network" in latents.warnings("other")[0]
        assert latents.warnings("abc") == []
    assert is_latents(path)


def test_noise_does_not_go_into_an_npy(in_tmp: Path) -> None:
    streams = {"ws": Stream(WS.shape, WS), "noise": Stream(WS.shape, WS)}
    with pytest.raises(UsageError, match="no room for noise"):
        save_latents(Path("f.npy"), streams, {})
    with pytest.raises(UsageError, match="are saved as"):
        save_latents(Path("f.txt"), streams, {})
    assert list(in_tmp.iterdir()) == []


def test_what_is_no_file_of_latents(in_tmp: Path) -> None:
    Path("f.txt").write_text(json.dumps({"ws": 1}))
    save_as("other.npz", other=WS)
    save_as("other.safetensors", other=WS)
    assert not is_latents(Path("f.txt"))
    assert is_latents(Path("other.npz"))  # `open_latents` says what it lacks
    assert not is_latents(Path("other.safetensors"))


def test_arrays_of_bfloat16_are_refused_in_words(in_tmp: Path) -> None:
    from safetensors.torch import save_file as save_torch

    tensors: dict[str, Any] = {"ws": torch.zeros(1, 6, 16, dtype=torch.bfloat16)}
    save_torch(tensors, "f.safetensors")
    with pytest.raises(Sg2Error, match="BF16"):
        list(opened("f.safetensors"))


def test_a_long_list_is_no_file_name(in_tmp: Path) -> None:
    assert len(parse_latents(",".join(map(str, range(1000))))) == 1000


def test_seeds_are_seeds_whatever_files_there_are(in_tmp: Path) -> None:
    for name in ("85", "avg", "1,2"):
        Path(name).write_bytes(b"")
    assert parse_latents("85") == (SeedRange(85, 85),)
    assert parse_latents("avg") == (MeanLatent(),)
    assert len(parse_latents("1,2")) == 2


def test_the_account_of_a_long_list_is_short() -> None:
    short, long = opened("0-3,7,avg"), opened(",".join(map(str, range(0, 9999, 2))))
    assert short.describe() == ["0-3", "7", "avg"]
    assert len(json.dumps(long.describe())) < 500
    assert long.describe() != opened(",".join(map(str, range(0, 9997, 2)))).describe()


def test_latents_from_a_pipe(in_tmp: Path) -> None:
    import os
    import threading

    np.save("f.npy", WS)
    content = Path("f.npy").read_bytes()
    os.mkfifo("pipe.npy")
    writer = threading.Thread(target=Path("pipe.npy").write_bytes, args=[content])
    writer.start()
    latents = list(opened("pipe.npy"))
    writer.join()
    assert latents[0].name == "pipe-0000"
    torch.testing.assert_close(to_ws(G, latents), torch.from_numpy(WS))


def test_noise_for_a_network_without_noise_is_refused(in_tmp: Path) -> None:
    quiet = random_generator(use_noise=False)
    save_file({"ws": WS, "synthesis.b8.conv0.noise_const": np.zeros((8, 8), "f4")}, "f.safetensors")
    with pytest.raises(UsageError, match="no layer"):
        open_latents(parse_latents("f.safetensors"), quiet.config)


@pytest.mark.parametrize(
    "metadata", ["[" * 100_000, '{"checkpoint": 5}', "[]", "{", '{"checkpoint": null}']
)
def test_metadata_of_latents_that_is_not_ours(in_tmp: Path, metadata: str) -> None:
    save_file({"ws": WS}, "f.safetensors", {"sg2": metadata})
    with pytest.raises(Sg2Error, match="damaged or holds no latents"):
        opened("f.safetensors")


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.safetensors"])
def test_a_file_with_any_byte_changed_is_read_or_refused(in_tmp: Path, name: str) -> None:
    """Never another error, whatever the byte; the numbers themselves have no checksum."""
    save_as(name, ws=WS[:1])
    content = Path(name).read_bytes()
    for at in range(min(len(content), 300)):
        for flip in (0x01, 0x80, 0xFF):
            Path(name).write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            with suppress(Sg2Error):
                list(opened(name))


@pytest.mark.parametrize("seed", range(20))
def test_names_are_those_of_counting_one_by_one(seed: int) -> None:
    """Ranges that overlap in any way; a seed's second picture is -2."""
    random = np.random.RandomState(seed)
    pairs = np.sort(random.randint(0, 30, (random.randint(1, 12), 2)), axis=1).tolist()
    text = ",".join(f"{a}-{b}" for a, b in pairs)
    times: Counter[int] = Counter()
    expected = []
    for a, b in pairs:
        for number in range(a, b + 1):
            times[number] += 1
            again = f"-{times[number]}" if times[number] > 1 else ""
            expected.append(f"seed{number:04d}{again}")
    latents = open_latents(parse_seeds(text), G.config)
    assert [latent.name for latent in latents] == expected
    assert len(latents) == len(expected)


@pytest.mark.parametrize(
    "text",
    [
        ",".join(map(str, range(10_000))),
        ",".join(["7"] * 10_000),
        ",".join(["0-4294967295"] * 10_000),
        ",".join(["avg"] * 10_000),
        ",".join(f"{i}-{20_000 - i}" for i in range(10_000)),
    ],
    ids=["seeds", "one seed", "all seeds", "avg", "nested"],
)
def test_ten_thousand_parts_are_looked_at_a_few_times_each(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not each once for each of the others."""
    latents = open_latents(parse_latents(text), G.config)
    looked_at = 0

    class Counted(list[Any]):
        def __iter__(self) -> Any:
            nonlocal looked_at
            for part in super().__iter__():
                looked_at += 1
                yield part

    latents.parts = Counted(latents.parts)
    tried = 0
    is_seed_name = _Names._is_seed_name

    def counted(self: _Names, name: str) -> bool:
        nonlocal tried
        tried += 1
        return is_seed_name(self, name)

    monkeypatch.setattr(_Names, "_is_seed_name", counted)
    names = [latent.name for latent in islice(latents, 10_000)]
    assert len(set(names)) == 10_000
    assert looked_at <= 3 * 10_000
    assert tried <= 2 * 10_000


def test_a_file_of_which_single_rows_are_asked_for_is_read_once(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("a.npy", np.random.RandomState(0).randn(50, G.config.w_dim))
    opened: list[Path] = []
    read = latents_module.read_latents

    def counted(file: Path, name: str) -> Any:
        opened.append(file)
        return read(file, name)

    monkeypatch.setattr(latents_module, "read_latents", counted)
    found = list(open_latents(parse_latents(",".join(f"a.npy[{i}]" for i in range(50))), G.config))
    assert [latent.name for latent in found] == [f"a-{i:04d}" for i in range(50)]
    assert len(opened) == 1


def test_rows_that_lie_all_over_a_file_are_read_once(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array in Fortran's order, of which a row is a number here and a number there."""
    values = np.random.RandomState(0).randn(300_000, 16).astype("f4")
    np.save("f.npy", np.asfortranarray(values))
    latents = open_latents(parse_latents("f.npy[0-99]"), G.config)
    filled = 0
    fill = Source.fill

    def counted(self: Source, buffer: Any, offset: int) -> None:
        nonlocal filled
        filled += memoryview(buffer).nbytes
        fill(self, buffer, offset)

    monkeypatch.setattr(Source, "fill", counted)
    found = [latent.values for latent in latents]
    assert np.array_equal(np.stack(found), values[:100])  # type: ignore[arg-type]
    assert filled == values.nbytes


def test_versions_of_npy(in_tmp: Path) -> None:
    for version in ((1, 0), (2, 0), (3, 0)):
        with Path("w.npy").open("wb") as file:
            np.lib.format.write_array(file, WS[:, 0], version=version)
        torch.testing.assert_close(
            to_ws(G, list(opened("w.npy")))[:, 0], torch.from_numpy(WS[:, 0]), rtol=0, atol=0
        )
    content = bytearray(Path("w.npy").read_bytes())
    content[6] = 4
    Path("w.npy").write_bytes(content)
    with pytest.raises(Sg2Error, match=r"unknown version \(4, 0\)|cannot be read"):
        opened("w.npy")


def test_numbers_of_128_bits_are_called_so(in_tmp: Path) -> None:
    np.save("w.npy", WS[:, 0].astype(np.longdouble))
    name = np.dtype(np.longdouble).name
    if name == "float64":
        pytest.skip("numbers of 128 bits are not known here")
    with pytest.raises(Sg2Error, match=f"holds {name}, not float16, float32 or float64"):
        opened("w.npy")
