"""Downloads that can be continued, checked by size, version and hash."""

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

MAX_FAILURES = 5  # consecutive, each with less than MIN_BYTES; or restarts
MAX_SIZE = 16 << 30  # bytes; networks have up to about 500 MiB
WORTH_ANOTHER_TRY = (408, 429)  # and 5xx
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class Download:
    """A downloaded file, and its SHA-256 read back through the open file.

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
    on_note: Callable[[str], object] = lambda text: None,
    pause: float = 1.0,
) -> Download:
    """Fetch a file into a folder, under a hidden name made of its address.

    A partial download of an earlier call is continued if the server still has the same version.
    `progress` receives the bytes so far, and in total. After a temporary failure, `on_note`
    receives a message, and the request is repeated after `pause` seconds, doubled each time.
    UsageError for an invalid address; Sg2Error if the server cannot be reached, refuses,
    is too slow, or sends other data than announced, and if the hash is not the expected one.
    """
    check_address(url)
    try:
        part = PartialFile(folder, hashlib.sha256(url.encode()).hexdigest()[:16])
        try:
            _Transfer(url, part, progress, on_note).run(pause)
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
                "it is a different file"
            )
    return found


class _Broken(Exception):
    """A failure that may be temporary."""


class _Transfer:
    """Completes a partial file by one or more requests."""

    def __init__(
        self,
        url: str,
        part: PartialFile,
        progress: Callable[[int, int | None], object],
        on_note: Callable[[str], object],
    ) -> None:
        self.url, self.shown, self.part = url, public(url), part
        self.progress, self.on_note = progress, on_note
        self.pace = Pace()

    def run(self, pause: float) -> None:
        """Send requests until the file is complete; Sg2Error after too many failures."""
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
                    message = f"no data for {TIMEOUT:g} seconds"
                except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:
                    raise self._error(f"it cannot be fetched ({quoted(error)})") from error
                failures += 1
                furthest = min(furthest, self.part.size)  # it may have been restarted
                if self.part.size >= furthest + MIN_BYTES:
                    begun, failures, furthest = True, 0, self.part.size
                if max(failures, self.part.restarts) >= MAX_FAILURES:
                    raise self._error(message, ": try again later")
                wait = pause * 2**failures
                self.on_note(f"{self.shown}: {message}; {self._kept()}, next attempt in {wait:g} s")
                time.sleep(wait)

    def _error(self, message: str, otherwise: str = "") -> Sg2Error:
        kept = f"; {self._kept()}, run the same command to continue"
        return Sg2Error(f"{self.shown}: {message}{kept if self.part.size else otherwise}")

    def _kept(self) -> str:
        return f"{self.part.size:,} bytes are saved"

    def _request(self, client: httpx.Client) -> None:
        """Send one request, for the rest of the file if possible, else for all of it."""
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
                raise Refused("the server sends it only compressed: download it with a browser")
            length = int(theirs["content-length"]) if "content-length" in theirs else None
            if code == 200:
                end = length
                self._check_size(length or 0)
                self.part.restart(version_of(theirs, length))
            else:
                end = self._continued(theirs, start, length) if code == 206 else None
                if end is None:
                    self.part.restart(None)
                    raise _Broken("the file on the server has changed")
            self._receive(response, end)

    def _resume_from(self) -> int:
        """The byte to continue from; 0 if the partial file cannot be continued."""
        part, version = self.part, self.part.version
        if not version or not version.condition:
            return 0
        if version.size is not None and part.size > version.size:
            return 0
        if part.size == version.size:  # so that the server can confirm the version
            part.truncate(max(part.size - 1, 0))
        return part.size

    def _continued(self, theirs: httpx.Headers, start: int, length: int | None) -> int | None:
        """The end of a 206 response; None if it does not continue the partial file."""
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
            raise Refused(f"it has more than {MAX_SIZE >> 30} GiB, too much for a network")
