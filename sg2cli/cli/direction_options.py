"""The values of options for directions and amounts."""

from __future__ import annotations

from pathlib import Path

from sg2cli.cli.options import MAX_FACTOR, ParsedType
from sg2cli.errors import brief
from sg2cli.storage.paths import kind, user_path

Amount = tuple[float, float]  # a range, or twice the same


def _direction(text: str) -> tuple[str, Amount | None]:
    """'smile=1.5' -> a direction and its amount; the name of a file may have a = as well."""
    direction, equals, amount = text.rpartition("=")
    if not equals or kind(user_path(text)) != "nothing":
        return text, None
    return direction.strip(), _amount(amount.strip())


def _amount(text: str) -> Amount:
    first, dots, last = text.partition("..")
    try:
        low, high = float(first), float(last if dots else first)
    except ValueError:
        raise ValueError(
            f"{brief(text)} is not an amount: give a number or a range such as -3..3"
        ) from None
    if not max(abs(low), abs(high)) <= MAX_FACTOR:
        raise ValueError(
            f"{brief(text)} is out of range: amounts are between -{MAX_FACTOR:g} and {MAX_FACTOR:g}"
        )
    if high < low:
        raise ValueError(f"amount {text} is descending; did you mean {last}..{first}?")
    return low, high


def _directions_file(text: str) -> Path:
    if not text.endswith(".safetensors"):
        raise ValueError(f"{brief(text)}: directions are saved as .safetensors")
    return user_path(text)


AMOUNT = ParsedType("amount", _amount)
DIRECTION = ParsedType("direction", _direction, complete="file")
DIRECTIONS_FILE = ParsedType("file", _directions_file, complete="file")
SCORES = ParsedType("csv", user_path, complete="file")
