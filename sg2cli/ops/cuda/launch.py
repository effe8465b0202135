"""What the kernels need around them: memory for results, and the first compilation."""

from __future__ import annotations

import subprocess
from typing import Any

import torch
from torch import Tensor
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


def empty(like: Tensor, n: int, channels: int, h: int, w: int) -> Tensor:
    """New memory for maps [n,channels,h,w] in channels_last, of the type and on the device."""
    shape = (n, channels, h, w)
    last = torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=last)
