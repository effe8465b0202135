"""The state of a search, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

WS = "ws"
# "ws" [N,1,w_dim] in W, [N,num_ws,w_dim] in W+, and noise maps [N,1,H,W] by their names.
Params = dict[str, Tensor]
SINGLE = (
    "score",
    "baseline",
    "improved_at",
    "randomness",
)  # tensors of a State with a row per image
Ended = Literal["done", "plateau", "time", "not finite"]


@dataclass(frozen=True)
class State:
    """The immutable state of a search, with a row for each active image."""

    step: int
    scored_at: int  # the last step with a score
    searches: int  # number of restarts so far
    began_at: int  # the step of the last restart, or 0
    members: tuple[int, ...]  # indices of the images in the run
    params: Params
    moment1: Params
    moment2: Params
    kept: Params  # the current result
    score: Tensor  # [N], score of `kept`
    baseline: Tensor  # [N], the score that must improve within `patience`
    improved_at: Tensor  # [N], step of the baseline
    randomness: Tensor  # [N,bytes], states of the generators

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by unique names; the inverse of `with_tensors`."""
        found = {name: getattr(self, name) for name in SINGLE}
        for kind in ("params", "moment1", "moment2", "kept"):
            found |= {f"{kind}.{name}": tensor for name, tensor in getattr(self, kind).items()}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> State:
        """A copy with these tensors, named as in `tensors`."""
        fields: dict[str, Any] = {name: tensors[name] for name in SINGLE}
        for kind in ("params", "moment1", "moment2", "kept"):
            fields[kind] = {name: tensors[f"{kind}.{name}"] for name in self.params}
        return replace(self, **fields)

    def only(self, rows: Sequence[int]) -> State:
        """A copy with these rows only."""
        index = torch.tensor(rows, dtype=torch.long)
        tensors = {name: t[index.to(t.device)] for name, t in self.tensors().items()}
        members = tuple(self.members[row] for row in rows)
        return replace(self.with_tensors(tensors), members=members)

    def draw_jitter(self) -> tuple[Tensor, Tensor]:
        """Normal noise like ws, each row from its own generator, and the new states of these."""
        drawn, states = [], []
        shape = (1, *self.params[WS].shape[1:])
        for own in self.randomness:
            generator = torch.Generator()
            generator.set_state(own.clone())  # set_state ignores strides
            drawn.append(torch.randn(shape, generator=generator))
            states.append(generator.get_state())
        return torch.cat(drawn).to(self.params[WS]), torch.stack(states)


@dataclass(frozen=True)
class Record:
    """One step in the history of an image."""

    step: int
    lr: float
    lpips: float  # including the noise on w of that step
    noise_penalty: float
    w_distance: float


@dataclass(frozen=True)
class Found:
    """The result of a search for a photo: ws [num_ws,w_dim], noise maps [H,W] by name."""

    member: int
    ws: Tensor
    noise: dict[str, Tensor]
    steps: int
    ended: Ended
    history: list[Record]


def where(rows: Tensor, these: Params, others: Params) -> Params:
    """Rows of `these` where `rows` [N] is true, else of `others`."""
    if rows.all():
        return these
    return {
        name: torch.where(rows.view(-1, *[1] * (param.ndim - 1)), param, others[name])
        for name, param in these.items()
    }
