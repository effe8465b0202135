"""What the promises in docs/reliability.md are worth when they are put to it for hours.

Kills commands at random moments, draws 10,000 pictures, and runs for an hour over good and bad
input; ends with 1 if a promise broke. KILLS and MINUTES set how often and how long.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import killing

DOC = Path("docs/reliability.md")
KILLS = int(os.environ.get("KILLS", "200"))
MINUTES = float(os.environ.get("MINUTES", "60"))
PICTURES = (1000, 10_000)


def main() -> int:
    broken: list[str] = []
    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(f"- {line}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        killing.prepare(folder)
        seed = random.randrange(1 << 32)
        dice = random.Random(seed)
        for command in killing.COMMANDS:
            seconds = killing.unbroken(folder, command)
            kills = -(-KILLS // len(killing.COMMANDS))
            found = []
            for times in [3] * (kills // 3) + [kills % 3] * (kills % 3 > 0):
                found += killing.kill(folder, command, seconds, times, dice)
            broken += found
            tell(f"{command}: killed {kills} times, {len(found)} promises broken")
        first, last = killing.resident_sizes(folder, PICTURES)
        growth = last / first - 1
        tell(
            f"resident size at picture {PICTURES[0]:,}: {first >> 20} MiB; at {PICTURES[1]:,}: "
            f"{last >> 20} MiB, {growth:+.1%}"
        )
        broken += [f"resident size grew by {growth:.1%}"] * (growth > 0.02)
        for command in ("generate", "project"):
            message, wrong = long_run(folder, command, MINUTES * 30)
            broken += wrong
            tell(message)
    tell(f"seed {seed}, {time.strftime('%Y-%m-%d')}, Python {sys.version.split()[0]}")
    before, rest = DOC.read_text().split("<!-- soak -->\n", 1)
    after = rest.split("<!-- end of soak -->\n", 1)[1]
    text = "\n".join(lines)
    DOC.write_text(f"{before}<!-- soak -->\n{text}\n<!-- end of soak -->\n{after}")
    print("\n".join(broken))
    return bool(broken)


def long_run(folder: Path, command: str, seconds: float) -> tuple[str, list[str]]:
    """About so many seconds over good and bad input; what it told, and what is wrong with that."""
    count = 2000 if command == "generate" else 20
    took, _, _ = mixed_run(folder, command, count)  # for the rate
    count = max(count, int(count * seconds / took))
    took, bad, summary = mixed_run(folder, command, count)
    message = f"{command}: {took / 60:.0f} minutes, {summary['done']:,} done, "
    message += f"{len(summary['failed']):,} failed of {bad} that had to"
    right = summary["done"] == count - bad and len(summary["failed"]) == bad
    return message, [] if right else [f"{message}, of {count}"]


def mixed_run(folder: Path, command: str, count: int) -> tuple[float, int, dict[str, Any]]:
    """Names of some pictures are taken, or some photos are none: seconds, how many, summary."""
    bad = range(0, count, max(10, count // 100))
    out, photos = folder / "mixed", folder / "mixed-photos"
    for used in (out, photos):
        shutil.rmtree(used, ignore_errors=True)
        used.mkdir()
    more = ["--skip-existing", "--seeds", f"0-{count - 1}"]
    if command == "generate":
        for seed in bad:
            (out / f"seed{seed:04d}.png").write_text("no picture")
    else:
        more = [str(photos), "--steps", "20", "--overwrite"]
        for i in range(count):
            good = folder / "photos" / f"{i % 3}.png"
            (photos / f"{i}.png").write_bytes(b"no picture" if i in bad else good.read_bytes())
    args = [*killing.SG2, command, *more, "-n", "net.safetensors", "--out", str(out), "--json"]
    begun = time.monotonic()
    last = b""
    with subprocess.Popen(args, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
        assert p.stdout
        for line in p.stdout:
            last = line
    return time.monotonic() - begun, len(bad), json.loads(last)["summary"]


if __name__ == "__main__":
    sys.exit(main())
