"""The files of the checkout as one package.

In a checkout modules import one another as ``utils.log`` or ``train``: these are the paths that YOLOv5's users and
checkpoints know. Installed under such names they would get in the way of other people's ``utils`` and ``data``. So the
package has a copy of them in which every import statement names the package: ``yolov5_prune.utils.log``,
``yolov5_prune.scripts.train``. ``pip install .`` writes the copy (setup.py); of ``pip install -e .`` and of a checkout
itself, ``CheckoutFinder`` makes it module by module, from the files as they are.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

PACKAGE = "yolov5_prune"
FOLDERS = ("data", "models", "prune_tools", "utils")
SCRIPTS = ("detect", "export", "train", "val")  # they become yolov5_prune.scripts.train ...
SCRIPTS_PACKAGE = f"{PACKAGE}.scripts"
FILES = ("requirements.txt", "docs/DATA.md")  # that a function of v6.2 reads, and that messages name
OWN_MODULES = ("library",)  # of the package itself, written with the checkout's names
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.cache")


def name_in_package(name: str) -> str:
    """The name that a module of the checkout has in the package; '' for a module of others."""
    top = name.partition(".")[0]
    if top in FOLDERS:
        return f"{PACKAGE}.{name}"
    return f"{SCRIPTS_PACKAGE}.{name}" if top in SCRIPTS else ""


def renamed(source: str) -> str:
    """Python code with the names of the checkout's modules, in import statements, changed to those in the package.

    Lines keep their numbers. Raises ValueError for a statement such as ``import utils.log``, which binds the name
    ``utils``: its uses would have to be changed, too.
    """
    changes: list[tuple[int, int, str, str]] = []  # line from 0, column in bytes, name there, text to put there
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module and name_in_package(node.module):
            changes.append((node.lineno - 1, node.col_offset, node.module, name_in_package(node.module)))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = name_in_package(alias.name)
                if name and not alias.asname and "." in alias.name:
                    raise ValueError(f"line {node.lineno}: write 'from ... import' instead of 'import {alias.name}'")
                if name:
                    text = name if alias.asname else f"{name} as {alias.name}"
                    changes.append((alias.lineno - 1, alias.col_offset, alias.name, text))
    lines = source.encode().split(b"\n")
    for line, column, name, text in sorted(changes, reverse=True):
        before, rest = lines[line][:column], lines[line][column:]
        lines[line] = before + re.sub(rb"\b%b\b" % re.escape(name.encode()), text.encode(), rest, count=1)
    return b"\n".join(lines).decode()


def write_package(checkout: Path, package: Path) -> None:
    """Copy the checkout's modules and data files into the folder ``package``, with renamed imports."""
    for folder in FOLDERS:
        shutil.copytree(checkout / folder, package / folder, ignore=LEFT_OUT, dirs_exist_ok=True)
    for script in SCRIPTS:
        shutil.copy(checkout / f"{script}.py", package / "scripts")
    for name in FILES:
        (package / name).parent.mkdir(exist_ok=True)
        shutil.copy(checkout / name, package / name)
    copied = [file for folder in (*FOLDERS, "scripts") for file in (package / folder).rglob("*.py")]
    for file in (*copied, *(package / f"{name}.py" for name in OWN_MODULES)):
        file.write_text(renamed(file.read_text(encoding="utf-8")), encoding="utf-8")


class RenamingLoader(SourceFileLoader):
    """Loads a file of the checkout under its name in the package."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the renamed source; nothing is cached, as the cached file belongs to the checkout's own module."""
        source = Path(self.path).read_text(encoding="utf-8")
        return compile(renamed(source), self.path, "exec", dont_inherit=True)


class CheckoutFinder(MetaPathFinder):
    """Finds ``yolov5_prune.utils.log`` in utils/log.py of a checkout."""

    def __init__(self, checkout: Path) -> None:
        """Remember the folder of the checkout."""
        self.checkout = checkout

    def file_of(self, fullname: str) -> Path | None:
        """The file of a module, __init__.py for a package; None if it is not one of the checkout's."""
        package, _, name = fullname.partition(".")
        if package != PACKAGE or not name:
            return None
        if name in OWN_MODULES:
            return Path(__file__).with_name(f"{name}.py")
        name = name.removeprefix("scripts.") if fullname.startswith(f"{SCRIPTS_PACKAGE}.") else name
        if not name_in_package(name):
            return None
        path = self.checkout.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return file if file.is_file() else None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of the checkout, for Python's import."""
        file = self.file_of(fullname)
        if file is None:
            return None
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        loader = RenamingLoader(fullname, str(file))
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=folders)


def connect() -> None:
    """Let Python find the package's modules in the checkout that this file lies in; unless the package has its copy."""
    own_folder = Path(__file__).resolve().parent
    connected = any(isinstance(finder, CheckoutFinder) for finder in sys.meta_path)
    if not connected and not (own_folder / FOLDERS[0]).is_dir():
        sys.meta_path.insert(0, CheckoutFinder(own_folder.parent))
