"""Unique names for the latents of a list, which become the names of their images."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from sg2cli.latents.notation import SeedRange


class Names:
    """Gives each latent of a list a unique name.

    The second image of a seed is seed0085-2. A list may have thousands of ranges, and a range
    billions of seeds, so repetitions are counted per segment between the ends of ranges.
    """

    def __init__(self, parts: Iterable[object], reserved: Iterable[str]) -> None:
        ranges = [part for part in parts if isinstance(part, SeedRange)]
        self.starts = sorted(r.first for r in ranges)
        self.ends = sorted(r.last + 1 for r in ranges)
        self.cuts = sorted({*self.starts, *self.ends})
        self.times = [0] * len(self.cuts)  # occurrences so far of the segment after each cut
        self.taken = set(reserved)
        self.numbers: dict[str, int] = {}  # the last number used with a name

    def seeds(self, part: SeedRange) -> Iterator[tuple[int, int]]:
        """Each seed of a range, and its number of occurrences so far."""
        begin, end = bisect_left(self.cuts, part.first), bisect_left(self.cuts, part.last + 1)
        for i in range(begin, end):
            self.times[i] += 1
            for seed in range(self.cuts[i], self.cuts[i + 1]):
                yield seed, self.times[i]

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
        times = bisect_right(self.starts, seed) - bisect_right(self.ends, seed)
        return int(match[2] or 1) <= times
