"""Slow tests, recognised by what they use: conftest.py marks them so that ``make quick`` leaves them out.

A test is slow when its own code, a fixture of it, or what these call in the folder of the tests, trains, prunes or
exports by a command, or starts a process. Tests that take long for another reason carry the mark ``slow`` themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from inspect import unwrap
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

TESTS = str(Path(__file__).parent)
PROCESSES = {"subprocess", "multiprocessing", "torch.multiprocessing"}
COMMANDS = {
    "train", "export",
    *(f"prune_tools.{name}" for name in ("train_sparity", "prune", "finetune", "pipeline", "sweep", "sensitivity")),
}  # fmt: skip
ENTRIES = {"main", "run", "Trainer"}


def is_slow(functions: Iterable[Callable[..., Any]]) -> bool:
    """Tell whether a test and the fixtures that it uses do, themselves or through others, what takes long."""
    waiting, seen = [unwrap(function) for function in functions], set()
    while waiting:
        function = waiting.pop()
        if (
            not isinstance(function, FunctionType)
            or function in seen
            or not function.__code__.co_filename.startswith(TESTS)
        ):
            continue
        seen.add(function)
        names = set(_names(function.__code__))
        for value in (function.__globals__.get(name) for name in names):
            if isinstance(value, ModuleType):
                if value.__name__ in PROCESSES or (value.__name__ in COMMANDS and names & ENTRIES):
                    return True
            elif isinstance(value, type):
                waiting += [
                    unwrap(member) for base in value.__mro__ for member in vars(base).values() if callable(member)
                ]
            elif callable(value):
                waiting.append(unwrap(value))
    return False


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes in a piece of code and in the functions that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
