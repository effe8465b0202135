"""Unique names for the latents of a list, which become the names of their images."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from sg2cli.latents.notation import SeedRange


class Names:
    """Gives each latent of a list a unique name.

    The second image of a seed is seed0085-2. A list may have thousands of ranges, and a range
    billions of seeds, so repetitions are counted per segment between the ends of ranges.
    """

    def __init__(self, parts: Iterable[object], reserved: Iterable[str]) -> None:
        ranges: dict[tuple[int, int], list[SeedRange]] = {}  # by step and remainder
        for part in parts:
            if isinstance(part, SeedRange):
                ranges.setdefault((part.step, part.first % part.step), []).append(part)
        self.segments = {key: _Segments(listed, key[0]) for key, listed in ranges.items()}
        self.steps = sorted({step for step, _ in ranges})
        self.taken = set(reserved)
        self.numbers: dict[str, int] = {}  # the last number used with a name

    def seeds(self, part: SeedRange) -> Iterator[tuple[int, int]]:
        """Each seed of a range, and its number of occurrences so far."""
        own = self.segments[part.step, part.first % part.step]
        for seed, times in own.seeds(part):
            others = (found for found in self._with(seed) if found is not own)
            yield seed, times + sum(found.times_so_far(seed) for found in others)

    def _with(self, seed: int) -> Iterator[_Segments]:
        """The ranges that may have a seed, one for each step."""
        for step in self.steps:
            if found := self.segments.get((step, seed % step)):
                yield found

    def free(self, name: str) -> str:
        """The name, with the first unused number if it is taken."""
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
        return int(match[2] or 1) <= sum(found.times(seed) for found in self._with(seed))


class _Segments:
    """Ranges of one step and remainder, and how often the seeds between their ends occur."""

    def __init__(self, ranges: Sequence[SeedRange], step: int) -> None:
        self.step = step
        self.starts = sorted(r.first for r in ranges)
        self.ends = sorted(r.end for r in ranges)
        self.cuts = sorted({*self.starts, *self.ends})
        self.so_far = [0] * len(self.cuts)  # occurrences of the segment after each cut

    def seeds(self, part: SeedRange) -> Iterator[tuple[int, int]]:
        """Each seed of one of the ranges, and its occurrences so far."""
        begin, end = bisect_left(self.cuts, part.first), bisect_left(self.cuts, part.end)
        for i in range(begin, end):
            self.so_far[i] += 1
            for seed in range(self.cuts[i], self.cuts[i + 1], self.step):
                yield seed, self.so_far[i]

    def times_so_far(self, seed: int) -> int:
        """Occurrences of a seed of this remainder so far."""
        i = bisect_right(self.cuts, seed) - 1
        return self.so_far[i] if i >= 0 else 0

    def times(self, seed: int) -> int:
        """Occurrences of a seed of this remainder in all ranges."""
        return bisect_right(self.starts, seed) - bisect_right(self.ends, seed)
