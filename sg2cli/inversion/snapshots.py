"""Snapshots of projection and tuning, from which an interrupted run continues exactly."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sg2cli.errors import Sg2Error, reason
from sg2cli.inversion.search import Saving, Search
from sg2cli.inversion.state import Record, State
from sg2cli.inversion.tuning import Tuning
from sg2cli.provenance import same_settings
from sg2cli.storage.atomic import new_file
from sg2cli.storage.paths import is_there
from sg2cli.storage.safetensors import SafetensorsFile, sg2_metadata

EVERY = 30.0  # seconds
COUNTS = ("step", "scored_at", "searches", "began_at")  # whole numbers of a State
Contents = tuple[dict[str, Any], SafetensorsFile]  # the fields of a file, and its tensors
# The state of torch's generator on the CPU (CPUGeneratorImpl): seed, `left` and `next`, which say
# how far the 624 numbers of its Mersenne twister are used, those numbers, and normal numbers.
RANDOMNESS = struct.Struct("<QiIQ624Q3di4xf?3x")
TWISTER = 624


def save_state(path: Path, search: Search, provenance: Mapping[str, Any]) -> None:
    """Write the state of a search, with the provenance of its photos."""
    state = search.state
    tensors = state.tensors()
    for member in state.members:
        rows = [astuple(record) for record in search.history[member][: state.step]]
        tensors[f"history.{member}"] = torch.tensor(rows, dtype=torch.float64).view(-1, 5)
    counts = {name: getattr(state, name) for name in COUNTS}
    _write(path, tensors, {**counts, "members": state.members, "recipe": provenance})


def load_state(path: Path, search: Search, provenance: Mapping[str, Any]) -> bool:
    """Restore a search from the file, and return whether there is one.

    Sg2Error if it is damaged, or has other settings; the version of sg2 does not matter.
    """
    with _reading(path, provenance) as found:
        if not found:
            return False
        state, search.history = _checked(search, *found)
        search.restore(state)
    return True


def save_tuning(path: Path, tuning: Tuning, provenance: Mapping[str, Any]) -> None:
    """Write the state of a tuning; see `save_state`."""
    _write(path, tuning.state.tensors(), {"step": tuning.state.step, "recipe": provenance})


def load_tuning(path: Path, tuning: Tuning, provenance: Mapping[str, Any]) -> bool:
    """Restore a tuning; see `load_state`."""
    with _reading(path, provenance) as found:
        if not found:
            return False
        fields, file = found
        step = fields["step"]
        if type(step) is not int or not 0 <= step <= tuning.steps:
            raise ValueError("its step is out of range for this run")
        own = _like(tuning.state.tensors(), file, finite="weights.")
        _check_randomness(own["randomness"])
        tuning.state = tuning.state.with_tensors(step, own)
    return True


def _write(path: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
    copies = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    with new_file(path, overwrite=_is_ours(path), durable=True) as file:
        file.write(save(copies, {"sg2": json.dumps(fields)}))


def remove(path: Path) -> None:
    """Remove a snapshot, if there is one; Sg2Error for any other file."""
    if _is_ours(path):
        path.unlink()


def _is_ours(path: Path) -> bool:
    """Whether there is a snapshot; Sg2Error for any other file of that name."""
    if not is_there(path):
        return False
    with suppress(OSError, ValueError), SafetensorsFile(path) as file:
        if "recipe" in sg2_metadata(file.metadata):
            return True
    raise Sg2Error(f"{path} is not a snapshot that sg2 wrote: move it away, or use another `out`")


@contextmanager
def _reading(path: Path, provenance: Mapping[str, Any]) -> Iterator[Contents | None]:
    """The contents of the file, None if there is none; Sg2Error if they do not fit the run."""
    if not is_there(path):
        yield None
        return
    try:
        with SafetensorsFile(path) as file:
            fields = sg2_metadata(file.metadata)
            if not same_settings(fields["recipe"], provenance):
                raise Sg2Error(
                    f"{path} belongs to a run with other settings or photos: finish that run with "
                    "the same photos and options, or start again with `overwrite`"
                )
            yield fields, file
    except (OSError, MemoryError) as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    except KeyError as error:
        raise Sg2Error(
            f"{path} is damaged (it has no {error}): remove it to start again"
        ) from error
    except (TypeError, ValueError) as error:
        raise Sg2Error(f"{path} is damaged ({error}): remove it to start again") from error


def _like(
    expected: Mapping[str, Tensor], file: SafetensorsFile, finite: str | None = None
) -> dict[str, Tensor]:
    """The tensors of these names, on their devices; ValueError for another shape or dtype.

    Shapes are compared before anything is read; other tensors are ignored.
    """
    own = {}
    for name, like in expected.items():
        shape, dtype = file.entries[name].shape, file.dtype(name)
        if (shape, dtype) != (tuple(like.shape), like.dtype):
            raise ValueError(f"its {name} is {dtype} {list(shape)}, not {list(like.shape)}")
        tensor = file.tensor(name)
        if finite and name.startswith(finite) and not tensor.isfinite().all():
            raise ValueError(f"its {name} holds NaN or infinity")
        own[name] = tensor.to(like.device)
    return own


def _check_randomness(state: Tensor) -> None:
    """ValueError for a generator state that would read out of bounds, or yield NaN."""
    content = state.numpy().tobytes()
    if len(content) != RANDOMNESS.size:
        raise ValueError(f"its random numbers have {len(content)} bytes, not {RANDOMNESS.size}")
    if content[-4] > 1:
        raise ValueError("its random numbers are damaged")
    _, left, seeded, position, *numbers = RANDOMNESS.unpack(content)
    twister, (x, y, rho, normal_is_valid, normal, _) = numbers[:TWISTER], numbers[TWISTER:]
    fresh = (left, position) == (1, 0)  # before the first number
    if not (fresh or (1 <= left <= TWISTER and left + position == TWISTER + 1)):
        raise ValueError("its random numbers are damaged: their position is out of range")
    if seeded != 1 or normal_is_valid not in (0, 1) or max(twister) >= 1 << 32:
        raise ValueError("its random numbers are damaged")
    if not all(map(math.isfinite, (x, y, rho, normal))):
        raise ValueError("its random numbers hold NaN or infinity")
    torch.Generator().set_state(state.clone())


def _checked(
    search: Search, fields: Mapping[str, Any], file: SafetensorsFile
) -> tuple[State, list[list[Record]]]:
    """The state and history in the file; ValueError if they do not fit this run."""
    count = len(search.history)
    members = fields["members"]
    counts = {name: fields[name] for name in COUNTS}
    if any(type(number) is not int for number in counts.values()):
        raise ValueError("its steps are not whole numbers")
    step = counts["step"]
    if not all(0 <= number <= step <= search.settings.steps for number in counts.values()):
        raise ValueError("its step is out of range for this run")
    if not isinstance(members, list) or any(type(member) is not int for member in members):
        raise ValueError("its members are not whole numbers")
    if sorted(set(members)) != members or not set(members) <= set(range(count)):
        raise ValueError("its members are out of range for this run")
    fresh = search.state.only(members)
    own = _like(fresh.tensors(), file, finite="kept.")
    for generator_state in own["randomness"]:
        _check_randomness(generator_state.cpu())
    if not ((own["improved_at"] >= 0) & (own["improved_at"] <= step)).all():
        raise ValueError("its steps of improvement are out of range for this run")
    history: list[list[Record]] = [[] for _ in range(count)]
    for member in members:
        history[member] = _history(file, f"history.{member}", step)
    return replace(fresh.with_tensors(own), **counts), history


def _history(file: SafetensorsFile, name: str, steps: int) -> list[Record]:
    """A record for each step, in order; ValueError for anything else."""
    (rows,) = _like({name: torch.empty(steps, 5, dtype=torch.float64)}, file).values()
    if rows[:, 0].tolist() != list(range(steps)):
        raise ValueError(f"its {name} does not have a line for each step")
    return [Record(int(row[0]), *row[1:]) for row in rows.tolist()]


class SearchSnapshot(Saving):
    """Saves a search every 30 seconds, before results are yielded, and on interruption.

    A run interrupted while it writes a result yields it again. The file is removed at the end.
    """

    def __init__(self, path: Path, search: Search, provenance: Mapping[str, Any]) -> None:
        self._path, self._search, self._provenance = path, search, provenance
        self._saved_at = monotonic()
        self._saved_step = search.state.step  # nothing is lost where no step was taken

    def save(self) -> None:
        save_state(self._path, self._search, self._provenance)
        self._saved_at, self._saved_step = monotonic(), self._search.state.step

    def save_when_due(self) -> None:
        if monotonic() - self._saved_at > EVERY:
            self.save()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            remove(self._path)
        elif kind is not GeneratorExit and self._search.state.step > self._saved_step:
            self.save()  # an unfinished step has changed nothing


def tune(
    tuning: Tuning,
    snapshot: Path,
    provenance: Mapping[str, Any],
    on_step: Callable[[float], object] = lambda lpips: None,
    seconds: float | None = None,
) -> None:
    """Run a tuning to its end, or for `seconds`; `on_step` receives the LPIPS of each step.

    Saves the state as `SearchSnapshot` does; the caller removes the file after writing the result.
    """
    start = saved = monotonic()
    saved_step = tuning.state.step
    try:
        while not tuning.over and (seconds is None or monotonic() - start < seconds):
            on_step(tuning.step())
            if monotonic() - saved > EVERY:
                save_tuning(snapshot, tuning, provenance)
                saved = monotonic()
    finally:  # an unfinished step has changed nothing
        if tuning.state.step > saved_step:
            save_tuning(snapshot, tuning, provenance)
