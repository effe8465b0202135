"""`sg2 project`: the latents of photos."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sg2cli import __version__, checkpoints
from sg2cli.cli.albums import Album, Entry, find_photos
from sg2cli.cli.console import Console, Terminated, repeated_command, some_failed
from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    LATENTS,
    PATH,
    ParsedType,
    class_option,
    json_option,
    network_options,
    number,
    quiet_option,
    sources_option,
)
from sg2cli.errors import UsageError, brief
from sg2cli.images.photos import Crop, check_photo, read_photo
from sg2cli.latents.notation import LatentFile
from sg2cli.latents.sources import open_latents
from sg2cli.sampling import check_settings
from sg2cli.settings import LPIPS_NETS, PRESETS, SPACES, DrawSettings, Precision, TuneSettings
from sg2cli.storage.paths import kind, user_path

if TYPE_CHECKING:
    from sg2cli.cli.projections import Job
    from sg2cli.latents.notation import LatentSource


def _crop(text: str) -> Crop:
    if text in ("center", "none"):
        return text  # type: ignore[return-value]
    match = re.fullmatch(r"(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})", text, re.ASCII)
    if not match:
        raise ValueError(f"{brief(text)} is no crop: give center, none or X,Y,W,H in pixels")
    x, y, width, height = map(int, match.groups())
    if not width * height:
        raise ValueError(f"{text} is a box of no size")
    return x, y, width, height


def _colour(text: str) -> str:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise ValueError(f"{brief(text)} is no colour: give a name, or #rrggbb") from None
    return text


def _duration(text: str) -> float:
    match = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?:in)?)?(?:(\d{1,9})s?)?", text, re.ASCII)
    parts = [int(digits or 0) for digits in match.groups()] if match else [0, 0, 0]
    total = 3600 * parts[0] + 60 * parts[1] + parts[2]
    if not total:
        raise ValueError(f"{brief(text)} is no time: give 90s, 30m or 1h30m")
    return total


def _weight(text: str) -> float:
    weight = number(text)
    if not 0 <= weight <= 1e12:
        raise ValueError(f"{brief(text)} is no weight: give a number of 0 or more")
    return weight


def _positive(text: str) -> float:
    weight = _weight(text)
    if not weight:
        raise ValueError("0 would change nothing: give a number above it")
    return weight


WEIGHT = ParsedType("number", _weight)
POSITIVE = ParsedType("number", _positive)
CROP = ParsedType("crop", _crop)
COLOUR = ParsedType("colour", _colour)
DURATION = ParsedType("time", _duration)
FINAL = ("done", "plateau", "time", "not finite", "kept")
BATCHES = {64: 8, 128: 4, 256: 2}  # photos at once, by resolution, as memory and caches allow


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
@click.option("--space", type=click.Choice(SPACES), help="One w for all layers, or one each. [w]")
@click.option("--steps", "--num-steps", type=click.IntRange(1, 1_000_000), help="[paper: 1000]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of noise, for each photo. [303]")
@click.option("--lr", type=POSITIVE, help="The highest learning rate. [paper: 0.1]")
@click.option("--w-noise", type=WEIGHT, help="On w at first, in standard deviations. [0.05]")
@click.option("--noise-weight", type=WEIGHT, help="Of structure in noise maps. [1e5]")
@click.option(
    "--noise-maps",
    type=click.Choice(("on", "off")),
    help="Optimise noise maps too, or leave the checkpoint's own. [on]",
)
@click.option("--wplus-weight", type=WEIGHT, help="Keeps rows of W+ together.")
@click.option("--pixel-weight", type=WEIGHT, help="Of the mean square of pixels.")
@click.option("--lpips", type=click.Choice(LPIPS_NETS), help="The perceptual network. [vgg]")
@click.option(
    "--start-samples",
    type=click.IntRange(0, 10_000),
    metavar="N",
    help="Pictures that a start is estimated from; 0: the mean of w.",
)
@click.option(
    "--patience",
    type=click.IntRange(0),
    help="End a photo after so many steps without gain; 0: never.",
)
@click.option(
    "--mask",
    type=PATH,
    metavar="PICTURE",
    help="As large as the photo: white counts, grey weighs, black is left alone.",
)
@click.option(
    "--crop",
    type=CROP,
    default="center",
    show_default=True,
    metavar="CROP",
    help="center: the largest square; none: all, squeezed; or X,Y,W,H in pixels.",
)
@click.option(
    "--background",
    type=COLOUR,
    default="white",
    show_default=True,
    metavar="COLOUR",
    help="Behind what is transparent.",
)
@sources_option("--init", type=LATENTS, help="Start here: one latent, or one a photo.")
@class_option
@click.option("--batch", type=click.IntRange(1, 256), metavar="N", help="Photos at once.")
@click.option(
    "--time-limit",
    type=DURATION,
    metavar="TIME",
    help="For all photos, --tune included: 90s, 30m, 1h30m. The schedule is hastened to end then.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Then tune the network on each photo (pivotal tuning): tuned.safetensors. "
    "`--tune together`: one network for all.",
)
@click.option("--tune-steps", type=click.IntRange(1), help="A photo. [350]")
@click.option("--save-video", is_flag=True, help="A film of the steps: film.mp4, or .gif.")
@click.option("--save-npz", is_flag=True, help="NVIDIA's projected_w.npz, too.")
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
    noise_maps: str | None,
    mask: str | None,
    crop: Crop,
    background: str,
    init: tuple[LatentSource, ...],
    class_index: int | None,
    batch: int | None,
    time_limit: float | None,
    tune: bool,
    tune_steps: int | None,
    save_video: bool,
    save_npz: bool,
    resume: bool,
    overwrite: bool,
    out: str,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Find the latents that give the photos: files, folders, patterns, or - for stdin.

    \b
    sg2 project me.jpg --preset fast
    sg2 project photos/*.jpg --space w+ --preset best --out found
    sg2 generate --latents out/me/projected.safetensors --out again
    """
    console = Console(as_json, quiet)
    found = checkpoints.find_network(network)
    config = found.config
    if config.img_channels not in (1, 3):
        raise UsageError(
            f"this network draws {config.img_channels} channels: photos have 3, or 1 if grey"
        )
    check_settings(config, DrawSettings(class_index=class_index), needs_class=True)
    given = {name: value for name, value in settings.items() if value is not None}
    if noise_maps:
        given["noise_maps"] = noise_maps == "on"
    chosen = replace(PRESETS[preset], **given)
    # What is asked for counts in every search.
    own = {name: given[name] for name in ("lr", "w_noise", "pixel_weight") if name in given}
    restarts = tuple(replace(restart, **own) for restart in chosen.restarts)
    chosen = replace(chosen, restarts=restarts)
    if given.get("patience"):  # a plateau is one of scores
        chosen = replace(chosen, keep_best=True)
    photos = photos + target
    if not photos:
        raise UsageError("no photo: give files, folders, or - for stdin")
    # "--tune together" reads well, but an option with a value would swallow the next photo.
    together = tune and "together" in photos and kind(Path("together")) == "nothing"
    names = [name for name in photos if not (together and name == "together")]
    if tune_steps and not tune:
        raise UsageError("--tune-steps is for --tune")
    tuning = (
        TuneSettings(seed=chosen.seed, steps=tune_steps or TuneSettings.steps) if tune else None
    )
    files = find_photos(names)
    if mask:
        check_photo(user_path(mask))
    if Path("-") in files and any(getattr(source, "path", None) == Path("-") for source in init):
        raise UsageError("stdin can be read but once: give a file to --init")
    starts = open_latents(init, config)
    if len(starts) not in (0, 1, len(files)):
        raise UsageError(f"--init has {len(starts)} latents for {len(files)} photos")
    for warning in starts.warnings(found.sha256):
        console.note(f"warning: {warning}")
    beside = [source.path for source in init if isinstance(source, LatentFile)]
    beside += [found.path, *([user_path(mask)] if mask else [])]
    album = Album(user_path(out), files, overwrite, resume, together, beside)

    from sg2cli import devices
    from sg2cli.cli.projections import Projector

    G = found.load(devices.resolve(device))
    used = G.set_precision(precision)
    console.note_precision(G.device.type, used)
    recipe = {
        "checkpoint": found.sha256,
        "precision": used,
        "preset": preset,
        "version": __version__,
    }
    projector = Projector(
        found,
        G,
        album,
        chosen,
        console,
        recipe,
        class_index=class_index,
        tuning=tuning,
        together=together,
        npz=save_npz,
        film=save_video,
    )
    with album.open(projector.recipe):
        inits = list(starts)

        def read(entry: Entry, index: int) -> Job:
            size, channels = config.img_resolution, config.img_channels
            mask_file = user_path(mask) if mask else None
            photo = read_photo(entry.read(), size, channels, crop, background, mask_file)
            return projector.job(entry, photo, inits[index % len(inits)] if inits else None)

        try:
            projector.run(read, batch or BATCHES.get(max(64, config.img_resolution), 1), time_limit)
        except (KeyboardInterrupt, Terminated):
            done = sum(entry.state in FINAL for entry in album.entries)
            if album.can_go_on:
                halved = ("--batch", str(projector.halved)) if projector.halved else ()
                state = f"{done} of {len(album.entries)} photos are done"
                console.stopped(state, repeated_command("--resume", ["--overwrite"], halved))
            else:
                console.stopped("nothing is written yet")
            raise
    for entry in album.entries:
        if entry.figures:
            console.note(report(entry))
    failed = [entry for entry in album.entries if entry.state in ("failed", "not finite")]
    if len(album.entries) > 1:
        kept = sum(entry.state == "kept" for entry in album.entries)
        says = {entry.name: entry.says or entry.state for entry in failed}
        console.summary(len(album.entries) - kept - len(failed), kept, says)
    if failed:
        raise some_failed([entry.name for entry in failed], len(album.entries), "photos")


def report(entry: Entry) -> str:
    """How near it came, in a line."""
    figures = entry.figures
    psnr = "equal pixels" if figures["psnr"] is None else f"PSNR {figures['psnr']:.2f} dB"
    outside = f"; {figures['outside']}" if figures["outside"] else ""
    return (
        f"{entry.name}: LPIPS-VGG {figures['lpips_vgg']:.4f}, LPIPS-Alex "
        f"{figures['lpips_alex']:.4f}, {psnr}, w {figures['w_distance']:.2f} standard deviations "
        f"from the mean{outside}"
    )
