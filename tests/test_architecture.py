"""docs/ARCHITECTURE.md says what the tree says: every package with its modules, and what each may import."""

from __future__ import annotations

import re

from tests.test_import_rule import MAY_IMPORT, project_files
from utils.storage.files import ROOT

PAGE = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
SCREEN = 80  # lines
MODULES_INDENT = 18  # columns; the lines of packages begin further left


def map_lines() -> list[str]:
    """The lines of the map."""
    return PAGE.partition("## Where things are")[2].split("```")[1].strip("\n").splitlines()


def mapped_modules() -> dict[str, set[str]]:
    """Package -> its modules, as the map has them; '' is the top level."""
    packages: dict[str, set[str]] = {}
    parents: list[str] = []
    folder = ""
    for line in map_lines():
        if line.startswith(" " * MODULES_INDENT):
            packages[folder].update(line.split())
            continue
        name = re.match(r"( *)(\w+)/", line)
        if name is None:
            folder = ""
        else:
            depth = len(name[1]) // 2
            parents[depth:] = [name[2]]
            folder = "/".join(parents)
        packages[folder] = set()
    return packages


def test_the_map_is_the_tree():
    tree: dict[str, set[str]] = {}
    for path in project_files():
        relative = path.relative_to(ROOT)
        if not path.stem.startswith("__"):
            folder = relative.parent.as_posix().removeprefix(".")
            tree.setdefault(folder, set()).add(path.stem)
    assert {folder: modules for folder, modules in mapped_modules().items() if modules} == tree


def test_the_map_fits_on_one_screen():
    assert len(map_lines()) <= SCREEN
    assert max(map(len, map_lines())) <= 120


def test_the_table_of_imports_is_the_rule():
    table = PAGE.partition("## Who may import whom")[2].partition("An asterisk")[0]
    rows = re.findall(r"^\| ([\w.]+) \| (.+) \|$", table, re.MULTILINE)
    assert {package: allowed.replace("nothing", "") for package, allowed in rows if package != "package"} == MAY_IMPORT
