"""The latent that an image was drawn from, stored in its provenance: ws, float32, compressed.

An image of a seed alone needs none: its provenance gives the latent.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sg2cli.provenance import WS_KEY

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

MAX_DIMENSION = 1 << 20  # rows, or numbers of a row


def pack_ws(ws: Array) -> dict[str, Any]:
    """ws [num_ws,w_dim] as JSON; equal rows are stored once, as w [w_dim]."""
    values = ws.astype("<f4")
    if values.ndim == 2 and (values == values[:1]).all():
        values = values[0]
    content = base64.b85encode(zlib.compress(values.tobytes(), 9)).decode("ascii")
    return {"shape": list(values.shape), "float32": content}


def stored_shape(provenance: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape [num_ws,w_dim] or [w_dim] of the stored latent; None if there is none.

    ValueError if it is malformed.
    """
    stored = provenance.get(WS_KEY)
    if stored is None:
        return None
    shape = stored.get("shape") if isinstance(stored, dict) else None
    if not isinstance(shape, list) or len(shape) not in (1, 2):
        raise ValueError("its latent has no valid shape")
    if not all(type(n) is int and 0 < n <= MAX_DIMENSION for n in shape):
        raise ValueError("its latent has no valid shape")
    return tuple(shape)


def unpack_ws(provenance: Mapping[str, Any]) -> Array:
    """The stored latent; ValueError if it is damaged.

    The caller has compared its shape with the network, which bounds what is unpacked.
    """
    import numpy as np

    shape = stored_shape(provenance)
    content = provenance[WS_KEY].get("float32")
    if shape is None or not isinstance(content, str):
        raise ValueError("its latent is damaged")
    size = 4 * math.prod(shape)
    if len(content) > 2 * size + 1024:  # zlib adds a few bytes, the text a quarter
        raise ValueError("its latent is longer than its shape")
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b85decode(content), size + 1)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ValueError("its latent is damaged") from error
    if len(data) != size or not unpacker.eof:
        raise ValueError("its latent is damaged")
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
