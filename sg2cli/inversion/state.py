"""All that a step of a search reads and makes anew, and what is found in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

WS = "ws"
# "ws" [N,1,w_dim] in W, [N,num_ws,w_dim] in W+, and noise maps [N,1,H,W] by their names.
Params = dict[str, Tensor]
SINGLE = ("score", "baseline", "improved_at", "randomness")  # tensors of a State, a row an image
Ended = Literal["done", "plateau", "time", "not finite"]


@dataclass(frozen=True)
class State:
    """All that a step reads and makes anew, a row for each image that is under way."""

    step: int
    scored_at: int  # the last step at which scores were taken
    searches: int  # restarts so far
    began_at: int  # the step at which this search began: 0, or that of the last restart
    members: tuple[int, ...]  # which of the run's images they are
    params: Params
    moment1: Params
    moment2: Params
    kept: Params  # the result, if all ended here
    score: Tensor  # [N], of what is kept
    baseline: Tensor  # [N], the score that `patience` waits to see improved
    improved_at: Tensor  # [N], the step of the baseline
    randomness: Tensor  # [N,bytes], of the generators

    def tensors(self) -> dict[str, Tensor]:
        """Under names that tell them apart; `with_tensors` takes them back."""
        found = {name: getattr(self, name) for name in SINGLE}
        for kind in ("params", "moment1", "moment2", "kept"):
            found |= {f"{kind}.{name}": tensor for name, tensor in getattr(self, kind).items()}
        return found

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> State:
        """The same with these tensors, of the names that `tensors` gives."""
        fields: dict[str, Any] = {name: tensors[name] for name in SINGLE}
        for kind in ("params", "moment1", "moment2", "kept"):
            fields[kind] = {name: tensors[f"{kind}.{name}"] for name in self.params}
        return replace(self, **fields)

    def only(self, rows: Sequence[int]) -> State:
        """Without the images that have ended."""
        index = torch.tensor(rows, dtype=torch.long)
        tensors = {name: t[index.to(t.device)] for name, t in self.tensors().items()}
        members = tuple(self.members[row] for row in rows)
        return replace(self.with_tensors(tensors), members=members)

    def draw_jitter(self) -> tuple[Tensor, Tensor]:
        """Normal numbers in the shape of ws, an image's from its own generator; their states."""
        drawn, states = [], []
        shape = (1, *self.params[WS].shape[1:])
        for own in self.randomness:
            generator = torch.Generator()
            generator.set_state(own.clone())  # it reads a whole storage
            drawn.append(torch.randn(shape, generator=generator))
            states.append(generator.get_state())
        return torch.cat(drawn).to(self.params[WS]), torch.stack(states)


@dataclass(frozen=True)
class Record:
    """A line of an image's history."""

    step: int
    lr: float
    lpips: float  # with the noise on w of that step
    noise_penalty: float
    w_distance: float


@dataclass(frozen=True)
class Found:
    """What a search found for a photo: ws [num_ws,w_dim], noise maps [H,W] by name."""

    member: int
    ws: Tensor
    noise: dict[str, Tensor]
    steps: int
    ended: Ended
    history: list[Record]


def where(rows: Tensor, these: Params, others: Params) -> Params:
    """These for the rows [N] that are true, the others else."""
    if rows.all():
        return these
    return {
        name: torch.where(rows.view(-1, *[1] * (param.ndim - 1)), param, others[name])
        for name, param in these.items()
    }
