"""The place that the project runs from: its checkout, or the installed package ``yolov5_prune``.

In the package the modules have other names (``yolov5_prune.utils.log``), commands are called otherwise, and what the
checkout's folder is for runs and data sets is the working folder; see ``yolov5_prune/tree.py``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

PREFIX = __name__.removesuffix("utils.installation")  # of the names of all modules: "" in a checkout
PACKAGE = PREFIX.rstrip(".")
ROOT = Path(__file__).resolve().parents[1]  # the folder that holds models/ and data/
WORK = Path() if PREFIX else ROOT  # the folder that relative paths start from: of runs, data sets, released weights
# The folder that a new process needs on sys.path to import this project's modules by their names
IMPORT_FOLDER = Path(str(sys.modules[PACKAGE].__file__)).resolve().parents[1] if PREFIX else ROOT


def import_own(name: str) -> ModuleType:
    """Import a module of this project by the name that it has in a checkout."""
    return import_module(PREFIX + name)


def is_own(module: str) -> bool:
    """Tell whether a module with this name would be one of this project, and not of an installed package."""
    top = module.partition(".")[0]
    return top == PACKAGE or (ROOT / top).is_dir() or (ROOT / f"{top}.py").is_file()


def path_in_files(a_class: type) -> str:
    """The path under which checkpoints know a class: that of YOLOv5, also where the package is installed."""
    return f"{a_class.__module__.removeprefix(PREFIX)}.{a_class.__qualname__}"


def command_of(script: str) -> str:
    """The name of the installed command that does what a script does: yolov5-train-sparity, for example."""
    return f"yolov5-{short_name(script)}"


def short_name(script: str) -> str:
    """The name of a script's command after ``python -m yolov5_prune``."""
    return Path(script).stem.replace("_", "-")


def words_to_show(script: str) -> list[str]:
    """The first words of a command line that a reader can paste into a shell."""
    return [command_of(script)] if PREFIX else ["python", script]


def words_to_start(script: str) -> list[str]:
    """The first words, after the interpreter, of a command that starts a script in another process."""
    return ["-m", PACKAGE, short_name(script)] if PREFIX else [str(ROOT / script)]
