"""Directions of W that are learned from examples: two sets of latents, or latents with scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sg2cli import __version__
from sg2cli.errors import UsageError, brief
from sg2cli.latents.direction_names import check_name
from sg2cli.latents.given import Latents, as_latents
from sg2cli.latents.mapping import to_ws
from sg2cli.latents.mixing import layer_rows
from sg2cli.latents.named_directions import NamedDirections
from sg2cli.latents.regression import discriminant, predicted_unseen, ridge
from sg2cli.latents.scores import read_scores
from sg2cli.latents.sources import LatentList
from sg2cli.sampling.rendering import check_settings
from sg2cli.settings import DrawSettings
from sg2cli.storage.paths import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from sg2cli.generator import Generator

NAME = "learned"
BATCH = 1024  # latents that are mapped at once
MAX_MEMBERS = 200_000
Scores = Mapping[Any, float] | Iterable[tuple[Any, float]] | str | Path


@dataclass(frozen=True, eq=False, repr=False)
class LearnedDirection(NamedDirections):
    """A named direction, and how well it predicts members that were left out (5 folds)."""

    held_out: Mapping[str, float] = field(default_factory=dict)


def learn_direction(
    G: Generator,
    positive: Latents | None = None,
    negative: Latents | None = None,
    *,
    scores: Scores | None = None,
    name: str = NAME,
    layers: str | None = None,
    class_index: int | None = None,
    on_mapped: Callable[[int], object] = lambda count: None,
) -> LearnedDirection:
    """Learn a direction: `sg2cli.learn_direction(G, "smiling/", "others/").save("my.safetensors")`.

    Args:
        G: a network, from `sg2cli.load`.
        positive, negative: two sets of latents, see `generate`. The direction is that of a
            regularised linear discriminant; one unit is the difference of their means along it.
        scores: instead, numbers by latent, {85: 0.3, "me.png": 0.9}, or a CSV file of them. The
            direction is that of a ridge regression; one unit raises the score by its standard
            deviation.
        name: of the direction, for `edit`.
        layers: rows of ws that are looked at (their mean) and that move: "0-5"; None: all.
        class_index: of seeds and z, in a conditional network.
        on_mapped: gets the number of latents that were mapped, as they come.

    Returns: the direction. `held_out` has its accuracy on latents that it was not learned from:
    "accuracy", the mean of both sets (0.5 by chance), or "r2", the part of the variance of the
    scores that is predicted. `warnings` says if that is no better than chance.

    Raises UsageError for too few latents, and for those that do not fit the network.
    """
    check_name(name)
    rows = layer_rows(layers, G.config)
    settings = DrawSettings(class_index=class_index)
    sets = _Sets(G, rows, settings, on_mapped)
    if scores is not None:
        if positive is not None or negative is not None:
            raise UsageError("`scores` takes the place of `positive` and `negative`: give either")
        found = _from_scores(sets, scores)
    elif positive is None or negative is None:
        raise UsageError("a direction is learned from `positive` and `negative`, or from `scores`")
    else:
        found = _from_sets(sets, positive, negative)
    step = G.mapping.w_avg.new_zeros(G.config.num_ws, G.config.w_dim)
    step[rows] = found.step.to(step)
    details = {"learned": name, "layers": rows, "held_out": found.held_out, **found.details}
    provenance = {"checkpoint": G.checkpoint, "version": __version__, **details}
    described = {name: found.description}
    return LearnedDirection({name: step}, described, provenance, found.warnings, found.held_out)


@dataclass(frozen=True)
class _Found:
    step: Tensor  # [w_dim]
    description: str
    held_out: dict[str, float]
    details: dict[str, Any]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Sets:
    """Maps latents to w, as the mean of the chosen rows of ws."""

    G: Generator
    rows: list[int]
    settings: DrawSettings
    on_mapped: Callable[[int], object]

    def open(self, given: Latents) -> LatentList:
        """UsageError for latents that do not fit, or too many."""
        latents = as_latents(given, self.G.config)
        check_settings(self.G.config, self.settings, latents.need_mapping)
        if len(latents) > MAX_MEMBERS:
            raise UsageError(f"{len(latents):,} latents: up to {MAX_MEMBERS:,} can be learned from")
        return latents

    def w(self, latents: Iterable[Any]) -> Tensor:
        """w [N,w_dim] in float64."""
        import torch

        members, batches = iter(latents), []
        while batch := list(islice(members, BATCH)):
            with torch.inference_mode():
                ws = to_ws(self.G, batch, class_index=self.settings.class_index)
            batches.append(ws[:, self.rows].double().mean(dim=1).cpu())
            self.on_mapped(len(batch))
        return torch.cat(batches).clone()


def _from_sets(sets: _Sets, positive: Latents, negative: Latents) -> _Found:
    import torch

    opened = {"positive": sets.open(positive), "negative": sets.open(negative)}
    members = {name: _different(sets.w(latents)) for name, latents in opened.items()}
    for name, found in members.items():
        if len(found) < 2:
            raise UsageError(f"`{name}` has {len(found)} different latent: give at least 2")
    w = torch.cat(list(members.values()))
    if shared := len(w) - len(_different(w)):
        raise UsageError(f"{shared} of the latents are in both `positive` and `negative`")
    count, others = map(len, members.values())
    signs = [1] * count + [-1] * others
    y = torch.tensor(signs, dtype=torch.float64)
    unit = torch.nn.functional.normalize(discriminant(w, y).slope, dim=0)
    step = unit * ((w[y > 0].mean(dim=0) - w[y < 0].mean(dim=0)) @ unit)
    right = (predicted_unseen(discriminant, w, y, signs).sign() == y).double()
    accuracy = float((right[y > 0].mean() + right[y < 0].mean()) / 2)
    # Two standard deviations of the accuracy by chance.
    chance = 0.5 + (0.25 * (1 / count + 1 / others)) ** 0.5
    few = f"held-out accuracy is {accuracy:.1%}, which chance may reach as well: give more latents"
    return _Found(
        step,
        f"one unit goes from the mean of {others} negative latents to that of {count} positive "
        f"ones; held-out accuracy {accuracy:.1%}, balanced (chance 50%)",
        {"accuracy": accuracy, "chance": 0.5},
        {name: latents.describe() for name, latents in opened.items()},
        (few,) if accuracy <= chance else (),
    )


def _different(w: Tensor) -> Tensor:
    """Without repeated rows, which would be learned from and held out at once."""
    import numpy as np
    import torch

    return torch.from_numpy(np.unique(w.numpy(), axis=0))


def _from_scores(sets: _Sets, scores: Scores) -> _Found:
    import torch

    if isinstance(scores, str | Path):
        scores = read_scores(user_path(str(scores)))
    pairs = list(scores.items() if isinstance(scores, Mapping) else scores)
    opened = [sets.open(latent) for latent, _ in pairs]
    for (latent, _), found in zip(pairs, opened, strict=True):
        if len(found) != 1:
            raise UsageError(f"{brief(str(latent))} is {len(found)} latents, but has one score")
    try:
        y = torch.tensor([float(score) for _, score in pairs], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a score is not a number: {error}") from error
    if not y.isfinite().all():
        raise UsageError("a score is NaN or infinite")
    if len(y) < 4 or y.min() == y.max():
        raise UsageError("scores of at least 4 latents are needed, which must not be all the same")
    w = sets.w(latent for found in opened for latent in found)
    slope = ridge(w, y).slope
    if not slope.any():
        raise UsageError("all latents with scores are the same")
    deviation = y.std(correction=0)
    step = slope * deviation / slope.square().sum()
    unseen = predicted_unseen(ridge, w, y, [0] * len(y))
    r2 = float(1 - (y - unseen).square().mean() / deviation.square())
    few = f"held-out R2 is {r2:.2f}: the scores are not predicted from w; give more latents"
    return _Found(
        step,
        f"one unit raises the score by {deviation:.4g}, its standard deviation in {len(y)} "
        f"latents; held-out R2 {r2:.2f}",
        {"r2": r2, "mean_absolute_error": float((y - unseen).abs().mean())},
        {"scores": {"count": len(y), "std": float(deviation)}},
        (few,) if r2 <= 0 else (),
    )
