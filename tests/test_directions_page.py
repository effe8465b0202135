"""The lines of docs/directions.md run as they stand, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[1] / "docs" / "directions.md").read_text("utf-8")


def test_the_lines_work(sg2: Any) -> None:
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.split("\n")
    ]
    commands = [shlex.split(line)[1:] for line in lines if line]
    assert len(commands) == 8
    for command in commands:
        result = sg2(*command)
        assert result.code == 0, result.err
    assert "held-out accuracy" in sg2("info", "my.safetensors").out
    assert Path("grown/seed0028-1_+1_+0.5.png").is_file()
