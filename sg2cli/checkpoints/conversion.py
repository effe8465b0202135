"""Convert a checkpoint that is a file, an address, or the name of an official network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from sg2cli.checkpoints import bundled, find_network, is_ours
from sg2cli.checkpoints.config import Checkpoint, first
from sg2cli.checkpoints.export import SUFFIXES
from sg2cli.checkpoints.native import Network, has_our_names, save_generator
from sg2cli.checkpoints.official import LICENCE, OFFICIAL_NETWORKS
from sg2cli.checkpoints.weight_deltas import open_weight_deltas
from sg2cli.errors import (
    CheckpointError,
    Sg2Error,
    UsageError,
    brief,
    errors_named,
    is_address,
    public,
)
from sg2cli.settings import shown_size
from sg2cli.storage.atomic import check_file, make_folder
from sg2cli.storage.downloads import download
from sg2cli.storage.paths import kind, refuse_inputs, user_path

Target = Literal["ada", "rosinality", "stylegan3"]
Progress = Callable[[int, "int | None"], object]
Note = Callable[[str], object]


@dataclass(frozen=True, repr=False)
class Conversion:
    """A checkpoint that was written, its provenance and messages."""

    path: Path
    provenance: Mapping[str, Any]  # original format, and hash of the original file
    notes: tuple[str, ...] = ()  # what was read, left out or added, and warnings

    def __repr__(self) -> str:
        return f"Conversion({str(self.path)!r}, from {self.provenance['format']})"


def _ignore(*args: object) -> None:
    pass


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: Target | None = None,
    merge: str | Path | None = None,
    sha256: str | None = None,
    lr_multiplier: float | None = None,
    overwrite: bool = False,
    on_progress: Progress = _ignore,
    on_note: Note = _ignore,
) -> Conversion:
    """Convert a checkpoint, running no code in it: `sg2cli.convert("a.pkl", "a.safetensors")`.

    Args:
        source: a network of NVIDIA's PyTorch or TensorFlow code, of rosinality's, pSp or e4e, of
            BasicSR, MMGeneration, genforce or adriansahlman's, in a .pkl, .pt or .safetensors; a
            path, an http(s) address, or the name of an official network (docs/networks.md). With
            `to` or `merge` a .safetensors of sg2 or the name of a bundled network.
        out: the .safetensors to write, or .pt or .pkl with `to`.
        to: write for other code instead: a .pt of plain tensors for stylegan2-ada-pytorch ("ada")
            or stylegan2-pytorch ("rosinality"), or a .pkl for NVIDIA's `legacy.load_network_pkl`
            ("ada", or "stylegan3" for its StyleGAN2).
        merge: weight deltas of a tuned network, to be added.
        sha256: of the file at an address, in hexadecimal; another one is refused.
        lr_multiplier: learning-rate multiplier of the mapping network, for files that do not
            record it (0.01 is assumed).
        overwrite: replace `out` if it exists.
        on_progress: receives the bytes downloaded so far and, if known, in total.
        on_note: receives messages; they are in the result as well.

    What is written is read back and compared tensor by tensor. Raises UsageError for arguments that
    do not fit, CheckpointError for a file that is unsafe, damaged or unknown, and Sg2Error where
    `out` exists or a download fails.
    """
    name, target = str(source), user_path(str(out))
    check_conversion(name, target, to, merge, sha256, overwrite, lr_multiplier)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        on_note(text)

    if to or merge:
        deltas = user_path(str(merge)) if merge else None
        made = _write_ours(name, target, to, deltas, overwrite, note)
    else:
        from sg2cli.checkpoints import importer

        reader = partial(importer.convert, overwrite=overwrite, lr_multiplier=lr_multiplier)
        made = _read_other(name, target, sha256, reader, on_progress, note)
    return Conversion(target, made, tuple(notes))


def check_conversion(
    source: str,
    out: Path,
    to: str | None,
    merge: str | Path | None,
    sha256: str | None,
    overwrite: bool,
    lr_multiplier: float | None,
) -> None:
    """UsageError or Sg2Error for arguments that are wrong whatever the file contains."""
    expected = SUFFIXES[to] if to else (".safetensors",)
    if out.suffix not in expected:
        raise UsageError(f"{out}: the output must end in {' or '.join(expected)}")
    check_file(out, overwrite)
    inputs = [] if is_address(source) else [user_path(source)]
    refuse_inputs([out], [*inputs, *([user_path(str(merge))] if merge else [])])
    if sha256 and (to or merge or not (is_address(source) or source in OFFICIAL_NETWORKS)):
        raise UsageError("`sha256` applies only to downloads")
    if lr_multiplier is not None:
        if to or merge:
            raise UsageError("`lr_multiplier` is only for networks of other code")
        if not 1e-9 <= lr_multiplier <= 1e3:
            raise UsageError(f"the `lr_multiplier` {lr_multiplier} is out of range: 0.01 is usual")


def _write_ours(
    name: str, out: Path, to: Target | None, merge: Path | None, overwrite: bool, note: Note
) -> dict[str, Any]:
    """Write a checkpoint of sg2, with or without weight deltas, for sg2 or for other code."""
    from sg2cli.checkpoints import export

    network = find_network(name)
    provenance = {"format": to or "safetensors", "source": network.sha256}
    deltas = open_weight_deltas(merge, network) if merge else None
    G = network.load()
    if deltas:
        deltas.apply(G)
        provenance["merged"] = deltas.sha256
    make_folder(out.parent)
    if to:
        export.save_as(G, out, to, overwrite, note)
    else:
        save_generator(G, out, provenance, overwrite)
    return provenance


def _read_other(
    name: str,
    out: Path,
    sha256: str | None,
    converted: Callable[..., tuple[Checkpoint, Network, str]],
    on_progress: Progress,
    note: Note,
) -> dict[str, Any]:
    address = name if is_address(name) else None
    if not address and name not in bundled() and kind(user_path(name)) == "nothing":
        if name not in OFFICIAL_NETWORKS:
            official = first(list(OFFICIAL_NETWORKS), 7)
            raise UsageError(f"no file {brief(name)}, nor an official network: {official}")
        address = OFFICIAL_NETWORKS[name]
        note(LICENCE)
    make_folder(out.parent)
    if address:
        url = public(address)
        origin = {"url": url, "file": url.rpartition("/")[2]}
        with download(address, out.parent, sha256, on_progress, note) as found:
            with errors_named(found.path, url):
                read, network, odd = converted(found.path, out, origin=origin)
            if network.source["sha256"] != found.sha256:
                raise Sg2Error(f"{url} was changed on the disk: remove {out} and convert it again")
    else:
        path = bundled().get(name) or user_path(name)
        _refuse_folder(path)
        if is_ours(path) and has_our_names(path):
            raise UsageError(
                f"{name} is already in the format of sg2: give `to` to export it for other code"
            )
        read, network, odd = converted(path, out)
    for text in [_summary(read.format, network), *_remarks(read, odd)]:
        note(text)
    return {"format": read.format, "source": network.source["sha256"], "made_up": read.made_up}


def _refuse_folder(path: Path) -> None:
    if not path.is_dir():
        return
    if (path / "data.pkl").exists():
        raise CheckpointError(
            f"{path}: an unpacked .pt: pack it with `(cd {quote(str(path.parent))} && zip -0 -r "
            f"{quote(f'{path.name}.pt')} {quote(path.name)})`, and convert that"
        )
    raise CheckpointError(f"{path}: a folder: give the checkpoint inside")


def _summary(format: str, network: Network) -> str:
    config = network.config
    classes = f"{config.c_dim} classes" if config.c_dim else "no classes"
    clamp = "no clamp" if config.conv_clamp is None else f"clamp {config.conv_clamp:g}"
    return (
        f"read {format}: {shown_size(config)}, "
        f"{config.architecture}, {config.img_channels} channels, {classes}, {clamp}, "
        f"{network.parameters:,} parameters, sha256 {network.source['sha256']}"
    )


def _remarks(read: Checkpoint, odd: str) -> Iterator[str]:
    """What was left out of a checkpoint, what was added, and warnings."""
    if read.left_out:
        yield f"left out: {first(read.left_out, 30)}"
    for what in read.made_up:
        yield f"missing in the file, added: {what}"
    yield from read.notes
    if odd:
        yield f"warning: {odd}"
