"""The option --save-latents of the drawing commands."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sg2cli.cli.console import Console
from sg2cli.cli.options import LATENTS_FILE
from sg2cli.errors import UsageError
from sg2cli.sampling.saving import save_drawn_latents
from sg2cli.storage.atomic import check_folder

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.sampling.drawing import Drawing

save_latents_option = click.option(
    "--save-latents",
    "save_to",
    type=LATENTS_FILE,
    metavar="FILE",
    help="Save ws as .safetensors, .npz or .npy.",
)


@dataclass(frozen=True)
class LatentsOutput:
    """The file of --save-latents, if it is given."""

    path: Path | None
    overwrite: bool
    skip_existing: bool

    def check(self, others: Iterable[Path | None]) -> None:
        """UsageError if it contradicts other options; Sg2Error if it cannot be written.

        `others`: the other outputs.
        """
        if not self.path:
            return
        if self.path.suffix != ".safetensors" and self.skip_existing:
            raise UsageError(
                f"{self.path} does not record what made it, which --skip-existing needs: "
                "save a .safetensors"
            )
        check_folder(self.path.parent)
        if os.path.realpath(self.path) in map(os.path.realpath, filter(None, others)):
            raise UsageError(f"--out and --save-latents are both {self.path}: use two names")

    @property
    def done_options(self) -> list[str]:
        """The option, if it is not kept when an interrupted run is continued."""
        return ["--save-latents"] if self.path and self.path.suffix != ".safetensors" else []

    def write(self, drawing: Drawing, G: Generator, console: Console, shown: bool = True) -> None:
        """Save the latents of all images; its path is reported if `shown`."""
        if not self.path:
            return
        with console.progress("Mapping", drawing.result_count, "latent") as bar:
            made = save_drawn_latents(
                drawing, G, self.path, self.overwrite, self.skip_existing, bar.update
            )
        if made and shown:
            console.wrote(self.path, made)
