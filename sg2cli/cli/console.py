"""Output of a command: results on stdout, messages and a progress bar on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from sg2cli.cli.option_names import with_option_names
from sg2cli.cli.progress import tqdm
from sg2cli.errors import Sg2Error, printable, reason, redact_addresses
from sg2cli.events import Events

FLAGS = ("--overwrite", "--skip-existing", "--resume")
ARGUMENTS = "sg2cli.arguments"  # key of the command line in the context of Click


class Terminated(BaseException):
    """SIGTERM, raised in the main thread, as KeyboardInterrupt is for SIGINT."""


class ReaderGone(Exception):
    """The reader of stdout closed the pipe: `sg2 ... | head -1`."""


class Console:
    """The two streams of one run of a command."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        """Sg2Error if stdout is closed or the working directory was deleted."""
        if sys.stdout is None:
            raise Sg2Error("stdout is closed")
        try:
            Path.cwd()
        except OSError as error:
            raise Sg2Error("the working directory was deleted: change to another") from error
        self.as_json = as_json
        self.quiet = quiet
        self._noted: set[str] = set()
        self._bars: list[tqdm[Any]] = []
        self._images: list[Path] = []  # the first and the last, on a terminal
        self._image_count = 0

    @property
    def is_terminal(self) -> bool:
        """Whether results are read by a person, not by a program."""
        return not self.as_json and sys.stdout is not None and sys.stdout.isatty()

    def wrote_image(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """As `wrote`, for one of many images: on a terminal, a line at the end counts them."""
        if self.is_terminal:
            self._images = [*self._images[:1], path]
            self._image_count += 1
        else:
            self.wrote(path, provenance)

    def end_of_images(self) -> None:
        """The line that counts the images, on a terminal."""
        count, images = self._image_count, self._images
        self._images, self._image_count = [], 0
        if count == 1:
            self.result(str(images[0]))
        elif count:
            self.result(
                f"{count:,} images in {images[0].parent}, {images[0].name} to {images[-1].name}"
            )

    def wrote(self, path: Path, provenance: Mapping[str, Any]) -> None:
        """Report a complete file: its path, or with --json its path and provenance."""
        self.result(json.dumps({"path": str(path), **provenance}) if self.as_json else str(path))

    def summary(self, done: int, skipped: int, failed: Mapping[str, str]) -> None:
        """The counts at the end of a run; `failed` has the reasons by name."""
        if self.as_json:
            reasons = {name: with_option_names(reason) for name, reason in failed.items()}
            summary = {"done": done, "skipped": skipped, "failed": reasons}
            self.result(json.dumps({"summary": summary}))
        if skipped or failed:
            self.note(counts(done, skipped, failed))

    def result(self, line: str) -> None:
        """Write a line to stdout and flush it; above the bar on a terminal."""
        if sys.stdout is not None and sys.stdout.isatty():
            with tqdm.external_write_mode(sys.stdout):
                self._write(os.fsencode(printable(line) + "\n"))
        else:
            # In the encoding of the file system, so that paths are usable in any locale.
            self._write(os.fsencode(line + "\n"))

    def image(self, content: bytes) -> None:
        """Write the bytes of an image to stdout."""
        self.check_stream("an image")
        self.stream(content)

    def check_stream(self, what: str) -> None:
        """Sg2Error if stdout is a terminal."""
        if sys.stdout is not None and sys.stdout.isatty():
            raise Sg2Error(f"not writing {what} to a terminal: redirect stdout, or use --out FILE")

    def stream(self, content: bytes) -> None:
        """Write bytes to stdout."""
        self._write(content)

    def _write(self, content: bytes) -> None:
        if sys.stdout is None:
            raise Sg2Error("stdout is closed")
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise Sg2Error(f"cannot write to stdout: {reason(error)}") from error

    def note(self, text: str) -> None:
        """Write a message to stderr once, unless -q was given."""
        if not self.quiet and text not in self._noted:
            self._noted.add(text)
            complain(text)

    def begin(self, text: str) -> None:
        """Write what is going to be done, where a bar will show its progress: on a terminal."""
        if sys.stderr is not None and sys.stderr.isatty():
            self.note(text)

    def note_precision(self, device: str, precision: str) -> None:
        """Advise against half precision on a CPU, where fp32 is faster and more accurate."""
        if device == "cpu" and precision in ("bf16", "fp16"):
            self.note(
                f"--precision {precision} is slow on a CPU: fp32 is faster there and more accurate"
            )

    def stopped(self, state: str, command: str | None = None) -> None:
        """The last message of an interrupted run: its state, and the command to continue."""
        for bar in self._bars:
            bar.close()  # otherwise it is redrawn below the message
        self.note(f"stopped: {state}" + (f"; to continue: {command}" if command else ""))

    @contextmanager
    def progress(self, label: str, total: int, unit: str) -> Iterator[tqdm[Any]]:
        """A bar with rate and ETA, if the work takes more than a second, on a terminal."""
        disable = True if self.quiet or sys.stderr is None else None
        with tqdm(
            total=total, desc=label, unit=f" {unit}", disable=disable, delay=1, leave=False
        ) as bar:
            self._bars.append(bar)
            yield bar
            self._bars.remove(bar)


class ConsoleEvents(Events):
    """Shows events of the library: a bar for each stage, messages, and paths on stdout."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: dict[str, tqdm[Any]] = {}
        self._open = ExitStack()

    def __enter__(self) -> ConsoleEvents:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def step(self, stage: str, done: int, total: int, lpips: float | None) -> None:
        bar = self._bars.get(stage)
        if bar is None or bar.total != total or done < bar.n:  # a new stage, or a restarted one
            if bar is not None:
                bar.close()
            shown = self.console.progress(stage, total, "step")
            bar = self._bars[stage] = self._open.enter_context(shown)
        if lpips is not None:
            bar.set_postfix(lpips=f"{lpips:.3f}", refresh=False)
        bar.update(done - bar.n)

    def note(self, text: str) -> None:
        self.console.note(text)

    def wrote(self, path: Path, provenance: Mapping[str, Any]) -> None:
        self.console.wrote(path, provenance)


def repeated_command(
    option: str, without: Collection[str] = (), changed: Collection[str] = ()
) -> str:
    """The current command line with an option added, and others removed with their values.

    `changed`: an option and its new value.
    """
    without = {*without, *list(changed)[:1]}
    ctx = click.get_current_context()
    name, *args = ctx.meta.get(ARGUMENTS, [ctx.info_name or ""])
    end = args.index("--") if "--" in args else len(args)
    values = {name for name in without if name not in FLAGS}
    kept: list[str] = []
    options = iter(args[:end])
    for arg in options:
        if arg in values:
            next(options, None)
        elif arg != option and arg.partition("=")[0] not in without:
            kept.append(arg)
    return " ".join(["sg2", name, option, *map(_quoted, [*changed, *kept, *args[end:]])])


def _quoted(arg: str) -> str:
    """Quoted for a shell, on one line; bash, zsh and ksh read $'...'."""
    if arg.isprintable():
        return shlex.quote(arg)
    special = b"\\'"
    codes = (
        chr(b) if 32 <= b < 127 and b not in special else f"\\x{b:02x}" for b in os.fsencode(arg)
    )
    return "$'" + "".join(codes) + "'"


def counts(done: int, skipped: int, failed: Collection[str]) -> str:
    """'12 written, 3 skipped', and the number of failures, if any."""
    failures = f", {len(failed)} failed" if failed else ""
    return f"{done} written, {skipped} skipped{failures}"


def some_failed(names: Sequence[str], count: int, what: str) -> Sg2Error:
    """The error that ends a run in which some of `count` images or photos failed."""
    more = " and others" if len(names) > 10 else ""
    return Sg2Error(
        f"{len(names)} of {count} {what} failed: {', '.join(names[:10])}{more}: see above"
    )


def complain(text: str) -> None:
    """Write a line to stderr, above a bar; dropped if stderr is closed."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError), tqdm.external_write_mode(sys.stderr):
            shown = redact_addresses(with_option_names(text))
            line = " ".join(filter(None, map(str.strip, shown.splitlines())))
            sys.stderr.write(f"sg2: {printable(line)}\n")
            sys.stderr.flush()
