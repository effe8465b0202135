"""Find the generator in what a container holds."""

from __future__ import annotations

import re
from typing import NamedTuple

from sg2cli.checkpoints import ada, other_networks, tensorflow
from sg2cli.checkpoints.canonical_names import CONST, last_mapping_bias, prefix_before
from sg2cli.checkpoints.config import Checkpoint, LazyTensor, first
from sg2cli.checkpoints.naming_schemes import ROSINALITY, SCHEMES, NamingScheme
from sg2cli.checkpoints.tensor_tree import Stored, TensorTree, tensor_tree
from sg2cli.errors import CheckpointError
from sg2cli.storage.budget import Budget

# Prefer the exponential moving average of the weights: it gives better images than the last step.
AVERAGED = re.compile(
    r"(^|[._])(ema_?g?|gs|smooth|running|shadow|swa|avg|averaged?)(_\w+)?([.]|$)|_ema_|^2[.]"
)
WRAPPERS = {"state_dict", "module", "_orig_mod", "model", "models", "decoder", "weights", "net"}
MEANS = (  # of w, beside or in a state dict
    *("latent_avg", "w_avg", "dlatent_avg", "mean_latent", "latent_mean", "mean_w", "w_mean"),
    "truncation_latent",
)


class Candidate(NamedTuple):
    """A generator in a file: the prefix of its names, and their scheme (None: NVIDIA's)."""

    prefix: str
    scheme: NamingScheme | None

    @property
    def is_averaged(self) -> bool:
        return AVERAGED.search(self.prefix.lower()) is not None

    @property
    def rank(self) -> tuple[bool, int]:
        return not self.is_averaged, self.prefix.count(".")


def find_generator(found: object, budget: Budget) -> Checkpoint:
    """The network of what `read_container` returned, an averaged one where there are several.

    CheckpointError if there is none, which says what there is.
    """
    tree = tensor_tree(found)
    if tree.tensorflow:
        return tensorflow.read(tree.tensorflow)
    candidates = _candidates(tree)
    if not candidates:
        _refuse(tree)
    prefix, scheme = chosen = min(candidates, key=lambda candidate: candidate.rank)
    if scheme is None:
        checkpoint = ada.read(tree, prefix, budget)
    else:
        stored = {n: t for n, t in tree.below(prefix).items() if n not in MEANS}
        checkpoint = scheme.read(stored, budget)
        _add_mean(checkpoint, tree, prefix)
        if scheme is ROSINALITY and prefix.endswith("decoder."):
            checkpoint.format = "pSp or e4e, with rosinality's generator"
    if prefix:
        others = [n for n in tree.top if not prefix.startswith(f"{n}.") and n not in MEANS]
        checkpoint.left_out += others + _siblings(tree, prefix)
    if len(candidates) > 1 and not chosen.is_averaged:
        where = [c.prefix.rstrip(".") for c in candidates if c != chosen]
        checkpoint.notes.append(f"it also holds generators under {first(where)}")
    if not chosen.is_averaged and (note := _note(tree, prefix)):
        checkpoint.notes.append(note)
    return checkpoint


def _candidates(tree: TensorTree) -> list[Candidate]:
    marks: list[tuple[str, NamingScheme | None]] = [(CONST, None)]
    marks += [(scheme.mark, scheme) for scheme in SCHEMES]
    return [
        Candidate(prefix, scheme)
        for name in tree.tensors
        for mark, scheme in marks
        if (prefix := prefix_before(mark, name)) is not None
        if "stylegan_decoder" not in name  # the one within GFPGAN is not a whole network
    ]


def _refuse(tree: TensorTree) -> None:
    for wanted in ("G_ema", "G"):
        if wanted in tree.classes and not tree.below(f"{wanted}."):
            what = tree.classes[wanted]
            raise CheckpointError(f"its {wanted} is a {what}, not a StyleGAN2 generator")
    other_networks.refuse({name: tensor.shape for name, tensor in tree.tensors.items()})


def _add_mean(checkpoint: Checkpoint, tree: TensorTree, prefix: str) -> None:
    """Take the mean of w that lies beside the state dict, or beside what wraps it."""
    parts = prefix.rstrip(".").split(".")
    for depth in range(len(parts), -1, -1):
        for name in MEANS:
            stored = tree.tensors.get(".".join([*parts[:depth], name]).lstrip("."))
            if stored is not None and stored.shape:
                _check_width(checkpoint, stored, name)
                checkpoint.tensors["mapping.w_avg"] = _mean(stored)
                return


def _check_width(checkpoint: Checkpoint, mean: Stored, name: str) -> None:
    last = checkpoint.tensors.get(last_mapping_bias(checkpoint.tensors))
    if last and mean.shape[-1:] != last.shape:
        raise CheckpointError(f"its {name} has {mean.shape[-1]} numbers, but w has {last.shape[0]}")


def _siblings(tree: TensorTree, prefix: str) -> list[str]:
    """The parts of a larger network that the generator is one of."""
    parent = prefix.rstrip(".").rpartition(".")[0]
    if not parent:
        return []
    parts = {
        name[len(parent) + 1 :].partition(".")[0]
        for name in tree.tensors
        if name.startswith(f"{parent}.") and not name.startswith(prefix)
    }
    return [f"{parent}.{part}" for part in sorted(parts) if part not in MEANS]


def _mean(stored: Stored) -> LazyTensor:
    """[w_dim], or the same in a row for each layer."""
    width = stored.shape[-1]
    return LazyTensor((width,), lambda: stored.tensor().reshape(-1, width).float().mean(dim=0))


def _note(tree: TensorTree, prefix: str) -> str:
    """A note on a generator that is not an average, or ''."""
    named = [part for part in prefix.rstrip(".").split(".") if part and part not in WRAPPERS]
    if named:
        return f"read {'.'.join(named)}, as there is no network of averaged weights (G_ema, g_ema)"
    if not prefix and "" in tree.classes:
        return "the file is a single module: read as the generator that it is"
    return ""
