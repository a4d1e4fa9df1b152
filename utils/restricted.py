"""Reading files of ``torch.save`` without running code from them, and saying in one line why one cannot be read."""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import InputError, MissingFileError

AllowedGlobal = tuple[Callable, str] | Callable  # a class or function, or (class, 'path.in.the.file')

# What torch's restricted unpickler raises for content that is no pickle at all, depending on where it stumbles
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, struct.error, AssertionError, ImportError,
    KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError, OSError,
)  # fmt: skip


class CheckpointError(InputError):
    """A file that should be a checkpoint is damaged, of another kind, or asks for code that it may not run."""


def read_restricted(path: str | Path, classes: Iterable[AllowedGlobal]) -> Any:
    """Read a file of ``torch.save`` to the CPU without running any code but that of ``classes`` and of torch's tensors.

    Args:
        path: the file.
        classes: what the pickle may name besides tensors and containers; a tuple (class, 'old.path') lets a class
            answer to a path that it had in other versions.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, no PyTorch file, or names something else (the message says what).
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(_missing(file))
    allowed = list(classes)
    file.open("rb").close()  # an OSError from here on is about the content, no longer about permission
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # about pickle protocols and old storages: the outcome says it all
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(_explain(file, error, allowed)) from error


def _missing(file: Path) -> str:
    if file.is_dir():
        return f"{file} is a folder, expected a checkpoint file: name the .pt file in it"
    return f"no such checkpoint: {file} (check the path)"


def _explain(file: Path, error: Exception, allowed: list[AllowedGlobal]) -> str:
    """Why ``file`` could not be read, in one line."""
    size = file.stat().st_size
    if not size:
        return f"{file} is empty: copy or download it again"
    name = _forbidden_global(file, error, allowed)
    if name:
        return (
            f"{file} is refused, nothing of it was run: it asks for {name}, which no detection checkpoint needs; "
            "if you trust its author, open it with the program that wrote it and save it again as a stock checkpoint"
        )
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if not zipped:
        return f"{file} is not a PyTorch checkpoint: expected a file written by torch.save, such as yolov5n.pt"
    if not zipfile.is_zipfile(file):
        return f"{file} is incomplete: it ends after {size} bytes, before its index; copy or download it again"
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any(entry.endswith("/constants.pkl") for entry in names):
        return f"{file} is a TorchScript export: use the .pt checkpoint that it was made from"
    if not any(entry.endswith("data.pkl") for entry in names):
        return f"{file} is a zip archive but not a PyTorch checkpoint: expected a file written by torch.save"
    return f"{file} is damaged ({type(error).__name__} while reading it): copy or download it again"


def _forbidden_global(file: Path, error: Exception, allowed: list[AllowedGlobal]) -> str | None:
    """The class or function that made the unpickler stop, or None when something else did."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return named[1]
    # Pickle protocols that the restricted unpickler does not speak: it stopped before it met the name
    known = {entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}" for entry in allowed}
    try:
        names = pickled_globals(file)
    except _UNREADABLE:
        return None
    harmless = ("torch.", "collections.", "numpy.")
    return next((name for name in names if name not in known and not name.startswith(harmless)), None)


def pickled_globals(path: str | Path) -> list[str]:
    """The classes and functions ('module.name') that the pickle in ``path`` names, in order; nothing is unpickled."""
    file = Path(path)
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            return list(dict.fromkeys(_globals_in(stream)))
    with zipfile.ZipFile(file) as archive:
        entry = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if entry is None:
            return []
        with archive.open(entry) as stream:
            return list(dict.fromkeys(_globals_in(stream)))  # type: ignore[arg-type]


def _globals_in(stream: BinaryIO) -> Iterator[str]:
    texts: list[str] = []  # the strings seen so far; the newer opcode takes module and name from the stack
    memory: dict[int, str] = {}
    operations: Iterator[tuple[Any, Any, Any]] = pickletools.genops(stream)
    for opcode, argument, _ in operations:
        if opcode.name == "GLOBAL":
            yield argument.replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif "UNICODE" in opcode.name:
            texts.append(argument)
        elif opcode.name == "MEMOIZE" and texts:
            memory[len(memory)] = texts[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET") and argument in memory:
            texts.append(memory[argument])
