"""The steps shared by drawing commands: open the network and latents, load them, draw."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import checkpoints
from sg2cli.checkpoints.weight_deltas import WeightDeltas, open_weight_deltas
from sg2cli.cli.console import Console
from sg2cli.cli.output import draw_into
from sg2cli.errors import Sg2Error, UsageError
from sg2cli.latents.image_latents import PhotoGiven
from sg2cli.latents.notation import LatentFile
from sg2cli.latents.opening import open_latents
from sg2cli.latents.sources import LatentList
from sg2cli.sampling.grids import Grid
from sg2cli.sampling.output import LOOK_AHEAD
from sg2cli.settings import DrawSettings, GeneratorConfig, Precision
from sg2cli.storage.paths import refuse_inputs

if TYPE_CHECKING:
    from sg2cli.cli.saved_latents import LatentsOutput
    from sg2cli.cli.video import VideoOutput
    from sg2cli.generator import Generator
    from sg2cli.latents.notation import LatentSource
    from sg2cli.sampling.drawing import Drawing
    from sg2cli.sampling.output import ImageOutput


@dataclass(frozen=True)
class Session:
    """A network that is opened but not loaded, so that wrong options fail before torch loads."""

    network: checkpoints.Network
    console: Console
    device: str
    precision: Precision
    tuned_file: Path | None = None
    psi: float | None = None
    read: list[Path] = field(default_factory=list)  # files of latents

    @property
    def config(self) -> GeneratorConfig:
        return self.network.config

    @cached_property
    def tuned(self) -> WeightDeltas | None:
        """The weight deltas of --tuned, checked against the network."""
        return open_weight_deltas(self.tuned_file, self.network) if self.tuned_file else None

    def latents(
        self, sources: Iterable[LatentSource], what: str, reserved: Iterable[str] = ()
    ) -> LatentList:
        """The latents, opened and checked against the network; `what` names the option."""
        tuned = self.tuned.sha256 if self.tuned else None
        try:
            latents = open_latents(sources, self.config, reserved)
        except PhotoGiven as error:
            if self.network.path == checkpoints.bundled()[checkpoints.DEFAULT_NETWORK]:
                raise
            command = f"{error.command} -n {shlex.quote(str(self.network.path))}"
            raise Sg2Error(str(error).replace(error.command, command)) from error
        if not len(latents):
            raise UsageError(f"no latents: give {what}")
        self.read.extend(latents.files)
        for note in latents.notes:
            self.console.note(note)
        if self.psi is not None and (names := latents.truncated):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            self.console.note(f"--trunc does not apply to {shown}: truncated already when drawn")
        for warning in latents.warnings(self.network.sha256, tuned):
            self.console.note(f"warning: {warning}")
        return latents

    def check_outputs(
        self, outputs: Iterable[Path | None], sources: Iterable[LatentSource] = ()
    ) -> None:
        """UsageError if an output would replace an input."""
        files = [source.path for source in sources if isinstance(source, LatentFile)]
        files += self.read
        files += [self.network.path, *([self.tuned_file] if self.tuned_file else [])]
        refuse_inputs(filter(None, outputs), files)

    def check_images(self, output: ImageOutput, names: Iterable[str]) -> None:
        """UsageError if --overwrite would replace an image that is read as a latent."""
        if output.overwrite and not output.stream and self.read:
            self.check_outputs(output.path(name) for name in islice(names, LOOK_AHEAD))

    def load(self) -> Generator:
        """The generator on its device, in its precision."""
        from sg2cli import devices

        G = self.network.load(devices.resolve(self.device))
        if self.tuned:
            self.tuned.apply(G)
        self.console.note_precision(G.device.type, self.precision)
        G.set_precision(self.precision)
        return G

    def draw_images(
        self, drawing: Drawing, output: ImageOutput, saved: LatentsOutput, labels: bool
    ) -> None:
        """Draw a command's images into a folder, and the grid of them; save their latents."""
        grid = Grid(drawing, labels)
        output.needs_folder()
        output.check(chain(["grid"], drawing.names()))
        self.check_images(output, drawing.names())
        saved.check([output.folder])
        G = self.load()
        self.prepare(drawing, G)
        saved.write(drawing, G, self.console)
        done = saved.done_options
        draw_into(output, drawing, G, self.console, grid=grid, done_options=done)

    def draw_video(self, drawing: Drawing, output: VideoOutput, saved: LatentsOutput) -> None:
        """Draw a command's images into a video, or a folder of frames; save their latents."""
        saved.check(output.outputs)
        G = self.load()
        self.prepare(drawing, G)
        saved.write(drawing, G, self.console, shown=not output.streamed)
        output.write(drawing, G, saved.done_options)

    def prepare(self, drawing: Drawing, G: Generator) -> None:
        """Find the directions of an edit, with a bar; warn of those of another network."""
        from sg2cli.latents.directions import warnings
        from sg2cli.sampling.edit import Edit

        if not isinstance(drawing, Edit):
            return
        with self.console.progress("Mapping", 100_000, "latent") as bar:
            found = drawing.find(G, bar.update)
        for warning in warnings(found, self.network.sha256):
            self.console.note(f"warning: {warning}")


def open_session(
    network: str,
    device: str,
    precision: Precision,
    as_json: bool,
    quiet: bool,
    tuned: Path | None = None,
    **settings: Any,
) -> tuple[Session, DrawSettings]:
    """Build a session and settings from the options shared by drawing commands.

    CheckpointError or UsageError for a file that is not a network.
    """
    console = Console(as_json, quiet)
    found = checkpoints.find_network(network)
    drawn = DrawSettings(**settings)
    return Session(found, console, device, precision, tuned, drawn.psi), drawn
