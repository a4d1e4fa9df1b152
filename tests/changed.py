"""Prints the test files of what git says has changed: ``python -m tests.changed``, or since when: ``... main``.

A changed test file stands for itself. Any other file stands for the test files that name it: those that import it,
patch something in it or start it as a script. Where there are none, the files that import it stand for it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.test_import_rule import all_imports, imported_modules, module_name, modules
from utils.storage.files import ROOT

ALWAYS = {"tests/test_import_rule.py", "tests/test_repository.py"}  # hold for every file, and are quick
FOR_ALL = {"tests/conftest.py", "pyproject.toml", "requirements.txt", "requirements-dev.txt"}


def changed_files(commit: str) -> list[str]:
    """Return the paths, from the root, of the files that differ from ``commit`` or are not tracked."""
    listings = ["diff", "--name-only", commit], ["ls-files", "--others", "--exclude-standard"]
    return [
        line
        for words in listings
        for line in subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]


@cache
def all_test_files() -> dict[str, str]:
    """Return the texts of all test files by their paths from the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py")
    }


@cache
def names_in(text: str) -> frozenset[str]:
    """Return the dotted names that a test file imports or has in its strings, such as those of what it patches."""
    names = set(re.findall(r"\b\w+(?:\.\w+)+", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return frozenset(names)


def files_naming(path: str) -> set[str]:
    """Return the test files that name a file: by its path, or as a module, whole or something in it."""
    module = module_name(ROOT / path) if path.endswith(".py") else None
    return {
        file
        for file, text in all_test_files().items()
        if (path if module else Path(path).name) in text
        or any(name == module or name.startswith(f"{module}.") for name in names_in(text))
    }


def chosen_for(paths: Iterable[str]) -> set[str]:
    """Return the test files to run when these files, named from the root, have changed."""
    chosen = set(ALWAYS)
    for path in paths:
        if path in FOR_ALL:
            return set(all_test_files())
        if path in all_test_files():
            chosen.add(path)
            continue
        waiting, seen = [path], {path}
        while waiting:
            tests = set().union(*map(files_naming, waiting)) - ALWAYS
            chosen |= tests
            waiting = [] if tests else sorted(set().union(*map(importers, waiting)) - seen)
            seen.update(waiting)
    return chosen & all_test_files().keys()  # none that was deleted


def importers(path: str) -> set[str]:
    """Return the files of the product that import one of its files."""
    module = module_name(ROOT / path)
    if modules().get(module) != ROOT / path:
        return set()
    return {each.path.relative_to(ROOT).as_posix() for each in all_imports() if module in imported_modules(each.name)}


if __name__ == "__main__":
    print(*sorted(chosen_for(changed_files(sys.argv[1] if len(sys.argv) > 1 else "HEAD"))))
