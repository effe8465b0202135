"""Reading a picture file onwards in small pieces, and how many pixels it may have."""

from __future__ import annotations

import re
import struct
from typing import Any

from sg2cli.storage.budget import MAX_PIXELS, MAX_PIXELS_OF_FORMAT, LimitExceeded
from sg2cli.storage.reading import Source

BLOCK = 1 << 16


class Cursor:
    """Reads onwards in small pieces; IndexError at the end."""

    def __init__(self, source: Source, sized: bool) -> None:
        self.source, self.size, self.sized = source, source.size, sized
        self.at = 0
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

    def check_pixels(self, format: str, width: int, height: int) -> None:
        if self.sized:
            check_pixels(format, width, height)

    def _fill(self, count: int) -> None:
        size = min(max(BLOCK, count), self.size - self.at)
        self._block, self._begin = bytes(self.source.read(size, self.at)), self.at

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def find(self, pattern: re.Pattern[bytes]) -> int:
        """Go behind the next match of two bytes, and give the second."""
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


def check_pixels(format: str, width: int, height: int) -> None:
    """LimitExceeded for a picture that has more pixels than are decoded of its format."""
    limit = MAX_PIXELS_OF_FORMAT.get(format, MAX_PIXELS)
    if width * height > limit:
        raise LimitExceeded(
            f"it unpacks to more than {limit >> 20} million pixels: reduce it first"
        )
