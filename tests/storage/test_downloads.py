"""Downloads against a local server that drops, lies and changes its mind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import write_ada
from networks import random_generator

from sg2cli.checkpoints import Network
from sg2cli.checkpoints.official import OFFICIAL_NETWORKS
from sg2cli.errors import Sg2Error
from sg2cli.storage.downloads import download

CONTENT = np.random.RandomState(0).bytes(1_000_000)


class Server:
    """Serves `content`, each request by the next of `replies`, the last one repeatedly."""

    def __init__(self) -> None:
        self.content, self.etag = CONTENT, '"one"'
        self.replies: list[str] = ["well"]
        self.ranges: list[str | None] = []
        self.authorization: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self)

        class Quiet(ThreadingHTTPServer):
            """Clients that hang up are what some tests are about."""

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):
                    super().handle_error(request, client_address)

        self.server = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/net.pkl"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        self.authorization = request.headers.get("Authorization")
        if reply == "hangs up":
            request.close_connection = True
            return
        if reply.startswith("to "):
            request.send_response(302)
            request.send_header("Location", reply[3:])
            request.end_headers()
            return
        if reply.isdecimal():
            request.send_error(int(reply))
            return
        start = 0
        same = request.headers.get("If-Range") == self.etag
        if wanted and same and reply != "no ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            request.send_response(206)
            first = start + (100 if reply == "other part" else 0)
            size = len(self.content)
            request.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        elif reply == "part":
            request.send_response(206)
            request.send_header("Content-Range", "bytes 0-99/1000000")
        else:
            request.send_response(200)
        if reply == "gzip":
            request.send_header("Content-Encoding", "gzip")
        body = self.content[start:]
        length = len(body) + (1000 if reply == "promises more" else 0)
        if reply != "no length":
            request.send_header("Content-Length", "9" * 15 if reply == "huge" else str(length))
        if reply != "no etag":
            request.send_header("ETag", self.etag)
        request.end_headers()
        request.wfile.write(body[:300_000] if reply == "drops" else body)
        request.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.server.shutdown()
    found.server.server_close()


def fetch(server: Server, folder: Path, **more: Any) -> bytes:
    with download(server.url, folder, pause=0, **more) as found:
        return found.path.read_bytes()


def test_a_file_is_fetched(server: Server, tmp_path: Path) -> None:
    reported: list[tuple[int, int | None]] = []
    assert fetch(server, tmp_path, progress=lambda *args: reported.append(args)) == CONTENT
    assert reported[0] == (0, len(CONTENT)) and reported[-1] == (len(CONTENT), len(CONTENT))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_continues(server: Server, tmp_path: Path) -> None:
    server.replies = ["drops", "drops", "500", "well"]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=600000-"]


def test_another_run_continues(server: Server, tmp_path: Path) -> None:
    server.replies = ["drops", "500"]
    with pytest.raises(Sg2Error, match="300,000 bytes are saved, run the same command to continue"):
        fetch(server, tmp_path)
    server.replies = ["well"]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


@pytest.mark.parametrize("reply", ["no ranges", "other part", "416"])
def test_servers_without_ranges_restart_the_download(
    server: Server, tmp_path: Path, reply: str
) -> None:
    server.replies = ["drops", reply, "well"]
    assert fetch(server, tmp_path) == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.replies = ["drops", "500"]
    with pytest.raises(Sg2Error):
        fetch(server, tmp_path)
    server.replies, server.etag, server.content = ["well"], '"two"', CONTENT[::-1]
    assert fetch(server, tmp_path) == CONTENT[::-1]


def test_without_a_validator_downloads_restart(server: Server, tmp_path: Path) -> None:
    server.replies = ["drops", "500"]
    with pytest.raises(Sg2Error):
        fetch(server, tmp_path)
    for note in tmp_path.glob("*.json"):
        note.write_text("{}")
    server.replies, server.content = ["no etag"], CONTENT[::-1]
    assert fetch(server, tmp_path) == CONTENT[::-1]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("promises more", "peer closed|ended at|has changed"),
        ("404", "answers 404: check the address"),
        ("403", "answers 403"),
        ("503", "answers 503"),
        ("huge", "too much for a network"),
    ],
)
def test_wrong_or_refused_answers(server: Server, tmp_path: Path, reply: str, message: str) -> None:
    server.replies = [reply]
    with pytest.raises(Sg2Error, match=message):
        fetch(server, tmp_path)


def test_a_wrong_hash_is_refused_and_thrown_away(server: Server, tmp_path: Path) -> None:
    right = sha256(CONTENT).hexdigest()
    assert fetch(server, tmp_path, expected_sha256=right.upper()) == CONTENT
    with pytest.raises(Sg2Error, match=f"has the SHA-256 {right}"):
        fetch(server, tmp_path, expected_sha256="0" * 64)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/x: cannot be reached"),
        ("http://127.0.0.1:99999/x", "is not an address: check its host and port"),
        ("http://127.0.0.1:0/x", "is not an address"),
        ("http://[bad/x", ""),
        ("http:///x", "is not an address"),
        ("http://" + "a" * 300 + "/x", ""),
        ("ftp://127.0.0.1/x", "begins with http:// or https://"),
        ("file:///etc/passwd", "begins with http:// or https://"),
    ],
)
def test_addresses_that_lead_nowhere_fail_at_once(tmp_path: Path, url: str, message: str) -> None:
    waits: list[str] = []
    with pytest.raises(Sg2Error) as error:
        download(url, tmp_path, on_note=waits.append)
    assert message in str(error.value)
    assert waits == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("", "redirects more than 20 times"),
        ("ftp://127.0.0.1/x", "redirects to an address that is not http or https"),
        ("http://127.0.0.1:99999/", "redirects to"),
        ("file:///etc/passwd", "redirects to an address that is not http or https"),
    ],
)
def test_redirects_that_lead_nowhere(server: Server, tmp_path: Path, to: str, message: str) -> None:
    server.replies = [f"to {to or server.url}"]
    waits: list[str] = []
    with pytest.raises(Sg2Error, match=message):
        fetch(server, tmp_path, on_note=waits.append)
    assert waits == []


def test_another_try_is_announced(server: Server, tmp_path: Path) -> None:
    server.replies = ["503", "drops", "hangs up", "well"]
    said: list[str] = []
    assert fetch(server, tmp_path, on_note=said.append) == CONTENT
    assert [line.removeprefix(f"{server.url}: ").split(";")[0] for line in said] == [
        "the server answers 503",
        "peer closed connection without sending complete message body "
        "(received 300000 bytes, expected 1000000)",
        "Server disconnected without sending a response.",
    ]
    assert "300,000 bytes are saved, next attempt in" in said[1]


@pytest.mark.parametrize("reply", ["gzip", "drops", "part"])
def test_nothing_that_was_damaged_on_the_way_is_given(
    server: Server, tmp_path: Path, reply: str
) -> None:
    """Compressed although it must not be, cut short for ever, or another part than all."""
    server.replies = [reply]
    server.etag = ""
    with pytest.raises(Sg2Error, match="compressed|saved|try again later"):
        fetch(server, tmp_path)


def test_passwords_and_tokens_are_not_disclosed(
    sg2: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    secret = server.url.replace("//", "//me:se/cret@", 1) + "?token=secret#secret"
    wrong = sg2("convert", secret, "net.safetensors")
    assert wrong.code == 2
    secret = secret.replace("se/cret", "secret")
    write_ada(random_generator(), Path("net.pkl"))
    content = Path("net.pkl").read_bytes()
    for replies in (
        ["404"],
        ["503", "404"],
        ["to http://127.0.0.1:1/?secret"],
        ["gzip"],
        ["hangs up"],
    ):
        server.replies = replies
        failed = sg2("convert", secret, "net.safetensors")
        assert failed.code == 1
        assert server.url in failed.err
        assert "secret" not in failed.err + wrong.err
    for server.content in (b"nonsense", b"\x80\x02cos\nsystem\n."):
        server.replies = ["well"]
        failed = sg2("convert", secret, "net.safetensors")
        assert (failed.code, failed.err.split(": ")[1]) == (3, server.url)
        assert "secret" not in failed.err
    server.content, server.replies = CONTENT, ["drops", "404"]
    sg2("convert", secret, "net.safetensors")
    left = list(Path().glob(".sg2-*"))
    assert [path.suffix for path in sorted(left)] == [".json", ".part"]
    for path in left:
        assert b"secret" not in path.read_bytes()
        path.unlink()
    server.content, server.replies = content, ["well"]
    done = sg2("convert", secret, "net.safetensors")
    assert done.code == 0
    assert server.authorization == "Basic bWU6c2VjcmV0"
    assert "secret" not in done.err
    assert b"secret" not in Path("net.safetensors").read_bytes()
    for command in (["info"], ["convert", "other.safetensors"]):
        elsewhere = sg2(command[0], "ftp://me:secret@x/y?secret", *command[1:])
        assert elsewhere.code == 2
        assert "ftp://x/y" in elsewhere.err
        assert "secret" not in elsewhere.err


def test_the_scheme_of_an_address_may_be_in_capitals(sg2: Any, server: Server) -> None:
    write_ada(random_generator(), Path("net.pkl"))
    server.content = Path("net.pkl").read_bytes()
    result = sg2("convert", server.url.replace("http", "HTTP"), "net.safetensors")
    assert result.code == 0, result.err
    assert Network.open(Path("net.safetensors")).source["url"] == server.url


def test_convert_takes_an_address(sg2: Any, server: Server) -> None:
    G = random_generator()
    write_ada(G, Path("net.pkl"))
    server.content = Path("net.pkl").read_bytes()
    digest = sha256(server.content).hexdigest()
    server.replies = ["no length", "well"]
    for _ in range(2):
        result = sg2("convert", server.url, "a/net.safetensors", "--overwrite")
        assert result.code == 0, result.err
        assert digest in result.err
        source = Network.open(Path("a/net.safetensors")).source
        assert (source["url"], source["sha256"]) == (server.url, digest)
        assert [path.name for path in Path("a").iterdir()] == ["net.safetensors"]
    server.content = b"\x80\x02cos\nsystem\n."
    unsafe = sg2("convert", server.url, "c/net.safetensors")
    assert unsafe.code == 3
    assert "os.system" in unsafe.err
    assert list(Path("c").iterdir()) == []
    server.content = Path("net.pkl").read_bytes()
    refused = sg2("convert", server.url, "b.safetensors", "--sha256", "0" * 64)
    assert refused.code == 1
    assert digest in refused.err
    assert sg2("convert", server.url, "b.safetensors", "--sha256", "1").code == 2
    server.replies = ["404"]
    assert "answers 404" in sg2("convert", server.url, "b.safetensors").err
    assert not Path("b.safetensors").exists()


def test_known_names_are_fetched_from_their_publisher(
    sg2: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ada(random_generator(), Path("net.pkl"))
    server.content = Path("net.pkl").read_bytes()
    monkeypatch.setitem(OFFICIAL_NETWORKS, "ffhq", server.url)
    result = sg2("convert", "ffhq", "ffhq.safetensors")
    assert result.lines == ["ffhq.safetensors"]
    assert "non-commercial" in result.err
    assert len(OFFICIAL_NETWORKS) == 27
    unknown = sg2("convert", "ffhq2", "ffhq2.safetensors")
    assert unknown.code == 2
    assert "no file 'ffhq2', nor an official network: ffhq, metfaces, " in unknown.err
    assert all(
        url.startswith("https://") for name, url in OFFICIAL_NETWORKS.items() if name != "ffhq"
    )
