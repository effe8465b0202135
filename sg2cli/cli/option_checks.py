"""Options that would be ignored are errors: repeated ones, and those that a task does not use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import click

from sg2cli.errors import UsageError


def refuse_repeated(command: click.Command, ctx: click.Context, args: Sequence[str]) -> None:
    """UsageError for an option with one value that is given twice, as Click drops the first."""
    _, _, order = command.make_parser(ctx).parse_args(list(args))
    given = Counter(param for param in order if isinstance(param, click.Option))
    for param, count in given.items():
        if count > 1 and not (param.multiple or param.is_flag or param.count):
            name = next((opt for opt in param.opts if opt.startswith("--")), param.opts[0])
            ctx.fail(f"{name} has one value, but is given {count} times")


def refuse_together(option: str, others: Iterable[str]) -> None:
    """UsageError if one of the parameters called `others` is given: `option` does not use it."""
    context = click.get_current_context()
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name in others and source is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"{option} cannot be used together with {param.opts[-1]}")
