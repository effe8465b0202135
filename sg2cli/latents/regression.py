"""Ridge regression of numbers on w, and its accuracy on members that were left out.

For two classes, labelled 1 and -1, its coefficients are those of a regularised linear discriminant
up to their length (Hastie, Tibshirani and Friedman 2009, section 4.3 and exercise 4.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLDS = 5
PENALTIES = [10.0 ** (power / 2) for power in range(-8, 7)]  # times the mean variance of w


@dataclass(frozen=True)
class Linear:
    """A linear function of w: `intercept + w @ slope`."""

    slope: Tensor  # [w_dim]
    intercept: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        """w [N,w_dim] -> [N]."""
        return w @ self.slope + self.intercept


def ridge(w: Tensor, y: Tensor) -> Linear:
    """Fit y [N] to w [N,w_dim], both float64.

    Of several penalties that with the least error is used, when each member is predicted from all
    others (leave-one-out in closed form; ibid., eq. 7.64).
    """
    import torch

    mean_w, mean_y = w.mean(dim=0), y.mean()
    x, centred = w - mean_w, y - mean_y
    values, vectors = torch.linalg.eigh(x.T @ x)
    values = values.clamp_min(0)
    projected = x @ vectors  # [N,w_dim]
    moments = projected.T @ centred
    best, slope = torch.inf, torch.zeros_like(mean_w)
    for penalty in PENALTIES:
        inverse = 1 / (values + penalty * values.mean().clamp_min(1e-30))
        coefficients = moments * inverse
        leverage = projected.square() @ inverse + 1 / len(y)
        residuals = (centred - projected @ coefficients) / (1 - leverage).clamp_min(1e-9)
        if (error := residuals.square().mean().item()) < best:
            best, slope = error, vectors @ coefficients
    return Linear(slope, mean_y - mean_w @ slope)


def discriminant(w: Tensor, y: Tensor) -> Linear:
    """The regularised linear discriminant of the classes y = 1 and -1.

    It is zero in the middle between their means, which does not favour the larger class.
    """
    slope = ridge(w, y).slope
    middle = (w[y > 0].mean(dim=0) + w[y < 0].mean(dim=0)) / 2
    return Linear(slope, -middle @ slope)


def predicted_unseen(
    fit: Callable[[Tensor, Tensor], Linear], w: Tensor, y: Tensor, groups: Sequence[int]
) -> Tensor:
    """What is predicted for each member by a fit to the folds without it, [N].

    `groups`: one of each member; those of equal groups are spread evenly over the folds.
    """
    import torch

    folds = folds_of(groups)
    predicted = torch.zeros_like(y)
    for fold in range(int(folds.max()) + 1):
        left_out = folds == fold
        predicted[left_out] = fit(w[~left_out], y[~left_out])(w[left_out])
    return predicted


def folds_of(groups: Sequence[int]) -> Tensor:
    """A fold for each member, at random from a fixed seed: [N]."""
    import torch

    random = torch.Generator().manual_seed(0)
    counts = Counter(groups)
    count = min(FOLDS, *counts.values())
    folds = torch.zeros(len(groups), dtype=torch.int64)
    for group, size in sorted(counts.items()):
        members = torch.tensor([i for i, own in enumerate(groups) if own == group])
        folds[members[torch.randperm(size, generator=random)]] = torch.arange(size) % count
    return folds
