"""How near inversions come, and how long they take: the table in docs/inversion.md.

Runs `sg2 project` as a user does, over the drawings in tests/targets and over images of the
bundled network itself, whose true latents are known. What is done is kept in out/inversion, and
written into docs/inversion.md at once, so that it can be stopped, and goes on where it was.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from sg2cli import checkpoints
from sg2cli.images.photos import Photo, read_photo
from sg2cli.inversion.results import Judge, redraw
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.state import Found
from sg2cli.latents.mapping import seed_to_z

if TYPE_CHECKING:
    pass

OUT = Path("out/inversion")
DOC = Path("docs/inversion.md")
TARGETS = sorted(Path("tests/targets").glob("*.png"))[:8]  # no setting was chosen on these
OWN_SEEDS = range(910_000, 910_002)  # no setting was chosen by looking at these
AT_ONCE = 4  # photos a command
RUNS: dict[str, tuple[str, ...]] = {
    "fast": ("--preset", "fast"),
    "fast, the first four": ("--preset", "fast"),
    "best": ("--preset", "best"),
    "paper": ("--preset", "paper"),
    "fast, no noise maps": ("--preset", "fast", "--noise-maps", "off"),
    "fast, alone": ("--preset", "fast"),
    "fast, W+": ("--preset", "fast", "--space", "w+"),
}
FEW = {"fast, the first four": 4, "best": 4, "paper": 4, "fast, alone": 1, "fast, W+": 4}
OWN = ("fast",)  # the runs that the network's own images take part in

Row = tuple[str, int, list[str]]  # a run, how many photos, and the columns


def main() -> None:
    own = OUT / "own"
    seeds = f"{OWN_SEEDS[0]}-{OWN_SEEDS[-1]}"
    sg2("generate", "--seeds", seeds, "--skip-existing", "--out", own)
    sets = {"drawings": TARGETS, "own": sorted(own.glob("seed*.png"))}
    tables: dict[str, list[list[str]]] = {"drawings": [], "own": []}
    for run, options in RUNS.items():
        for name, photos in sets.items():
            if name == "own" and run not in OWN:
                continue
            folder = OUT / name / re.sub("[^a-zW+]+", "-", run.partition(", the")[0])
            count = FEW.get(run, len(photos))
            row: list[str] = []
            tables[name].append(row)
            seconds = 0.0
            for first in range(0, count, AT_ONCE):
                last = min(first + AT_ONCE, count)
                seconds += project(folder, photos[first:last], options)
                described = figures(folder, photos[:last], name == "own")
                row[:] = [run, str(last), *described, f"{seconds / last:.1f}"]
                print(name, row, flush=True)
                write(tables)


def write(rows: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Put the tables, as far as they are done, into the document."""
    heads = [
        *("run", "photos", "LPIPS-VGG", "LPIPS-Alex", "PSNR"),
        *(
            "LPIPS-VGG, checkpoint noise",
            "LPIPS-Alex, checkpoint noise",
            "PSNR, checkpoint noise",
            "steps",
        ),
    ]
    text = [
        "Drawings of the kind that the network was trained on, none of which it saw: median and "
        "worst.",
        *table([*heads, "s a photo"], rows["drawings"]),
        "The network's own images; the distance of the latent found from the true one is in "
        "standard deviations of w.",
        *table([*heads, "from the true w", "s a photo"], rows["own"]),
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python "
        f"{platform.python_version()}; one thread, its processor's seconds, {AT_ONCE} photos at "
        "once, or as many as there are.",
    ]
    before, rest = DOC.read_text().split("<!-- table -->\n", 1)
    after = rest.split("<!-- end of the table -->\n", 1)[1]
    body = "\n".join(text)
    DOC.write_text(f"{before}<!-- table -->\n{body}\n<!-- end of the table -->\n{after}")


def sg2(*args: object) -> None:
    command = [sys.executable, "-m", "sg2cli", *map(str, args)]
    # With more threads the time that they wait for one another would count, too.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def project(folder: Path, photos: Sequence[Path], options: Sequence[str]) -> float:
    """Project the photos, unless that is done; seconds for all, as they were when it was done."""
    done = folder / f"seconds-{photos[0].stem}.json"
    if not done.exists():
        start = processor_seconds()
        sg2("project", *photos, *options, "--overwrite", "--out", folder)
        done.write_text(json.dumps(processor_seconds() - start))
    return float(json.loads(done.read_text()))


def processor_seconds() -> float:
    """Of the commands so far: those of the clock would be shared with what else runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def figures(folder: Path, photos: Sequence[Path], own: bool) -> list[str]:
    """The columns of one run but the first and the last."""
    G = checkpoints.load(device="cpu")
    spread = spread_of_w(G)
    judge = Judge(spread)
    described: list[Mapping[str, Any]] = []
    plain, errors = [], []
    for path in photos:
        stored = load_file(folder / path.stem / "projected.safetensors")
        described.append(metadata(folder / path.stem / "projected.safetensors"))
        photo = read_photo(path, G.config.size, 3)
        ws = stored["ws"][0]
        if not described[-1]["tune"]:
            image = redraw(G, Found(0, ws, {}, 0, "done", []))
            plain.append(judge.measure(image, Photo(photo.pixels), ws))
        if own:
            z = torch.from_numpy(seed_to_z(int(path.stem[4:]), G.config.z_dim))[None]
            errors.append((ws - G.mapping(z)).norm(dim=1).mean().item() / spread.std)
    columns = [
        worst([t[name] for t in described], name) for name in ("lpips_vgg", "lpips_alex", "psnr")
    ]
    for name in ("lpips_vgg", "lpips_alex", "psnr"):
        columns.append(worst([getattr(f, name) for f in plain], name) if plain else "")
    tuned = f" + {described[0]['tune']['steps']}" if described[0]["tune"] else ""
    columns.append(f"{median(t['steps_done'] for t in described):g}{tuned}")
    return [*columns, f"{median(errors):.2f}"] if own else columns


def metadata(path: Path) -> dict[str, Any]:
    from sg2cli.latents.files import inspect_latents

    return inspect_latents(path)[1]


def worst(values: Sequence[float], name: str) -> str:
    if name == "psnr":
        return f"{median(values):.2f}, {min(values):.2f}"
    return f"{median(values):.4f}, {max(values):.4f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return ["", *(f"| {line} |" for line in lines), ""]


if __name__ == "__main__":
    main()
