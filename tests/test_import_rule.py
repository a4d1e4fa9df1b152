"""Which folder may import which, what a module may import at its top, and that importing changes nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.storage.files import ROOT

SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
CORE = {"utils", "models"}
MAY_IMPORT = {
    "utils": {"utils"},
    "models": CORE,
    "scripts": CORE | SCRIPTS,
    "data": {"data", "utils"},
    "prune_tools": CORE | SCRIPTS | {"prune_tools", "data"},
    "benchmarks": CORE | SCRIPTS | {"prune_tools", "benchmarks", "data"},
}
OURS = set().union(*MAY_IMPORT.values())
HEAVY = {"pandas", "seaborn", "matplotlib", "tensorboard", "torchvision", "scipy", "PIL", "thop"}
RE_EXPORTS = "utils.general"  # v6.2's names for other people's code

# Imports every module named on the command line and prints what that changed in the process.
PROBE = """
import importlib, json, logging, os, signal, sys
sys.path.insert(0, os.getcwd())
import cv2, numpy, torch
import torch.utils.data

def state():
    return {
        "environment": dict(os.environ),
        "torch threads": torch.get_num_threads(),
        "OpenCV threads": cv2.getNumThreads(),
        "sys.path": list(sys.path),
        "log handlers": [str(handler) for handler in logging.getLogger().handlers],
        "project log handlers": [str(handler) for handler in logging.getLogger("yolov5").handlers],
        "log level": logging.getLogger().level,
        "print options": {key: str(value) for key, value in numpy.get_printoptions().items()},
        "error mode": numpy.geterr(),
        "Ctrl-C": str(signal.getsignal(signal.SIGINT)),
        "cudnn benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random state": torch.initial_seed(),
        "cv2.imread": str(cv2.imread),
        "cv2.imshow": str(getattr(cv2, "imshow", None)),
        "torch.load": str(torch.load),
        "print": str(print),
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"changed": [key for key in before if before[key] != after[key]], "loaded": loaded}))
"""


def area_of(path: Path) -> str:
    """Return the folder whose rule holds for a file; the scripts beside train.py count as one folder."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else "scripts"


def project_files() -> list[Path]:
    """Return the product's Python files, tests left out."""
    folders = [ROOT / area for area in MAY_IMPORT if area != "scripts"]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def module_name(path: Path) -> str:
    """Return the dotted name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything that a piece of code imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this project"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level_names(tree: ast.Module) -> Iterator[str]:
    """Yield what importing a module imports: all but the insides of functions and of ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported_names(node)
        waiting.extend(ast.iter_child_nodes(node))


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


FILES = pytest.mark.parametrize("path", project_files(), ids=lambda path: path.relative_to(ROOT).as_posix())


def test_the_walk_finds_the_project():
    names = {module_name(path) for path in project_files()}
    assert {"train", "utils.storage.files", "prune_tools.prune", "data.scripts.draw_mask_demo"} <= names
    sample = ast.parse(
        "import pandas\nif TYPE_CHECKING:\n    import scipy\ndef f():\n    from utils.general import x\n"
    )
    assert set(top_level_names(sample)) == {"pandas"}
    assert set(imported_names(sample)) == {"pandas", "scipy", "utils.general.x"}


@FILES
def test_folders_import_only_what_they_may(path):
    used = {name.split(".")[0] for name in imported_names(parse(path))} & OURS
    assert used <= MAY_IMPORT[area_of(path)]


@FILES
def test_nothing_imports_the_re_exports(path):
    assert not [name for name in imported_names(parse(path)) if name == RE_EXPORTS or name.startswith(f"{RE_EXPORTS}.")]
    assert "utils.general" not in set(imported_names(parse(path)))


@FILES
def test_heavy_libraries_are_imported_where_they_are_used(path):
    assert not HEAVY & {name.split(".")[0] for name in top_level_names(parse(path))}


def test_importing_everything_changes_nothing():
    modules = [module_name(path) for path in project_files() if path.stem != "__main__"]
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, *modules], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert probe.returncode == 0, probe.stderr
    lines = probe.stdout.splitlines()
    assert len(lines) == 1, f"importing printed: {lines[:-1]}"
    assert probe.stderr == ""
    report = json.loads(lines[0])
    assert report["changed"] == []
    assert not HEAVY & set(report["loaded"])
