"""Files from the web: resumed where they broke off, checked by size and hash."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, reason
from sg2cli.files import sha256

if TYPE_CHECKING:
    import httpx

TRIES = 6  # in a row without a byte more
MAX_SIZE = 16 << 30  # bytes; networks have up to some 500 MiB
TIMEOUT = 30.0  # seconds without a byte


def download(
    url: str,
    folder: Path,
    expected_sha256: str | None = None,
    progress: Callable[[int, int | None], object] = lambda done, total: None,
    pause: float = 1.0,
) -> Path:
    """Fetch a file into a folder, under a name made of its address; returns the path.

    A part that an earlier call left is continued, if the server still has the same file.
    `progress` is told how many bytes are there, of how many. After a break it tries again, `pause`
    seconds later, then twice that. Sg2Error when the server refuses, the size is not what it said,
    or the hash is not the expected one.
    """
    import httpx

    part = folder / f".sg2-{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
    failures = 0
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while True:
            before = _size(part)
            try:
                _fetch(client, url, part, progress)
                break
            except httpx.HTTPStatusError as error:
                code = error.response.status_code
                if code < 500 and code != 429:
                    raise Sg2Error(f"{url}: the server says {code}: check the address") from error
                told = f"the server says {code}"
            except httpx.InvalidURL as error:
                raise Sg2Error(f"{url} is no address ({error})") from error
            except httpx.UnsupportedProtocol as error:
                raise Sg2Error(f"{url} leads to something that is not the web") from error
            except (httpx.HTTPError, _Short) as error:
                told = " ".join(str(error).split()) or type(error).__name__
            except OSError as error:
                raise Sg2Error(f"cannot write {part}: {reason(error)}") from error
            failures = 0 if _size(part) > before else failures + 1
            if failures == TRIES:
                raise Sg2Error(
                    f"{url}: {told}; {_size(part):,} bytes are kept, the same command goes on"
                )
            time.sleep(pause * 2**failures)
    found = sha256(part)
    if expected_sha256 and found != expected_sha256.lower():
        part.unlink()
        _note_of(part).unlink(missing_ok=True)
        raise Sg2Error(f"{url} has the SHA-256 {found}, not {expected_sha256}: it is another file")
    _note_of(part).unlink(missing_ok=True)
    return part


class _Short(Exception):
    """Fewer bytes came than were promised."""


def _fetch(
    client: httpx.Client, url: str, part: Path, progress: Callable[[int, int | None], object]
) -> None:
    """One request: the rest of the file if the server can give it, else all."""
    note = _read_note(part)
    done = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if done and note.get("validator"):
        headers |= {"Range": f"bytes={done}-", "If-Range": note["validator"]}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # there is no rest: begin again
            part.unlink(missing_ok=True)
            raise _Short("the server has another file now")
        response.raise_for_status()
        resumed = response.status_code == 206
        start = done if resumed else 0
        if resumed and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise _Short("the server gives another part than was asked for")
        length = response.headers.get("content-length", "")
        total = start + int(length) if length.isdecimal() and len(length) < 18 else None
        if total is not None and total > MAX_SIZE:
            raise Sg2Error(f"{url} has {total >> 30} GiB, which is no network")
        etag = response.headers.get("etag", "")
        validator = etag if etag and not etag.startswith("W/") else ""
        validator = validator or response.headers.get("last-modified", "")
        _note_of(part).write_text(json.dumps({"url": url, "validator": validator}))
        with part.open("ab" if resumed else "wb") as file:
            progress(start, total)
            for block in response.iter_raw():
                file.write(block)
                start += len(block)
                if start > MAX_SIZE:
                    raise Sg2Error(f"{url} goes on beyond {MAX_SIZE >> 30} GiB: no network")
                progress(start, total)
        if total is not None and start != total:
            raise _Short(f"it broke off at {start:,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note_of(part: Path) -> Path:
    """Beside the part: by what the server knows that it is still the same file."""
    return part.with_suffix(".json")


def _read_note(part: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note_of(part).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and isinstance(note.get("validator"), str) else {}
