"""States of a run in files, from which it goes on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sg2cli.errors import Sg2Error, reason
from sg2cli.files import is_there, new_file, sg2_metadata
from sg2cli.inversion.project import Projection, Record, Run, State
from sg2cli.inversion.tuning import Tuning
from sg2cli.provenance import same_settings

EVERY = 30.0  # seconds
COUNTS = ("step", "scored_at", "searches", "began_at")  # whole numbers of a State
Found = tuple[dict[str, Any], dict[str, Tensor]]  # the fields and the tensors of a file


def save_state(path: Path, run: Run, recipe: Mapping[str, Any]) -> None:
    """Write the state of a run, and for which recipe it holds."""
    state = run.state
    tensors = state.tensors()
    for member in state.members:
        rows = [astuple(record) for record in run.history[member][: state.step]]
        tensors[f"history.{member}"] = torch.tensor(rows, dtype=torch.float64).view(-1, 5)
    counts = {name: getattr(state, name) for name in COUNTS}
    _write(path, tensors, {**counts, "members": state.members, "recipe": recipe})


def load_state(path: Path, run: Run, recipe: Mapping[str, Any]) -> bool:
    """Bring a run to the state in the file, if there is one.

    Sg2Error when it is damaged, or of another recipe; the version of sg2 does not matter.
    """
    with _reading(path, recipe) as found:
        if not found:
            return False
        state, run.history = _checked(run, *found)
        run.restore(state)
    return True


def save_tuning(path: Path, tuning: Tuning, recipe: Mapping[str, Any]) -> None:
    """As `save_state`."""
    _write(path, tuning.state.tensors(), {"step": tuning.state.step, "recipe": recipe})


def load_tuning(path: Path, tuning: Tuning, recipe: Mapping[str, Any]) -> bool:
    """As `load_state`."""
    with _reading(path, recipe) as found:
        if not found:
            return False
        fields, tensors = found
        step = fields["step"]
        if type(step) is not int or not 0 <= step <= tuning.steps:
            raise ValueError("its step is none of this run's")
        own = _like(tuning.state.tensors(), tensors, "weights.")
        _check_randomness(own["randomness"])
        tuning.state = tuning.state.with_tensors(step, own)
    return True


def _write(path: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
    copies = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    with new_file(path, overwrite=_is_ours(path), durable=True) as file:
        file.write(save(copies, {"sg2": json.dumps(fields)}))


def remove(path: Path) -> None:
    """Remove a snapshot, if there is one; Sg2Error for a file that is none."""
    if _is_ours(path):
        path.unlink()


def _is_ours(path: Path) -> bool:
    """Whether a snapshot is there; Sg2Error for another file of its name, which stays."""
    if not is_there(path):
        return False
    with (
        suppress(OSError, SafetensorError, ValueError, RecursionError),
        safe_open(path, framework="pt") as file,
    ):
        if "recipe" in sg2_metadata(file.metadata()):
            return True
    raise Sg2Error(f"{path} is not a snapshot that sg2 wrote: move it away, or give another --out")


@contextmanager
def _reading(path: Path, recipe: Mapping[str, Any]) -> Iterator[Found | None]:
    """What is in the file, if there is one; Sg2Error for one that does not fit."""
    if not is_there(path):
        yield None
        return
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads((file.metadata() or {}).get("sg2", "{}"))
            if not same_settings(fields["recipe"], recipe):
                raise Sg2Error(
                    f"{path} is of other settings, or of another list of photos: the command that "
                    "wrote it goes on from it, --overwrite begins anew"
                )
            # Copies: the file is mapped where it lies, and that is not aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        yield fields, tensors
    except OSError as error:
        raise Sg2Error(f"cannot read {path}: {reason(error)}") from error
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise Sg2Error(f"{path} is damaged ({error}): remove it, to begin anew") from error


def _like(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], finite: str
) -> dict[str, Tensor]:
    """The tensors of these names, on their devices; ValueError if they are others."""
    own = {}
    for name, like in expected.items():
        tensor = found[name]
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise ValueError(f"its {name} is {list(tensor.shape)}, not {list(like.shape)}")
        if name.startswith(finite) and not tensor.isfinite().all():
            raise ValueError(f"its {name} holds NaN or infinity")
        own[name] = tensor.to(like.device)
    return own


def _check_randomness(state: Tensor) -> None:
    try:
        torch.Generator().set_state(state.clone())
    except RuntimeError as error:
        raise ValueError(f"its random numbers are none: {error}") from error


def _checked(
    run: Run, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[State, list[list[Record]]]:
    """The state and the history in the file; ValueError if they are not those of such a run."""
    count = len(run.history)
    members = fields["members"]
    counts = {name: fields[name] for name in COUNTS}
    if any(type(count) is not int for count in counts.values()):
        raise ValueError("its steps are no whole numbers")
    step = counts["step"]
    if not all(0 <= count <= step <= run.settings.steps for count in counts.values()):
        raise ValueError("its step is none of this run's")
    if sorted(set(members)) != list(members) or not set(members) <= set(range(count)):
        raise ValueError("its members are none of this run's")
    fresh = run.state.only(list(members))
    own = _like(fresh.tensors(), tensors, "kept.")
    for generator_state in own["randomness"]:
        _check_randomness(generator_state)
    history: list[list[Record]] = [[] for _ in range(count)]
    for member in members:
        rows = tensors[f"history.{member}"]
        if rows.shape != (step, 5):
            raise ValueError(f"its history of {member} has not {step} lines")
        history[member] = [Record(int(row[0]), *row[1:]) for row in rows.tolist()]
    return replace(fresh.with_tensors(own), **counts), history


def project(
    run: Run,
    snapshot: Path,
    recipe: Mapping[str, Any],
    on_step: Callable[[Run], object] = lambda run: None,
    seconds: float | None = None,
) -> Iterator[Projection]:
    """Take a run to its end; gives projections as they end, within `seconds`, if there is a limit.

    The state is saved every half minute, when it is interrupted, and before a projection is given:
    whoever is stopped while writing one gets it again. The file goes when all is done.
    """
    start = saved = monotonic()
    saved_step = run.state.step  # nothing is lost where no step was taken

    def part() -> float:
        return (monotonic() - start) / max(seconds, 1e-3) if seconds is not None else 0

    try:
        while run.state.members:
            found, others = run.ended(part())
            if found:
                save_state(snapshot, run, recipe)
                run.restore(others)
                yield from found
                continue
            run.step(part())
            on_step(run)
            if monotonic() - saved > EVERY:
                save_state(snapshot, run, recipe)
                saved = monotonic()
    except GeneratorExit:  # whoever takes the projections was stopped: see above
        raise
    except BaseException:
        if run.state.step > saved_step:
            save_state(snapshot, run, recipe)  # a step that is not done has changed nothing
        raise
    remove(snapshot)


def tune(
    tuning: Tuning,
    snapshot: Path,
    recipe: Mapping[str, Any],
    on_step: Callable[[float], object] = lambda lpips: None,
    seconds: float | None = None,
) -> None:
    """Take a tuning to its end, or as far as it gets in `seconds`; `on_step` gets its LPIPS.

    The state is saved as that of `project` is; the file stays, as what was found is not written.
    """
    start = saved = monotonic()
    saved_step = tuning.state.step
    try:
        while not tuning.over and (seconds is None or monotonic() - start < seconds):
            on_step(tuning.step())
            if monotonic() - saved > EVERY:
                save_tuning(snapshot, tuning, recipe)
                saved = monotonic()
    finally:  # a step that is not done has changed nothing
        if tuning.state.step > saved_step:
            save_tuning(snapshot, tuning, recipe)
