"""The function `sg2cli.project`; `batch` projects many photos into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.errors import UsageError
from sg2cli.events import SILENT, Events
from sg2cli.images.photos import Crop
from sg2cli.inversion import results
from sg2cli.inversion.losses import LPIPS
from sg2cli.inversion.photo_input import PhotoInput, as_source, check_network, read_photo_for
from sg2cli.inversion.projection import Projection
from sg2cli.inversion.search import Search, optimise
from sg2cli.inversion.snapshots import SearchSnapshot, load_state
from sg2cli.inversion.start import spread_of_w
from sg2cli.inversion.state import Found
from sg2cli.inversion.verdict import OwnScale, own_scale
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.mapping import to_ws
from sg2cli.sampling import check_settings
from sg2cli.settings import DrawSettings, ProjectSettings, project_settings
from sg2cli.storage.paths import user_path

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.images.photos import Photo
    from sg2cli.latents.sources import Latent


class Projector:
    """A network, settings, and what is computed once for all photos."""

    def __init__(
        self,
        G: Generator,
        settings: ProjectSettings,
        preset: str | None = None,
        class_index: int | None = None,
    ) -> None:
        """`preset`: the name of the settings, for the metadata. UsageError for an invalid class."""
        check_settings(G.config, DrawSettings(class_index=class_index), needs_class=True)
        self.G, self.settings, self.class_index = G, settings, class_index
        self.spread = spread_of_w(G, class_index)
        self.lpips = LPIPS(settings.lpips).to(G.device)
        self.judge = results.Judge(self.spread)
        self.provenance: dict[str, Any] = {  # of all results
            "checkpoint": G.checkpoint,
            "precision": G.precision,
            "preset": preset,
            "version": __version__,
            **({"tuned": G.tuned} if G.tuned else {}),
            **asdict(settings),
            "class": class_index,
            "tune": None,
        }

    @cached_property
    def own_scale(self) -> OwnScale | None:
        """What LPIPS is compared with: computed for the first result."""
        return own_scale(self.G, self.spread)

    def provenance_of(self, name: str, photo: Photo, init: Latent | None) -> dict[str, Any]:
        """The provenance of a result, without figures."""
        target = {"file": Path(name).name, "sha256": photo.sha256}
        return {**self.provenance, "init": init and dict(init.provenance), "target": target}

    def search(
        self, photos: Sequence[Photo], inits: Sequence[Latent] = (), estimate: bool = True
    ) -> Search:
        """A search for photos, optionally from given latents; see `Search`."""
        starts = [
            (to_ws(self.G, [init], class_index=self.class_index)[0], init.noise) for init in inits
        ]
        return Search(self.G, photos, self.settings, self.spread, self.lpips, starts, estimate)

    def projection(
        self,
        found: Found,
        photo: Photo,
        name: str,
        provenance: Mapping[str, Any],
        G: Generator | None = None,
    ) -> Projection:
        """Draw the latent, with a tuned network if given, and measure the image."""
        image = results.redraw(G or self.G, found)
        figures = self.judge.measure(image, photo, found.ws)
        counted = 1.0 if photo.mask is None else float(photo.mask.mean())  # LPIPS is a mean
        scale = self.own_scale
        verdict = scale.judge(figures.lpips_vgg / counted, figures.psnr) if scale else None
        return Projection(
            name=name,
            ws=found.ws.cpu().numpy(),
            noise={key: noise_map.cpu().numpy() for key, noise_map in found.noise.items()},
            image=image,
            target=photo.pixels,
            figures=figures,
            verdict=verdict,
            steps=found.steps,
            ended=found.ended,
            history=found.history,
            provenance={**provenance, **results.summary(found, figures, verdict, photo.region)},
        )


def snapshot_provenance(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The provenance of a snapshot of these photos, without the version of sg2."""
    return {"recipes": [{**provenance, "version": None} for provenance in provenances]}


def project(
    G: Generator,
    photo: PhotoInput,
    preset: str = "paper",
    *,
    settings: ProjectSettings | None = None,
    crop: Crop = "center",
    background: str = "white",
    mask: PhotoInput | None = None,
    init: Latents | None = None,
    class_index: int | None = None,
    seconds: float | None = None,
    snapshot: str | Path | None = None,
    events: Events = SILENT,
    **changes: Any,
) -> Projection:
    """Find the latent that reproduces a photo: `sg2cli.project(G, "me.jpg", "fast", steps=50)`.

    Args:
        G: a network, from `sg2cli.load`.
        photo: a file, a PIL image, or pixels [H,W], [H,W,3] or [H,W,4] uint8.
        preset: "paper" (NVIDIA's projector), "fast" or "best".
        settings: instead of a preset; `changes` set single fields of `ProjectSettings`, such as
            steps, seed, space ("w" or "w+"), lr, patience.
        crop: "center" (the largest square), "none" (squeezed) or (x, y, width, height) in pixels.
        background: the colour behind transparent parts, a name or "#rrggbb".
        mask: an image as large as the photo: weights from 0 (black) to 1 (white).
        init: a latent to start from; see `sg2cli.generate`.
        class_index: the class of a conditional network, from 0.
        seconds: a time limit; the schedule is compressed to end within it.
        snapshot: a file for the state, from which an interrupted run continues; removed at the end.
            None: nothing is written.
        events: receives progress and messages.

    Returns: ws, noise maps, image, figures and verdict; the same for the same photo and settings.
    Raises UsageError for settings that do not fit, and Sg2Error for an unreadable photo.
    """
    chosen = choose_settings(preset, settings, changes)
    check_network(G.config)
    name, source = as_source(photo)
    mask_source = None if mask is None else as_source(mask)[1]
    pixels = read_photo_for(G.config, source, crop, background, mask_source, name)
    inits = start_latents(init, G, 1)
    projector = Projector(G, chosen, None if settings else preset, class_index)
    provenance = projector.provenance_of(name, pixels, inits[0] if inits else None)
    search = projector.search([pixels], inits)

    def on_step(search: Search) -> None:
        step, lpips = search.state.step, search.history[0][-1].lpips
        events.step("Projecting", step, chosen.steps, lpips)

    if snapshot is None:
        (found,) = optimise(search, on_step, seconds)
    else:
        path, state_of = user_path(str(snapshot)), snapshot_provenance([provenance])
        if load_state(path, search, state_of):
            events.note(f"resuming at step {search.state.step}")
        saving = SearchSnapshot(path, search, state_of)
        (found,) = optimise(search, on_step, seconds, saving)
    return projector.projection(found, pixels, Path(name).stem, provenance)


def start_latents(init: Latents | None, G: Generator, count: int) -> list[Latent]:
    """No latent, one, or one for each photo; UsageError for any other number."""
    inits = [] if init is None else list(as_latents(init, G.config))
    if len(inits) not in (0, 1, count):
        photos = f"{count} photos" if count > 1 else "one photo"
        raise UsageError(f"init has {len(inits)} latents for {photos}")
    return inits


def choose_settings(
    preset: str, settings: ProjectSettings | None, changes: Mapping[str, Any]
) -> ProjectSettings:
    """The settings of a call; UsageError if settings and changes are given."""
    if settings is None:
        return project_settings(preset, **changes)
    if changes:
        raise UsageError(f"give settings, or a preset and {', '.join(changes)}, not both")
    return settings
