"""Scores of latents in a CSV file: a name or seed, and a number, a line each."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

from sg2cli.errors import UsageError, brief
from sg2cli.latents.files import reading_of
from sg2cli.storage.paths import kind
from sg2cli.storage.reading import read_bytes, read_stdin

INSTEAD = "give a CSV file"
MAX_FILE = 16 << 20  # bytes
SEED_NAME = re.compile(r"seed(\d{1,10})(?:\.(?:png|jpe?g|webp))?", re.IGNORECASE)


def read_scores(path: Path) -> list[tuple[str, float]]:
    """The latents, in the notation of latents, and their scores; a first line of titles is skipped.

    `path` "-" is stdin. A file is looked for in the working folder, then beside the CSV;
    'seed0085.png' is the seed if there is no such file. UsageError, with the line, for what is not
    a name and a number.
    """
    if str(path) != "-" and kind(path) in ("nothing", "folder"):
        raise UsageError(f"no file {brief(str(path))}: give a CSV of a name or seed, and a number")
    with reading_of(str(path), "is not a CSV file"):
        content = read_stdin(INSTEAD) if str(path) == "-" else read_bytes(path, MAX_FILE, MAX_FILE)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: save it as a CSV file") from error
    scores: list[tuple[str, float]] = []
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            where = f"line {reader.line_num} of {path}"
            if not any(fields):
                continue
            if len(fields) != 2 or not fields[0]:
                raise UsageError(f"{where} is not a name or seed, a comma and a number")
            number = _number(fields[1])
            if number is None and reader.line_num == 1:
                continue  # the titles of the columns
            if number is None:
                raise UsageError(f"{where}: {brief(fields[1])} is not a finite number")
            scores.append((_latent(fields[0], path.parent), number))
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {path} is not CSV: {error}") from error
    return scores


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _latent(name: str, folder: Path) -> str:
    """The text of the latent that a name means."""
    seed = SEED_NAME.fullmatch(name)
    if name.isdecimal() or kind(Path(name)) != "nothing":
        return name
    if kind(folder / name) != "nothing":
        return str(folder / name)
    return str(int(seed[1])) if seed else name
