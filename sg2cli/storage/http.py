"""Requests: redirects that may be followed, and a server that may not take for ever."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from sg2cli.errors import Sg2Error, UsageError, public, redact_addresses

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 20
MAX_HEADERS = 4 << 20  # bytes of all that comes before the file, redirects included
MAX_LINE = 100 << 10  # bytes of headers of a response or of a chunk: the limit of httpcore
MAX_QUOTED = 200  # characters of what a server or a library says
MIN_BYTES, MIN_SECONDS = 64 << 10, 60.0  # at least so many bytes in so many seconds
TIMEOUT = 30.0  # seconds without a byte
BROKE_OFF = ("closed connection", "disconnected")  # words of h11 and httpcore
TOO_LONG = "Receive buffer too long"  # and those for MAX_LINE


class Refused(Exception):
    """What another request would not change."""


class Pace:
    """Ends a download that comes too slowly, whatever it is that comes.

    A timeout between two bytes would let a server send one now and then, or headers for ever.
    """

    def begin(self) -> None:
        """Before a request. What comes without a call of `receive` is headers."""
        self.since, self.received, self.headers = time.monotonic(), 0, 0

    def receive(self, count: int) -> None:
        """So many bytes of the file have come."""
        self.received += count
        self.headers = 0
        self.seconds_left()

    def seconds_left(self) -> float:
        now = time.monotonic()
        if self.received >= MIN_BYTES:
            self.since, self.received = now, 0
        if now >= self.since + MIN_SECONDS:
            raise Refused(f"less than {MIN_BYTES >> 10} KiB came in {MIN_SECONDS:g} seconds")
        return self.since + MIN_SECONDS - now

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What httpx calls at every step: has each read from a new connection come through here."""
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
            f"no connection can be set up ({quoted(error)}): check the environment variables "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from error


def final_response(
    client: httpx.Client, url: str, headers: dict[str, str], pace: Pace
) -> httpx.Response:
    """The response at the end of all redirects, whose own content is not read."""
    request = client.build_request("GET", url, headers=headers, extensions={"trace": pace.trace})
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        target = response.next_request
        if target is None:
            return response
        response.close()
        if not _is_fetchable(target.url):
            raise Refused("it redirects to what is not an http or https address")
        if request.url.scheme == "https" and target.url.scheme == "http":
            raise Refused("it redirects from https to http, where anybody may change the file")
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
    """Whether a violation of HTTP is a connection that broke off, not a server that errs again."""
    return any(words in message for words in BROKE_OFF)


def not_http(message: str) -> str:
    if TOO_LONG in message:
        return (
            f"the server sends headers, or a header of a part, of more than {MAX_LINE >> 10} KiB: "
            "check the address"
        )
    return f"the server does not answer as HTTP demands ({message}): check the address"


def quoted(error: Exception) -> str:
    """What a library says, which may quote the server, in a length that fits a message."""
    text = redact_addresses(" ".join(str(error).split()))
    return text[:MAX_QUOTED] or type(error).__name__
