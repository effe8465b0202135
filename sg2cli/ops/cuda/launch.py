"""Starting a Triton kernel, which compiles it the first time."""

from __future__ import annotations

import subprocess
from typing import Any

from triton.errors import TritonError  # type: ignore[import-untyped,unused-ignore]

from sg2cli.ops.backend import KernelUnavailable


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """KernelUnavailable where Triton cannot compile: it needs a C compiler, and headers."""
    try:
        kernel[grid](*args, **constants)
    except (ImportError, OSError, subprocess.SubprocessError, TritonError) as error:
        raise KernelUnavailable(f"Triton cannot compile {kernel.__name__} ({error})") from error
    except RuntimeError as error:
        if "compiler" not in str(error):  # "Failed to find C compiler"
            raise
        raise KernelUnavailable(f"Triton cannot compile {kernel.__name__} ({error})") from error
