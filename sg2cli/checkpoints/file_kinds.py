"""Recognise files that are not checkpoints by their first bytes."""

from __future__ import annotations

LENGTH = 512  # bytes to look at
CHECKPOINT = "give a checkpoint"
ARCHIVE = "unpack it, and give the checkpoint inside"
DOWNLOAD = "open its address in a browser, and download the file itself"
KINDS: list[tuple[bytes, str, str]] = [  # beginning, name, advice
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself",
        "run `git lfs pull` in its repository, or download the file from the repository's page",
    ),
    (b"<", "a web page, not a checkpoint", DOWNLOAD),
    (b"{", "a JSON text, not a checkpoint", DOWNLOAD),
    (b"%pdf", "a PDF document", CHECKPOINT),
    (b"\x89png", "a PNG image", CHECKPOINT),
    (b"\xff\xd8\xff", "a JPEG image", CHECKPOINT),
    (b"riff", "a WebP image or a video", CHECKPOINT),
    (b"gif8", "a GIF image", CHECKPOINT),
    (b"\x93numpy", "a NumPy array", CHECKPOINT),
    (b"\x1f\x8b", "a gzip archive", ARCHIVE),
    (b"bzh", "a bzip2 archive", ARCHIVE),
    (b"\xfd7zxz", "an xz archive", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", ARCHIVE),
    (b"7z\xbc\xaf", "a 7-Zip archive", ARCHIVE),
    (b"rar!", "a RAR archive", ARCHIVE),
    (b"\x89hdf", "an HDF5 file, as Keras writes", "sg2 reads PyTorch's and TensorFlow's pickles"),
]


def other_kind(start: bytes) -> tuple[str, str] | None:
    """The name of a file's kind and advice, or None if it may be a checkpoint.

    `start`: the first bytes of the file. Matching ignores case.
    """
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what, advice in KINDS:
        if lowered.startswith(beginning):
            return what, advice
    if not start.strip(b"\0"):
        return "zeros only, as an interrupted download leaves", "download it again"
    if start[257:262] == b"ustar":
        return "a tar archive", ARCHIVE
    return None
