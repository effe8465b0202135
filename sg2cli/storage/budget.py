"""Limits on the work that a file may cause; every reader counts its work against them.

Limits count bytes, pixels, scans, directories or objects, never seconds, so that a file is read or
refused alike on every machine. They are far above what real files need, and low enough that hostile
ones are refused within seconds and a few hundred megabytes.
"""

from __future__ import annotations

MIB = 1 << 20

# Whole files, read into memory. A known size is checked before reading; that of a pipe is unknown.
MAX_CHECKPOINT = 2048 * MIB  # of other code; ours are read tensor by tensor
MAX_PIPE = 256 * MIB
MAX_PIPED_CHECKPOINT = 2048 * MIB  # copied to the disk first
MAX_SMALL_FILE = 4 * MIB  # up to this size a file is read at once, and closed

# Pickles and archives.
MAX_OPCODES = 500_000  # a network with its discriminator has some ten thousand
MAX_TENSORS = 20_000  # a network with its optimiser has some thousand
MAX_FILTERS = 100  # a generator has three for each of up to eleven blocks
MAX_MEMBERS = 65_535  # of a zip file; more need the 64-bit format
MAX_DIRECTORY = 8 * MIB  # bytes of a zip file's list of members
MAX_DIRECTIONS = 16 * MIB  # numbers of all directions in a file
MAX_UNPACKED, MAX_RATIO = 16 * MIB, 20  # of compressed latents, which are hardly compressible

# .safetensors
MAX_HEADER = 1 * MIB  # that of a 1024x1024 network has 30 KiB
MAX_DIMENSIONS = 8

# Images.
MAX_PIXELS = 256 * MIB  # 16384 x 16384, of three or four bytes in memory
MAX_PIXELS_OF_FORMAT = {  # whose decoders hold an image several times
    **{"WEBP": 48 * MIB, "AVIF": 48 * MIB, "JPEG2000": 32 * MIB},
}
MAX_PHOTO = 2048 * MIB  # bytes of a file: MAX_PIXELS with eight bytes each
MAX_COEFFICIENTS = 384 * MIB  # of a JPEG with several scans, two bytes each
MAX_PIXELS_IN_PYTHON = 8 * MIB  # of formats that Pillow decodes in Python: QOI, PPM as text, ...
MAX_READ_AT_ONCE = 256 * MIB  # bytes of a compressed TIFF, WebP or AVIF
MAX_SIDE = 65_535  # pixels, as in JPEG
MAX_PARTS = 20_000  # chunks, segments and boxes, and one more per 64 bytes
MAX_PARTS_IN_ALL = 400_000  # whatever its size
MAX_BLOCKS = 2 * MIB  # of a GIF, up to 255 bytes each
MAX_COMMENTS = 1000  # of a PPM as text: Pillow copies up to 1 MiB for each
MAX_TEXT = 128 * MIB  # bytes of a PPM as text
MAX_EXIF_SEGMENTS = 100  # of a JPEG: Pillow copies all previous ones with each
MAX_ICONS, MAX_ICON_SIDE = 256, 1024  # images of an ICO, and pixels per side
MAX_BYTES_OF_ITEMS = 128 * 1024  # of item lists of an AVIF, which libavif searches repeatedly
MAX_TILE = 16 * MIB  # pixels of a TIFF tile, or twice those of the image
MAX_TILES = 16_384  # of a JPEG 2000: a decoder allocates some 10 KiB for each
MAX_SCANS = 100  # of a progressive JPEG; encoders write up to 20
MAX_SCANNED = 16 * MAX_PIXELS  # pixels of all scans together
MAX_METADATA = 64 * MIB  # bytes of texts, profiles and comments
MAX_TAGS = 1000  # of a directory of a TIFF or EXIF
MAX_STRIPS = 1 << 18  # of a TIFF, or tiles
MAX_PACKETS = 4 * MIB  # of a JPEG 2000
MAX_CODE_BLOCKS = 1 * MIB  # of a JPEG 2000; a record of each is kept


class LimitExceeded(ValueError):
    """A file exceeds a limit; the message names it."""


class Budget:
    """Counts the costs of reading one file, with a limit for each kind.

    >>> Budget(scans=100).charge("scans", 3000)
    Traceback (most recent call last):
    sg2cli.storage.budget.LimitExceeded: it has more than 100 scans
    """

    def __init__(self, **limits: int) -> None:
        self.limits = limits
        self.used = dict.fromkeys(limits, 0)

    def charge(self, what: str, count: int = 1) -> None:
        """Add to a count; LimitExceeded if it exceeds its limit."""
        self.used[what] += count
        if self.used[what] > self.limits[what]:
            label = what.replace("_", " ")
            raise LimitExceeded(f"it has more than {self.limits[what]:,} {label}")
