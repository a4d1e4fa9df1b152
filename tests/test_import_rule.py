"""Packages import only those below them, modules nothing heavy at their top, and that importing changes nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from utils.storage.files import ROOT

SCRIPTS = "scripts"  # the files beside train.py count as one package
MAY_IMPORT = {  # besides itself; one line for each package
    "utils.geometry": "utils",
    "utils.torch_files": "utils utils.storage",
    "utils.storage": "utils",
    "utils.drawing": "utils utils.dataset utils.geometry utils.storage",
    "utils.commands": "utils utils.storage",
    "utils.dataset": "utils utils.commands utils.geometry utils.storage",
    "utils.tracking": "utils utils.commands utils.storage",
    "utils.training": "utils utils.commands utils.dataset utils.drawing utils.storage utils.tracking",
    "utils.detection": "utils utils.commands utils.dataset utils.drawing utils.geometry utils.storage",
    "utils.validation": "utils utils.commands utils.dataset utils.drawing utils.geometry utils.storage",
    "utils": "utils.commands utils.dataset utils.detection utils.drawing utils.geometry utils.storage"
    " utils.torch_files utils.tracking utils.training utils.validation",
    "models": "utils* models.backends models.checkpoints",
    "models.checkpoints": "utils utils.dataset utils.storage utils.torch_files models",
    "models.backends": "utils utils.commands utils.dataset utils.geometry models",
    "models.exporters": "utils utils.commands utils.dataset utils.geometry utils.storage models models.backends"
    " models.checkpoints",
    "scripts": "utils* models*",
    "prune_tools.channels": "utils models",
    "prune_tools.repair": "utils models prune_tools prune_tools.channels prune_tools.planning",
    "prune_tools.planning": "utils utils.commands models* prune_tools.channels",
    "prune_tools.units": "utils* models* scripts prune_tools prune_tools.channels prune_tools.planning"
    " prune_tools.repair prune_tools.report",
    "prune_tools.sparsity": "utils utils.commands utils.training scripts prune_tools prune_tools.channels"
    " prune_tools.planning prune_tools.tuning",
    "prune_tools.tuning": "utils* models models.exporters scripts prune_tools prune_tools.channels"
    " prune_tools.planning prune_tools.repair",
    "prune_tools.report": "utils* models* scripts prune_tools.planning",
    "prune_tools.survey": "utils* models scripts prune_tools*",
    "prune_tools": "utils* models* scripts prune_tools*",
    "data": "",
    "data.scripts": "utils* data.scripts.annotations data.scripts.converters data.scripts.mask_demo",
    "data.scripts.annotations": "utils* data.scripts data.scripts.converters",
    "data.scripts.converters": "utils*",
    "data.scripts.mask_demo": "",
    "yolov5_prune": "utils* models* scripts prune_tools* yolov5_prune*",
    "yolov5_prune.scripts": "",
    "benchmarks": "utils* models* scripts data* prune_tools* benchmarks.frontier",
    "benchmarks.frontier": "utils* models* scripts data* prune_tools*",
}
HEAVY = {"pandas", "seaborn", "matplotlib", "tensorboard", "torchvision", "scipy", "PIL", "thop"}
RE_EXPORTS = "utils.general"  # v6.2's names for other people's code
# Files that import what a table of names says, or the user
COMPUTED = {
    "models/common.py", "utils/augmentations.py", "utils/commands/packages.py",
    "utils/dataset/own_augmentation.py", "utils/general.py", "utils/installation.py", "utils/torch_utils.py",
}  # fmt: skip
TYPES, MAIN = "TYPE_CHECKING", "__main__"  # guards: such imports do not run when the module is imported

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


@dataclass(frozen=True)
class Import:
    """One imported name: ``from a.b import c`` is a.b.c."""

    name: str
    path: Path
    line: int
    in_function: bool
    guard: str = ""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT).as_posix()}:{self.line}: {self.name}"


class Collector(ast.NodeVisitor):
    """Collects what a file imports, by statement or by ``import_module``, ``import_own`` or ``__import__``.

    The name that those get may be an f-string: ``f"models.backends.{name}"`` is models.backends.*. Names that are
    computed in another way are ``?``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.imports: list[Import] = []
        self._in_function = False
        self._guard = ""

    def _add(self, node: ast.stmt | ast.expr, name: str) -> None:
        self.imports.append(Import(name, self.path, node.lineno, self._in_function, self._guard))

    def _visit_function(self, node: ast.AST) -> None:
        outer, self._in_function = self._in_function, True
        self.generic_visit(node)
        self._in_function = outer

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function

    def visit_If(self, node: ast.If) -> None:
        """Note the guard of the body; the ``else`` has none."""
        guards = [guard for guard in (TYPES, MAIN) if guard in ast.unparse(node.test)]
        outer, self._guard = self._guard, guards[0] if guards else self._guard
        for child in node.body:
            self.visit(child)
        self._guard = outer
        for child in [node.test, *node.orelse]:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        """Add the modules."""
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Add the names with their module's."""
        for alias in node.names:
            self._add(node, f"{'.' * node.level}{node.module or ''}.{alias.name}")

    def visit_Call(self, node: ast.Call) -> None:
        """Add what is imported by a call."""
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "import_own", "__import__"):
            self._add(node, literal_start(node.args[0]) if node.args else "?")
        self.generic_visit(node)


def literal_start(node: ast.expr) -> str:
    """Return a string constant, what stands before an f-string's first value and an asterisk, or a question mark."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        return f"{node.values[0].value}*"
    return "?"


def imports_of(source: str, path: Path) -> list[Import]:
    """Return what a piece of code imports, at any depth."""
    collector = Collector(path)
    collector.visit(ast.parse(source, str(path)))
    return collector.imports


@cache
def project_files() -> tuple[Path, ...]:
    """Return the product's Python files, tests left out."""
    folders = {name.split(".")[0] for name in MAY_IMPORT} - {SCRIPTS}
    scripts = set(ROOT.glob("*.py")) - {ROOT / "setup.py"}  # which runs when the package is built, and only then
    return tuple(sorted([*scripts, *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]))


@cache
def all_imports() -> tuple[Import, ...]:
    """Return what the product's files import."""
    return tuple(each for path in project_files() for each in imports_of(path.read_text(encoding="utf-8"), path))


def module_name(path: Path) -> str:
    """Return the dotted name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    """Return the product's modules by their names."""
    return {module_name(path): path for path in project_files()}


def package_of(path: Path) -> str:
    """Return the package that a file lies in: a row of the table."""
    return ".".join(path.relative_to(ROOT).parent.parts) or SCRIPTS


def imported_modules(name: str) -> Iterator[str]:
    """Yield which of the product's modules an imported name means: none when it is another's."""
    if name.endswith("*"):
        yield from (module for module in modules() if module.startswith(name[:-1]))
        return
    while name and name not in modules():
        name = name.rpartition(".")[0]
    if name:
        yield name


def may_import(package: str, other: str) -> bool:
    """Tell whether the table has it; an asterisk stands for a package and all that lie in it."""
    allowed = MAY_IMPORT[package].split()
    return other in (package, *allowed) or any(
        f"{other}.".startswith(f"{name[:-1]}.") for name in allowed if name.endswith("*")
    )


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of nodes that reach one another: Tarjan's strongly connected components of more than one node."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            position = stack.index(node)
            if len(stack) - position > 1:
                components.append(sorted(stack[position:]))
            del stack[position:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return components


SAMPLE = """
import pandas, importlib
if TYPE_CHECKING:
    import scipy
else:
    import PIL
class A:
    import seaborn
def f():
    from utils.general import x
    importlib.import_module("models.loading")
    __import__(f"models.backends.{name}")
    import_module(TABLE[name])
if __name__ == "__main__":
    from utils.log import y
"""


def test_the_walk_finds_the_project():
    assert {"train", "utils.storage.files", "prune_tools.prune", "data.scripts.draw_mask_demo", "models"} <= set(
        modules()
    )
    sample = imports_of(SAMPLE, ROOT / "sample.py")
    assert [str(each) for each in sample][:2] == ["sample.py:2: pandas", "sample.py:2: importlib"]
    assert {each.name for each in sample if each.in_function} == {
        "utils.general.x", "models.loading", "models.backends.*", "?",
    }  # fmt: skip
    assert {each.name: each.guard for each in sample if each.guard} == {"scipy": TYPES, "utils.log.y": MAIN}
    assert list(imported_modules("models.loading.attempt_load")) == ["models.loading"]
    assert "models.backends.multi" in list(imported_modules("models.backends.*"))
    assert not list(imported_modules("torch.utils.data"))


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f", "g"}, "g": {"f", "a"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["f", "g"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_package_has_its_row():
    assert set(MAY_IMPORT) == {package_of(path) for path in project_files()}


def test_packages_import_only_what_they_may():
    assert [
        str(each)
        for each in all_imports()
        for module in imported_modules(each.name)
        if not may_import(package_of(each.path), package_of(modules()[module]))
    ] == []
    assert {each.path.relative_to(ROOT).as_posix() for each in all_imports() if each.name == "?"} == COMPUTED
    assert [str(each) for each in all_imports() if each.name.startswith(".")] == []  # imports are absolute here


def test_nothing_imports_the_re_exports():
    assert [str(each) for each in all_imports() if f"{each.name}.".startswith(f"{RE_EXPORTS}.")] == []


def test_no_modules_import_one_another():
    graph = defaultdict(set)
    for each in all_imports():
        if not each.guard and not each.name.endswith("*"):  # a loader of plug-ins knows none of them
            graph[module_name(each.path)].update(imported_modules(each.name))
    assert circles(graph) == []


def test_heavy_libraries_are_imported_where_they_are_used():
    at_the_top = [each for each in all_imports() if not each.in_function and each.guard != TYPES]
    assert [str(each) for each in at_the_top if each.name.split(".")[0] in HEAVY] == []


def test_importing_everything_changes_nothing():
    names = [name for name, path in modules().items() if path.stem != "__main__"]
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, *names], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert probe.returncode == 0, probe.stderr
    lines = probe.stdout.splitlines()
    assert len(lines) == 1, f"importing printed: {lines[:-1]}"
    assert probe.stderr == ""
    report = json.loads(lines[0])
    assert report["changed"] == []
    assert not HEAVY & set(report["loaded"])
