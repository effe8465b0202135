"""The files of a projection, and how close the image is to the photo."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sg2cli.errors import Sg2Error
from sg2cli.images.codecs import encode
from sg2cli.images.grid import ImageGrid
from sg2cli.images.labels import column_header
from sg2cli.images.pixels import to_tensor
from sg2cli.inversion import LATENT
from sg2cli.inversion.names import HISTORY
from sg2cli.inversion.published_lpips import PublishedLPIPS
from sg2cli.inversion.start import Spread
from sg2cli.inversion.state import Found, Record
from sg2cli.inversion.verdict import Verdict, provenance_of
from sg2cli.latents.files import Stream, inspect_latents, write_latents
from sg2cli.latents.notation import LatentFile
from sg2cli.latents.opening import open_latents
from sg2cli.provenance import is_unchanged, same_settings
from sg2cli.sampling import Point, render
from sg2cli.settings import LpipsNet
from sg2cli.storage.ownership import OwnedFolder
from sg2cli.storage.paths import is_there

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator
    from sg2cli.images.photos import Photo, Region
    from sg2cli.images.pixels import Pixels
    from sg2cli.inversion.projection import Projection

COMPARED = 256  # minimum side of the images in compare.png, in pixels


@dataclass(frozen=True)
class Figures:
    """Distances between an image and its target, both in 8 bits, inside the mask."""

    lpips_vgg: float
    lpips_alex: float
    psnr: float  # dB
    w_distance: float  # of ws from the mean of w, in standard deviations of w


class Judge:
    """Measures images with the published LPIPS, by both of its networks."""

    def __init__(self, spread: Spread) -> None:
        self.spread = spread
        self._nets: dict[LpipsNet, PublishedLPIPS] = {}

    def measure(self, image: Pixels, photo: Photo, ws: Tensor) -> Figures:
        """An image [H,W,C] against its photo; ws [num_ws,w_dim].

        The first call loads the networks. Sg2Error when their weights are missing.
        """
        a, b = (to_tensor(pixels[None], ws.float()) for pixels in (image, photo.pixels))
        weight = torch.ones_like(a[:, :1])
        if photo.mask is not None:
            weight = torch.from_numpy(photo.mask).to(a)[None, None]
        with torch.inference_mode():
            seen = b.lerp(a, weight)
            vgg, alex = (self._lpips(net, ws.device)(seen, b).item() for net in ("vgg", "alex"))
            error = ((a - b).square() * weight).sum().item() / (weight.sum().item() * a.shape[1])
            distance = self.spread.distance(ws[None]).item()
        psnr = 10 * math.log10(4 / error) if error else math.inf
        return Figures(vgg, alex, psnr, distance)

    def _lpips(self, net: LpipsNet, device: torch.device) -> PublishedLPIPS:
        if net not in self._nets:
            self._nets[net] = PublishedLPIPS(net, device)
        return self._nets[net]


def redraw(G: Generator, found: Found) -> Pixels:
    """The image [H,W,C], exactly as `generate` draws it from the saved files."""
    noise = {name: noise_map.cpu().numpy() for name, noise_map in found.noise.items()}
    (image,) = render(G, [Point(found.ws, noise=noise)], "const", 1)
    return image


def write_history(folder: OwnedFolder, projection: Projection) -> list[Path]:
    """Write the history as a table and, if matplotlib is installed, as a plot."""
    written = [folder.write(HISTORY, _table(projection.history))]
    if curve := _curve(projection.history, projection.figures):
        written.append(folder.write("loss.png", curve))
    return written


def write_result(folder: OwnedFolder, projection: Projection, npz: bool = False) -> Iterator[Path]:
    """Write the files of a photo, and yield each path when it is complete.

    The latent is written last, so that its presence means that all files are there.
    """
    provenance = projection.provenance
    yield folder.write("target.png", encode(projection.target, "png", provenance))
    image = encode(projection.image, "png", provenance, projection.ws)
    yield folder.write("projected.png", image)
    yield folder.write("compare.png", comparison(projection))
    ws = Stream((1, *projection.ws.shape), [projection.ws])
    if npz:
        with folder.new_file("projected_w.npz") as file:
            write_latents(file, ".npz", {"ws": ws}, provenance)
        yield folder.folder / "projected_w.npz"
    noise = {
        name: Stream((1, *noise_map.shape), [noise_map])
        for name, noise_map in projection.noise.items()
    }
    with folder.new_file(LATENT, durable=True) as file:
        write_latents(file, ".safetensors", {"ws": ws, **noise}, provenance)
    yield folder.folder / LATENT


def read_result(
    folder: Path, candidates: Sequence[Mapping[str, Any]], G: Generator
) -> tuple[int, Found, dict[str, Any]] | None:
    """Read what `write_result` wrote: index of the matching candidate, result, provenance.

    The history is not read. None if there is no result; OtherSettings if no candidate matches;
    Sg2Error for a file that is damaged, or was changed after it was written.
    """
    path = folder / LATENT
    if not is_there(path):
        return None
    try:
        provenance = inspect_latents(path)[1]
    except Sg2Error as error:
        raise Sg2Error(f"{error}: remove it and run the command again") from error
    which = next(
        (i for i, candidate in enumerate(candidates) if _agrees(provenance, candidate)), None
    )
    if which is None:
        raise OtherSettings(
            f"{path} was made with other settings, or from another photo: "
            "`overwrite` replaces it, another `out` keeps it"
        )
    latents = list(open_latents([LatentFile(path)], G.config))
    values = latents[0].values
    whole = len(latents) == 1 and values is not None and _has_figures(provenance)
    if not whole or is_unchanged(path, provenance) is False:
        raise Sg2Error(f"{path} was changed after sg2 wrote it: `overwrite` replaces it")
    assert values is not None
    noise = {name: G.mapping.w_avg.new_tensor(a) for name, a in latents[0].noise.items()}
    ws = G.mapping.w_avg.new_tensor(values).expand(G.config.num_ws, -1)
    found = Found(0, ws, noise, provenance["steps_done"], provenance["ended"], [])
    return which, found, provenance


def _has_figures(provenance: Mapping[str, Any]) -> bool:
    names = ["steps_done", *(field.name for field in fields(Figures))]
    numbers = {name: isinstance(provenance.get(name), int | float) for name in names}
    numbers["psnr"] |= "psnr" in provenance and provenance["psnr"] is None  # equal pixels
    return all(numbers.values()) and "ended" in provenance


class OtherSettings(Sg2Error):
    """A result of the same name that was made with other settings, or from another photo."""


def _agrees(provenance: Mapping[str, Any], candidate: Mapping[str, Any]) -> bool:
    return same_settings({key: provenance.get(key) for key in candidate}, candidate)


def summary(
    found: Found, figures: Figures, verdict: Verdict | None, region: Region | None
) -> dict[str, Any]:
    """The outcome, the figures and the part of the photo, for the metadata."""
    shown = {name: round(value, 6) for name, value in asdict(figures).items()}
    if not math.isfinite(figures.psnr):
        shown["psnr"] = None  # equal pixels; JSON has no infinity
    return {
        "steps_done": found.steps,
        "ended": found.ended,
        **shown,
        **provenance_of(verdict),
        "region": region and asdict(region),
    }


def _table(rows: Sequence[Record]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Record))
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue().encode()


def comparison(projection: Projection) -> bytes:
    """A PNG of target, result and their amplified difference side by side, under the figures."""
    target, image, figures = projection.target, projection.image, projection.figures
    difference, factor = amplified(target, image)
    psnr = f"PSNR {figures.psnr:.1f} dB" if math.isfinite(figures.psnr) else "identical pixels"
    labels = [
        "target",
        f"LPIPS {figures.lpips_vgg:.3f} (Alex {figures.lpips_alex:.3f})",
        f"{factor}x difference, {psnr}" if factor > 1 else f"difference, {psnr}",
    ]
    times = -(-COMPARED // len(target))
    cells = [a.repeat(times, axis=0).repeat(times, axis=1) for a in (target, image, difference)]
    shape = cells[0].shape
    file = io.BytesIO()
    header = column_header(labels, shape)
    grid = ImageGrid(file, "png", 3, 1, shape, projection.provenance, header)
    for cell in cells:
        grid.append(cell)
    grid.finish()
    return file.getvalue()


def amplified(target: Pixels, image: Pixels) -> tuple[Pixels, int]:
    """The absolute difference of images [H,W,C], multiplied by a power of two, and that factor.

    The largest factor up to 16 that clips at most 1% of the values, so that small differences are
    visible.
    """
    difference = np.abs(target.astype(int) - image)
    typical = np.quantile(difference, 0.99)
    factor = next(factor for factor in (16, 8, 4, 2, 1) if typical * factor <= 255)
    return np.minimum(difference * factor, 255).astype(np.uint8), factor


def _curve(history: Sequence[Record], figures: Figures) -> bytes | None:
    """LPIPS, learning rate and noise penalty over the steps, if matplotlib is installed."""
    backend = os.environ.pop("MPLBACKEND", None)  # a bad one is an error, and we need none
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    finally:
        os.environ.update({} if backend is None else {"MPLBACKEND": backend})
    steps = [record.step for record in history]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes[0].plot(steps, [record.lpips for record in history], label="LPIPS of the step", lw=1)
    axes[0].axhline(figures.lpips_vgg, color="C2", ls="--", lw=1, label="LPIPS-VGG of the result")
    axes[0].set_ylabel("LPIPS")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    axes[1].plot(steps, [record.lr for record in history], color="C1", lw=1)
    axes[1].set_ylabel("learning rate")
    axes[1].set_xlabel("step")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
