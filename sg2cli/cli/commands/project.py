"""`sg2 project`: find the latents of photos."""

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
    overwrite_option,
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
from sg2cli.latents.opening import open_latents
from sg2cli.latents.sources import LatentList
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


FAR_W = 3.0  # standard deviations of w; beyond lie few training images
FEW_STEPS = 100  # fewer may miss what the network can draw
BATCH_OPTIONS = ("crop", "background", "npz", "video", "together", "seconds")


@click.command(cls=Command)
@network_options
@click.argument("photos", nargs=-1, type=PATH, metavar="PHOTO...")
@click.option("--target", type=PATH, multiple=True, metavar="PHOTO", help="Another photo.")
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    default="paper",
    show_default=True,
    metavar="PRESET",
    help="paper (NVIDIA's), fast or best.",
)
@search_options
@photo_options
@sources_option("--init", type=LATENTS, help="Latent to start from, or one per photo.")
@class_option
@click.option(
    "--batch",
    "together",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Photos per batch; default by resolution.",
)
@click.option(
    "--time-limit",
    "seconds",
    type=DURATION,
    metavar="TIME",
    help="Limit for all photos: 90s, 30m, 1h30m.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Pivotal tuning: tune the network per photo.",
)
@click.option("--tune-together", is_flag=True, help="Tune one network on all photos.")
@click.option(
    "--tune-steps", type=click.IntRange(1), metavar="N", help="Tuning steps per photo. [350]"
)
@click.option(
    "--save-video", "video", is_flag=True, help="Video of the steps: film.mp4 or film.gif."
)
@click.option("--save-npz", "npz", is_flag=True, help="Also save NVIDIA's projected_w.npz.")
@click.option("--resume", is_flag=True, help="Continue a run: keep existing results.")
@overwrite_option
@click.option(
    "-o",
    "--out",
    "--outdir",
    type=PATH,
    default="out",
    show_default=True,
    metavar="DIR",
    help="Output folder, with one per photo.",
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
    """Find the latents that reproduce photos: files, folders, patterns, or - for stdin.

    Each setting overrides that of the preset; [the default] is that of paper.

    \b
    sg2 project me.jpg --preset fast
    sg2 project photos/*.jpg --space w+ --preset best --out found
    sg2 project photos --out found --resume
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
    console.begin(_first_line(files, preset, settings))  # loading torch takes seconds

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


def _first_line(photos: Sequence[Path], preset: str, settings: ProjectSettings) -> str:
    """What is going to be done."""
    what = str(photos[0]) if len(photos) == 1 else f"{len(photos)} photos"
    return f"projecting {what}: preset {preset}, steps: {settings.steps}"


def _settings(preset: str, options: Mapping[str, Any]) -> ProjectSettings:
    """The preset with the given options."""
    names = {field.name for field in fields(ProjectSettings)} & options.keys()
    given = {name: options[name] for name in names if options[name] is not None}
    if "noise_maps" in given:
        given["noise_maps"] = given["noise_maps"] == "on"
    return project_settings(preset, **given)


def _tuning(
    photos: tuple[str, ...], settings: ProjectSettings, options: Mapping[str, Any]
) -> tuple[list[str], TuneSettings | None, bool]:
    """The photos, the settings of --tune, and whether one network is tuned on all photos.

    The older spelling `--tune together` is accepted if there is no photo of that name.
    """
    if not photos:
        raise UsageError("no photos: give files, folders, or - for stdin")
    tune, steps = options["tune"] or options["tune_together"], options["tune_steps"]
    is_word = options["tune"] and "together" in photos and kind(Path("together")) == "nothing"
    names = [name for name in photos if not (is_word and name == "together")]
    if steps and not tune:
        raise UsageError("--tune-steps requires --tune or --tune-together")
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
        raise UsageError("stdin can be read only once: give a file to --init")
    starts = open_latents(init, network.config)
    if len(starts) not in (0, 1, len(photos)):
        raise UsageError(f"--init has {len(starts)} latents for {len(photos)} photos")
    for warning in starts.warnings(network.sha256):
        console.note(f"warning: {warning}")
    return starts


def _run(batch: ProjectionBatch, console: Console) -> None:
    """Project all photos; if interrupted, print the command that continues."""
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
    """Report the figures of each photo; Sg2Error if some failed."""
    from sg2cli.inversion.verdict import advice

    for target in targets:
        if target.figures:
            console.note(report(target))
    for text in advice(targets):
        console.note(text)
    failed = [target for target in targets if target.has_failed]
    if len(targets) > 1:
        kept = sum(target.status == "kept" for target in targets)
        reasons = {target.name: target.error or target.status for target in failed}
        console.summary(len(targets) - kept - len(failed), kept, reasons)
    if failed:
        raise some_failed([target.name for target in failed], len(targets), "photos")


def report(target: Target) -> str:
    """The verdict and the figures of a photo, and the part of it that was used, in one line."""
    from sg2cli.inversion.verdict import verdict_in

    figures = target.figures
    psnr = "identical pixels" if figures["psnr"] is None else f"PSNR {figures['psnr']:.2f} dB"
    judged = scale = ""
    if verdict := verdict_in(figures):
        steps = figures["steps_done"]
        is_short = verdict.word == "outside" and steps < FEW_STEPS
        judged = f"{verdict.text}{f', or what {steps} steps can find' * is_short}: "
        scale = f" ({verdict.ratio:.2f} of the distance between similar samples, percentile "
        scale += f"{verdict.percentile:.0f})"
    far = figures["w_distance"] > FAR_W
    region = str(target.region or "")
    return (
        f"{target.name}: {judged}LPIPS-VGG {figures['lpips_vgg']:.4f}{scale}, LPIPS-Alex "
        f"{figures['lpips_alex']:.4f}, {psnr}, w {figures['w_distance']:.2f} standard deviations "
        f"from the mean{', so far that edits may fail' * far}{'; ' * bool(region)}{region}"
    )
