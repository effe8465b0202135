"""A name of its own for each latent of a list."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sg2cli.latents.naming import Names
from sg2cli.latents.notation import MeanLatent, parse_latents, parse_seeds
from sg2cli.latents.opening import open_latents

from .test_sources import WS, G, names


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


@pytest.mark.parametrize("seed", range(20))
def test_names_are_those_of_counting_one_by_one(seed: int) -> None:
    """Ranges that overlap in any way; a seed's second image is -2."""
    random = np.random.RandomState(seed)
    pairs = np.sort(random.randint(0, 30, (random.randint(1, 12), 2)), axis=1).tolist()
    steps = random.randint(1, 5, len(pairs)).tolist()
    text = ",".join(f"{a}-{b}:{step}" for (a, b), step in zip(pairs, steps, strict=True))
    times: Counter[int] = Counter()
    expected = []
    for (a, b), step in zip(pairs, steps, strict=True):
        for number in range(a, b + 1, step):
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
    is_seed_name = Names._is_seed_name

    def counted(self: Names, name: str) -> bool:
        nonlocal tried
        tried += 1
        return is_seed_name(self, name)

    monkeypatch.setattr(Names, "_is_seed_name", counted)
    names = [latent.name for latent in islice(latents, 10_000)]
    assert len(set(names)) == 10_000
    assert looked_at <= 3 * 10_000
    assert tried <= 2 * 10_000
