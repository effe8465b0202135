"""The group `sg2`, its commands, and error handling: one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from sg2cli import __version__
from sg2cli.cli.console import ARGUMENTS, ReaderGone, Terminated, complain
from sg2cli.cli.familiar_names import equivalent_command
from sg2cli.errors import Sg2Error, brief, is_out_of_memory, reason, redact_addresses

COMMANDS = (
    "generate",
    "mix",
    "truncate",
    "interpolate",
    "project",
    "edit",
    "directions",
    "convert",
    "blend",
    "info",
    "doctor",
)
SHELLS = ("bash", "zsh", "fish")
INTERRUPTED = {KeyboardInterrupt: 128 + signal.SIGINT, Terminated: 128 + signal.SIGTERM}
DEBUG = os.environ.get("SG2_DEBUG") == "1"
COMPLETION = "_SG2_COMPLETE"  # Click's variable: set by the completion scripts


class Commands(click.Group):
    """An explicit list of commands, each imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            if words := equivalent_command(args[0], args[1:], COMMANDS):
                ctx.fail(f"sg2 has no command {brief(args[0])}: {self.advice(ctx, words)}")
            near = difflib.get_close_matches(args[0], COMMANDS, 1, cutoff=0.7)
            more = f", did you mean {near[0]}?" if near else ""
            ctx.fail(f"no command {brief(args[0])}{more}")
        return super().resolve_command(ctx, args)

    def advice(self, ctx: click.Context, words: list[str]) -> str:
        """The line that does what a script does, if its arguments fit; else where to look."""
        name, *args = words
        command = self.get_command(ctx, name)
        assert command is not None
        try:
            command.make_context(name, list(args), parent=ctx)
        except (click.ClickException, click.exceptions.Exit):
            return f"`sg2 {name}` replaces it, with other arguments: see docs/migrating.md"
        return f"run `sg2 {name} {shlex.join(map(redact_addresses, args))}`"

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"sg2cli.cli.commands.{name}")
        command = getattr(module, name)
        assert isinstance(command, click.Command)
        return command


def show_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    """Print the script that enables completion in a shell."""
    if not shell or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    # Not .source(), which runs bash only to ask for its version.
    click.echo(complete.source_template % complete(cli, {}, "sg2", COMPLETION).source_vars())
    ctx.exit()


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="sg2 %(version)s")
@click.option(
    "--show-completion",
    type=click.Choice(SHELLS),
    expose_value=False,
    is_eager=True,
    callback=show_completion,
    help="Print a completion script to source in your shell.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Generate, mix, edit and interpolate images with StyleGAN2, and find the latents of photos.

    Paths of written files go to stdout, everything else to stderr. SG2_NETWORK, SG2_DEVICE and
    SG2_PRECISION set the defaults of these options.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main() -> NoReturn:
    """The entry point `sg2`, behind `sg2cli.__main__`."""
    if COMPLETION in os.environ:
        cli.main(prog_name="sg2", complete_var=COMPLETION)
    code = run(sys.argv[1:])
    if code in INTERRUPTED.values():
        os._exit(code)  # a thread may be blocked in a write
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run a command line; returns its exit code, after one line on stderr if it failed."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        with cli.make_context("sg2", list(args)) as ctx:
            ctx.meta[ARGUMENTS] = list(args)
            cli.invoke(ctx)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.ClickException as error:
        ctx_of = getattr(error, "ctx", None)
        command = ctx_of.command_path if ctx_of else "sg2"
        return _fail(f"{error.format_message()} (see {command} --help)", error.exit_code)
    except Sg2Error as error:
        if DEBUG:
            raise
        return _fail(str(error), error.exit_code)
    except (ReaderGone, BrokenPipeError):
        # The reader is done. Without this, Python reports an error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if DEBUG:
            raise
        return _fail(f"cannot read or write {error.filename or 'stdout'}: {reason(error)}", 1)
    except Exception as error:  # a bug, or a failing machine
        if DEBUG:
            raise
        if is_out_of_memory(error):
            loading = isinstance(error, ImportError)
            remedy = "torch cannot be loaded" if loading else "use a smaller --batch"
            return _fail(f"out of memory: {remedy}", 1)
        message = f"{type(error).__name__}: {error}"
        return _fail(f"unexpected error (set SG2_DEBUG=1 for a traceback): {message}", 1)
    except (KeyboardInterrupt, Terminated) as stop:
        return INTERRUPTED[type(stop)]


def _fail(message: str, code: int) -> int:
    complain(message)
    return code
