"""`sg2 directions`: find unsupervised directions of W."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sg2cli.cli.help import Command
from sg2cli.cli.options import (
    DIRECTIONS_FILE,
    STYLES,
    class_option,
    json_option,
    network_options,
    overwrite_option,
    quiet_option,
)
from sg2cli.cli.session import Session, open_session
from sg2cli.errors import UsageError, brief, printable
from sg2cli.latents import discovery
from sg2cli.latents.directions import check_direction, source_file
from sg2cli.latents.discovery import Directions
from sg2cli.latents.mixing import Styles, format_styles, style_rows
from sg2cli.latents.named_directions import (
    NamedDirections,
    check_name,
    file_beside,
    name_directions,
    read_names,
)
from sg2cli.sampling import check_settings
from sg2cli.storage.atomic import check_file
from sg2cli.storage.paths import refuse_inputs


@click.command(cls=Command)
@network_options
@click.option(
    "--layers",
    type=STYLES,
    help="Rows of ws for SeFa: 0-5, coarse; default all.",
)
@click.option(
    "--samples",
    type=click.IntRange(2, 10_000_000),
    default=discovery.SAMPLES,
    show_default=True,
    metavar="N",
    help="Latents sampled for PCA.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Random seed of the samples.",
)
@class_option
@click.option(
    "-o",
    "--out",
    type=DIRECTIONS_FILE,
    default="directions.safetensors",
    show_default=True,
    help="Output file.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME=DIRECTION",
    help="Write this direction of `sg2 edit` under a name instead, as smile=sefa:3; repeat for "
    "more. From NETWORK.directions.safetensors beside the network, edit takes it by its name.",
)
@click.option("--list", "lists", is_flag=True, help="List the network's named directions.")
@overwrite_option
@json_option
@quiet_option
def directions(
    layers: Styles | None,
    samples: int,
    seed: int,
    out: Path,
    names: tuple[str, ...],
    lists: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Find directions of W: SeFa from the weights, PCA from samples; name them; list the names.

    The file has sefa and pca [K,w_dim], and the standard deviation of W along each.

    \b
    sg2 directions --out found.safetensors
    sg2 edit 0-3 --direction found.safetensors:sefa:0
    sg2 directions --name smile=sefa:3 -n ffhq.safetensors --out ffhq.directions.safetensors
    sg2 edit 0-3 -n ffhq.safetensors --direction smile
    sg2 directions --list
    """
    session, settings = open_session(**options)
    if lists:
        _list(session)
        return
    check_settings(session.config, settings, needs_class=True)
    named = _named(names, session)
    rows = style_rows(layers, session.config) if layers else None
    check_file(out, overwrite)
    session.check_outputs([out])
    sources = (source_file(text, session.network.path) for text in named.values())
    refuse_inputs([out], filter(None, sources))
    G = session.load()
    if named:
        session.console.note(f"naming {', '.join(named)}")
        index = settings.class_index
        found: Directions | NamedDirections = name_directions(
            G, named, layers=rows, class_index=index
        )
    else:
        with session.console.progress("Mapping", samples, "latent") as bar:
            found = discovery.directions(
                G,
                layers=format_styles(layers) if layers else None,
                samples=samples,
                seed=seed,
                class_index=settings.class_index,
                on_mapped=bar.update,
            )
    found.save(out, overwrite)
    session.console.wrote(out, found.provenance)


def _list(session: Session) -> None:
    """A line for each named direction; UsageError where there are none."""
    path = file_beside(session.network.path)
    about = read_names(path)
    if not about:
        raise UsageError(
            f"this network has no named directions: {path} would hold them, and "
            f"sg2 directions --name NAME=DIRECTION --out writes it"
        )
    if session.console.as_json:
        session.console.result(json.dumps(about))
        return
    width = max(map(len, about))
    for name, text in about.items():
        session.console.result(printable(f"{name:{width}}  {text}".rstrip()))


def _named(given: tuple[str, ...], session: Session) -> dict[str, str]:
    """Directions by the names that they are to have; UsageError for what cannot be."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, direction = text.partition("=")
        if not equals or name in named:
            raise UsageError(f"--name {brief(text)}: give each name once, as in smile=sefa:3")
        check_name(name)
        check_direction(direction, session.config, session.network.path)
        named[name] = direction
    return named
