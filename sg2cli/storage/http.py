"""HTTP requests: safe redirects, and a minimum transfer rate."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError, public, redact_addresses

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 20
MAX_HEADERS = 4 << 20  # bytes before the file, redirects included
MAX_LINE = 100 << 10  # bytes of headers of a response or of a chunk: the limit of httpcore
MAX_QUOTED = 200  # characters quoted from a server or library
MIN_BYTES, MIN_SECONDS = 64 << 10, 60.0  # minimum bytes per period
TIMEOUT = 30.0  # seconds without a byte
BROKE_OFF = ("closed connection", "disconnected")  # in messages of h11 and httpcore
TOO_LONG = "Receive buffer too long"  # their message for MAX_LINE


class Refused(Exception):
    """A failure that another request would not change."""


class Pace:
    """Aborts a download that is too slow, in headers or content.

    A timeout between bytes alone would let a server send one now and then, or endless headers.
    """

    def begin(self) -> None:
        """Start a request. Bytes without a call of `receive` count as headers."""
        self.since, self.received, self.headers = time.monotonic(), 0, 0

    def receive(self, count: int) -> None:
        """Record received bytes of the file."""
        self.received += count
        self.headers = 0
        self.seconds_left()

    def seconds_left(self) -> float:
        now = time.monotonic()
        if self.received >= MIN_BYTES:
            self.since, self.received = now, 0
        if now >= self.since + MIN_SECONDS:
            raise Refused(f"less than {MIN_BYTES >> 10} KiB arrived in {MIN_SECONDS:g} seconds")
        return self.since + MIN_SECONDS - now

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Trace hook of httpx: wraps the reads of each new connection."""
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        stream = info["return_value"]
        read = stream.read

        def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
            left = self.seconds_left()
            try:
                content: bytes = read(max_bytes, timeout=min(left, timeout or left))
            except Exception:
                self.seconds_left()
                raise
            self.headers += len(content)
            if self.headers > MAX_HEADERS:
                raise Refused(f"the server sends more than {MAX_HEADERS >> 20} MiB of headers")
            return content

        stream.read = read_in_time


def new_client() -> httpx.Client:
    import httpx

    try:
        return httpx.Client(timeout=TIMEOUT)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        raise Sg2Error(
            f"cannot set up a connection ({quoted(error)}): check the environment variables "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from error


def final_response(
    client: httpx.Client, url: str, headers: dict[str, str], pace: Pace
) -> httpx.Response:
    """The response after all redirects; content of redirects is not read."""
    request = client.build_request("GET", url, headers=headers, extensions={"trace": pace.trace})
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        target = response.next_request
        if target is None:
            return response
        response.close()
        if not _is_fetchable(target.url):
            raise Refused("it redirects to an address that is not http or https")
        if request.url.scheme == "https" and target.url.scheme == "http":
            raise Refused("it redirects from https to insecure http")
        request = target
    raise Refused(f"it redirects more than {MAX_REDIRECTS} times: check the address")


def check_address(url: str) -> None:
    import httpx

    shown = public(url)
    if not re.match("https?://", url, re.IGNORECASE):
        raise UsageError(f"{shown}: give an address that begins with http:// or https://")
    try:
        fetchable = _is_fetchable(httpx.URL(url))
    except (httpx.InvalidURL, ValueError):
        fetchable = False
    if not fetchable:
        raise UsageError(f"{shown} is not an address: check its host and port")


def _is_fetchable(url: httpx.URL) -> bool:
    port = 80 if url.port is None else url.port
    return url.scheme in ("http", "https") and bool(url.host) and 0 < port < 1 << 16


def may_pass(message: str) -> bool:
    """Whether a protocol error is a closed connection, which may be temporary."""
    return any(words in message for words in BROKE_OFF)


def not_http(message: str) -> str:
    if TOO_LONG in message:
        return f"the server sends headers of more than {MAX_LINE >> 10} KiB: check the address"
    return f"the server violates HTTP ({message}): check the address"


def quoted(error: Exception) -> str:
    """The message of a library, which may quote the server, shortened."""
    text = redact_addresses(" ".join(str(error).split()))
    return text[:MAX_QUOTED] or type(error).__name__
