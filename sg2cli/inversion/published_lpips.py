"""LPIPS by the package of its authors, for the figures in reports, metadata and tables.

The optimisers use `losses.LPIPS`, which computes the same distance faster.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sg2cli.inversion.losses import fit, read_weights
from sg2cli.settings import LpipsNet

DYNAMO_UTILS = "torch._dynamo.utils"


class PublishedLPIPS:
    """`lpips.LPIPS` 0.1 with the weights that come with sg2; nothing is downloaded.

    Images are resized as in `losses.LPIPS`. The first use imports lpips and torchvision, so it is
    created only when something is measured.
    """

    def __init__(self, net: LpipsNet, device: torch.device) -> None:
        """Sg2Error if the weights are missing."""
        self.net = net
        self.network = _build(net)
        self.network.load_state_dict(_rename(self.network, read_weights(net)), assign=True)
        self.network.to(device).eval().requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Images [N,1|3,H,W] of -1..1 -> [N]."""
        distance: Tensor = self.network(fit(a, self.net), fit(b, self.net))
        return distance.flatten()


def _build(net: LpipsNet) -> nn.Module:
    """The network without values.

    lpips builds all of torchvision's VGG16 and drops its classifier, 124 of the 138 million
    parameters: on the meta device that allocates nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about the arguments that lpips passes
        with _deferred_dynamo():
            import lpips

        with torch.device("meta"):  # except for the constants of its scaling layer
            network: nn.Module = lpips.LPIPS(
                net=net, pretrained=False, pnet_rand=True, verbose=False
            )
    return network


@contextmanager
def _deferred_dynamo() -> Iterator[None]:
    """Import torchvision without torch's compiler, which takes nine tenths of the import.

    torchvision wants one function of it, for operators that LPIPS does not use. Until it is called,
    or something else of the module is asked for, a placeholder stands in.
    """
    if DYNAMO_UTILS in sys.modules:
        yield
        return
    placeholder = ModuleType(DYNAMO_UTILS)

    def load(name: str) -> Any:
        if name.startswith("__"):  # as `inspect` asks every module
            raise AttributeError(name)
        _remove(placeholder)
        return getattr(import_module(DYNAMO_UTILS), name)

    vars(placeholder)["__getattr__"] = load  # for any other name (PEP 562)
    vars(placeholder)["is_compile_supported"] = lambda *args: load("is_compile_supported")(*args)
    sys.modules[DYNAMO_UTILS] = placeholder
    try:
        yield
    finally:
        _remove(placeholder)


def _remove(module: ModuleType) -> None:
    if sys.modules.get(DYNAMO_UTILS) is module:
        del sys.modules[DYNAMO_UTILS]


def _rename(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Our tensors under the keys of lpips, which has each head twice."""
    state = network.state_dict()  # the constants of the scaling layer stay
    for name in state:
        if found := re.fullmatch(r"net\.slice\d\.(\d+)\.(weight|bias)", name):
            state[name] = tensors[f"features.{found[1]}.{found[2]}"]
        elif found := re.fullmatch(r"lins?\.?(\d)\.model\.1\.weight", name):
            state[name] = tensors[f"lin.{found[1]}.weight"]
    return state
