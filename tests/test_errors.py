"""Addresses in messages and in what is written: without user, password, query and fragment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sg2cli.errors import brief, public, redact_addresses

SECRET = "http://me:secret@host.example/x.pkl?token=secret#secret"
SHOWN = "http://host.example/x.pkl"

# Whole addresses, of which the text around the address is no part.
ADDRESSES = {
    SECRET: SHOWN,
    "http://host/x": "http://host/x",
    "http://host": "http://host",
    "HTTP://host/x": "http://host/x",
    "hTTps://secret@host/x": "https://host/x",
    "http://me:se@cret@host/x": "http://host/x",
    "http://me%40x:secr%40et@host/x": "http://host/x",
    "http://me:@host/x": "http://host/x",
    "http://:secret@host/x": "http://host/x",
    "http://@host/x": "http://host/x",
    "http://me:sec/ret@host/x": "http://host/x",
    "http://me:sec?ret@host/x": "http://host/x",
    "http://me:sec#ret@host/x": "http://host/x",
    "http://me:sec ret@host/x": "http://host/x",
    "http://me:sec\tr\net@host/x": "http://host/x",
    "http://sec ret@host/x": "http://host/x",
    "http://me:sec://ret@host/x": "http://host/x",
    'http://me:sec"ret@host/x': "http://host/x",
    "http://me:sec'ret@host/x": "http://host/x",
    "http://me:secret\\@host/x": "http://host/x",
    "http://me:secr\u00e9t@host/x": "http://host/x",
    "http://me:sec\x1b[31mret@host/x": "http://host/x",
    "http://me:secret@[2001:db8::1]:8080/x?secret": "http://[2001:db8::1]:8080/x",
    "http://[2001:db8::1]/x": "http://[2001:db8::1]/x",
    "http://[fe80::1%25eth0]/x": "http://[fe80::1%25eth0]/x",
    "http://me:secret@host:99999/x": "http://host:99999/x",
    "http://me:secret@host:port/x": "http://***",
    "http://me:secret": "http://***",
    "http://me:secret/x": "http://***",
    "http://[secret/x": "http://***",
    "http:///x?secret": "http:///x",
    "http:///me:secret@host/x": "http:///host/x",
    "http://sec(ret/@host/x": "http://host/x",
    "http://host?secret": "http://host",
    "http://host#secret": "http://host",
    "http://host/x@1.0/y": "http://host/x@1.0/y",
    "http://host:8080/@x/y": "http://host:8080/@x/y",
    "http://a/http://me:secret@b/x?secret": "http://a/http://b/x",
    "s3://key:secret@bucket/x": "s3://bucket/x",
    "x://me:secret@host/x": "x://host/x",
    "git+ssh://me:secret@host/x": "git+ssh://host/x",
    "a.b-c+d://me:secret@host/x": "a.b-c+d://host/x",
    f"{'a' * 100}://me:secret@host/x": f"{'a' * 100}://host/x",
    "file:///etc/passwd": "file:///etc/passwd",
}

# Texts in which addresses stand, as messages have them.
TEXTS = {
    "": "",
    "no address: 12 of 13, a@b, C:\\Users\\me@work\\x?.png, 'C:\\\\Users\\\\me@work'": None,
    "ratio 1:/2, 10:30, key:value@x, a//b?c.png, //, ://, ':', http:, http:x@y": None,
    f"{SECRET}: the server says 404: check the address": f"{SHOWN}: the server says 404: "
    "check the address",
    f"no file {SECRET}": f"no file {SHOWN}",
    f"extra argument ({SECRET}) (see sg2 --help)": f"extra argument ({SHOWN}) (see sg2 --help)",
    f"<{SECRET}>, [{SECRET}]; {SECRET}, {SECRET}.": f"<{SHOWN}>, [{SHOWN}]; {SHOWN}, {SHOWN}.",
    f"{SECRET},{SECRET}": f"{SHOWN},{SHOWN}",
    f"--n={SECRET}": f"--n={SHOWN}",
    f"{SECRET!r} is no number": f"{SHOWN!r} is no number",
    f'"{SECRET}" is no number': f'"{SHOWN}" is no number',
    "'http://me:sec ret@host/x?a secret' is none": "'http://host/x' is none",
    "'http://me:sec\\'ret@host/x?\\'secret' is none": "'http://host/x' is none",
    "\"http://me:sec'ret@host/x?'secret\" is none": '"http://host/x" is none',
    "'http://sec ret@host/x' is none": "'http://host/x' is none",
    "no file http://me:sec ret@host/x": "no file http://host/x",
    f"{Path(SECRET)} is no file": "http:/host.example/x.pkl is no file",
    f"{Path(SECRET)!r}": "PosixPath('http:/host.example/x.pkl')",
    f"{Path('/home/u') / SECRET}": "/home/u/http:/host.example/x.pkl",
    "http:\\\\me:secret@host\\x?secret": "http:\\\\***",
    "http:/\\me:secret@host/x": "http:/\\host/x",
    "http:////me:secret@host/x": "http:////host/x",
    "//me:secret@host/x?secret": "//host/x",
    "1http://me:secret@host/x": "1http://host/x",
    "\x1b[31mhttp://me:secret@host/x": "\x1b[31mhttp://host/x",
    "file[http://me:secret@host/x.npy]": "file[http://host/x.npy]",
    "http://127.0.0.1:8000: refused": None,
    "http://[::1]: refused, http://[::1]:80, too": None,
    "http://host/x: photos a@2x.png failed": None,
    "http://***": None,
    '"{\\"url\\": \\"http://host/x\\", \\"why\\": \\"a?\\"}"': None,
}


@pytest.mark.parametrize(("address", "shown"), ADDRESSES.items())
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert public(address) == shown
    assert public(shown) == shown
    assert brief(address, 200) == repr(shown)
    assert "secret" not in redact_addresses(f"no file {address!r}: give another")
    assert "secret" not in redact_addresses(f"no file {address}: give another")


@pytest.mark.parametrize(("text", "shown"), TEXTS.items())
def test_addresses_in_a_text_lose_their_secrets(text: str, shown: str | None) -> None:
    assert redact_addresses(text) == (text if shown is None else shown)
    assert redact_addresses(redact_addresses(text)) == redact_addresses(text)


def test_what_is_cut_short_shows_no_part_of_a_password() -> None:
    assert brief(f"http://me:{'secret' * 20}@host/x") == "'http://host/x'"
    assert brief(f"x http://me:{'secret' * 20}@host/x") == "'x http://host/x'"
    assert brief("a" * 100) == repr("a" * 60 + "...")


@pytest.mark.parametrize(
    "text",
    [
        *("a" * 300_000, "a:" * 150_000, "http://" * 50_000, "'http://" * 50_000, "//a" * 100_000),
        *("http://a:b " * 30_000, "http://a:b\\" * 30_000, "x://a@" * 50_000, "/" * 300_000),
        *("'http://" + "\\" * 300_000, "http://me:" + "@ " * 150_000, "://" * 100_000),
    ],
    ids=range(12),
)
def test_the_work_grows_with_the_length_of_the_text(text: str) -> None:
    """Anything quadratic would take hours for this."""
    assert len(redact_addresses(text)) <= len(text) + 3 * text.count(":")


SAVED = "net.safetensors"


@pytest.mark.parametrize(
    "args",
    [
        ("generate", "-n", SECRET, "--seeds", "0"),
        ("generate", "--seeds", "0", "--out", SECRET),
        ("generate", "--seeds", SECRET),
        ("generate", "--seeds", "0", "--save-latents", f"{SECRET}.npz"),
        ("generate", "--latents", SECRET),
        ("generate", "--latents", f"{SECRET}.npy[2]"),
        ("generate", "--latents", "http://me:secret@host/secret.npy:w"),
        ("generate", "--seeds", "0", "--tuned", SECRET),
        ("generate", "--seeds", "0", "--trunc", SECRET),
        ("generate", "--seeds", "0", "--device", SECRET),
        ("generate", "--seeds", "0", "--grid", SECRET),
        ("generate", "--seeds", "0", "--shard", SECRET),
        ("generate", "--seeds", "0", SECRET),
        ("generate", "--seeds", "0", f"--{SECRET}"),
        ("mix", "--rows", SECRET, "--cols", "1"),
        ("truncate", "--seeds", "0", "--psi", SECRET),
        ("interpolate", "--latents", "0,1", "--out", f"{SECRET}.mp4"),
        ("interpolate", "--latents", "0,1", "--out", "http://me:secret@host/secret.mp4"),
        ("project", SECRET),
        ("project", "http://me:secret@host/*.png"),
        ("project", "p.png", "--init", SECRET),
        ("project", "p.png", "--mask", SECRET),
        ("project", "p.png", "--out", SECRET),
        ("project", "p.png", "-n", SECRET),
        ("edit", "0", "--direction", SECRET),
        ("edit", "0", "--direction", f"{SECRET}:0"),
        ("edit", "0", "--direction", f"{SECRET}:pca:0"),
        ("edit", "0", "--direction", "pca:0", "--amount", SECRET),
        ("directions", "--out", SECRET),
        ("directions", "--out", "http://me:secret@host/secret.safetensors"),
        ("convert", SECRET, SECRET),
        ("convert", SAVED, "http://me:secret@host/secret.safetensors"),
        ("convert", SECRET, "x.pt", "--to", "ada"),
        ("convert", SAVED, "x.safetensors", "--merge", SECRET),
        ("convert", SECRET, "x.safetensors", "--sha256", SECRET),
        ("convert", SECRET.replace("http", "gopher"), "x.safetensors"),
        ("convert", "http:/me:secret@host/secret.pkl", "x.safetensors"),
        ("info", SECRET),
        ("info", SECRET, "--json"),
        ("doctor", "-n", SECRET),
        (SECRET,),
    ],
    ids=lambda args: " ".join(args)[:40],
)
def test_no_option_shows_the_secrets_of_an_address(sg2: Any, args: tuple[str, ...]) -> None:
    Image.new("RGB", (8, 8)).save("p.png")
    Path(SAVED).write_bytes(b"")
    result = sg2(*args)
    assert result.code in (1, 2, 3)
    assert "me:" not in result.out + result.err
    assert "=secret" not in result.out + result.err
    assert not list(Path().glob("http*"))
