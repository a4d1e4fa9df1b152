"""The inert records that a pickle is turned into, and its limits.

Lists, tuples, sets, dicts, text, bytes and numbers are used as they are. Nothing here has behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from utils.errors import short_repr

# yolov5n.pt has a pickle of 83 kB and 34,000 opcodes, the training checkpoint of the largest model about ten times that
PICKLE_BYTES = 32 * 2**20
OPCODES = 1_500_000
TEXT_BYTES = 8 * 2**20  # of one text; up to v5.0 the results of a whole training are one
NAME_BYTES = 256  # of a class or function
DEPTH = 64  # of containers and modules within each other; a module counts as three
MOST_MODULES = 20_000  # the largest model has about a thousand
MOST_IN_A_ROW = 2**48  # of sizes, steps and offsets of tensors; torch counts in 64 bits
WEIGHT = 64 * 2**20  # bytes of all values, each counted once per reference
VALUE_BYTES = 32  # weight of one value without its text
OTHER_KEYS = 10_000  # keys of one dict or set that are not text: numbers can be chosen to collide
OTHER_KEYS_IN_ALL = 50_000
LEAST_INT, MOST_INT = -(2**63), 2**64 - 1
DIMENSIONS = 16
FILE_BYTES = 8 * 2**30  # of the file; the largest model has two, with the state of its optimizer
EXPANDED_BYTES = 512 * 2**20  # beyond the size of the file, for tensors that repeat parts of their storage


class Refusal(Exception):
    """The reason why a file is not used, without the file's name; ``messages`` makes a sentence of it."""


class Damage(Refusal):
    """The bytes are not what ``torch.save`` writes."""


class ForeignName(Refusal):
    """The pickle asks for a class or function that no detection checkpoint needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that the pickle names; its use decides which one is expected."""

    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Numbers of one type, somewhere in the file."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A view of a storage, within its bounds."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True, slots=True, eq=False)
class ParameterRecord:
    """A parameter."""

    tensor: TensorRecord
    requires_grad: bool


@dataclass(frozen=True, slots=True, eq=False)
class ValueRecord:
    """A device, a size or an element type of torch."""

    kind: str
    value: Any


@dataclass(slots=True, eq=False)
class ModuleRecord:
    """An object of a module class, by the name of the class; ``state`` is its ``__dict__``."""

    path: str
    state: dict[str, Any] | None = None


@dataclass(slots=True, eq=False)
class NamespaceRecord:
    """An argparse.Namespace."""

    state: dict[str, Any] | None = None


@dataclass(slots=True, eq=False)
class NumpyType:
    """An element type of NumPy, such as f8; ``order`` comes after it in the pickle."""

    code: str
    order: str = ""


@dataclass(slots=True, eq=False)
class ArrayRecord:
    """A NumPy array; its values come after it in the pickle, and become (nested) lists."""

    values: Any = None
    filled: bool = False


class OrderedRecord(dict):
    """An OrderedDict, which may be given ``_metadata``; it becomes a dict."""


SCALARS = (str, int, float, bool, type(None), bytes, complex)
KEYS = (str, int, float, bool, type(None))


_WORDS = {
    ArrayRecord: "a NumPy array", NamespaceRecord: "a Namespace", NumpyType: "a NumPy type",
    ParameterRecord: "a parameter", OrderedRecord: "an OrderedDict", Storage: "a storage",
    TensorRecord: "a tensor", ValueRecord: "a value of torch",
}  # fmt: skip


def shown(value: object) -> str:
    """A value from a file as short, printable text on one line."""
    text = value.path if isinstance(value, Name | ModuleRecord) else value
    if not isinstance(text, str | int | float | bool | type(None)):
        return _WORDS.get(type(text), f"a {type(text).__name__}")
    return short_repr(text)
