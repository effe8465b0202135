"""tqdm, without its settings from the environment.

It parses TQDM_NCOLS and the like when it is imported, and raises what a bad value raises.
"""

from __future__ import annotations

import os

_hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TQDM_")}
try:
    from tqdm import tqdm
finally:
    os.environ.update(_hidden)

tqdm.monitor_interval = 0  # no thread beside ours: there may be no memory for one

__all__ = ["tqdm"]
