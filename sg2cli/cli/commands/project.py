"""`sg2 project`: the latents of photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli import checkpoints
from sg2cli.cli.console import Console, ConsoleEvents, Terminated, repeated_command, some_failed
from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    LATENTS,
    PATH,
    class_option,
    json_option,
    network_options,
    quiet_option,
    sources_option,
)
from sg2cli.cli.project_options import DURATION, photo_options, search_options
from sg2cli.errors import UsageError
from sg2cli.images.photos import check_photo
from sg2cli.inversion.folders import BatchFolder
from sg2cli.inversion.photo_input import check_network
from sg2cli.inversion.targets import Target, find_photos
from sg2cli.latents.notation import LatentFile
from sg2cli.latents.sources import LatentList, open_latents
from sg2cli.sampling import check_settings
from sg2cli.settings import (
    PRESETS,
    DrawSettings,
    Precision,
    ProjectSettings,
    TuneSettings,
    project_settings,
)
from sg2cli.storage.paths import kind, user_path

if TYPE_CHECKING:
    from sg2cli.inversion.batch import ProjectionBatch
    from sg2cli.latents.notation import LatentSource


BATCH_OPTIONS = ("crop", "background", "npz", "video", "together", "seconds")


@click.command(cls=Command)
@network_options
@click.argument("photos", nargs=-1, type=PATH, metavar="PHOTO...")
@click.option("--target", type=PATH, multiple=True, metavar="PHOTO", help="A photo, too.")
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    default="paper",
    show_default=True,
    help="NVIDIA's projector to the number; as good in a fifth of its time; better, slowly. "
    "The options below change single settings of it.",
)
@search_options
@photo_options
@sources_option("--init", type=LATENTS, help="Start here: one latent, or one a photo.")
@class_option
@click.option(
    "--batch", "together", type=click.IntRange(1, 256), metavar="N", help="Photos at once."
)
@click.option(
    "--time-limit",
    "seconds",
    type=DURATION,
    metavar="TIME",
    help="For all photos, --tune included: 90s, 30m, 1h30m. The schedule is hastened to end then.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Then tune the network on each photo (pivotal tuning): tuned.safetensors.",
)
@click.option("--tune-together", is_flag=True, help="Tune one network on all photos.")
@click.option("--tune-steps", type=click.IntRange(1), help="A photo. [350]")
@click.option(
    "--save-video", "video", is_flag=True, help="A video of the steps: film.mp4, or film.gif."
)
@click.option("--save-npz", "npz", is_flag=True, help="NVIDIA's projected_w.npz, too.")
@click.option("--resume", is_flag=True, help="Go on from where a run was interrupted.")
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
@click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR",
    help="Gets a folder a photo.",
)
@json_option
@quiet_option
def project(
    network: str,
    device: str,
    precision: Precision,
    photos: tuple[str, ...],
    target: tuple[str, ...],
    preset: str,
    out: str,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Find the latents that give the photos: files, folders, patterns, or - for stdin.

    \b
    sg2 project me.jpg --preset fast
    sg2 project photos/*.jpg --space w+ --preset best --out found
    sg2 generate --latents out/me/projected.safetensors --out again
    """
    console = Console(as_json, quiet)
    found = checkpoints.find_network(network)
    check_network(found.config)
    class_index = options["class_index"]
    check_settings(found.config, DrawSettings(class_index=class_index), needs_class=True)
    settings = _settings(preset, options)
    names, tune, together = _tuning(photos + target, settings, options)
    files = find_photos(names)
    mask = user_path(options["mask"]) if options["mask"] else None
    if mask:
        check_photo(mask)
    starts = _starts(options["init"], found, files, console)
    read = [source.path for source in options["init"] if isinstance(source, LatentFile)]
    read += [found.path, *([mask] if mask else [])]
    folder = BatchFolder(user_path(out), files, overwrite, resume, together, read)

    from sg2cli import devices
    from sg2cli.inversion.batch import ProjectionBatch
    from sg2cli.inversion.batch_results import BatchOptions
    from sg2cli.inversion.batch_tuning import BatchTuning
    from sg2cli.inversion.project import Projector

    G = found.load(devices.resolve(device))
    console.note_precision(G.device.type, G.set_precision(precision))
    projector = Projector(G, settings, preset, class_index)
    reading = BatchOptions(mask=mask, **{name: options[name] for name in BATCH_OPTIONS})
    tuning = BatchTuning(tune, together) if tune else None
    with ConsoleEvents(console) as events:
        _run(ProjectionBatch(projector, folder, starts, reading, tuning, events), console)
    _summarise(folder.targets, console)


def _settings(preset: str, options: Mapping[str, Any]) -> ProjectSettings:
    """The preset, changed by the options that were given."""
    names = {field.name for field in fields(ProjectSettings)} & options.keys()
    given = {name: options[name] for name in names if options[name] is not None}
    if "noise_maps" in given:
        given["noise_maps"] = given["noise_maps"] == "on"
    return project_settings(preset, **given)


def _tuning(
    photos: tuple[str, ...], settings: ProjectSettings, options: Mapping[str, Any]
) -> tuple[list[str], TuneSettings | None, bool]:
    """The photos, the settings of --tune, and whether one network is tuned on all photos.

    The older spelling `--tune together` is understood where no photo is called so.
    """
    if not photos:
        raise UsageError("no photo: give files, folders, or - for stdin")
    tune, steps = options["tune"] or options["tune_together"], options["tune_steps"]
    is_word = options["tune"] and "together" in photos and kind(Path("together")) == "nothing"
    names = [name for name in photos if not (is_word and name == "together")]
    if steps and not tune:
        raise UsageError("--tune-steps is for --tune")
    tuning = TuneSettings(seed=settings.seed, steps=steps or TuneSettings.steps) if tune else None
    return names, tuning, options["tune_together"] or is_word


def _starts(
    init: tuple[LatentSource, ...],
    network: checkpoints.Network,
    photos: Sequence[Path],
    console: Console,
) -> LatentList:
    """The latents of --init, opened and checked."""
    if Path("-") in photos and any(getattr(source, "path", None) == Path("-") for source in init):
        raise UsageError("stdin can be read but once: give a file to --init")
    starts = open_latents(init, network.config)
    if len(starts) not in (0, 1, len(photos)):
        raise UsageError(f"--init has {len(starts)} latents for {len(photos)} photos")
    for warning in starts.warnings(network.sha256):
        console.note(f"warning: {warning}")
    return starts


def _run(batch: ProjectionBatch, console: Console) -> None:
    """Project all; if it is interrupted, say what continues it."""
    folder = batch.folder
    try:
        for _ in batch:
            pass  # its files are reported as they are written
    except (KeyboardInterrupt, Terminated):
        done = sum(target.is_finished for target in folder.targets)
        if folder.can_resume:
            halved = ("--batch", str(batch.halved)) if batch.halved else ()
            state = f"{done} of {len(folder.targets)} photos are done"
            console.stopped(state, repeated_command("--resume", ["--overwrite"], halved))
        else:
            console.stopped("nothing is written yet")
        raise


def _summarise(targets: Sequence[Target], console: Console) -> None:
    """How near each photo came, and how many failed, which is an error."""
    for target in targets:
        if target.figures:
            console.note(report(target))
    failed = [target for target in targets if target.has_failed]
    if len(targets) > 1:
        kept = sum(target.status == "kept" for target in targets)
        reasons = {target.name: target.error or target.status for target in failed}
        console.summary(len(targets) - kept - len(failed), kept, reasons)
    if failed:
        raise some_failed([target.name for target in failed], len(targets), "photos")


def report(target: Target) -> str:
    """How near it came, in a line."""
    figures = target.figures
    psnr = "equal pixels" if figures["psnr"] is None else f"PSNR {figures['psnr']:.2f} dB"
    outside = f"; {figures['outside']}" if figures["outside"] else ""
    return (
        f"{target.name}: LPIPS-VGG {figures['lpips_vgg']:.4f}, LPIPS-Alex "
        f"{figures['lpips_alex']:.4f}, {psnr}, w {figures['w_distance']:.2f} standard deviations "
        f"from the mean{outside}"
    )
