"""Optional packages: the command that installs what an extra of sg2 needs.

It names the packages themselves, so that it works for a checkout, a wheel and an index alike.
"""

from __future__ import annotations

import re
import shlex
from importlib import metadata

FALLBACK = {"video": "av", "plot": "matplotlib"}  # where sg2 runs without being installed


def install_command(extra: str) -> str:
    """`pip install 'av>=12'` for "video"."""
    try:
        requirements = metadata.requires("sg2cli") or []
    except metadata.PackageNotFoundError:
        requirements = []
    marked = re.compile(rf"""([^;]+);.*\bextra\s*==\s*["']{extra}["']""")
    found = [match[1].strip() for text in requirements if (match := marked.match(text))]
    return f"pip install {shlex.join(found or [FALLBACK[extra]])}"
