"""A cursor that reads an image file sequentially."""

from __future__ import annotations

import re
import struct
from typing import Any

from sg2cli.images.limits import check_pixels
from sg2cli.storage.reading import Source

BLOCK = 1 << 16


class Cursor:
    """Reads sequentially in small pieces; IndexError at the end."""

    def __init__(self, source: Source, sized: bool, begin: int = 0, end: int | None = None) -> None:
        self.source, self.sized, self.at = source, sized, begin
        self.size = source.size if end is None else min(end, source.size)
        self._block, self._begin = b"", 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if self.at + count > self.size:
            raise IndexError("the end of the file")
        first = self.at - self._begin
        if first < 0 or first + count > len(self._block):
            self._fill(count)
            first = 0
        self.at += count
        return self._block[first : first + count]

    def part(self, begin: int, size: int) -> Cursor:
        """A separate cursor for `size` bytes."""
        return Cursor(self.source, self.sized, begin, begin + size)

    def check_pixels(self, format: str, width: int, height: int, coefficients: int = 0) -> None:
        if self.sized:
            check_pixels(format, width, height, coefficients)

    def _fill(self, count: int) -> None:
        size = min(max(BLOCK, count), self.size - self.at)
        self._block, self._begin = bytes(self.source.read(size, self.at)), self.at

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def find(self, pattern: re.Pattern[bytes]) -> int:
        """Move past the next match of two bytes, and return the second."""
        while self.at + 2 <= self.size:
            first = self.at - self._begin
            if not 0 <= first <= len(self._block) - 2:
                self._fill(2)
                first = 0
            if match := pattern.search(self._block, first):
                self.at = self._begin + match.end()
                return match[1][0]
            self.at = self._begin + len(self._block) - 1
        raise IndexError("the end of the file")
