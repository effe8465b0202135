"""What every drawing command does before it draws: the network, its latents, the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import checkpoints
from sg2cli.checkpoints.weight_deltas import WeightDeltas, open_weight_deltas
from sg2cli.cli.console import Console
from sg2cli.errors import UsageError
from sg2cli.latents.notation import LatentFile
from sg2cli.latents.sources import LatentList, open_latents
from sg2cli.provenance import image_provenance
from sg2cli.sampling import check_settings
from sg2cli.settings import DrawSettings, Precision
from sg2cli.storage.paths import refuse_inputs

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.latents.notation import LatentSource
    from sg2cli.latents.sources import Latent


@dataclass(frozen=True)
class Session:
    """A network and how it is drawn; errors in the options come before torch is loaded."""

    network: checkpoints.Network
    settings: DrawSettings
    console: Console

    @cached_property
    def tuned(self) -> WeightDeltas | None:
        """The differences of --tuned, found to fit the network."""
        return (
            open_weight_deltas(self.settings.tuned, self.network) if self.settings.tuned else None
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H,W,C] of a picture."""
        config = self.network.config
        return (config.img_resolution, config.img_resolution, config.img_channels)

    def open(
        self, sources: Iterable[LatentSource], what: str, reserved: Iterable[str] = ()
    ) -> LatentList:
        """The latents, checked against the network and the settings; `what` names the option."""
        tuned = self.tuned.sha256 if self.tuned else None
        latents = open_latents(sources, self.network.config, reserved)
        if not len(latents):
            raise UsageError(f"nothing to draw: give {what}")
        check_settings(self.network.config, self.settings, latents.need_mapping)
        for warning in latents.warnings(self.network.sha256, tuned):
            self.console.note(f"warning: {warning}")
        return latents

    def check_outputs(
        self, outputs: Iterable[Path | None], sources: Iterable[LatentSource] = ()
    ) -> None:
        """UsageError for outputs that would replace a file that is read."""
        files = [source.path for source in sources if isinstance(source, LatentFile)]
        files += [self.network.path, *([self.settings.tuned] if self.settings.tuned else [])]
        refuse_inputs(filter(None, outputs), files)

    def load(self, device: str, precision: Precision) -> tuple[Generator, str]:
        """The generator on its device, and the precision that it computes in."""
        from sg2cli import devices

        G = self.network.load(devices.resolve(device))
        if self.tuned:
            self.tuned.apply(G)
        return G, G.set_precision(precision)

    def provenance(self, precision: str, latent: Mapping[str, Any], mapped: bool) -> dict[str, Any]:
        """See `provenance.image_provenance`."""
        found = image_provenance(self.network.sha256, precision, self.settings, latent, mapped)
        return {**found, "tuned": self.tuned.sha256} if self.tuned else found


def is_mapped(latent: Latent) -> bool:
    """Whether a latent goes through the mapping network."""
    return latent.space in ("seed", "z")
