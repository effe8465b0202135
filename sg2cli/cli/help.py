"""Help with options grouped under headings, and suggestions for mistyped options."""

from __future__ import annotations

import difflib
import re

import click

from sg2cli.cli.familiar_names import translate_options, why_unknown
from sg2cli.cli.option_checks import refuse_repeated

OTHER = "Other options"
COLUMN = 24  # width of the names of options
BOUNDS = r"[\d.]*<?=?x[<>=]+[\d.]*"  # Click's "1<=x<=4096"
RANGE = re.compile(rf"\s*\[{BOUNDS}\]|; {BOUNDS}(?=\])")
SYNONYMS = {"--resume": "--skip-existing", "--skip-existing": "--resume"}  # by command
SHARED = {
    "Network": ("network", "device", "precision", "tuned"),
    "Latents": (
        *("seeds", "latents", "rows", "cols", "init"),
        *("psi", "psis", "cutoff", "class_index"),
    ),
    "Drawing": (
        *("styles", "directions", "amount", "steps", "layers", "method", "space", "loop"),
        *("frames", "frames_per_latent", "scale", "noise_mode", "grid", "labels", "batch", "shard"),
    ),
    "Output": (
        *("out", "target", "format", "fps", "save_to", "video", "npz"),
        *("overwrite", "skip_existing", "resume", "as_json", "quiet"),
    ),
}
# Groups of commands whose options differ from those of the drawing commands.
OWN: dict[str, dict[str, tuple[str, ...]]] = {
    "project": {
        "Photos": ("target", "mask", "crop", "background"),
        "Search": (
            *("preset", "space", "steps", "seed", "lr", "w_noise", "noise_weight", "noise_maps"),
            *("wplus_weight", "pixel_weight", "lpips", "start_samples", "patience", "init"),
            *("class_index", "together", "seconds"),
        ),
        "Tuning": ("tune", "tune_steps", "tune_together"),
    },
    "directions": {
        "Directions": (
            *("layers", "samples", "seed", "names", "positive", "negative", "scores"),
            *("add", "lists"),
        ),
    },
    "blend": {"Blending": ("at", "width")},
    "convert": {"Conversion": ("target", "merge", "sha256", "lr_multiplier")},
}


class Command(click.Command):
    """A command whose help groups its options."""

    def heading(self, param: click.Parameter) -> str:
        """The heading of an option."""
        sections = (*OWN.get(self.name or "", {}).items(), *SHARED.items())
        return next((heading for heading, names in sections if param.name in names), OTHER)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, in the order of declaration."""
        records: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record and "--help" not in param.opts:
                names, text = record
                rows = records.setdefault(self.heading(param), [])
                rows.append((names, RANGE.sub("", text)))
        order = dict.fromkeys(("Network", *OWN.get(self.name or "", {}), *SHARED, OTHER))
        for heading in order:
            if heading in records:
                with formatter.section(heading):
                    formatter.write_dl(records[heading], col_max=COLUMN)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click does; an unknown option suggests the nearest known one."""
        params = self.get_params(ctx)
        options = [param for param in params if isinstance(param, click.Option)]
        known = [name for param in options for name in param.opts]
        flags = [name for param in options if param.is_flag for name in param.opts]
        try:
            ours = translate_options(args, known, flags)
            refuse_repeated(self, ctx, ours)
            return super().parse_args(ctx, ours)
        except click.NoSuchOption as error:
            name = error.option_name
            if message := why_unknown(name):
                raise click.NoSuchOption(name, message, ctx=ctx) from error
            if (same := SYNONYMS.get(name)) in known:
                message = f"No such option '{name}'. Did you mean '{same}'?"
                raise click.NoSuchOption(name, message, ctx=ctx) from error
            near = difflib.get_close_matches(name, known, 1)
            raise click.NoSuchOption(name, possibilities=near, ctx=ctx) from error
