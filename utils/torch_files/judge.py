"""The final check of a file's records before objects are created: depth, extent, and values of known types."""

from __future__ import annotations

import math
from typing import Any

from utils.torch_files.records import (
    DEPTH,
    EXPANDED_BYTES,
    MOST_MODULES,
    SCALARS,
    VALUE_BYTES,
    WEIGHT,
    ArrayRecord,
    ModuleRecord,
    NamespaceRecord,
    OrderedRecord,
    ParameterRecord,
    Refusal,
    TensorRecord,
    ValueRecord,
    shown,
)

_IN_PROGRESS = -1


def judge(value: Any, stored_bytes: int) -> list[ModuleRecord]:
    """Raise Refusal unless ``value`` holds values only, bounded in depth and extent; return the modules in it.

    Args:
        value: the content of a pickle.
        stored_bytes: size of the file, with which the extent of the tensors is compared.
    """
    scales = _Scales(EXPANDED_BYTES + stored_bytes)
    scales.weigh(value, 0)
    return scales.modules


class _Scales:
    """Weighs values, each object once; a list that refers to another one twice weighs as much as if it were copied."""

    def __init__(self, tensor_bytes: int) -> None:
        self.weights: dict[int, int] = {}
        self.tensor_bytes = tensor_bytes
        self.modules: list[ModuleRecord] = []

    def weigh(self, value: Any, depth: int) -> int:
        value_type = type(value)
        if value_type in SCALARS:
            return VALUE_BYTES + len(value) if value_type is str or value_type is bytes else VALUE_BYTES
        known = self.weights.get(id(value))
        if known is not None:
            if known == _IN_PROGRESS:
                raise Refusal(f"{_kind(value)} that contains itself")
            return known
        if depth > DEPTH:
            raise Refusal(f"values nested more than {DEPTH} times")
        self.weights[id(value)] = _IN_PROGRESS
        weight = VALUE_BYTES + sum([self.weigh(part, depth + 1) for part in self._parts(value)])
        if weight > WEIGHT:
            raise Refusal("values that refer to each other so often that they would fill the memory")
        self.weights[id(value)] = weight
        return weight

    def _parts(self, value: Any) -> Any:
        value_type = type(value)
        if value_type is list or value_type is tuple or value_type is set:
            return value
        if value_type is dict or value_type is OrderedRecord:
            return [*value, *value.values()]
        if value_type is ModuleRecord or value_type is NamespaceRecord:
            if value.state is None:
                raise Refusal(f"{_kind(value)} without a state")
            if value_type is ModuleRecord:
                self.modules.append(value)
                if len(self.modules) > MOST_MODULES:
                    raise Refusal(f"more than {MOST_MODULES} modules")
            return (value.state,)
        if value_type is ParameterRecord:
            return (value.tensor,)
        if value_type is TensorRecord:
            self.tensor_bytes -= math.prod(value.size) * value.storage.dtype.itemsize
            if self.tensor_bytes < 0:
                raise Refusal("tensors that are far larger than the numbers stored for them")
            return ()
        if value_type is ArrayRecord:
            if not value.filled:
                raise Refusal("a NumPy array without values")
            return (value.values,)
        if value_type is range or value_type is ValueRecord:
            return ()
        raise Refusal(f"{shown(value)} where a value is expected")


def _kind(value: Any) -> str:
    return shown(value) if type(value) is not ModuleRecord else f"an object of {value.path}"
