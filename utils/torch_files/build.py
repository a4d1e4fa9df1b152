"""Create plain values and tensors from records, once the whole file has been judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.torch_files.records import (
    SCALARS,
    ArrayRecord,
    ModuleRecord,
    NamespaceRecord,
    OrderedRecord,
    ParameterRecord,
    Refusal,
    TensorRecord,
    ValueRecord,
)


class Builder:
    """Builds values; an object that the file refers to several times is built once.

    OrderedDicts and namespaces become dicts, NumPy's numbers and arrays plain numbers and lists; paths already are.
    """

    def __init__(self, storages: Mapping[str, Tensor]) -> None:
        """``storages`` are the bytes (uint8) of each key."""
        self.storages = storages
        self.made: dict[int, Any] = {}

    def build(self, value: Any) -> Any:
        """The plain value or tensor of a record. Raises Refusal for a module."""
        value_type = type(value)
        if value_type in SCALARS:
            return value
        key = id(value)
        if key not in self.made:
            self.made[key] = self._build(value_type, value)
        return self.made[key]

    def _build(self, value_type: type, value: Any) -> Any:
        if value_type is list or value_type is tuple:
            return value_type([self.build(part) for part in value])
        if value_type is dict or value_type is OrderedRecord:
            return {name: self.build(part) for name, part in value.items()}
        if value_type is TensorRecord:
            return self._tensor(value)
        if value_type is ParameterRecord:
            return nn.Parameter(self.build(value.tensor), value.requires_grad)
        if value_type is NamespaceRecord:
            return self.build(value.state)
        if value_type is ArrayRecord:
            return value.values
        if value_type is ValueRecord:
            makers: dict[str, Any] = {"device": torch.device, "size": torch.Size, "dtype": lambda dtype: dtype}
            return makers[value.kind](value.value)
        if value_type is ModuleRecord:
            raise Refusal(f"an object of {value.path} where plain values are expected")
        return value  # a set or a range

    def _tensor(self, record: TensorRecord) -> Tensor:
        content = self.storages[record.storage.key].untyped_storage()
        tensor = torch.empty(0, dtype=record.storage.dtype)
        tensor.set_(content, record.offset, record.size, record.stride)
        return tensor.requires_grad_() if record.requires_grad else tensor
