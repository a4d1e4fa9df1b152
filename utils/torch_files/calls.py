"""Replacements for the functions that a checkpoint's pickle may call: they turn checked arguments into records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from utils.torch_files.records import (
    DIMENSIONS,
    KEYS,
    MOST_IN_A_ROW,
    OTHER_KEYS,
    ArrayRecord,
    Name,
    NumpyType,
    OrderedRecord,
    ParameterRecord,
    Refusal,
    Storage,
    TensorRecord,
    ValueRecord,
    shown,
)

STORAGES = {
    "BFloat16Storage": torch.bfloat16, "BoolStorage": torch.bool, "ByteStorage": torch.uint8, "CharStorage": torch.int8,
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "IntStorage": torch.int32, "LongStorage": torch.int64, "ShortStorage": torch.int16,
}  # fmt: skip
DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in ("bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8")
}
NUMPY_CODES = re.compile(r"[?bBhHiIlLqQefd]|b1|[iu][1248]|f[248]|[SU][0-9]{1,6}")
LARGEST_RANGE = 10_000
LARGEST_ARRAY = 1_000_000  # values times dimensions: each dimension becomes a level of lists


def _expect(good: bool, what: str) -> None:
    if not good:
        raise Refusal(what)


def _are(values: Any, kind: type, count: int | None = None) -> bool:
    return (
        type(values) is tuple
        and (count is None or len(values) == count)
        and all(type(value) is kind for value in values)
    )


def ordered_dict(arguments: tuple) -> OrderedRecord:
    """``OrderedDict()``, filled afterwards."""
    _expect(arguments == (), "an OrderedDict with arguments, which torch.save does not write")
    return OrderedRecord()


def set_of(arguments: tuple) -> set:
    """``set([...])`` of plain keys."""
    _expect(len(arguments) == 1 and type(arguments[0]) in (list, tuple), "a set that is not made of a list")
    return checked_set(arguments[0])


def checked_set(values: Any) -> set:
    """A set of these values; raises Refusal for values that are not plain keys."""
    others = sum(type(value) is not str for value in values)
    _expect(others <= OTHER_KEYS and all(type(value) in KEYS for value in values), "a set of other things than names")
    return set(values)


def range_of(arguments: tuple) -> range:
    """``range(...)`` of a few numbers, an attribute of Sum."""
    _expect(_are(arguments, int) and 1 <= len(arguments) <= 3 and arguments[2:] != (0,), "a range of no numbers")
    small = all(abs(value) <= LARGEST_RANGE for value in arguments)
    _expect(small, f"a range of more than {LARGEST_RANGE} numbers")
    return range(*arguments)


def parameter(arguments: tuple) -> ParameterRecord:
    """``_rebuild_parameter(tensor, requires_grad, hooks)``."""
    _expect(len(arguments) == 3, "a parameter of another form than torch.save writes")
    tensor, requires_grad, hooks = arguments
    _expect(type(tensor) is TensorRecord and type(requires_grad) is bool, "a parameter that holds no tensor")
    _expect(_no_hooks(hooks), "a parameter with hooks")
    _expect(not requires_grad or tensor.storage.dtype.is_floating_point, "a trained parameter of whole numbers")
    return ParameterRecord(tensor, requires_grad)


def _no_hooks(hooks: Any) -> bool:
    return hooks is None or (isinstance(hooks, dict) and not hooks)


def tensor(arguments: tuple) -> TensorRecord:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``, within its storage."""
    _expect(len(arguments) in (6, 7), "a tensor of another form than torch.save writes")
    storage, offset, size, stride, requires_grad, hooks = arguments[:6]
    _expect(type(storage) is Storage and type(requires_grad) is bool, "a tensor without numbers of its own")
    _expect(_no_hooks(hooks) and all(_no_hooks(metadata) for metadata in arguments[6:]), "a tensor with hooks")
    size = size.value if type(size) is ValueRecord and size.kind == "size" else size
    fits = _are(size, int) and _are(stride, int, len(size)) and len(size) <= DIMENSIONS and type(offset) is int
    numbers = (offset, *size, *stride) if fits else (-1,)
    _expect(min(numbers) >= 0 and max(numbers) < MOST_IN_A_ROW, "a tensor with an impossible shape")
    _expect(math.prod(side or 1 for side in size) < MOST_IN_A_ROW, "a tensor with an impossible shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    within = last < storage.count if 0 not in size else offset <= storage.count
    _expect(within, f"a tensor that reaches beyond the {storage.count} numbers stored for it")
    _expect(not requires_grad or storage.dtype.is_floating_point, "a trained tensor of whole numbers")
    return TensorRecord(storage, offset, size, stride, requires_grad)


def torch_size(arguments: tuple) -> ValueRecord:
    """``torch.Size((...))``."""
    good = len(arguments) == 1 and _are(arguments[0], int) and len(arguments[0]) <= DIMENSIONS
    _expect(good and all(0 <= side < MOST_IN_A_ROW for side in arguments[0]), "a torch.Size of no sizes")
    return ValueRecord("size", arguments[0])


def torch_device(arguments: tuple) -> ValueRecord:
    """``torch.device('cuda', 0)``."""
    _expect(1 <= len(arguments) <= 2 and type(arguments[0]) is str, "a torch.device without a name")
    text = ":".join(str(part) for part in arguments if type(part) in (str, int))
    _expect(re.fullmatch(r"(cpu|cuda|mps|meta|xpu)(:\d{1,3})?", text) is not None, "a torch.device of an unknown kind")
    return ValueRecord("device", text)


def encoded(arguments: tuple) -> bytes:
    """``codecs.encode(text, 'latin1')``: how bytes are written in protocol 2."""
    _expect(_are(arguments, str, 2) and arguments[1] in ("latin1", "latin-1"), "text in an unexpected encoding")
    try:
        return arguments[0].encode("latin-1")
    except UnicodeEncodeError:
        raise Refusal("text that stands for bytes and has other letters") from None


def numpy_type(arguments: tuple) -> NumpyType:
    """``numpy.dtype('f8', False, True)``."""
    _expect(1 <= len(arguments) <= 3 and type(arguments[0]) is str, "a NumPy type of another form")
    _expect(all(type(flag) in (int, bool) for flag in arguments[1:]), "a NumPy type of another form")
    _expect(NUMPY_CODES.fullmatch(arguments[0]) is not None, f"values of NumPy's type {shown(arguments[0])}")
    return NumpyType(arguments[0])


def set_numpy_type(kind: NumpyType, state: Any) -> None:
    """Set the state of a dtype: (version, byte order, ...)."""
    good = type(state) is tuple and len(state) in (8, 9) and state[1] in ("<", ">", "|", "=")
    _expect(good and state[2:5] == (None, None, None) and not kind.order, "a NumPy type of another form")
    kind.order = state[1]


def numpy_scalar(arguments: tuple) -> Any:
    """``scalar(dtype, bytes)``: a plain number or text."""
    good = len(arguments) == 2 and type(arguments[0]) is NumpyType and type(arguments[1]) is bytes
    _expect(good, "a NumPy number of another form")
    return _numpy_values(arguments[0], arguments[1], ())


def numpy_array(arguments: tuple) -> ArrayRecord:
    """``_reconstruct(ndarray, (0,), b'b')``, filled afterwards."""
    good = len(arguments) == 3 and type(arguments[0]) is Name and arguments[0].path == "numpy.ndarray"
    _expect(good and arguments[1] == (0,) and arguments[2] in (b"b", "b"), "a NumPy array of another form")
    return ArrayRecord()


def set_numpy_array(array: ArrayRecord, state: Any) -> int:
    """Set the state of an array: (version, shape, dtype, Fortran order, bytes). Returns how many objects it became."""
    good = type(state) is tuple and len(state) == 5 and type(state[3]) is bool and type(state[4]) is bytes
    _expect(good and type(state[2]) is NumpyType and not array.filled, "a NumPy array of another form")
    shape = state[1]
    good = _are(shape, int) and len(shape) <= DIMENSIONS and min(shape, default=0) >= 0
    # Without values, an array of several dimensions would still become as many lists as its first side says
    _expect(good and 0 not in shape[1:], "a NumPy array of no shape")
    objects = math.prod(shape) * max(len(shape), 1)
    _expect(objects <= LARGEST_ARRAY, f"a NumPy array of more than {LARGEST_ARRAY} values")
    array.values = _numpy_values(state[2], state[4], shape, "F" if state[3] else "C")
    array.filled = True
    return objects


def _numpy_values(kind: NumpyType, content: bytes, shape: tuple[int, ...], order: str = "C") -> Any:
    dtype = np.dtype(kind.code).newbyteorder(kind.order or "=")  # type: ignore[arg-type]
    count = math.prod(shape)
    _expect(dtype.itemsize > 0 and count * dtype.itemsize == len(content), "NumPy values of another size than they say")
    try:
        values = np.frombuffer(content, dtype).reshape(shape, order=order).tolist()  # type: ignore[call-overload]
    except ValueError:  # invalid text
        raise Refusal("NumPy values that are not text") from None
    return values


def _path_of(kind: Callable[..., Any]) -> Callable[[tuple], str]:
    def join(arguments: tuple) -> str:
        _expect(_are(arguments, str) and len(arguments) <= 200, "a path of another form")
        return str(kind(*arguments))

    return join


def _table() -> dict[str, Callable[[tuple], Any]]:
    table: dict[str, Callable[[tuple], Any]] = {
        "collections.OrderedDict": ordered_dict, "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_tensor_v2": tensor, "torch.Size": torch_size, "torch.device": torch_device,
        "_codecs.encode": encoded, "numpy.dtype": numpy_type,
    }  # fmt: skip
    for home in ("builtins", "__builtin__"):
        table |= {f"{home}.set": set_of, f"{home}.range": range_of, f"{home}.xrange": range_of}
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table |= {f"{core}.scalar": numpy_scalar, f"{core}._reconstruct": numpy_array}
    for home in ("pathlib", "pathlib._local"):  # the second in Python 3.13
        table |= {
            f"{home}.{kind}": _path_of(PurePosixPath) for kind in ("Path", "PosixPath", "PurePath", "PurePosixPath")
        }
        table |= {f"{home}.{kind}": _path_of(PureWindowsPath) for kind in ("WindowsPath", "PureWindowsPath")}
    return table


CALLS = _table()
NAMESPACE = "argparse.Namespace"
OTHER_NAMES = frozenset({NAMESPACE, "numpy.ndarray", *DTYPES, *(f"torch.{name}" for name in STORAGES)})
