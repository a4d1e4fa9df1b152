"""Effects of torch's operations on channels: pass, join, couple or pick them; all others cannot be followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Vectors = Sequence[torch.Tensor]  # one value per channel, one vector per input

MODULE_CALLS = {"conv2d", "conv_transpose2d", "batch_norm"}
READS_VALUES = {"item", "tolist", "bool value", "number value", "numpy", "array"}

# A channel that is constant stays so, with the same value (away from padding).
PASSING = {
    "max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d", "interpolate", "upsample", "contiguous",
    "clone", "detach", "float", "half", "double", "bfloat16", "to", "type", "type as", "dropout", "dropout2d", "alias",
}  # fmt: skip
ACTIVATIONS = {
    "silu", "relu", "relu6", "leaky_relu", "hardswish", "hardtanh", "hardsigmoid", "mish", "gelu", "elu", "selu",
    "celu", "softplus", "sigmoid", "tanh", "logsigmoid", "softsign",
}  # fmt: skip
ADDITIONS = {"add", "radd", "iadd", "sub", "isub"}
SCALINGS = {"mul", "rmul", "imul", "div", "truediv", "itruediv", "neg", "multiply", "divide", "true_divide"}
SELECTIONS = {"getitem", "narrow", "flip", "roll", "index_select"}
SPLITS = {"chunk", "split", "tensor_split", "unbind"}


@dataclass
class Effect:
    """Mapping of channels by one operation.

    Attributes:
        kind: 'linear' or 'activation'.
        sources: the tensors whose channels are mapped.
        apply: computes the result's values (C,) from the sources' values.
        joins: the channels of ``sources`` are concatenated; otherwise two sources are coupled position by position.
        selects: the result's channel j is the source's channel ``selects[j]``.
        keeps_zero: channels of zeros stay zeros.
    """

    kind: str
    sources: list[torch.Tensor]
    apply: Callable[[Vectors], torch.Tensor]
    joins: bool = False
    selects: np.ndarray | None = None
    keeps_zero: bool = True


def name_of(func: Callable[..., Any]) -> str:
    """A torch function's name without the underscores of in-place and operator forms."""
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__bool__",):
        return "bool value"
    if name in ("__float__", "__int__", "__index__"):
        return "number value"
    return name.strip("_")


def effect_of(
    operation: str, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], source: torch.Tensor, result: Any
) -> Effect | None:
    """The effect of a call that reads ``source``, or None if channels cannot be followed through it."""
    if operation in SPLITS or not isinstance(result, torch.Tensor) or source.ndim < 3:
        return None
    if operation == "cat" or operation == "concat":
        return _concatenation(args, kwargs)
    if operation in SELECTIONS:
        return _selection(func, args, kwargs, source, result)
    if operation in ADDITIONS:
        return _addition(func, args, kwargs, source)
    if operation in SCALINGS:
        return _scaling(func, args, kwargs, source)
    if not args or args[0] is not source or result.ndim != source.ndim or result.shape[:2] != source.shape[:2]:
        return None
    if operation in PASSING or (operation == "pad" and _pads_space_only(args, kwargs)):
        return Effect("linear", [source], lambda vectors: vectors[0])
    if operation in ACTIVATIONS:

        def activate(vectors: Vectors) -> torch.Tensor:
            return func(vectors[0].clone(), *args[1:], **kwargs)

        zero = torch.zeros(1, device=source.device, dtype=source.dtype)
        return Effect("activation", [source], activate, keeps_zero=bool((activate([zero]) == 0).all()))
    return None


def _concatenation(args: tuple, kwargs: dict[str, Any]) -> Effect | None:
    tensors = list(args[0] if args else kwargs.get("tensors", ()))
    dimension = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    if not tensors or dimension % tensors[0].ndim != 1:
        return None
    return Effect("linear", tensors, lambda vectors: torch.cat(list(vectors)), joins=True)


def _addition(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], source: torch.Tensor) -> Effect | None:
    """Two maps with the same number of channels, or a map and the number 0 (as in Python's ``sum``)."""
    maps = [argument for argument in args[:2] if isinstance(argument, torch.Tensor)]
    if len(maps) == 1:
        other = next((argument for argument in args[:2] if argument is not source), None)
        is_zero = isinstance(other, (int, float)) and other == 0
        return Effect("linear", [source], lambda vectors: vectors[0]) if is_zero else None
    if len(maps) != 2 or maps[0].ndim != maps[1].ndim or maps[0].shape[1] != maps[1].shape[1]:
        return None
    return Effect("linear", maps, lambda vectors: func(vectors[0].clone(), vectors[1], *args[2:], **kwargs))


def _scaling(func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], source: torch.Tensor) -> Effect | None:
    """A map times one number."""
    others = [argument for argument in args if argument is not source]
    single = all(
        isinstance(item, (int, float)) or (isinstance(item, torch.Tensor) and item.numel() == 1) for item in others
    )
    if not single or kwargs or len(others) != len(args) - 1 or ("div" in func.__name__ and args[0] is not source):
        return None
    position = next(index for index, argument in enumerate(args) if argument is source)

    def scale(vectors: Vectors) -> torch.Tensor:
        rest = [float(item) if isinstance(item, torch.Tensor) else item for item in others]
        return func(*rest[:position], vectors[0].clone(), *rest[position:])

    return Effect("linear", [source], scale)


def _selection(
    func: Callable[..., Any], args: tuple, kwargs: dict[str, Any], source: torch.Tensor, result: torch.Tensor
) -> Effect | None:
    """Indexing; the selected channels are found by applying it to a map that holds its channel numbers."""
    if result.ndim != source.ndim or args[0] is not source:
        return None
    count = source.shape[1]
    numbers = torch.arange(count, device=source.device).view(1, count, *[1] * (source.ndim - 2)).expand(source.shape)
    picked = func(numbers, *args[1:], **kwargs)
    corner = (slice(0, 1), slice(None), *[slice(0, 1)] * (source.ndim - 2))
    first = picked[corner]
    if not picked.numel() or not bool((picked == first).all()):
        return None
    selects = first.flatten().cpu().numpy()
    return Effect("linear", [source], lambda vectors: vectors[0][torch.as_tensor(selects)], selects=selects)


def _pads_space_only(args: tuple, kwargs: dict[str, Any]) -> bool:
    amounts = args[1] if len(args) > 1 else kwargs.get("pad", ())
    mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
    value = args[3] if len(args) > 3 else kwargs.get("value")
    return len(amounts) <= 4 and (mode != "constant" or not value)
