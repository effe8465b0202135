"""Limits on the work that an image file may cause, and on its number of pixels."""

from __future__ import annotations

from sg2cli.storage.budget import (
    MAX_BLOCKS,
    MAX_BYTES_OF_ITEMS,
    MAX_CODE_BLOCKS,
    MAX_COEFFICIENTS,
    MAX_COMMENTS,
    MAX_EXIF_SEGMENTS,
    MAX_ICONS,
    MAX_METADATA,
    MAX_PACKETS,
    MAX_PARTS,
    MAX_PARTS_IN_ALL,
    MAX_PIXELS,
    MAX_PIXELS_OF_FORMAT,
    MAX_SCANNED,
    MAX_SCANS,
    MAX_STRIPS,
    MAX_TAGS,
    MAX_TILES,
    MIB,
    Budget,
    LimitExceeded,
)


def budget_of(size: int) -> Budget:
    """The budget of an image file of `size` bytes."""
    return Budget(
        parts=min(MAX_PARTS + size // 64, MAX_PARTS_IN_ALL),
        blocks=MAX_BLOCKS,
        comments=MAX_COMMENTS,
        exif_segments=MAX_EXIF_SEGMENTS,
        icons=MAX_ICONS,
        bytes_of_items=MAX_BYTES_OF_ITEMS,
        bytes_of_metadata=MAX_METADATA,
        scans=MAX_SCANS,
        pixels_of_scans=MAX_SCANNED,
        tags=MAX_TAGS,
        bytes_of_tags=size + MIB,
        strips=MAX_STRIPS,
        bytes_of_strips=size + MIB,
        tiles=MAX_TILES,
        packets=MAX_PACKETS,
        code_blocks=MAX_CODE_BLOCKS,
        tags_read=8 * MAX_TAGS,
        bytes_of_tags_read=4 * size + MIB,
        reads=4 * MAX_PARTS + size // 64,
        bytes_read=4 * size + 16 * MIB,
    )


def check_pixels(format: str, width: int, height: int, coefficients: int = 0) -> None:
    """LimitExceeded for an image with more pixels than the limit of its format.

    `coefficients`: how many the decoder keeps for each pixel.
    """
    limit = MAX_PIXELS_OF_FORMAT.get(format, MAX_PIXELS)
    if coefficients:
        limit = min(limit, MAX_COEFFICIENTS // coefficients)
    if width * height > limit:
        raise LimitExceeded(
            f"it unpacks to more than {limit >> 20} million pixels: reduce it first"
        )
