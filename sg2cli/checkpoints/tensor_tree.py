"""The tensors of a checkpoint by name, whatever it wraps them in.

A generator may be a module, a state dict or a part of one, below any keys: `G_ema`, `g_ema`,
`state_dict.decoder`. All of it is one tree of names with dots, in which a naming scheme finds a
generator by one of its names, and what comes before that name is the generator's prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sg2cli.checkpoints.stand_ins import Instance, Module, TensorFlowNetwork, is_plain
from sg2cli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MAX_DEPTH = 16  # dicts and modules in one another; a generator in a training state has eight
MAX_COUNT = 200_000  # dicts, modules and tensors
MAX_SCANNED = 2_000_000  # items of them, of any kind
MAX_NAME = 500  # characters; what has a longer one is skipped
MODULE_STATE = ("_modules", "_parameters", "_buffers")


class Stored(Protocol):
    """A tensor in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def tensor(self) -> Tensor: ...


@dataclass
class TensorTree:
    """What a file holds, by names with dots."""

    tensors: dict[str, Stored] = field(default_factory=dict)
    modules: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # their attributes
    classes: dict[str, str] = field(default_factory=dict)  # the modules' class names
    tensorflow: dict[str, TensorFlowNetwork] = field(default_factory=dict)
    top: list[str] = field(default_factory=list)  # the names at the top that are not None

    def below(self, prefix: str) -> dict[str, Stored]:
        return {n[len(prefix) :]: t for n, t in self.tensors.items() if n.startswith(prefix)}

    def modules_below(self, prefix: str) -> dict[str, Mapping[str, Any]]:
        return {n[len(prefix) :]: m for n, m in self.modules.items() if n.startswith(prefix)}


def tensor_tree(found: object) -> TensorTree:
    """All tensors of what a reader returned. CheckpointError if it holds too many objects.

    A file may contain cycles, and the same object many times.
    """
    tree = TensorTree()
    if isinstance(found, dict):
        tree.top = [str(key) for key, value in found.items() if is_plain(key) and value is not None]
    todo: list[tuple[str, int, Any]] = [("", 0, found)]
    count = scanned = 0
    while todo:
        name, depth, value = todo.pop()
        if hasattr(value, "tensor"):
            tree.tensors[name] = value
            continue
        if isinstance(value, TensorFlowNetwork):
            tree.tensorflow[name] = value
            continue
        if isinstance(value, Module | Instance) and value.state:
            tree.modules[name] = value.state
            tree.classes[name] = str(value.class_name)
        if depth == MAX_DEPTH:
            continue
        scanned += _items_of(value)
        if scanned > MAX_SCANNED:
            raise CheckpointError(
                f"it holds more than {MAX_SCANNED:,} items, which no network does"
            )
        below = list(_children(value))
        count += 1 + len(below)
        if count > MAX_COUNT:
            raise CheckpointError(
                f"it holds more than {MAX_COUNT:,} modules and tensors, which no network does"
            )
        for key, child in reversed(below):
            path = f"{name}.{key}" if name and key else name or key
            if len(path) <= MAX_NAME:
                todo.append((path, depth + 1, child))
    return tree


def _items_of(value: object) -> int:
    """How many items `_children` goes through."""
    held = [value.state, *value.state.values()] if isinstance(value, Module | Instance) else []
    return sum(len(x) for x in [value, *held] if isinstance(x, dict | list | tuple))


def _children(value: object) -> Iterator[tuple[str, Any]]:
    """The named parts of a dict, a module, or a list."""
    if isinstance(value, Module | Instance):
        for kind in MODULE_STATE:
            if isinstance(held := value.state.get(kind), dict):
                yield from _items(held)
            elif kind in value.state:
                raise CheckpointError("its modules are malformed")
        if "_modules" not in value.state:
            yield from _items(value.state)
            yield from _items(value if isinstance(value, Instance) else {})
    elif isinstance(value, dict):
        yield from _items(value)
    elif isinstance(value, list | tuple):
        yield from ((str(i), item) for i, item in enumerate(value) if not is_plain(item))


def _items(held: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in held.items():
        if is_plain(key) and not is_plain(item):
            yield str(key), item
