"""Files from the web: continued where they broke off, checked by size, version and hash."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sg2cli.errors import Sg2Error, public, reason
from sg2cli.storage.http import (
    MIN_BYTES,
    TIMEOUT,
    Pace,
    Refused,
    check_address,
    final_response,
    may_pass,
    new_client,
    not_http,
    quoted,
)
from sg2cli.storage.partial_files import PartialFile, Version, version_of

if TYPE_CHECKING:
    import httpx

MAX_FAILURES = 5  # in a row, each with less than MIN_BYTES more; and of times to begin again
MAX_SIZE = 16 << 30  # bytes; networks have up to some 500 MiB
WORTH_ANOTHER_TRY = (408, 429)  # and 5xx
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class Download:
    """A file that was fetched, and the SHA-256 of what was read back through the open file.

    Read it by `path` inside a `with` block; it is removed when the block ends.
    """

    def __init__(self, part: PartialFile) -> None:
        self._part = part
        self.sha256 = part.sha256()

    @property
    def path(self) -> Path:
        return self._part.path

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self._part.close(keep=False)


def download(
    url: str,
    folder: Path,
    expected_sha256: str | None = None,
    progress: Callable[[int, int | None], object] = lambda done, total: None,
    say: Callable[[str], object] = lambda text: None,
    pause: float = 1.0,
) -> Download:
    """Fetch a file into a folder, under a hidden name made of its address.

    A part that an earlier call left is continued, if the server still has the same version of the
    file. `progress` receives how many bytes are there, of how many. After a failure that may pass,
    `say` receives a line, and another request follows `pause` seconds later, then twice that.
    UsageError for what is not an address; Sg2Error when the server cannot be reached, refuses, is
    too slow or sends something else than it announced, or the hash is not the expected one.
    """
    check_address(url)
    try:
        part = PartialFile(folder, hashlib.sha256(url.encode()).hexdigest()[:16])
        try:
            _Transfer(url, part, progress, say).run(pause)
            found = Download(part)
        except BaseException:
            part.close(keep=True)
            raise
    except OSError as error:
        raise Sg2Error(f"cannot write into {folder}: {reason(error)}") from error
    if expected_sha256 and found.sha256 != expected_sha256.lower():
        with found:
            raise Sg2Error(
                f"{public(url)} has the SHA-256 {found.sha256}, not {expected_sha256}: "
                "it is another file"
            )
    return found


class _Broken(Exception):
    """What another request may repair."""


class _Transfer:
    """The requests that complete a partial file."""

    def __init__(
        self,
        url: str,
        part: PartialFile,
        progress: Callable[[int, int | None], object],
        say: Callable[[str], object],
    ) -> None:
        self.url, self.shown, self.part = url, public(url), part
        self.progress, self.say = progress, say
        self.pace = Pace()

    def run(self, pause: float) -> None:
        """Request after request until the file is complete; Sg2Error when they lead nowhere."""
        import httpx

        begun, failures, furthest = False, 0, self.part.size
        with new_client() as client:
            while True:
                try:
                    return self._request(client)
                except Refused as error:
                    raise self._error(str(error)) from error
                except (httpx.ConnectError, httpx.ProxyError) as error:
                    message = f"cannot be reached ({quoted(error)})"
                    if not begun:
                        raise self._error(f"{message}: check the address") from error
                except (_Broken, httpx.NetworkError, httpx.RemoteProtocolError) as error:
                    message = quoted(error)
                    if isinstance(error, httpx.RemoteProtocolError) and not may_pass(message):
                        raise self._error(not_http(message)) from error
                except httpx.TimeoutException:
                    message = f"nothing came for {TIMEOUT:g} seconds"
                except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:
                    raise self._error(f"it cannot be fetched ({quoted(error)})") from error
                failures += 1
                furthest = min(furthest, self.part.size)  # it may have begun again
                if self.part.size >= furthest + MIN_BYTES:
                    begun, failures, furthest = True, 0, self.part.size
                if max(failures, self.part.restarts) >= MAX_FAILURES:
                    raise self._error(message, ": try again later")
                wait = pause * 2**failures
                self.say(f"{self.shown}: {message}; {self._kept()}, next attempt in {wait:g} s")
                time.sleep(wait)

    def _error(self, message: str, otherwise: str = "") -> Sg2Error:
        kept = f"; {self._kept()}, the same command continues"
        return Sg2Error(f"{self.shown}: {message}{kept if self.part.size else otherwise}")

    def _kept(self) -> str:
        return f"{self.part.size:,} bytes are kept"

    def _request(self, client: httpx.Client) -> None:
        """One request: for the rest of the file if it can be continued, else for all of it."""
        start = self._resume_from()
        headers = {"Accept-Encoding": "identity"}
        if start and self.part.version:
            headers |= {"Range": f"bytes={start}-", "If-Range": self.part.version.condition}
        self.pace.begin()
        with closing(final_response(client, self.url, headers, self.pace)) as response:
            code, theirs = response.status_code, response.headers
            if code >= 500 or code in WORTH_ANOTHER_TRY:
                raise _Broken(f"the server answers {code}")
            if code not in (200, 206, 416):
                raise Refused(f"the server answers {code}: check the address")
            if theirs.get("content-encoding", "identity").lower() != "identity":
                raise Refused("the server sends it compressed only: fetch it with a browser")
            length = int(theirs["content-length"]) if "content-length" in theirs else None
            if code == 200:
                end = length
                self._check_size(length or 0)
                self.part.restart(version_of(theirs, length))
            else:
                end = self._continued(theirs, start, length) if code == 206 else None
                if end is None:
                    self.part.restart(None)
                    raise _Broken("the server has another version of the file now")
            self._receive(response, end)

    def _resume_from(self) -> int:
        """From which byte on to ask; 0 if what is there cannot be continued."""
        part, version = self.part, self.part.version
        if not version or not version.condition:
            return 0
        if version.size is not None and part.size > version.size:
            return 0
        if part.size == version.size:  # so that the server can confirm that it is this version
            part.truncate(max(part.size - 1, 0))
        return part.size

    def _continued(self, theirs: httpx.Headers, start: int, length: int | None) -> int | None:
        """Where a response of 206 ends; None unless it continues what is there."""
        match = CONTENT_RANGE.fullmatch(theirs.get("content-range", ""))
        version = self.part.version
        if not match or not version or not start:
            return None
        first, last, size = (int(number) for number in match.groups())
        if not (first == start <= last < size and length in (None, last + 1 - first)):
            return None
        if version.size not in (None, size) or theirs.get("etag", "") != version.etag:
            return None
        if version.modified and theirs.get("last-modified", version.modified) != version.modified:
            return None
        self._check_size(size)
        if version.size is None:
            self.part.record(Version(version.etag, version.modified, size))
        return last + 1

    def _receive(self, response: httpx.Response, end: int | None) -> None:
        version = self.part.version
        size = version.size if version else None
        self.progress(self.part.size, size)
        for block in response.iter_raw():
            self.pace.receive(len(block))
            if end is not None and self.part.size + len(block) > end:
                self.part.restart(None)
                raise _Broken("the server sends more than it announced")
            self._check_size(self.part.size + len(block))
            self.part.append(block)
            self.progress(self.part.size, size)
        if size is not None and self.part.size < size:
            raise _Broken(f"the transfer ended at {self.part.size:,} of {size:,} bytes")

    def _check_size(self, size: int) -> None:
        if size > MAX_SIZE:
            self.part.restart(None)
            raise Refused(f"it has more than {MAX_SIZE >> 30} GiB, which no network has")
