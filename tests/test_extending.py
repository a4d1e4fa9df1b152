"""docs/EXTENDING.md: every example is put into a copy of the project as the page says, and its command is run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from models.yolo import DetectionModel
from utils.checkpoint import save_checkpoint
from utils.storage.files import ROOT

PAGE = ROOT / "docs/EXTENDING.md"
COPIED = ("data", "models", "prune_tools", "utils")
SMALL = ("--imgsz", "64", "--device", "cpu")


class Block(NamedTuple):
    """One block of code of the page: its language and text."""

    language: str
    text: str


def sections() -> dict[str, list[Block]]:
    """Return the blocks of code under each heading that has some."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {
        title: [Block(*block) for block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


def find(source: str, name: str) -> ast.stmt:
    """Return the table, class, function or method of this name."""
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        for child in ast.iter_child_nodes(node):
            targets = [child.target] if isinstance(child, ast.AnnAssign) else getattr(child, "targets", [])
            if getattr(child, "name", "") == part or part in [ast.unparse(target) for target in targets]:
                node = child
                break
        else:
            raise AssertionError(f"there is no {part} for {name}")
    assert isinstance(node, ast.stmt)
    return node


def insert(root: Path, block: str) -> None:
    """Put a block where its first line says.

    '# file' is a new file, or more lines for a YAML file; ', before NAME' of a part of it; ', in NAME' at the end of a
    table, a class or a function, before what that returns.
    """
    head, _, text = block.partition("\n")
    where = re.fullmatch(r"# ([\w./-]+)(?:, (in|before) ([\w.]+))?", head)
    assert where, f"the first line of a block must say where it goes, not {head!r}"
    file = root / where[1]
    if where[2] is None:
        assert file.exists() == (file.suffix == ".yaml"), file
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(text)
        return
    source = file.read_text(encoding="utf-8")
    node = find(source, where[3])
    lines = source.splitlines(keepends=True)
    if where[2] == "in" and isinstance(node, (ast.Assign, ast.AnnAssign)):
        end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset - 1  # of the closing bracket
        start = source[:end].rstrip()
        file.write_text(start + "," * (start[-1] not in ",([{") + "\n" + text + source[end:], encoding="utf-8")
        return
    body = getattr(node, "body", [node])
    if where[2] == "in" and not isinstance(body[-1], ast.Return):
        place, column = body[-1].end_lineno, body[-1].col_offset
    else:
        node = body[-1] if where[2] == "in" else node
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        place, column = first - 1, node.col_offset
    lines.insert(place, textwrap.indent(textwrap.dedent(text) + "\n", " " * column))
    file.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def project(tmp_path, tiny_cfg, tiny_dataset) -> Path:
    """A copy of the project's code with a small checkpoint, best.pt, and a small data set, data/mask.yaml."""
    root = tmp_path / "project"
    root.mkdir()
    for folder in COPIED:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    for file in ROOT.glob("*.py"):
        shutil.copy(file, root)
    torch.manual_seed(0)
    save_checkpoint({"epoch": -1, "model": DetectionModel(tiny_cfg), "ema": None, "optimizer": None}, root / "best.pt")
    shutil.copy(tiny_dataset, root / "data/mask.yaml")
    return root


def test_the_page_shows_all_kinds():
    kinds = {title.rpartition(" ")[2] for title in sections()}
    assert kinds == {"penalty", "score", "repair", "format", "augmentation"}


SAMPLE = """
TABLE = {1: 2}
OTHER = (
    "a",
)


@cached
class C:
    x = 1

    def f(self):
        y = 2
        return y


end = 1
"""


def test_code_goes_where_a_block_says(tmp_path):
    (tmp_path / "a.py").write_text(SAMPLE)
    for block in (
        "# a.py, in TABLE\n3: 4,\n", '# a.py, in OTHER\n"b",\n', "# a.py, before C\nz = 0\n", "# a.py, in C\nw = 3\n",
        "# a.py, in C.f\ny += 1\n", "# a.py, before C.f.y\nv = 5\n", "# b.py\nnew = 1\n",
    ):  # fmt: skip
        insert(tmp_path, block)
    assert (tmp_path / "b.py").read_text() == "new = 1\n"
    assert ast.unparse(ast.parse((tmp_path / "a.py").read_text())) == ast.unparse(
        ast.parse("""
TABLE = {1: 2, 3: 4}
OTHER = ("a", "b")
z = 0

@cached
class C:
    x = 1

    def f(self):
        v = 5
        y = 2
        y += 1
        return y
    w = 3
end = 1
""")
    )
    for wrong in ("# a.py, in D\n", "# a.py\n", "x = 1\n"):
        with pytest.raises(AssertionError):
            insert(tmp_path, wrong)


@pytest.mark.parametrize("title", sections())
def test_the_example_works(title, project):
    blocks = sections()[title]
    for block in blocks:
        if block.language in ("python", "yaml"):
            insert(project, block.text)
    (command,) = [shlex.split(block.text) for block in blocks if block.language == "bash"]
    (expected,) = [block.text.splitlines() for block in blocks if block.language == "text"]
    assert command[0] == "python"
    plain = ["--noplots"] if "train" in command[1] else []  # charts take longer than the rest
    done = subprocess.run(
        [sys.executable, *command[1:], *SMALL, *plain], cwd=project, capture_output=True, text=True, timeout=300,
        check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    log += "".join(file.read_text(encoding="utf-8") for file in project.glob("runs/*/*/*.yaml"))
    assert expected and all(line in log for line in expected), log
