"""The options of image files (`--out`, `--format`, `--overwrite`, ...), and the summary."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from sg2cli.cli.console import Console, Terminated, counts, repeated_command, some_failed
from sg2cli.errors import UsageError
from sg2cli.images.codecs import FORMATS
from sg2cli.sampling.cells import IncompleteGrid, draw_cells
from sg2cli.sampling.grids import Grid
from sg2cli.sampling.output import ImageOutput
from sg2cli.storage.paths import kind, user_path

if TYPE_CHECKING:
    from sg2cli.generator import Generator
    from sg2cli.sampling.drawing import Drawing

OTHER_SUFFIXES = {  # meant as files, not as names of folders
    *(".bmp", ".gif", ".tif", ".tiff", ".tga", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".jfif"),
    *(".apng", ".ico", ".ppm", ".pgm", ".pnm", ".psd", ".eps", ".pdf", ".svg", ".mp4", ".mov"),
}


def check_choice(overwrite: bool, skip_existing: bool) -> None:
    """UsageError if both are given."""
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing are mutually exclusive")


def image_output(
    out: str, format: str | None, overwrite: bool, skip_existing: bool, console: Console
) -> ImageOutput:
    """The destination that the options describe; UsageError if they contradict one another."""
    check_choice(overwrite, skip_existing)
    path = user_path(out)
    suffix = path.suffix.lower()
    is_folder = kind(path) == "folder"
    if suffix in OTHER_SUFFIXES and not is_folder:
        raise UsageError(f"{path}: images are written as png, jpg or webp")
    file = path if suffix in FORMATS and not is_folder else None
    chosen = format or (FORMATS[suffix] if file else "png")
    if file and FORMATS[suffix] != chosen:
        raise UsageError(f"--format {format} contradicts the name {file}")
    if out == "-" and console.as_json:
        raise UsageError("--json cannot be used with --out -, which writes the image to stdout")
    return ImageOutput(
        folder=path.parent if file else path,
        file=file,
        format=chosen,
        overwrite=overwrite,
        skip_existing=skip_existing,
        stream=console.image if out == "-" else None,
        on_written=console.wrote_image,
        on_note=console.note,
    )


def draw_into(
    output: ImageOutput,
    drawing: Drawing,
    G: Generator,
    console: Console,
    *,
    grid: Grid | None,
    singles: bool = True,
    done_options: Collection[str] = (),
) -> None:
    """Draw with a progress bar, and print a summary; Sg2Error if some images failed.

    An interrupted run prints the command that continues it, without `done_options`.
    """
    incomplete: IncompleteGrid | None = None
    count = drawing.count
    try:
        with console.progress("Generating", count, "image") as bar:
            draw_cells(output, drawing, G, grid=grid, singles=singles, on_image=bar.update)
    except IncompleteGrid as error:
        console.note(str(error))
        incomplete = error
    except (KeyboardInterrupt, Terminated):
        _report_interruption(output, console, done_options)
        raise
    finally:
        console.end_of_images()
    if count > 1:
        console.summary(output.written, output.kept, output.failed)
    if output.failed:
        raise some_failed(list(output.failed), count, "images")
    if incomplete:
        raise incomplete


def _report_interruption(
    output: ImageOutput, console: Console, done_options: Collection[str]
) -> None:
    if not (output.written or output.kept):
        console.stopped("nothing is written yet")
        return
    state, command = counts(output.written, output.kept, output.failed), None
    if output.overwrite:  # the remaining files may have other settings
        command = repeated_command("--overwrite")
    elif not output.stream:
        command = repeated_command("--skip-existing", done_options)
    console.stopped(state, command)
