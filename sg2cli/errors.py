"""Errors caused by files and arguments, with the exit codes of the command line.

Sg2Error            1  the work, or a part of it, failed
├── UsageError      2  an argument does not fit the network, the files or other arguments
└── CheckpointError 3  a network file is unsafe, damaged or in an unknown format

Messages name arguments in backticks; `sg2cli.cli` shows them as options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_MEMORY = (  # parts of messages, also of oneDNN and of the dynamic loader
    *("out of memory", "allocate memory"),
    *("could not create a memory object", "could not create a primitive"),
    "failed to map segment",  # while a library is being loaded
)


class Sg2Error(Exception):
    """The base of all errors that files and arguments cause."""

    exit_code = 1


class UsageError(Sg2Error):
    """The request is invalid; the message says what to change."""

    exit_code = 2


class CheckpointError(Sg2Error):
    """The network file is unsafe, damaged or in an unknown format."""

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on any device, or oneDNN ran out of memory."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(words in message for words in NO_MEMORY)


def printable(text: str) -> str:
    """Text that is safe to print: addresses without secrets, control characters escaped."""
    shown = redact_addresses(text)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def brief(text: str, limit: int = 60) -> str:
    """Text that a user typed, quoted and shortened for a message.

    Secrets in an address are removed first, as a shortened one could no longer be parsed.
    """
    text = public(text) if is_address(text) else redact_addresses(text)
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def reason(error: OSError | MemoryError) -> str:
    """The message of the system, in lower case: 'no space left on device'."""
    if isinstance(error, MemoryError):  # of Python, which may have no message
        return str(error).lower() or "out of memory"
    return error.strerror.lower() if error.strerror else str(error)


# A path keeps one of the two slashes; a single letter with one of them is a drive of Windows.
_SCHEME = r"[a-z][a-z0-9+.-]{0,30}:(?:/{2,}|(?<=[a-z0-9+.-]{2}:)[/\\]+)"
_START = re.compile(rf"{_SCHEME}|(?<![\w:/\\.])//(?=[^\s/?#]*@)", re.IGNORECASE)
_NEXT = r"(?!(?<=[/,])[a-z][a-z0-9+.-]{0,30}:/)"  # not where an address in an address begins
_BODY = {
    quote: re.compile(rf"(?:{_NEXT}(?:\\.|[^\\{quote}]))*", re.IGNORECASE | re.DOTALL)
    for quote in "'\"`"
}
_WORD = re.compile(rf"(?:{_NEXT}\S)*", re.IGNORECASE)
_TO_LAST_AT = re.compile(rf"(?:(?!{_SCHEME}).)*@\S*", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9a-f:.]+(?:%[\w.]*)?\]?|[\w.-]*)(?::\d{0,5})?", re.IGNORECASE)
_PUNCTUATION = ":,;.)>]"


def is_address(text: str) -> bool:
    """Whether this is a URL, not the name of a file."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def public(url: str) -> str:
    """An address without user, password, query and fragment, to be shown and stored."""
    if not is_address(url):
        return redact_addresses(url)
    scheme, slashes, rest = re.split("(:/{2,})", url, maxsplit=1)
    return f"{scheme.lower()}{slashes}{redact_addresses(_without_secrets(rest))}"


def redact_addresses(text: str) -> str:
    """Text with user, password, query and fragment removed from every address.

    A quoted address ends at the closing quote, others at the next space. If the end of a password
    is ambiguous, because it contains a space or a slash, too much is removed, not too little.
    """
    shown, end = [], 0
    while match := _START.search(text, end):
        shown.append(text[end : match.end()])
        before = text[max(match.start() - 2, 0) : match.start()]
        quoted = None if before[:-1] == "\\" else _BODY.get(before[-1:])
        found = (quoted or _WORD).match(text, match.end())
        if found and not _is_host(found[0]) and "@" not in found[0]:
            found = _TO_LAST_AT.match(text, match.end()) or found
        body = found[0] if found else ""
        body = body if quoted else body.rstrip(_PUNCTUATION)
        shown.append(_without_secrets(body))
        end = match.end() + len(body)
    return "".join(shown) + text[end:]


def _without_secrets(body: str) -> str:
    """An address after its scheme, without user, password, query and fragment."""
    at = re.split(r"[/?#]", body, maxsplit=1)[0].rfind("@")
    if not _is_host(body[at + 1 :]):  # the password has a slash, ? or #
        at = body.rfind("@")
    public_part = re.split(r"[?#]", body[at + 1 :], maxsplit=1)[0]
    return public_part if _is_host(public_part) else "***"


def _is_host(body: str) -> bool:
    """Whether this starts with a host and optional port, not with user:password."""
    host = re.split(r"[/?#]", body, maxsplit=1)[0]
    return _HOST.fullmatch(host.rstrip(_PUNCTUATION)) is not None


@contextmanager
def errors_named(copy: Path, name: str) -> Iterator[None]:
    """Replace the path of a temporary copy in errors by the name that the user gave."""
    try:
        yield
    except Sg2Error as error:
        error.args = (str(error).replace(str(copy), name),)
        raise
