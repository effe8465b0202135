"""How near inversions come, and how long they take: the table in docs/inversion.md.

Runs `sg2 project` as a user does, over the drawings in tests/targets and over pictures of the
bundled network itself, whose true latents are known. What is done is kept in out/inversion, and
written into docs/inversion.md at once, so that it can be stopped.
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
from typing import Any

import torch
from safetensors.torch import load_file

from sg2cli import checkpoints
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.project import Projection, spread_of_w
from sg2cli.inversion.results import Judge, redraw
from sg2cli.latents import seed_to_z
from sg2cli.photos import Photo, read_photo

OUT = Path("out/inversion")
DOC = Path("docs/inversion.md")
TARGETS = sorted(Path("tests/targets").glob("*.png"))
OWN_SEEDS = range(910_000, 910_004)  # no setting was chosen by looking at these
FEW = 4  # drawings, and no own pictures, where a run takes long
RUNS: dict[str, tuple[str, ...]] = {
    "paper": ("--preset", "paper"),
    "fast": ("--preset", "fast"),
    "best": ("--preset", "best"),
    f"fast, tuned ({FEW})": ("--preset", "fast", "--tune"),
    f"best, W+ ({FEW})": ("--preset", "best", "--space", "w+"),
    f"paper, W+ ({FEW})": ("--preset", "paper", "--space", "w+"),
    f"fast, no noise maps ({FEW})": ("--preset", "fast", "--noise-maps", "off"),
}


def main() -> None:
    own = OUT / "own"
    seeds = f"{OWN_SEEDS[0]}-{OWN_SEEDS[-1]}"
    sg2("generate", "--seeds", seeds, "--skip-existing", "--out", own)
    sets = {"drawings": TARGETS, "own": sorted(own.glob("seed*.png"))}
    rows: dict[str, list[list[str]]] = {name: [] for name in sets}
    for name, photos in sets.items():
        for run, options in RUNS.items():
            few = run.endswith(")")
            if not (few and name == "own"):
                folder = OUT / name / re.sub("[^a-zW+]+", "-", run)
                photos_of = photos[:FEW] if few else photos
                seconds = project(folder, photos_of, options)
                told = figures(folder, photos_of, name == "own")
                rows[name].append([run, *told, f"{seconds:.1f}"])
                print(name, rows[name][-1], flush=True)
                write(rows)


def write(rows: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Put the tables, as far as they are done, into the document."""
    heads = [
        *("preset", "LPIPS-VGG", "LPIPS-Alex", "PSNR"),
        *("VGG, checkpoint's noise", "Alex, so", "PSNR, so", "steps"),
    ]
    text = [
        f"{len(TARGETS)} drawings of the kind that the network was trained on, none of which it "
        f"saw: median and worst of all, or of the first {FEW} where that stands.",
        *table([*heads, "s a photo"], rows["drawings"]),
        f"{len(OWN_SEEDS)} of the network's own pictures; the distance of the latent found from "
        "the true one is in standard deviations of w.",
        *table([*heads, "from the true w", "s a photo"], rows["own"]),
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python "
        f"{platform.python_version()}; one thread, its processor's seconds, 8 photos at once.",
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
    """Project the photos, unless that is done; seconds a photo, as they were when it was done."""
    done = folder / "seconds.json"
    if not done.exists():
        start = processor_seconds()
        sg2("project", *photos, *options, "--overwrite", "--out", folder)
        done.write_text(json.dumps((processor_seconds() - start) / len(photos)))
    return float(json.loads(done.read_text()))


def processor_seconds() -> float:
    """Of the commands so far: those of the clock would be shared with what else runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def figures(folder: Path, photos: Sequence[Path], own: bool) -> list[str]:
    """The columns of one run but the first and the last."""
    G = checkpoints.load_generator()
    spread = spread_of_w(G)
    judge = Judge(spread, LPIPS("vgg"))
    told: list[Mapping[str, Any]] = []
    plain, errors = [], []
    for path in photos:
        stored = load_file(folder / path.stem / "projected.safetensors")
        told.append(metadata(folder / path.stem / "projected.safetensors"))
        photo = read_photo(path, G.config.img_resolution, 3)
        ws = stored["ws"][0]
        if not told[-1]["tune"]:
            image = redraw(G, Projection(0, ws, {}, 0, "done", []))
            plain.append(judge.measure(image, Photo(photo.pixels), ws))
        if own:
            z = torch.from_numpy(seed_to_z(int(path.stem[4:]), G.config.z_dim))[None]
            errors.append((ws - G.mapping(z)).norm(dim=1).mean().item() / spread.std)
    columns = [worst([t[name] for t in told], name) for name in ("lpips_vgg", "lpips_alex", "psnr")]
    for name in ("lpips_vgg", "lpips_alex", "psnr"):
        columns.append(worst([getattr(f, name) for f in plain], name) if plain else "")
    columns.append(f"{median(t['steps_done'] for t in told):g}")
    return [*columns, f"{median(errors):.2f}"] if own else columns


def metadata(path: Path) -> dict[str, Any]:
    from sg2cli.latent_files import inspect

    return inspect(path)[1]


def worst(values: Sequence[float], name: str) -> str:
    if name == "psnr":
        return f"{median(values):.2f}, {min(values):.2f}"
    return f"{median(values):.4f}, {max(values):.4f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return ["", *(f"| {line} |" for line in lines), ""]


if __name__ == "__main__":
    main()
