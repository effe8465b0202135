"""Help with options under headings, and the nearest name for a mistyped option."""

from __future__ import annotations

import difflib

import click

OTHER = "Other options"
SHARED = {
    "Network": ("network", "device", "precision", "tuned", "checkpoint"),
    "Latents": (
        *("seeds", "latents", "rows", "cols", "init"),
        *("psi", "psis", "cutoff", "class_index"),
    ),
    "Drawing": (
        *("styles", "direction", "amount", "steps", "layers", "method", "space", "loop"),
        *("frames", "noise_mode", "grid", "batch", "shard"),
    ),
    "Output": (
        *("out", "target", "format", "fps", "save_to", "video", "npz"),
        *("overwrite", "skip_existing", "resume", "as_json", "quiet"),
    ),
}
# Where a command's options are not those of a drawing.
OWN: dict[str, dict[str, tuple[str, ...]]] = {
    "project": {
        "Photos": ("target", "mask", "crop", "background"),
        "Search": (
            *("preset", "space", "steps", "seed", "lr", "w_noise", "noise_weight", "noise_maps"),
            *("wplus_weight", "pixel_weight", "lpips", "start_samples", "patience", "init"),
            *("together", "seconds"),
        ),
        "Tuning": ("tune", "tune_steps", "tune_together"),
    },
    "directions": {"Directions": ("layers", "samples", "seed", "names", "lists")},
    "convert": {"Conversion": ("target", "merge", "sha256")},
}


class Command(click.Command):
    """A command whose help groups its options."""

    def heading(self, param: click.Parameter) -> str:
        """The heading that an option stands under."""
        sections = (*OWN.get(self.name or "", {}).items(), *SHARED.items())
        return next((heading for heading, names in sections if param.name in names), OTHER)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each heading's in the order in which they are declared."""
        records: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record:
                records.setdefault(self.heading(param), []).append(record)
        order = dict.fromkeys(("Network", *OWN.get(self.name or "", {}), *SHARED, OTHER))
        for heading in order:
            if heading in records:
                with formatter.section(heading):
                    formatter.write_dl(records[heading])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does; an unknown option suggests the one that is nearest."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [name for param in self.get_params(ctx) for name in param.opts]
            near = difflib.get_close_matches(error.option_name, known, 1)
            raise click.NoSuchOption(error.option_name, possibilities=near, ctx=ctx) from error
