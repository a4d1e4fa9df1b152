"""A deep copy of a network on the CPU, in a fraction of the time of ``copy.deepcopy``.

Objects are copied through pickle, whose loops are compiled; tensors are kept aside and copied one by one.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import nn


def copy_to_cpu(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with all its tensors on the CPU; gradients are not copied.

    Raises what pickle raises for an attribute that cannot be saved.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dump(module)
    stream.seek(0)
    return _Unpickler(stream, pickler.tensors).load()


def _tensor_at(index: int) -> torch.Tensor:
    """Mark the tensor ``index`` in the stream; ``_Unpickler`` replaces this function by its own."""
    raise pickle.UnpicklingError(f"tensor {index} is not part of the stream")


class _Pickler(pickle.Pickler):
    def __init__(self, stream: Any, protocol: int) -> None:
        super().__init__(stream, protocol)
        self.tensors: list[torch.Tensor] = []

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        self.tensors.append(value)
        return _tensor_at, (len(self.tensors) - 1,)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, tensors: list[torch.Tensor]) -> None:
        super().__init__(stream)
        self._tensors = tensors

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _tensor_at.__name__):
            return self._copy
        return super().find_class(module, name)

    def _copy(self, index: int) -> torch.Tensor:
        source = self._tensors[index]
        copied = source.detach().to("cpu", copy=True)
        if isinstance(source, nn.Parameter):
            return nn.Parameter(copied, requires_grad=source.requires_grad)
        return copied
