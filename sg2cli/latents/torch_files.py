"""Latents in files of torch.save: plain tensors, and the results of other projects' projectors.

PTI saves its pivot as a tensor [1,num_ws,w_dim], encoder4editing all latents as [N,num_ws,w_dim].
rosinality's projector saves a dict by the name of the photo, each a dict of `latent` and `noise`, a
list of maps [1,1,H,W] in the order of the layers. Files are read as data: nothing is called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sg2cli.checkpoints.canonical_names import conv_name
from sg2cli.checkpoints.numpy_arrays import PickledArray
from sg2cli.checkpoints.pickle_globals import GLOBALS
from sg2cli.checkpoints.stand_ins import is_plain
from sg2cli.checkpoints.torch_tensors import PickledTensor, read_torch
from sg2cli.errors import CheckpointError, brief
from sg2cli.latents.array_names import NOISE_SUFFIX, choose_names, missing
from sg2cli.latents.photo_names import photo_name
from sg2cli.storage.array_files import UNNAMED, ArrayFile, StoredArray
from sg2cli.storage.budget import Budget

if TYPE_CHECKING:
    from sg2cli.storage.array_files import Array

MAX_DEPTH = 4  # of dicts in one another
MAX_VALUES = 1_000_000  # looked at in all dicts and lists
MAX_NOISE_MAPS = 32  # a network of 1024x1024 pixels has 17
NOISES = ("noise", "noises")
FLOATS = ("f2", "f4", "f8", "float16", "float32", "float64", "bfloat16")
Numbers = PickledTensor | PickledArray


def is_torch_archive(names: Collection[str]) -> bool:
    """Whether a zip file of these members is one of torch.save, not an .npz."""
    return any(name.endswith("/data.pkl") for name in names)


def read_torch_latents(content: bytes, key: str | None, name: str) -> ArrayFile:
    """The latents and noise maps of a file of this `name`.

    `key`: that of an array or kind, as in `choose_names`. ValueError for a file that is unsafe or
    damaged, or holds no latents.
    """
    try:
        stored = read_torch(content, GLOBALS)
        found = list(_Search(key).results(stored))
        if not found:
            names = _names(stored, Budget(values=MAX_VALUES)) if isinstance(stored, dict) else []
            raise ValueError(missing(names, key, name))
        stems = tuple(filter(None, (photo_name(label) for label, _ in found)))
        # A single dict inside another may also be a mere wrapper.
        projected = len(found) > 1 or any(label in found[0][1] for label in NOISES)
        named = projected and len(stems) == len(found)
        arrays = _stacked([_arrays(result, key) for _, result in found], named)
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    return ArrayFile(
        {label: StoredArray(array.shape, array.__getitem__) for label, array in arrays.items()},
        hashlib.sha256(content).hexdigest(),
        row_names=stems if named else (),
    )


class _Search:
    """Finds the dicts that hold latents, inside of others; each is visited once."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.seen: set[int] = set()
        self.budget = Budget(values=MAX_VALUES)

    def results(self, found: object, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each dict, with its name in the dict that it is in."""
        if isinstance(found, Numbers):
            yield "", {UNNAMED: found}
        if (
            not isinstance(found, list | tuple | dict)
            or depth == MAX_DEPTH
            or id(found) in self.seen
        ):
            return
        self.seen.add(id(found))
        self.budget.charge("values", len(found))
        if isinstance(found, dict):
            if choose_names(_names(found, self.budget), self.key):
                yield "", found
                return
            for label, item in found.items():
                for inner, result in self.results(item, depth + 1):
                    if UNNAMED not in result:  # a tensor of any name is none of latents
                        yield inner or (label if _is_name(label) else ""), result
        elif _is_list_of_tensors(found):
            yield "", {UNNAMED: found}
        else:
            for item in found:
                yield from self.results(item, depth + 1)


def _is_name(label: object) -> bool:
    return isinstance(label, str) and is_plain(label)


def _names(found: Mapping[Any, Any], budget: Budget) -> list[str]:
    """The names of tensors, and of lists of tensors, except for noise maps."""
    names = []
    for label, value in found.items():
        if isinstance(value, list | tuple):
            budget.charge("values", len(value))
        held = isinstance(value, Numbers) or _is_list_of_tensors(value)
        if held and _is_name(label) and label not in NOISES:
            names.append(label)
    return names


def _is_list_of_tensors(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(item, Numbers) for item in value)
    )


def _arrays(result: Mapping[str, Any], key: str | None) -> dict[str, Array]:
    """The arrays of one result: latents, and noise maps by the names of their buffers."""
    chosen = choose_names(_names(result, Budget(values=MAX_VALUES)), key)
    arrays = {label: _joined(label, result[label]) for label in chosen}
    maps: list[Any] = next(
        (result[label] for label in NOISES if isinstance(result.get(label), list)), []
    )
    for number, noise_map in enumerate(maps):
        if not isinstance(noise_map, Numbers) or number > MAX_NOISE_MAPS:
            raise ValueError("its noise maps are malformed")
        arrays[f"{conv_name(number)}{NOISE_SUFFIX}"] = _array("noise", noise_map)
    return arrays


def _joined(name: str, value: Any) -> Array:
    """A tensor, or a list of tensors [dim], [num_ws,dim] or [1,...] as one array [N,...]."""
    import numpy as np

    if not isinstance(value, list | tuple):
        return _array(name, value)
    return np.stack(_equally_shaped([_array(name, item) for item in value]))


def _array(name: str, tensor: Numbers) -> Array:
    """The numbers in float32; ValueError for integers."""
    import numpy as np

    if tensor.dtype.lstrip("<>=|") not in FLOATS:
        label = f"tensor {brief(name)}" if name else "tensor"
        raise ValueError(f"its {label} holds {tensor.dtype[:20]}, not floating point numbers")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite
        return tensor.tensor().float().numpy()


def _stacked(results: list[dict[str, Array]], named: bool) -> dict[str, Array]:
    """The arrays of all results, [N,...]; those of a single one without a name as they are."""
    import numpy as np

    if len(results) == 1 and not named:
        return results[0]
    first = results[0].keys()
    if any(result.keys() != first for result in results):
        raise ValueError("its results hold arrays of different names: save them one by one")
    return {label: np.stack(_equally_shaped([r[label] for r in results])) for label in first}


def _equally_shaped(arrays: list[Array]) -> list[Array]:
    """Arrays without leading dimensions of size 1; ValueError if their shapes differ."""
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"its latents have different shapes, {' and '.join(map(str, shapes))}")
    while arrays[0].ndim > 1 and arrays[0].shape[0] == 1:
        arrays = [array[0] for array in arrays]
    return arrays
