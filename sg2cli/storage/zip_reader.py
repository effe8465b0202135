"""Zip files (APPNOTE.TXT), as PyTorch's .pt and NumPy's .npz are, read strictly.

A member that occurs twice, overlaps another, has local and central headers that disagree, is
encrypted or fails its checksum could be read differently by different readers; here such a file is
refused as a whole.
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
LOCAL = struct.Struct("<4s5H3I2H")  # and in front of its content
MAX_COMMENT = 0xFFFF
ALLOWED_FLAGS = 0x0808  # bit 3: sizes behind the content; bit 11: a name in UTF-8
SIZES_BEHIND = 0x0008
IN_EXTRA = 0xFFFFFFFF  # a number that does not fit is in the field of 64-bit numbers
STORED, DEFLATED = 0, 8


class BadArchive(ValueError):
    """The message says what is wrong with the file."""


@dataclass(frozen=True)
class Member:
    """A file in the archive, as both of its descriptions have it."""

    name: str
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes when unpacked
    at: int  # where its header is
    begin: int = 0  # where its content is


class ZipFile:
    """The members of an archive by name; all headers are checked, no content is read."""

    def __init__(self, source: Source) -> None:
        """BadArchive or LimitExceeded for a file that is not as this module asks for."""
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
            raise BadArchive("its list of members has another length than it says")
        listed.sort(key=lambda pair: pair[0].at, reverse=True)
        end = at  # of the last member; of another, where the next one begins
        for member, flags in listed:
            if member.name in self.members:
                raise BadArchive(f"it has the member {brief(member.name)} twice")
            self.members[member.name] = _located(source, member, flags, end)
            end = member.at

    def read(self, name: str) -> bytes | memoryview:
        """The content of a member, unpacked, and checked against its size and checksum."""
        member = self.members[name]
        content = self._source.read(member.packed, member.begin)
        if member.method == DEFLATED:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                content = unpacker.decompress(content, member.size + 1)
            except zlib.error as error:
                raise BadArchive(f"its member {brief(name)} cannot be unpacked") from error
        if len(content) != member.size:
            raise BadArchive(f"its member {brief(name)} has another size than it says")
        if zlib.crc32(content) != member.crc:
            raise BadArchive(f"its member {brief(name)} is damaged: checksum mismatch")
        return content


def is_zip(start: bytes) -> bool:
    """Whether a file that starts so is an archive; an empty one has no member in front."""
    return start[:4] in (b"PK\3\4", b"PK\5\6")


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Where the list of members is, its bytes, and how many there are."""
    tail_size = min(source.size, END.size + MAX_COMMENT)
    tail_at = source.size - tail_size
    tail = bytes(source.read(tail_size, tail_at))
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + END.size > len(tail):
        raise BadArchive("it is cut off: a zip file ends with a list of its members")
    _, disk, first_disk, here, count, size, at, comment = END.unpack_from(tail, found)
    if found + END.size + comment != len(tail):
        raise BadArchive("it has trailing data after its end record")
    end = tail_at + found
    if IN_EXTRA in (size, at) or 0xFFFF in (here, count) or _has_locator(source, end):
        disk, first_disk, here, count, size, at, end = _find_directory_64(source, end)
    if disk or first_disk or here != count:
        raise BadArchive("it is one part of several")
    if at + size != end:
        raise BadArchive("its central directory is not at the recorded offset")
    if count * ENTRY.size > size:
        raise BadArchive("its list of members is shorter than it says")
    return at, size, count


def _has_locator(source: Source, end: int) -> bool:
    at = end - LOCATOR_64.size
    return at >= 0 and source.read(4, at) == b"PK\6\7"


def _find_directory_64(source: Source, end: int) -> tuple[int, int, int, int, int, int, int]:
    """The same of an archive with 64-bit numbers, whose record lies in front of the end."""
    if not _has_locator(source, end):
        raise BadArchive("it lacks the numbers of 64 bits that it announces")
    locator = end - LOCATOR_64.size
    _, _, at, _ = LOCATOR_64.unpack(source.read(LOCATOR_64.size, locator))
    if at + END_64.size > locator:
        raise BadArchive("its numbers of 64 bits are not where they have to be")
    magic, length, _, _, *numbers = END_64.unpack(source.read(END_64.size, at))
    if magic != b"PK\6\6" or at + 12 + length != locator:
        raise BadArchive("its numbers of 64 bits are not where they have to be")
    disk, first_disk, here, count, size, directory = numbers
    return disk, first_disk, here, count, size, directory, at


def _entry(directory: bytes, position: int) -> tuple[Member, int, int]:
    """A member as the directory lists it, its flags, and where the next one is listed."""
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
    if flags & ~ALLOWED_FLAGS & ~0x0006:  # bits 1 and 2: how hard it was packed
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
    if "\0" in name:  # at which some readers end the name
        raise BadArchive("it has a member whose name is not text")
    return name


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """Numbers of 32 bits, or those of 64 in the extra field that stand for some of them."""
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
                raise BadArchive("it lacks the numbers of 64 bits that it announces")
            (number,) = struct.unpack_from("<Q", wide, position)
            position += 8
        found.append(number)
    return found


def _located(source: Source, member: Member, flags: int, end: int) -> Member:
    """The member with the place of its content, which its own header tells, up to `end`."""
    label = brief(member.name)
    if member.at + LOCAL.size > end:
        raise BadArchive(f"its member {label} lies on another, or beyond the end")
    fields = LOCAL.unpack(source.read(LOCAL.size, member.at))
    magic, _, own_flags, method, _, _, crc, packed, size, name_size, extra_size = fields
    begin = member.at + LOCAL.size + name_size + extra_size
    if begin + member.packed > end:
        raise BadArchive(f"its member {label} lies on another, or beyond the end")
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
