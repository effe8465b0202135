"""Files from the web: resumed where they broke off, checked by size and hash."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sg2cli.errors import Sg2Error, UsageError, public, reason
from sg2cli.files import sha256

if TYPE_CHECKING:
    import httpx

TRIES = 5  # in a row without a byte more
MAX_SIZE = 16 << 30  # bytes; networks have up to some 500 MiB
TIMEOUT = 30.0  # seconds without a byte
WORTH_ANOTHER_TRY = (408, 429)  # and 5xx


def download(
    url: str,
    folder: Path,
    expected_sha256: str | None = None,
    progress: Callable[[int, int | None], object] = lambda done, total: None,
    say: Callable[[str], object] = lambda text: None,
    pause: float = 1.0,
) -> Path:
    """Fetch a file into a folder, under a name made of its address; returns the path.

    A part that an earlier call left is continued, if the server still has the same file.
    `progress` is told how many bytes are there, of how many. After a break it says so, and tries
    again, `pause` seconds later, then twice that. UsageError for what is no address; Sg2Error when
    the server cannot be reached or refuses, the size is not what it said, or the hash is not the
    expected one.
    """
    import httpx

    shown = public(url)
    _check(url, shown)
    part = folder / f".sg2-{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
    failures, begun, furthest = 0, False, _size(part)
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while True:
            try:
                _fetch(client, url, part, progress)
                break
            except (httpx.ConnectError, httpx.ProxyError) as error:
                told = f"cannot be reached ({error})"
                if not begun:
                    raise Sg2Error(f"{shown} {told}: check the address") from error
            except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
                told = str(error) or type(error).__name__
            except httpx.TooManyRedirects as error:
                raise Sg2Error(f"{shown} leads in a circle: check the address") from error
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:
                # A host or port, perhaps of a redirect, that is none.
                raise Sg2Error(f"{shown} leads to what is not on the web") from error
            except _Refused as error:
                raise Sg2Error(f"{shown}: {error}") from error
            except _Broken as error:
                told = str(error)
            except OSError as error:
                raise Sg2Error(f"cannot write into {folder}: {reason(error)}") from error
            failures += 1
            if _size(part) > furthest:
                begun, failures, furthest = True, 0, _size(part)
            if failures == TRIES:
                kept = f"{_size(part):,} bytes are kept, the same command goes on"
                raise Sg2Error(f"{shown}: {told}; {kept if _size(part) else 'try again later'}")
            wait = pause * 2**failures
            say(f"{shown}: {told}; {_size(part):,} bytes are there, again in {wait:g} s")
            time.sleep(wait)
    found = sha256(part)
    _note_of(part).unlink(missing_ok=True)
    if expected_sha256 and found != expected_sha256.lower():
        part.unlink()
        raise Sg2Error(
            f"{shown} has the SHA-256 {found}, not {expected_sha256}: it is another file"
        )
    return part


class _Refused(Exception):
    """What another request would not change."""


class _Broken(Exception):
    """What another request may mend."""


def _check(url: str, shown: str) -> None:
    import httpx

    if not re.match("https?://", url, re.IGNORECASE):
        raise UsageError(f"{shown}: give an address that begins with http:// or https://")
    try:
        parts = httpx.URL(url)
        if not parts.host or not 0 < (80 if parts.port is None else parts.port) < 1 << 16:
            raise httpx.InvalidURL("no host, or no port")
    except (httpx.InvalidURL, ValueError) as error:
        # What cannot be taken apart may have a password anywhere before its last @.
        shown = public(f"http://{url.rpartition('@')[2]}") if "@" in url else shown
        raise UsageError(f"{shown} is no address: check its host and port") from error


def _fetch(
    client: httpx.Client, url: str, part: Path, progress: Callable[[int, int | None], object]
) -> None:
    """One request: the rest of the file if the server can give it, else all."""
    done, validator = _size(part), _validator(part)
    headers = {"Accept-Encoding": "identity"}
    if done and validator:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    with client.stream("GET", url, headers=headers) as response:
        code, theirs = response.status_code, response.headers
        if code == 416:  # there is no rest: begin again
            part.unlink(missing_ok=True)
            raise _Broken("the server has another file now")
        if code >= 500 or code in WORTH_ANOTHER_TRY:
            raise _Broken(f"the server says {code}")
        if code not in (200, 206):
            raise _Refused(f"the server says {code}: check the address")
        if theirs.get("content-encoding", "identity").lower() != "identity":
            raise _Refused("the server sends it compressed only: fetch it with a browser")
        length = theirs.get("content-length", "")
        size = int(length) if length.isdecimal() and len(length) < 18 else None
        start = done if code == 206 else 0
        total = None if size is None else start + size
        if code == 206:
            told = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", theirs.get("content-range", ""))
            fits = told and int(told[1]) == start and total in (None, int(told[2]))
            if told is None or not fits or "Range" not in headers:
                part.unlink(missing_ok=True)
                raise _Broken("the server gives another part than was asked for")
            total = int(told[2])
        if total is not None and total > MAX_SIZE:
            raise _Refused(f"it has {total >> 30} GiB, which is no network")
        etag = theirs.get("etag", "")
        validator = etag if etag and not etag.startswith("W/") else theirs.get("last-modified", "")
        _note_of(part).write_text(json.dumps({"validator": validator}))
        with part.open("ab" if code == 206 else "wb") as file:
            progress(start, total)
            for block in response.iter_raw():
                file.write(block)
                start += len(block)
                if start > MAX_SIZE:
                    raise _Refused(f"it goes on beyond {MAX_SIZE >> 30} GiB, which is no network")
                progress(start, total)
        if total is not None and start != total:
            raise _Broken(f"it broke off at {start:,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note_of(part: Path) -> Path:
    """Beside the part: by what the server knows that it is still the same file."""
    return part.with_suffix(".json")


def _validator(part: Path) -> str:
    try:
        note = json.loads(_note_of(part).read_text())
    except (OSError, ValueError, RecursionError):
        return ""
    validator = note.get("validator") if isinstance(note, dict) else None
    return validator if isinstance(validator, str) else ""
