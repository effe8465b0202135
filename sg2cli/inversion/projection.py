"""The class `sg2cli.Projection`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli.inversion import LATENT, results
from sg2cli.inversion.names import HISTORY, RESULTS
from sg2cli.storage.atomic import NameTaken, check_folder
from sg2cli.storage.ownership import OwnedFolder
from sg2cli.storage.paths import is_there, user_path

if TYPE_CHECKING:
    from sg2cli.images.pixels import Pixels
    from sg2cli.inversion.state import Ended, Record
    from sg2cli.inversion.verdict import Verdict
    from sg2cli.storage.array_files import Array


@dataclass(frozen=True, eq=False, repr=False)
class Projection:
    """The latent of a photo; displays in a notebook, and is accepted wherever a latent is.

    `sg2cli.generate(G, found)` draws `found.image` again, with identical pixels.
    """

    name: str  # of its photo, without the extension
    ws: Array  # [num_ws,w_dim] float32
    noise: Mapping[str, Array]  # optimised noise maps [H,W] by the name of their buffer
    image: Pixels  # [H,W,C] uint8: the image of ws and noise
    target: Pixels  # [H,W,C] uint8: the photo, cropped and resized
    figures: results.Figures  # distances between image and target
    verdict: Verdict | None  # on them; None if the network cannot draw samples
    steps: int  # number of steps taken
    ended: Ended  # "done", or the reason for ending early: "plateau", "time", "not finite"
    history: Sequence[Record]  # one record per step
    provenance: Mapping[str, Any]  # network, settings, photo and figures; `save` writes it

    @property
    def lpips(self) -> float:
        """LPIPS-VGG between image and target: 0 is identical, 0.1 a good copy."""
        return self.figures.lpips_vgg

    def save(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write the files of `sg2 project` into a folder, with provenance; returns their paths.

        projected.safetensors (ws [1,num_ws,w_dim] and noise maps), projected.png, target.png,
        compare.png, history.csv and, if matplotlib is installed, loss.png. Sg2Error if one of them
        exists, unless `overwrite`, or cannot be written.
        """
        path = user_path(str(folder))
        check_folder(path)
        names = [HISTORY, "loss.png", "target.png", "projected.png", "compare.png", LATENT]
        for file in (path / name for name in names):
            if is_there(file) and not overwrite:
                raise NameTaken(file)
        owned = OwnedFolder(path, RESULTS, replace=overwrite)
        return [*results.write_history(owned, self), *results.write_result(owned, self)]

    def __repr__(self) -> str:
        height, width, _ = self.image.shape
        verdict = f", {self.verdict.word}" if self.verdict else ""
        return f"Projection({self.name!r}, {width}x{height}, LPIPS {self.lpips:.3f}{verdict})"

    def _repr_png_(self) -> bytes:
        return results.comparison(self)
