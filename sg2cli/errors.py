"""The errors that users cause or meet, caught once, in `sg2cli.cli.main`.

Sg2Error            1  the work, or a part of it, failed
├── UsageError      2  an option that does not fit the network, the files or another option
└── CheckpointError 3  a network file that is unsafe, damaged or in no known format
"""

NO_MEMORY = (  # the last two are oneDNN's words for it
    *("out of memory", "allocate memory"),
    *("could not create a memory object", "could not create a primitive"),
)


class Sg2Error(Exception):
    """Shown as one line, then `exit_code`. Anything else is our bug and keeps its traceback."""

    exit_code = 1


class UsageError(Sg2Error):
    """What was asked for cannot be: says what would be right."""

    exit_code = 2


class CheckpointError(Sg2Error):
    """The weights file is unsafe, damaged or in no known format."""

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory for it: of Python, of torch on any device, of oneDNN."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(words in told for words in NO_MEMORY)


def brief(text: str, limit: int = 60) -> str:
    """What a user typed, quoted for a message, and not longer than a line has room for."""
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


def reason(error: OSError | MemoryError) -> str:
    """The system's own words, in lower case: 'no space left on device'."""
    if isinstance(error, MemoryError):  # of Python, which has no words for it
        return str(error).lower() or "out of memory"
    return error.strerror.lower() if error.strerror else str(error)
