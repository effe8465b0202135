"""A strict reader for zip files (APPNOTE.TXT), such as PyTorch's .pt and NumPy's .npz.

Archives with duplicate or overlapping members, local and central headers that disagree, encryption
or wrong checksums are refused, because readers could interpret them differently.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from sg2cli.errors import brief
from sg2cli.storage.budget import MAX_DIRECTORY, MAX_MEMBERS, Budget, LimitExceeded
from sg2cli.storage.reading import Source

END = struct.Struct("<4s4H2IH")  # of the central directory
END_64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR_64 = struct.Struct("<4sIQI")
ENTRY = struct.Struct("<4s6H3I5H2I")  # of a member, in the directory
LOCAL = struct.Struct("<4s5H3I2H")  # before its content
MAX_COMMENT = 0xFFFF
ALLOWED_FLAGS = 0x0808  # bit 3: sizes after the content; bit 11: UTF-8 name
SIZES_BEHIND = 0x0008
IN_EXTRA = 0xFFFFFFFF  # the number is in the 64-bit extra field
STORED, DEFLATED = 0, 8


class BadArchive(ValueError):
    """A damaged or ambiguous archive."""


@dataclass(frozen=True)
class Member:
    """A file in the archive, described alike by both of its headers."""

    name: str
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes when unpacked
    at: int  # where its header is
    begin: int = 0  # where its content is


class ZipFile:
    """The members of an archive by name; headers are checked, content is not read."""

    def __init__(self, source: Source) -> None:
        """BadArchive or LimitExceeded if the headers are not valid."""
        self._source = source
        self.members: dict[str, Member] = {}
        at, size, count = _find_directory(source)
        Budget(members=MAX_MEMBERS).charge("members", count)
        if size > MAX_DIRECTORY:
            raise LimitExceeded(f"its list of members has more than {MAX_DIRECTORY:,} bytes")
        directory = bytes(source.read(size, at))
        position, listed = 0, []
        for _ in range(count):
            member, flags, position = _entry(directory, position)
            listed.append((member, flags))
        if position != size:
            raise BadArchive("its list of members has a wrong length")
        listed.sort(key=lambda pair: pair[0].at, reverse=True)
        end = at  # of the last member; for others, the start of the next one
        for member, flags in listed:
            if member.name in self.members:
                raise BadArchive(f"it has the member {brief(member.name)} twice")
            self.members[member.name] = _located(source, member, flags, end)
            end = member.at

    def read(self, name: str) -> bytes | memoryview:
        """The content of a member, unpacked, with size and checksum verified."""
        member = self.members[name]
        content = self._source.read(member.packed, member.begin)
        if member.method == DEFLATED:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                content = unpacker.decompress(content, member.size + 1)
            except zlib.error as error:
                raise BadArchive(f"its member {brief(name)} cannot be unpacked") from error
        if len(content) != member.size:
            raise BadArchive(f"its member {brief(name)} has a wrong size")
        if zlib.crc32(content) != member.crc:
            raise BadArchive(f"its member {brief(name)} is damaged: checksum mismatch")
        return content


def is_zip(start: bytes) -> bool:
    """Whether a file with these first bytes is a zip archive, which may be empty."""
    return start[:4] in (b"PK\3\4", b"PK\5\6")


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Offset and size of the list of members, and their number."""
    tail_size = min(source.size, END.size + MAX_COMMENT)
    tail_at = source.size - tail_size
    tail = bytes(source.read(tail_size, tail_at))
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + END.size > len(tail):
        raise BadArchive("it is cut off: the list of members at its end is missing")
    _, disk, first_disk, here, count, size, at, comment = END.unpack_from(tail, found)
    if found + END.size + comment != len(tail):
        raise BadArchive("it has trailing data after its end record")
    end = tail_at + found
    if IN_EXTRA in (size, at) or 0xFFFF in (here, count) or _has_locator(source, end):
        disk, first_disk, here, count, size, at, end = _find_directory_64(source, end)
    if disk or first_disk or here != count:
        raise BadArchive("it is one part of a multi-part archive")
    if at + size != end:
        raise BadArchive("its central directory is not at the recorded offset")
    if count * ENTRY.size > size:
        raise BadArchive("its list of members is too short")
    return at, size, count


def _has_locator(source: Source, end: int) -> bool:
    at = end - LOCATOR_64.size
    return at >= 0 and source.read(4, at) == b"PK\6\7"


def _find_directory_64(source: Source, end: int) -> tuple[int, int, int, int, int, int, int]:
    """The same for an archive with 64-bit numbers, recorded before the end record."""
    if not _has_locator(source, end):
        raise BadArchive("its 64-bit record is missing")
    locator = end - LOCATOR_64.size
    _, _, at, _ = LOCATOR_64.unpack(source.read(LOCATOR_64.size, locator))
    if at + END_64.size > locator:
        raise BadArchive("its 64-bit record is misplaced")
    magic, length, _, _, *numbers = END_64.unpack(source.read(END_64.size, at))
    if magic != b"PK\6\6" or at + 12 + length != locator:
        raise BadArchive("its 64-bit record is misplaced")
    disk, first_disk, here, count, size, directory = numbers
    return disk, first_disk, here, count, size, directory, at


def _entry(directory: bytes, position: int) -> tuple[Member, int, int]:
    """A member of the directory, its flags, and the position of the next one."""
    if position + ENTRY.size > len(directory):
        raise BadArchive("its list of members is cut off")
    fields = ENTRY.unpack_from(directory, position)
    magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment = fields[
        :13
    ]
    at = fields[16]
    begin = position + ENTRY.size
    end = begin + name_size + extra_size + comment
    if magic != b"PK\1\2" or end > len(directory):
        raise BadArchive("its list of members is damaged")
    name = _name(directory[begin : begin + name_size], flags)
    extra = directory[begin + name_size : begin + name_size + extra_size]
    size, packed, at = _wide(extra, size, packed, at)
    if flags & ~ALLOWED_FLAGS & ~0x0006:  # bits 1 and 2: compression level
        raise BadArchive(f"its member {brief(name)} is encrypted, or stored in an unknown way")
    if method not in (STORED, DEFLATED):
        raise BadArchive(f"its member {brief(name)} is compressed in an unknown way")
    if method == STORED and packed != size:
        raise BadArchive(f"its member {brief(name)} has local and central headers that disagree")
    return Member(name, method, crc, packed, size, at), flags, end


def _name(content: bytes, flags: int) -> str:
    try:
        name = content.decode("utf-8" if flags & 0x0800 else "cp437")
    except UnicodeDecodeError as error:
        raise BadArchive("it has a member whose name is not text") from error
    if "\0" in name:  # some readers end the name here
        raise BadArchive("it has a member whose name is not text")
    return name


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """32-bit numbers, replaced by those of the 64-bit extra field where it has them."""
    wide = b""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            wide = extra[position + 4 : position + 4 + size]
            break
        position += 4 + size
    found, position = [], 0
    for number in numbers:
        if number == IN_EXTRA:
            if position + 8 > len(wide):
                raise BadArchive("its 64-bit record is missing")
            (number,) = struct.unpack_from("<Q", wide, position)
            position += 8
        found.append(number)
    return found


def _located(source: Source, member: Member, flags: int, end: int) -> Member:
    """The member with the position of its content, from its local header, before `end`."""
    label = brief(member.name)
    if member.at + LOCAL.size > end:
        raise BadArchive(f"its member {label} overlaps another or the end of the file")
    fields = LOCAL.unpack(source.read(LOCAL.size, member.at))
    magic, _, own_flags, method, _, _, crc, packed, size, name_size, extra_size = fields
    begin = member.at + LOCAL.size + name_size + extra_size
    if begin + member.packed > end:
        raise BadArchive(f"its member {label} overlaps another or the end of the file")
    rest = bytes(source.read(name_size + extra_size, member.at + LOCAL.size))
    same = magic == b"PK\3\4" and method == member.method and own_flags == flags
    if not same or _name(rest[:name_size], own_flags) != member.name:
        raise BadArchive(f"its member {label} has local and central headers that disagree")
    size, packed = _wide(rest[name_size:], size, packed)
    behind = own_flags & SIZES_BEHIND
    if not behind and (crc, packed, size) != (member.crc, member.packed, member.size):
        raise BadArchive(f"its member {label} has local and central headers that disagree")
    return Member(
        member.name, member.method, member.crc, member.packed, member.size, member.at, begin
    )
