"""`sg2 directions`: find unsupervised directions of W."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sg2cli import checkpoints
from sg2cli.cli.direction_options import DIRECTIONS_FILE, SCORES
from sg2cli.cli.help import Command
from sg2cli.cli.option_checks import refuse_together
from sg2cli.cli.options import (
    LATENTS,
    STYLES,
    class_option,
    json_option,
    network_options,
    overwrite_option,
    quiet_option,
    sources_option,
)
from sg2cli.cli.session import Session, open_session
from sg2cli.errors import UsageError, brief, printable
from sg2cli.latents import discovery
from sg2cli.latents.direction_names import check_name, file_beside, read_names
from sg2cli.latents.direction_notation import open_direction
from sg2cli.latents.mixing import Styles, format_rows, format_styles, layer_rows
from sg2cli.latents.named_directions import NamedDirections, name_directions
from sg2cli.latents.notation import LatentSource
from sg2cli.sampling import check_settings, learn
from sg2cli.storage.atomic import check_file
from sg2cli.storage.paths import refuse_inputs


@click.command(cls=Command)
@network_options
@click.option(
    "--layers",
    type=STYLES,
    help="Rows of ws: 0-5, coarse; default all.",
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
    help="Output; default directions.safetensors, of names beside the network.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME[=DIRECTION]",
    help="Write a direction under a name, as smile=sefa:3; the learned one, as smile.",
)
@sources_option("--positive", type=LATENTS, help="Latents to learn a direction from, and")
@sources_option("--negative", type=LATENTS, help="others, to which it does not apply.")
@click.option(
    "--scores", type=SCORES, metavar="CSV", help="Instead, lines of a name or seed, and a number."
)
@click.option(
    "--add",
    is_flag=True,
    help="Add names to a file; keep its others.",
)
@click.option("--list", "lists", is_flag=True, help="List the network's names.")
@overwrite_option
@json_option
@quiet_option
def directions(
    layers: Styles | None,
    samples: int,
    seed: int,
    out: Path | None,
    names: tuple[str, ...],
    positive: tuple[LatentSource, ...],
    negative: tuple[LatentSource, ...],
    scores: Path | None,
    add: bool,
    lists: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Find directions of W by SeFa and PCA, learn one, or name some for `sg2 edit`.

    The output has sefa and pca [K,w_dim], and the standard deviation of W along each.

    \b
    sg2 directions --out found.safetensors
    sg2 edit 0-3 --direction found.safetensors:sefa:0
    sg2 directions --name smile=sefa:3 -n ffhq.safetensors
    sg2 directions --positive smiling/ --negative others/ --name smile --out my.safetensors
    sg2 directions --list
    """
    learns = bool(positive or negative or scores)
    _refuse_unused(names, lists, add, "--scores" if scores else "--positive" if learns else "")
    session, settings = open_session(**options)
    if lists:
        _list(session)
        return
    check_settings(session.config, settings, needs_class=not learns)
    chosen = format_styles(layers) if layers else None
    rows = layer_rows(chosen, session.config)  # before the network is loaded
    index = settings.class_index
    common = {"layers": chosen, "class_index": index}
    if learns:
        _learn(session, (positive, negative, scores), names, (out, add, overwrite), **common)
        return
    if names:
        _write_names(session, _named(names), (out, add, overwrite), **common)
        return
    out = out or Path("directions.safetensors")
    check_file(out, overwrite)
    session.check_outputs([out])
    G = session.load()
    with session.console.progress("Mapping", samples, "latent") as bar:
        found = discovery.directions(
            G,
            layers=format_rows(rows),
            samples=samples,
            seed=seed,
            class_index=index,
            on_mapped=bar.update,
        )
    found.save(out, overwrite)
    session.console.wrote(out, found.provenance)


def _refuse_unused(names: tuple[str, ...], lists: bool, add: bool, learns: str) -> None:
    """UsageError for options that the chosen task does not use."""
    found, learned = ("samples", "seed"), ("positive", "negative", "scores")
    if lists:
        others = (*found, *learned, "layers", "class_index", "out", "names", "add")
        refuse_together("--list", others)
    elif learns:
        refuse_together(learns, found)
    elif names:
        refuse_together("--name", found)
    elif add:
        raise UsageError("--add requires --name: names are what is added")


Destination = tuple[Path | None, bool, bool]  # the file or None, whether to add, to overwrite


def _write_names(
    session: Session, given: dict[str, str], destination: Destination, **options: Any
) -> None:
    """Name directions, write them or add them to a file, and say how they are used."""
    network = session.network.path
    sources = [open_direction(text, session.config, network) for text in given.values()]
    out = _file_of_names(session, destination, next(iter(given)))
    if not destination[1]:  # what is added to a file may be read from it
        refuse_inputs([out], (source.path for source in sources if source.path))
    G = session.load()
    with session.console.progress("Mapping", 10_000, "latent") as bar:
        found = name_directions(G, given, on_mapped=bar.update, **options)
    _write(session, found, out, destination)


def _learn(
    session: Session,
    examples: tuple[tuple[LatentSource, ...], tuple[LatentSource, ...], Path | None],
    names: tuple[str, ...],
    destination: Destination,
    **options: Any,
) -> None:
    """Learn a direction from two sets of latents or from scores, and write it like names."""
    positive, negative, scores = examples
    if len(names) > 1 or any("=" in name for name in names):
        raise UsageError("a learned direction has one --name, without =, such as --name smile")
    if scores and (positive or negative):
        raise UsageError("--scores takes the place of --positive and --negative: give either")
    if not scores and not (positive and negative):
        raise UsageError("a direction is learned from --positive and --negative: give both")
    name = names[0] if names else learn.NAME
    check_name(name)
    out = destination[0] or (None if names else Path("directions.safetensors"))
    out = _file_of_names(session, (out, *destination[1:]), name)
    session.check_outputs([out], (*positive, *negative))
    sets = None
    if not scores:
        sets = [session.latents(given, "latents") for given in (positive, negative)]
    refuse_inputs([out], [scores] if scores else [])
    G = session.load()
    with session.console.progress("Mapping", sum(map(len, sets or [])), "latent") as bar:
        found = learn.learn_direction(
            G, *(sets or ()), scores=scores, name=name, on_mapped=bar.update, **options
        )
    _write(session, found, out, destination)
    session.console.note(f"{name}: {found.descriptions[name]}")


def _file_of_names(session: Session, destination: Destination, name: str) -> Path:
    """The file that names are written to, after it was checked; `name` is one of them."""
    out, add, overwrite = destination
    if out is None and session.network.path in checkpoints.bundled().values():
        raise UsageError(
            "the names of a bundled network are part of the installation: write others into a "
            f"file, as with --out my.safetensors, and use them as my.safetensors:{name}"
        )
    out = out or file_beside(session.network.path)
    check_file(out, overwrite or add)
    session.check_outputs([out])
    return out


def _write(session: Session, found: NamedDirections, out: Path, destination: Destination) -> None:
    """Write names or add them to a file, and say how they are used."""
    _, add, overwrite = destination
    for warning in found.warnings:
        session.console.note(f"warning: {warning}")
    if add:
        found.add_to(out, overwrite)
    else:
        found.save(out, overwrite)
    session.console.wrote(out, found.provenance)
    if out.resolve() != file_beside(session.network.path).resolve():
        names = " or ".join(f"{out}:{name}" for name in list(found.steps)[:2])
        session.console.note(f"give it to sg2 edit as --direction {names}")


def _list(session: Session) -> None:
    """A line for each named direction; UsageError if there are none."""
    path = file_beside(session.network.path)
    about = read_names(path)
    if not about:
        raise UsageError(
            f"this network has no named directions, as there is no {path}: write it with "
            "sg2 directions --name NAME=DIRECTION"
        )
    if session.console.as_json:
        session.console.result(json.dumps(about))
        return
    width = max(map(len, about))
    for name, text in about.items():
        session.console.result(printable(f"{name:{width}}  {text}".rstrip()))


def _named(given: tuple[str, ...]) -> dict[str, str]:
    """Directions by the names that they are to have; UsageError for what cannot be one."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, direction = text.partition("=")
        if not equals or name in named:
            raise UsageError(f"--name {brief(text)}: give each name once, as in smile=sefa:3")
        check_name(name)
        named[name] = direction
    return named
