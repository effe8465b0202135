"""The same work again and again on a GPU, recorded as a CUDA graph.

A network of 18 layers launches some 300 kernels for an image and 3000 for a step of projection,
which takes a CPU longer than it takes a GPU to compute them. A graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sg2cli.ops.backend import only_reference
from sg2cli.ops.tensors import is_intercepted


class Replayed:
    """A function of tensors, recorded when it is called again with the same shapes on a GPU.

    The function must do the same each time: no numbers that differ between calls, and nothing read
    back by the CPU. Of the tensors that it reads beside its arguments, such as weights, only
    changes in place are noticed: one that is assigned anew (`module.weight.data = ...`) is not, as
    the recording reads the memory of the old one. Elsewhere, with SG2_BACKEND=reference, and where
    there is no memory for a recording, it is just called.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._key: object = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_recordable = True
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not inputs[0].is_cuda or only_reference() or is_intercepted():
            return self._function(*inputs)
        key = (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), *map(_layout, inputs))
        if key != self._key:  # compiles kernels, and fails here where there is too little memory
            self._key, self._graph, self._inputs, self._outputs = key, None, [], ()
            self._is_recordable = True
            return self._function(*inputs)
        if self._graph is None and self._is_recordable:
            self._is_recordable = self._record(inputs)
        if self._graph is None:
            return self._function(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether that worked: a recording keeps the memory of all that is computed in it."""
        graph = torch.cuda.CUDAGraph()
        try:
            self._inputs = [given.detach().clone() for given in inputs]
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._outputs = self._function(*self._inputs)
        except RuntimeError:
            self._inputs, self._outputs = [], ()
            return False
        self._graph = graph
        return True


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
