"""Downloads from servers that an enemy wrote, into folders where an enemy may write."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from foreign_files import write_ada
from networks import random_generator

from sg2cli.errors import Sg2Error
from sg2cli.storage import downloads, http, partial_files
from sg2cli.storage.downloads import download
from sg2cli.storage.partial_files import PartialFile, Version
from tests.conftest import SG2

CONTENT = np.random.RandomState(0).bytes(400_000)
HALF = 200_000
Answer = bytes | Callable[[socket.socket], None]


def head(code: int, *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {code} x", *lines, "", ""]).encode("latin-1")


def whole(*lines: str, content: bytes = CONTENT) -> bytes:
    return head(200, f"Content-Length: {len(content)}", *lines) + content


def half(*lines: str) -> bytes:
    """All is announced, and half of it sent."""
    return head(200, f"Content-Length: {len(CONTENT)}", *lines) + CONTENT[:HALF]


def rest(*lines: str, message: str = f"bytes {HALF}-399999/400000", content: bytes = b"") -> bytes:
    content = content or CONTENT[HALF:]
    length = () if any("hunked" in line for line in lines) else (f"Content-Length: {len(content)}",)
    return head(206, f"Content-Range: {message}", *length, *lines) + content


class Server:
    """Gives each connection the next of `answers`, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.url = f"http://{self.address}/net.pkl"
        self.ended = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):  # of the socket that `close` closes
            while True:
                threading.Thread(
                    target=self.answer, args=self.socket.accept()[:1], daemon=True
                ).start()

    def answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(4096)
            index = min(len(self.requests), len(self.answers) - 1)
            self.requests.append(request.decode())
            answer = self.answers[index]
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # until the client hangs up: a reset could overtake the content

    @property
    def ranges(self) -> list[str]:
        """What was asked for: '' for all."""
        lines = [request.split("\r\n") for request in self.requests]
        return ["".join(h[13:] for h in request if h.startswith("Range: ")) for request in lines]

    def close(self) -> None:
        self.ended.set()
        self.socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def fetch(server: Server, folder: Path, **more: Any) -> bytes:
    with download(server.url, folder, pause=0, **more) as found:
        content = found.path.read_bytes()
        assert found.sha256 == sha256(content).hexdigest()
    return content


def names(folder: Path) -> tuple[Path, Path]:
    """Of the part and of its note, which a run has left."""
    (part,) = folder.glob(".sg2-*.part")
    return part, part.with_suffix(".json")


ETAG, OTHER = 'ETag: "one"', 'ETag: "two"'
NEW = CONTENT[::-1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ETAG, rest(OTHER)),
        (ETAG, rest()),
        (ETAG, rest('ETag: W/"one"')),
        (ETAG, rest(ETAG, OTHER)),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-399999/400001")),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-399999/*")),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-400000/400000")),
        (ETAG, rest(ETAG, message=f"bytes {HALF - 1}-399999/400000")),
        (ETAG, rest(ETAG, message=f"bytes {HALF + 1}-399999/400000")),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-{HALF - 1}/400000")),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-399999/9")),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-399999/{'9' * 5000}")),
        (ETAG, rest(ETAG, message="bytes 0-9/*")),
        (ETAG, rest(ETAG, message="bytes */400000")),
        (ETAG, rest(ETAG, message=f"items {HALF}-399999/400000")),
        (ETAG, rest(ETAG, message=f"bytes {HALF}-399998/400000")),
        (ETAG, rest(ETAG, content=CONTENT[HALF:] + b"more")),
        (ETAG, head(206, ETAG, "Content-Type: multipart/byteranges; boundary=x") + b"--x\r\n"),
        (ETAG, head(206, ETAG, "Content-Length: 200000") + CONTENT[HALF:]),
        (
            ETAG,
            rest(ETAG, "Transfer-Encoding: chunked", content=b"30D42\r\n" + b"x" * 200_002),
        ),
        (ETAG, head(416, "Content-Range: bytes */100", "Content-Length: 0")),
        (ETAG, whole(OTHER, content=NEW)),
    ],
)
def test_a_rest_of_another_version_is_not_appended(
    server: Server, tmp_path: Path, first: str, second: bytes
) -> None:
    server.answers = [half(first), second, whole(OTHER, content=NEW)]
    assert fetch(server, tmp_path) == NEW
    assert server.ranges[:2] == ["", f"{HALF}-"]
    assert server.ranges[2:] in ([], [""])


OLD = ("Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT", "Date: Thu, 02 Jan 2020 00:00:00 GMT")
JUST = ("Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT", "Date: Wed, 01 Jan 2020 00:00:00 GMT")
CONDITIONS = {
    (ETAG,): '"one"',
    (ETAG, *JUST): '"one"',
    OLD: "Wed, 01 Jan 2020 00:00:00 GMT",
    ('ETag: W/"one"', *OLD): "Wed, 01 Jan 2020 00:00:00 GMT",
    ('ETag: W/"one"',): "",
    JUST: "",
    OLD[:1]: "",
    (): "",
    ("ETag: one",): "",
    ("ETag:",): "",
    ('ETag: "\x01one"', *OLD): "",
    ('ETag: "o\x80\xffne"', *OLD): "",
    ('ETag: "one" two', *OLD): "",
    (f'ETag: "{"x" * 90_000}"', *OLD): "",
    ("Last-Modified: yesterday", OLD[1]): "",
    ("Last-Modified: Wed, 32 Jan 2020 00:00:00 GMT", OLD[1]): "",
    ("Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT\t", "Date: never"): "",
}


@pytest.mark.parametrize(("lines", "condition"), CONDITIONS.items())
def test_what_can_be_compared_is_continued(
    server: Server, tmp_path: Path, lines: tuple[str, ...], condition: str
) -> None:
    server.answers = [half(*lines), rest(*lines) if condition else whole(*lines)]
    assert fetch(server, tmp_path) == CONTENT
    asked = [line for line in server.requests[1].split("\r\n") if line.startswith("If-Range")]
    assert asked == ([f"If-Range: {condition}"] if condition else [])
    assert server.ranges == ["", f"{HALF}-" if condition else ""]


def test_a_weak_validator_that_changed_is_seen_beside_a_date_that_did_not(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [half('ETag: W/"1"', *OLD), rest('ETag: W/"2"', *OLD), whole(content=NEW)]
    assert fetch(server, tmp_path) == NEW


@pytest.mark.parametrize("etag", ['"\x01"', '"\x1b[31m"', '"\xe9"', f'"{"x" * 90_000}"'])
def test_an_etag_that_cannot_be_sent_breaks_nothing(
    server: Server, tmp_path: Path, etag: str
) -> None:
    """It was stored, and each request after it failed, whatever the server sent by then."""
    server.answers = [half(f"ETag: {etag}"), head(404)]
    with pytest.raises(Sg2Error, match="404"):
        fetch(server, tmp_path)
    assert names(tmp_path)[1].stat().st_size < 200
    server.answers, server.requests = [whole(f"ETag: {etag}")], []
    assert fetch(server, tmp_path) == CONTENT


def endless(block: bytes, start: bytes = b"") -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(block)

    return send


def dripping(start: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            threading.Event().wait(0.02)

    return send


@pytest.mark.parametrize(
    "answer",
    [
        dripping(head(200, "Content-Length: 400000")),
        dripping(head(200)),
        dripping(b""),
        dripping(b"HTTP/1.1 200 x\r\nX: "),
        dripping(head(102) + b"HTTP/1.1 102 "),
        endless(head(102)),
        endless(head(100, "X: " + "x" * 1000)),
        endless(b"1;" + b"x" * 60_000 + b"\r\nx\r\n", head(200, "Transfer-Encoding: chunked")),
    ],
    ids=range(8),
)
def test_endless_answers_are_aborted(
    server: Server, tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit between two bytes ends none of these; nor is any of them tried again."""
    monkeypatch.setattr(http, "MIN_SECONDS", 0.5)
    server.answers = [answer]
    with pytest.raises(Sg2Error, match=r"less than 64 KiB arrived in 0\.5 seconds|MiB of headers"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_what_is_slow_counts_from_the_last_64_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    pace = http.Pace()
    pace.begin()
    for clock.now in (59.0, 118.0, 177.0):
        pace.receive(http.MIN_BYTES)
        assert pace.seconds_left() == 60
    pace.receive(http.MIN_BYTES - 1)
    clock.now = 236.0
    assert pace.seconds_left() == 1
    clock.now = 237.0
    with pytest.raises(http.Refused, match="less than 64 KiB arrived in 60 seconds"):
        pace.seconds_left()


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (endless(head(102)), 1),
        (endless(b"x" * 1000), 1),
        (endless(b"HTTP/1.1 200 x\r\n" + b"X: x\r\n" * 10_000), 1),
        (head(200, f'ETag: "{"x" * 1_000_000}"'), 1),
        (head(200, "Content-Length: 5", "Content-Length: 6") + b"12345", 1),
        (head(200, "Content-Length: -5") + b"12345", 1),
        (head(200, "Content-Length: 5.0") + b"12345", 1),
        (head(200, "Content-Length: " + "9" * 20) + b"12345", 1),
        (head(200, f"Content-Length: {(16 << 30) + 1}") + b"12345", 1),
        (head(200, "Transfer-Encoding: gzip") + b"12345", 1),
        (head(200, "Transfer-Encoding: chunked") + b"5\r\n12345\r\n", 5),
        (head(200, "Transfer-Encoding: chunked") + b"ffffffffffffffffffffffff\r\n1", 1),
        (head(200, "Content-Encoding: gzip", "Content-Length: 5") + b"12345", 1),
        (head(206, "Content-Range: bytes 0-4/5", "Content-Length: 5") + b"12345", 5),
        (head(206, "Content-Length: 5") + b"12345", 5),
        (head(206, "Content-Type: multipart/byteranges; boundary=x") + b"--x--", 5),
        (head(416, "Content-Length: 0"), 5),
        (head(101, "Upgrade: x", "Connection: upgrade"), 1),
        (head(204), 1),
        (head(300), 1),
        (head(304), 1),
        (head(999), 5),
        (b"", 5),
        (b"SSH-2.0-OpenSSH\r\n", 5),
        (b"HTTP/1.1 200\x1b[31m x\r\n\r\n", 1),
        (b"\x16\x03\x01\x00\x00", 1),
    ],
    ids=range(26),
)
def test_answers_without_a_file_are_an_error(
    server: Server, tmp_path: Path, answer: Answer, tries: int
) -> None:
    server.answers = [answer]
    with pytest.raises(Sg2Error) as error:
        fetch(server, tmp_path)
    assert str(error.value).startswith(f"{server.url}: ")
    assert len(str(error.value)) < 500
    assert len(server.requests) == tries


@pytest.mark.parametrize(
    "answer",
    [
        endless(b"HTTP/1.1 200 x\r\n" + b"X: x\r\n" * 10_000),
        endless(b"x" * 60_000, head(200, "Transfer-Encoding: chunked") + b"1;"),
        endless(b"X: x\r\n" * 10_000, head(200, "Transfer-Encoding: chunked") + b"0\r\n"),
    ],
    ids=["headers", "extension", "trailers"],
)
def test_headers_without_end_name_the_limit(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.answers = [answer]
    with pytest.raises(Sg2Error, match="more than 100 KiB: check the address"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["http://[", "http://a:b", "http://\xff\xfe:99999999/"])
def test_a_malformed_redirect_is_not_tried_again(
    server: Server, tmp_path: Path, location: str
) -> None:
    server.answers = [head(302, f"Location: {location}", "Content-Length: 0")]
    with pytest.raises(Sg2Error) as error:
        fetch(server, tmp_path)
    assert "try again" not in str(error.value)
    assert len(server.requests) == 1


def test_a_server_whose_file_changes_all_the_time(server: Server, tmp_path: Path) -> None:
    """Each time it sends more, so that there seems to be progress."""
    sizes = range(100_000, 10_000_000, 100_000)
    server.answers = [
        head(200, "Content-Length: 99999999", f'ETag: "{size}"') + b"x" * size for size in sizes
    ]
    with pytest.raises(Sg2Error, match="peer closed connection"):
        fetch(server, tmp_path)
    assert len(server.requests) == 6


def test_a_server_that_sends_a_little_each_time(server: Server, tmp_path: Path) -> None:
    server.answers = [head(200, "Content-Length: 400000", ETAG) + CONTENT[:10]] + [
        rest(ETAG, message=f"bytes {10 + i}-{10 + i}/400000", content=b"x") for i in range(100)
    ]
    with pytest.raises(Sg2Error, match="14 bytes are saved"):
        fetch(server, tmp_path)
    assert len(server.requests) == 5


def test_parts_that_are_shorter_than_what_was_asked_for(server: Server, tmp_path: Path) -> None:
    server.answers = [half(ETAG)] + [
        rest(ETAG, message=f"bytes {a}-{a + 99_999}/400000", content=CONTENT[a : a + 100_000])
        for a in (HALF, HALF + 100_000)
    ]
    assert fetch(server, tmp_path) == CONTENT


def test_a_size_that_is_learnt_later_may_not_change(server: Server, tmp_path: Path) -> None:
    chunk = b"186A0\r\n" + CONTENT[:100_000]  # and there it ends
    server.answers = [
        head(200, "Transfer-Encoding: chunked", ETAG) + chunk,
        rest(ETAG, message="bytes 100000-199999/400000", content=CONTENT[100_000:HALF]),
        rest(ETAG, message="bytes 200000-400000/400001", content=CONTENT[HALF:] + b"x"),
        whole(),
    ]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges == ["", "100000-", f"{HALF}-", ""]


@pytest.mark.parametrize("size", [399_999, 400_000, 400_001])
def test_a_whole_part_is_confirmed_by_its_last_byte(
    server: Server, tmp_path: Path, size: int
) -> None:
    """A run that was killed after the last byte came has left it; one byte more is not of it."""
    server.answers = [half(ETAG), head(404)]
    with pytest.raises(Sg2Error):
        fetch(server, tmp_path)
    names(tmp_path)[0].write_bytes((CONTENT + b"x")[:size])
    server.requests = []
    server.answers = [whole(ETAG)]
    if size <= 400_000:
        server.answers = [rest(ETAG, message="bytes 399999-399999/400000", content=CONTENT[-1:])]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges == ["399999-" if size <= 400_000 else ""]


# Redirects


def to(url: str, code: int = 302, length: tuple[str, ...] = ("Content-Length: 0",)) -> bytes:
    return head(code, f"Location: {url}", *length)


def test_redirects_are_followed_and_their_content_is_not_read(
    server: Server, tmp_path: Path
) -> None:
    flood = endless(b"x" * 1000, to("/other", length=()))
    server.answers = [to("/a", 301), to("//" + server.address + "/b", 307), flood, whole()]
    assert fetch(server, tmp_path) == CONTENT
    assert [request.split()[1] for request in server.requests] == ["/net.pkl", "/a", "/b", "/other"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/x", "not http or https"),
        ("file:///etc/passwd", "not http or https"),
        ("http://127.0.0.1:0/", "not http or https"),
        ("http://127.0.0.1:99999/", "not http or https"),
        ("http://127.0.0.1:1/me:secret@host", "cannot be reached"),
        ("http://me:secret@127.0.0.1:1/?secret", "cannot be reached"),
        ("http://[secret/", "cannot be|Invalid URL"),
        ("http://" + "secret" * 60 + "/", "cannot be"),
        ("/x" * 30_000, "redirects more than 20 times"),
        ("\x1b[31m", "Invalid|redirects|header"),
    ],
)
def test_redirects_to_nowhere(server: Server, tmp_path: Path, url: str, message: str) -> None:
    server.answers = [to(url)]
    with pytest.raises(Sg2Error, match=message) as error:
        fetch(server, tmp_path)
    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 500
    assert not list(tmp_path.iterdir())


def test_passwords_stay_with_their_host(server: Server, tmp_path: Path) -> None:
    other = Server()
    server.answers, other.answers = [to("/here"), to(other.url)], [whole()]
    url = server.url.replace("//", "//me:secret@")
    with download(url, tmp_path) as found:
        assert found.sha256 == sha256(CONTENT).hexdigest()
    other.close()
    assert ["Authorization: Basic" in text for text in server.requests] == [True, True]
    assert ["Authorization" in text for text in other.requests] == [False]


@pytest.mark.parametrize("user", ["", "me:secret@"])
def test_no_redirect_leads_away_from_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "https"
        return httpx.Response(302, headers={"Location": "http://host/?secret"})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(downloads, "new_client", lambda: client)
    with pytest.raises(Sg2Error, match="it redirects from https to insecure http") as error:
        download(f"https://{user}host/x", tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "nonsense://me:secret@host"),
        ("ALL_PROXY", "socks5://me:secret@host"),
        ("HTTP_PROXY", "http://me:secret@[host"),
        ("SSL_CERT_FILE", "/nowhere"),
    ],
)
def test_an_environment_that_allows_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Sg2Error) as error:
        download("http://127.0.0.1:1/", tmp_path)
    assert "secret" not in str(error.value)
    assert "HTTP_PROXY" in str(error.value) or "cannot be reached" in str(error.value)


# What others may put into the folder


def make_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def make_hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def make_dangling_link(path: Path, target: Path) -> None:
    path.symlink_to(target.parent / "absent")


def make_fifo(path: Path, target: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path, target: Path) -> None:
    path.mkdir()


def make_socket(path: Path, target: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("suffix", [".part", ".json"])
@pytest.mark.parametrize(
    "plant",
    [make_link, make_hard_link, make_dangling_link, make_fifo, make_folder, make_socket],
)
def test_nothing_that_was_planted_is_followed_or_replaced(
    server: Server, tmp_path: Path, suffix: str, plant: Callable[[Path, Path], None]
) -> None:
    folder, treasure = tmp_path / "out", tmp_path / "treasure"
    folder.mkdir()
    treasure.write_bytes(b"treasure")
    server.answers = [half(ETAG), head(404)]
    with pytest.raises(Sg2Error):
        fetch(server, folder)
    planted = names(folder)[0].with_suffix(suffix)
    planted.unlink()
    plant(planted, treasure)
    before = planted.lstat()
    server.answers, server.requests = [whole(ETAG)], []
    with pytest.raises(Sg2Error, match=f"{planted} has the name of a partial download"):
        fetch(server, folder)
    assert server.requests == []
    assert os.path.samestat(planted.lstat(), before)
    assert treasure.read_bytes() == b"treasure"
    assert not (tmp_path / "absent").exists()
    if suffix == ".json":  # nor does an empty part stay beside it
        assert len(list(folder.iterdir())) == 2
        planted.with_suffix(".part").unlink()
        with pytest.raises(Sg2Error, match="has the name of a partial download"):
            fetch(server, folder)
        assert list(folder.iterdir()) == [planted]


def test_a_file_of_another_user_is_not_touched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [half(ETAG), head(404), whole(ETAG)]
    with pytest.raises(Sg2Error):
        fetch(server, tmp_path)
    user = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(Sg2Error, match="has the name of a partial download"):
            fetch(server, tmp_path)
    assert names(tmp_path)[0].read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    "note",
    [
        *(
            b"",
            b"{}",
            b"[]",
            b"null",
            b"{",
            b"\xff\xfe",
            b"[" * 4000,
            b"x" * 10_000_000,
            b"9" * 4096,
        ),
        b'{"etag": 1, "modified": "", "size": 400000}',
        b'{"etag": "\\"o\\u0001ne\\"", "modified": "", "size": 400000}',
        b'{"etag": "\\"one\\"\\r\\nX: y", "modified": "", "size": 400000}',
        b'{"etag": "\\"one\\"", "modified": "x", "size": 400000}',
        b'{"etag": "\\"one\\"", "modified": "", "size": -1}',
        b'{"etag": "\\"one\\"", "modified": "", "size": true}',
        b'{"etag": "\\"one\\"", "modified": "", "size": 1e999}',
        b'{"etag": "\\"one\\"", "modified": "", "size": "400000"}',
        b'{"etag": "\\"one\\"", "modified": "", "size": 400000, "more": 1}',
        b'{"etag": "\\"one\\"", "modified": "", "size": 100}',
    ],
    ids=range(19),
)
def test_invalid_notes_are_ignored(server: Server, tmp_path: Path, note: bytes) -> None:
    """The part is fetched anew. It is not appended to, and nothing of the note is sent."""
    server.answers = [half(ETAG), head(404)]
    with pytest.raises(Sg2Error):
        fetch(server, tmp_path)
    names(tmp_path)[1].write_bytes(note)
    server.answers, server.requests = [whole(ETAG, content=NEW)], []
    assert fetch(server, tmp_path) == NEW
    assert server.ranges == [""]
    assert list(tmp_path.iterdir()) == []


def test_of_a_note_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = PartialFile(tmp_path, "x")
    part.append(b"x")
    part.close(keep=True)
    note = tmp_path / ".sg2-x.json"
    note.touch()
    os.truncate(note, 1 << 40)  # takes no room on the disk, and would all of the memory
    part = PartialFile(tmp_path, "x")
    assert part.version is None
    part.close(keep=False)


# Several runs, and runs that end


def test_two_runs_do_not_share_a_part(server: Server, tmp_path: Path) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold(connection: socket.socket) -> None:
        connection.sendall(half(ETAG))
        reached.set()
        go_on.wait(60)
        connection.sendall(CONTENT[HALF:])

    server.answers = [hold]
    found: list[bytes] = []
    first = threading.Thread(target=lambda: found.append(fetch(server, tmp_path)))
    first.start()
    reached.wait(60)
    with pytest.raises(Sg2Error, match="another run is downloading"):
        fetch(server, tmp_path)
    go_on.set()
    first.join(60)
    assert found == [CONTENT]
    assert len(server.requests) == 1
    assert fetch(server, tmp_path / ".." / tmp_path.name) == CONTENT


def test_a_part_that_another_run_removes_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".sg2-x.part").write_bytes(b"theirs")
    real, left = partial_files.lock, [3]

    def late(handle: int) -> bool:
        if left[0]:
            left[0] -= 1
            (tmp_path / ".sg2-x.part").unlink()
        return real(handle)

    monkeypatch.setattr(partial_files, "lock", late)
    part = PartialFile(tmp_path, "x")
    assert (left, part.size) == ([0], 0)
    part.append(b"ours")
    assert (tmp_path / ".sg2-x.part").read_bytes() == b"ours"
    part.close(keep=False)
    left = [1000]
    with pytest.raises(Sg2Error, match="other processes keep replacing it"):
        PartialFile(tmp_path, "x")


def test_what_has_the_name_by_the_end_is_neither_read_nor_removed(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [whole()]
    with download(server.url, tmp_path) as found:
        part = next(tmp_path.glob("*.part"))
        part.unlink()
        part.write_bytes(b"theirs")
        assert found.path.read_bytes() == CONTENT
        assert found.sha256 == sha256(CONTENT).hexdigest()
    assert part.read_bytes() == b"theirs"


def test_the_recorded_hash_is_of_what_was_converted(
    sg2: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sg2cli.checkpoints import Network, importer

    write_ada(random_generator(), Path("a.pkl"))
    write_ada(random_generator(seed=1), Path("b.pkl"))
    real = importer.convert
    content = Path("a.pkl").read_bytes()
    server.answers = [whole(content=content)]

    def written(*args: Any, **options: Any) -> Any:
        next(Path().glob(".sg2-*.part")).write_bytes(Path("b.pkl").read_bytes())
        return real(*args, **options)

    def swap(*args: Any, **options: Any) -> Any:
        part = next(Path().glob(".sg2-*.part"))
        part.unlink()
        part.write_bytes(Path("b.pkl").read_bytes())
        return real(*args, **options)

    monkeypatch.setattr(importer, "convert", swap)
    right = sha256(content).hexdigest()
    assert sg2("convert", server.url, "a.safetensors", "--sha256", right).code == 0
    assert Network.open(Path("a.safetensors")).source["sha256"] == right
    next(Path().glob(".sg2-*.part")).unlink()
    monkeypatch.setattr(importer, "convert", written)
    changed = sg2("convert", server.url, "b.safetensors", "--sha256", right)
    assert (changed.code, "was changed on the disk" in changed.err) == (1, True)


def test_a_full_disk_keeps_what_is_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.write, [HALF]

    def write(handle: int, content: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= (count := real(handle, content[: left[0]]))
        return count

    server.answers = [whole(ETAG), rest(ETAG)]
    with monkeypatch.context() as patch:
        patch.setattr(partial_files.os, "write", write)
        with pytest.raises(Sg2Error, match="no space left on device"):
            fetch(server, tmp_path)
    assert names(tmp_path)[0].read_bytes() == CONTENT[:HALF]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges == ["", f"{HALF}-"]


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_is_continued(
    server: Server, in_tmp: Path, kind: signal.Signals, code: int
) -> None:
    reached = threading.Event()

    def hold(connection: socket.socket) -> None:
        connection.sendall(half(ETAG))
        reached.set()
        server.ended.wait(60)

    server.answers = [hold]
    with subprocess.Popen(
        [*SG2, "convert", server.url, "a.safetensors"], stderr=subprocess.PIPE
    ) as process:
        reached.wait(60)
        while not (found := list(in_tmp.glob("*.part"))) or found[0].stat().st_size < HALF:
            assert process.poll() is None
        process.send_signal(kind)
        message = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code
    assert "Traceback" not in message
    assert stat.S_IMODE(names(in_tmp)[0].stat().st_mode) == 0o600
    server.answers = [rest(ETAG)]
    assert fetch(server, in_tmp) == CONTENT
    assert server.ranges[-1] == f"{HALF}-"


def test_a_version_without_validators_has_no_condition() -> None:
    assert Version().condition == Version('W/"x"').condition == ""
    assert Version('"x"', "date").condition == '"x"'
