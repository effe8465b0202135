"""A name of its own for each latent of a list: the name of its image."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from sg2cli.latents.notation import SeedRange


class Names:
    """Gives each latent of a list a name of its own.

    A seed's second image is seed0085-2. A list may have thousands of ranges, and a range billions
    of seeds: they are cut where ranges begin and end, and what is between two cuts is counted as a
    whole.
    """

    def __init__(self, parts: Iterable[object], reserved: Iterable[str]) -> None:
        ranges = [part for part in parts if isinstance(part, SeedRange)]
        self.starts = sorted(r.first for r in ranges)
        self.ends = sorted(r.last + 1 for r in ranges)
        self.cuts = sorted({*self.starts, *self.ends})
        self.times = [0] * len(self.cuts)  # how often what follows each cut came so far
        self.taken = set(reserved)
        self.numbers: dict[str, int] = {}  # the last number that a name was given with

    def seeds(self, part: SeedRange) -> Iterator[tuple[int, int]]:
        """Each seed of a range, and the how-manieth time it comes."""
        begin, end = bisect_left(self.cuts, part.first), bisect_left(self.cuts, part.last + 1)
        for i in range(begin, end):
            self.times[i] += 1
            for seed in range(self.cuts[i], self.cuts[i + 1]):
                yield seed, self.times[i]

    def free(self, name: str) -> str:
        """The name, or the name with the first number that nothing else has."""
        number = self.numbers.get(name, 0) + 1
        candidate = name if number == 1 else f"{name}-{number}"
        while candidate in self.taken or self._is_seed_name(candidate):
            number += 1
            candidate = f"{name}-{number}"
        self.numbers[name] = number
        self.taken.add(candidate)
        return candidate

    def _is_seed_name(self, name: str) -> bool:
        match = re.fullmatch(r"seed(\d{4,10})(?:-(\d{1,9}))?", name, re.ASCII)
        if not match:
            return False
        seed = int(match[1])
        times = bisect_right(self.starts, seed) - bisect_right(self.ends, seed)
        return int(match[2] or 1) <= times
