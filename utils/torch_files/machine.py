"""The state of the pickle interpreter: bytes, stack, marks and memo, and the rules of what may contain what."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from utils.torch_files.calls import (
    CALLS,
    DTYPES,
    NAMESPACE,
    OTHER_NAMES,
    STORAGES,
    checked_set,
    set_numpy_array,
    set_numpy_type,
)
from utils.torch_files.records import (
    KEYS,
    LEAST_INT,
    MOST_INT,
    NAME_BYTES,
    OTHER_KEYS,
    OTHER_KEYS_IN_ALL,
    PICKLE_BYTES,
    TEXT_BYTES,
    VALUE_BYTES,
    ArrayRecord,
    Damage,
    ForeignName,
    ModuleRecord,
    Name,
    NamespaceRecord,
    NumpyType,
    OrderedRecord,
    Refusal,
    Storage,
    ValueRecord,
    shown,
)

_IDENTIFIERS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_STORAGE_KEY = re.compile(r"\w{1,64}", re.ASCII)


class Machine:
    """The state of one pickle that is being read.

    Attributes:
        data: the bytes. position: offset of the next one. end: offset that is never passed.
        names: the classes and functions named so far, in order.
        storages: the numbers that tensors are views of, by key.
    """

    def __init__(self, data: bytes, modules: Collection[str], position: int = 0) -> None:
        """Start at ``position`` of ``data``; ``modules`` are the paths of the module classes that may be named."""
        self.data = data
        self.position = position
        self.end = min(len(data), position + PICKLE_BYTES)
        self.modules = modules
        self.names: list[str] = []
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.other_keys = 0
        self.spent = 0

    # -- bytes -----------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        start = self.position
        self.position += count
        if self.position > self.end:
            raise Damage("its pickle ends in the middle")
        return self.data[start : self.position]

    def number(self, width: int) -> int:
        """The next ``width`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(width), "little")

    def long(self, width: int) -> int:
        """A signed integer; the next ``width`` bytes give its length in bytes."""
        length = self.number(width)
        if length > 9:
            raise Refusal("a whole number of more than 64 bits")
        return checked_int(int.from_bytes(self.take(length), "little", signed=True))

    def content(self, width: int) -> bytes:
        """Bytes whose number the next ``width`` bytes give."""
        length = self.number(width)
        if length > TEXT_BYTES:
            raise Refusal(f"a text of {length} bytes")
        return self.take(length)

    def text(self, width: int) -> str:
        """A text; the next ``width`` bytes give its length in bytes."""
        return self.content(width).decode("utf-8", "surrogatepass")  # the form of paths that are not UTF-8

    def line(self, most: int = NAME_BYTES) -> bytes:
        """The bytes before the next line feed."""
        start = self.position
        stop = self.data.find(b"\n", start, min(self.end, start + most))
        if stop < 0:
            raise Damage("its pickle has a line without an end")
        self.position = stop + 1
        return self.data[start:stop]

    # -- stack -----------------------------------------------------------------------------------------------------

    def push_mark(self) -> None:
        """Begin a new stack on top."""
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Remove and return what was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self) -> None:
        """Drop the topmost value, or mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def push_tuple(self, count: int) -> None:
        """Replace the topmost values by a tuple of them."""
        if count > len(self.stack):
            raise Damage("its pickle takes more than there is")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    # -- containers ------------------------------------------------------------------------------------------------

    def _count_keys(self, keys: Any, present: int) -> None:
        """Refuse keys that are not plain values, and so many numbers that they may have been chosen to collide."""
        others = 0
        for key in keys:
            if type(key) is not str:
                if type(key) not in KEYS:
                    raise Refusal(f"{shown(key)} as a key")
                others += 1
        self.other_keys += others
        if (others and others + present > OTHER_KEYS) or self.other_keys > OTHER_KEYS_IN_ALL:
            raise Refusal(f"more than {OTHER_KEYS} numbers as keys")

    def set_items(self, target: Any, items: list[Any]) -> None:
        """Add alternating keys and values to a dict."""
        if type(target) not in (dict, OrderedRecord) or len(items) % 2:
            raise Refusal(f"keys and values for {shown(target)}")
        self._count_keys(items[::2], len(target))
        target.update(zip(items[::2], items[1::2], strict=True))

    def push_dict(self) -> None:
        """Replace what is above the mark by a dict of it."""
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(self.stack[-1], items)

    def append(self, target: Any, items: list[Any]) -> None:
        """Add items to a list."""
        if type(target) is not list:
            raise Refusal(f"items for {shown(target)}")
        target.extend(items)

    def add(self, target: Any, items: list[Any]) -> None:
        """Add items to a set."""
        if type(target) is not set:
            raise Refusal(f"members for {shown(target)}")
        self._count_keys(items, len(target))
        target |= checked_set(items)

    # -- records ---------------------------------------------------------------------------------------------------

    def push_name(self, module: str, name: str) -> None:
        """Push the name of a class or function, if a checkpoint may contain it."""
        path = f"{module[:NAME_BYTES]}.{name[:NAME_BYTES]}"
        if len(module) + len(name) > NAME_BYTES or not _IDENTIFIERS.fullmatch(path):
            raise Damage("its pickle names no class")
        self.names.append(path)
        if path in DTYPES:
            self.stack.append(ValueRecord("dtype", DTYPES[path]))
        elif path in self.modules or path in CALLS or path in OTHER_NAMES:
            self.stack.append(Name(path))
        else:
            raise ForeignName(path)

    def reduce(self) -> None:
        """Replace a known function and its arguments by the record that it returns."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not Name or function.path not in CALLS or type(arguments) is not tuple:
            raise Refusal(f"it calls {shown(function)}, which no checkpoint does")
        self._spend(arguments)
        self.stack[-1] = CALLS[function.path](arguments)

    def _spend(self, arguments: Any) -> None:
        """Count the size of arguments: through the memo a few bytes can pass the same long text again and again."""
        for part in arguments:
            kind = type(part)
            if kind is str or kind is bytes:
                self.spent += len(part)
            elif kind is list or kind is tuple:
                self.spent += VALUE_BYTES * len(part)
        if self.spent > 4 * PICKLE_BYTES:
            raise Refusal("it works on the same values over and over")

    def new_object(self) -> None:
        """Push the record of a new module or namespace."""
        arguments = self.stack.pop()
        kind = self.stack[-1]
        path = kind.path if type(kind) is Name and arguments == () else None
        if path == NAMESPACE:
            self.stack[-1] = NamespaceRecord()
        elif path is not None and path in self.modules:
            self.stack[-1] = ModuleRecord(path)
        else:
            raise Refusal(f"it makes an object of {shown(kind)}, which no checkpoint does")

    def build(self) -> None:
        """Set the state of a record."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is ModuleRecord or type(target) is NamespaceRecord:
            if target.state is not None or type(state) not in (dict, OrderedRecord):
                raise Refusal(f"the state of {shown(target)} is {shown(state)}")
            target.state = state
        elif type(target) is NumpyType:
            set_numpy_type(target, state)
        elif type(target) is ArrayRecord:
            self._spend(state)
            self.spent += 2 * VALUE_BYTES * set_numpy_array(target, state)
        elif type(target) is OrderedRecord and type(state) is dict and list(state) == ["_metadata"]:
            pass  # the versions of its modules, which are not used
        else:
            raise Refusal(f"a state for {shown(target)}, which has none")

    def push_persistent(self) -> None:
        """Push a storage, of which the pickle has type, key and length."""
        identity = self.stack.pop()
        if type(identity) is not tuple or not identity:
            raise Damage("its pickle refers to no storage")
        if identity[0] == "module" and len(identity) == 4 and type(identity[1]) is Name:
            self.stack.append(identity[1])  # torch < 1.6 added the source of a class, which is not used
            return
        good = identity[0] == "storage" and len(identity) in (5, 6) and all(part is None for part in identity[5:])
        if not good or type(identity[1]) is not Name or type(identity[2]) is not str or type(identity[4]) is not int:
            raise Refusal("it refers to a storage of another form than torch.save writes")
        dtype = STORAGES.get(identity[1].path.removeprefix("torch."))
        key = identity[2]
        count = identity[4]
        if dtype is None or not 0 <= count < 2**48 or not _STORAGE_KEY.fullmatch(key):
            raise Refusal("it refers to a storage of another form than torch.save writes")
        storage = self.storages.setdefault(key, Storage(key, dtype, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise Refusal(f"the numbers {key} are of two kinds at once")
        self.stack.append(storage)


def checked_int(value: int) -> int:
    """``value``; raises Refusal if it does not fit into 64 bits."""
    if not LEAST_INT <= value <= MOST_INT:
        raise Refusal("a whole number of more than 64 bits")
    return value
