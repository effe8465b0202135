"""Provenance: JSON inside a file that records what made it, with a hash of the rest.

A PNG holds it in the text chunk `sg2`, a JPEG or WebP in the EXIF field ImageDescription, a
.safetensors file under the key `sg2` of its metadata. The hash covers the encoded image data or
stored tensors, so it is checked without decoding them.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sg2cli import __version__

if TYPE_CHECKING:
    from sg2cli.settings import DrawSettings

HASH_KEY = "payload_sha256"
WS_KEY = "ws"  # the latent of an image, see images.stored_ws
OF_A_SEED = frozenset(  # the fields of an image that its seed and settings describe completely
    (
        *("checkpoint", "tuned", "seed", "psi", "cutoff", "class", "noise_mode", "precision"),
        *("version", HASH_KEY),
    )
)
PLACEHOLDER = "0" * 64  # as long as a hash, and replaced by it
DESCRIPTION = 0x010E  # the EXIF tag ImageDescription, for formats without text chunks
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT_AT = 33  # bytes: after the signature and the chunk IHDR
BLOCK = 1 << 20


def image_provenance(
    checkpoint: str | None,
    precision: str,
    settings: DrawSettings,
    latent: Mapping[str, Any],
    mapped: bool,
) -> dict[str, Any]:
    """The provenance of an image: hash of the network, fields of `latent`, and settings.

    `mapped`: whether the latent went through the mapping network, so that psi None means 1.
    """
    return {
        "checkpoint": checkpoint,
        **latent,
        "psi": 1.0 if settings.psi is None and mapped else settings.psi,
        "cutoff": settings.cutoff,
        "class": settings.class_index,
        "noise_mode": settings.noise_mode,
        "precision": precision,
        "version": __version__,
    }


def describe(provenance: Mapping[str, Any], payload_sha256: str) -> str:
    """The JSON to be embedded, in ASCII; its length does not depend on the hash."""
    return json.dumps({**provenance, HASH_KEY: payload_sha256})


def png_text(provenance: Mapping[str, Any], payload_sha256: str = PLACEHOLDER) -> bytes:
    """The whole text chunk of a PNG."""
    content = b"tEXtsg2\0" + describe(provenance, payload_sha256).encode("ascii")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def insert_into_png(content: bytes, provenance: Mapping[str, Any]) -> bytes:
    """A PNG with its provenance."""
    text = png_text(provenance, hashlib.sha256(content).hexdigest())
    return content[:PNG_TEXT_AT] + text + content[PNG_TEXT_AT:]


def fill_in_hash(content: bytes) -> bytes:
    """A JPEG or WebP with its hash in place of the placeholder."""
    field = f'"{HASH_KEY}": "'.encode()
    found = payload_sha256(io.BytesIO(content)).encode()
    return content.replace(field + PLACEHOLDER.encode(), field + found, 1)


def same_settings(found: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
    """Whether two provenances agree, apart from the version of sg2, the hash and the latent.

    The latent follows from the settings, and older versions did not store it.
    """
    as_read = json.loads(json.dumps(provenance))
    either = {"version": None, HASH_KEY: None, WS_KEY: None}
    return {**found, **either} == {**as_read, **either}


def is_of_seed(provenance: Mapping[str, Any]) -> bool:
    """Whether an image shows a seed as it is, neither mixed nor edited."""
    return "seed" in provenance and provenance.keys() <= OF_A_SEED


def is_unchanged(path: Path, provenance: Mapping[str, Any]) -> bool | None:
    """Whether a file has the recorded hash; None if none is recorded, as in older versions.

    OSError when the file cannot be read.
    """
    recorded = provenance.get(HASH_KEY)
    if recorded is None:
        return None
    with path.open("rb") as file:
        return payload_sha256(file) == recorded


def payload_sha256(file: IO[bytes]) -> str:
    """Hash of a PNG, JPEG, WebP or .safetensors file without its provenance, in hexadecimal."""
    digest = hashlib.sha256()
    start = file.read(12)
    file.seek(0)
    if start.startswith(PNG_SIGNATURE):
        blocks = _png_payload(file)
    elif start.startswith(b"\xff\xd8"):
        blocks = _jpeg_payload(file)
    elif start.startswith(b"RIFF"):
        blocks = _webp_payload(file)
    else:
        blocks = _tensors(file)
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _png_payload(file: IO[bytes]) -> Iterator[bytes]:
    """All chunks except ours (PNG specification, section 5.3)."""
    yield file.read(len(PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
        left = int.from_bytes(head[:4], "big") + 4  # and the checksum
        start = file.read(min(left, 4))
        left -= len(start)
        if head[4:] == b"tEXt" and start == b"sg2\0":
            file.seek(left, 1)
        else:
            yield head + start
            yield from _blocks(file, left)
    yield head


def _jpeg_payload(file: IO[bytes]) -> Iterator[bytes]:
    """All segments except EXIF (ITU-T T.81, annex B); none follow the first scan."""
    yield file.read(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        content = file.read(max(int.from_bytes(head[2:], "big") - 2, 0))
        if not (head[1] == 0xE1 and content.startswith(b"Exif\0")):
            yield head + content
        if head[1] == 0xDA:  # start of scan
            break
    else:
        yield head
    yield from _blocks(file)


def _webp_payload(file: IO[bytes]) -> Iterator[bytes]:
    """All chunks except EXIF (WebP container specification)."""
    file.read(12)  # RIFF, a length that counts the EXIF chunk, WEBP
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        length += length % 2
        if head[:4] == b"EXIF":
            file.seek(length, 1)
        else:
            yield head
            yield from _blocks(file, length)
    yield head


def _tensors(file: IO[bytes]) -> Iterator[bytes]:
    """The tensors of a .safetensors file, without its header."""
    file.seek(8 + int.from_bytes(file.read(8), "little") % (1 << 40))
    yield from _blocks(file)


def _blocks(file: IO[bytes], count: int | None = None) -> Iterator[bytes]:
    """`count` bytes of a file, or the rest of it, in blocks."""
    while count is None or count > 0:
        block = file.read(BLOCK if count is None else min(BLOCK, count))
        if not block:
            return
        yield block
        count = None if count is None else count - len(block)
