"""What readers copy: the code of docs/PYTHON.md and of the notebooks, executed on fewer and smaller pictures.

The code is executed in this process, cell by cell. The parameters are changed in its text by SHRINKING, and ``noplots``
is added where no picture is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.yolo import DetectionModel
from tests.conftest import WIDE_MODEL
from tests.pruning_networks import random_gammas
from utils.storage.files import ROOT

PAGE = ROOT / "docs/PYTHON.md"
NOTEBOOKS = (ROOT / "tutorial.ipynb", ROOT / "tutorial.zh-CN.ipynb")
SHRINKING = (
    (r"images=\d+", "images=10"),
    (r"\bsize=\d+", "size=96"),
    (r'("imgsz": )\d+', r"\g<1>64"),
    (r"(imgsz=\[?)\d+", r"\g<1>64"),
    (r"epochs=\d+", "epochs=1"),
    (r'("batch_size": )\d+', r'\g<1>4, "workers": 0, "device": "cpu"'),
)
INSTALLING = "%pip "  # cells that begin with it are for readers alone


def blocks_of_page() -> list[str]:
    """Return the Python blocks of docs/PYTHON.md."""
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def cells_of(notebook: Path, cell_type: str) -> list[str]:
    """Return the sources of a notebook's cells of one type, 'code' or 'markdown'."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == cell_type]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], dict[str, Any]]:
    """Return a function that executes cells in a folder of their own, made small, and returns their variables.

    In that folder a tiny network takes the place of data/weights/drawn_faces.pt.
    """
    torch.manual_seed(0)
    model = DetectionModel(WIDE_MODEL, ch=3, nc=2)
    model.names = ["face", "face_mask"]  # type: ignore[assignment]
    random_gammas(model)
    (tmp_path / "data/weights").mkdir(parents=True)
    torch.save({"model": model.half()}, tmp_path / "data/weights/drawn_faces.pt")
    monkeypatch.chdir(tmp_path)

    def run(cells: list[str]) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "cells"}
        for cell in cells:
            for pattern, replacement in SHRINKING:
                cell = re.sub(pattern, replacement, cell)
            exec(compile(cell, "<cell>", "exec"), names)
        return names

    return run


@pytest.fixture(autouse=True)
def drawn_here() -> Iterator[None]:
    """Draw in this process: tests/conftest.py sees to that for the modules of the checkout, not for the package's."""
    import yolov5_prune.utils.drawing.background as background

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "usable_cores", lambda: 1)
        yield


@pytest.mark.slow
def test_the_page_on_python_runs(execute: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = execute([block.replace("epochs", "noplots=True, epochs") for block in blocks_of_page()])
    printed = capsys.readouterr().out
    assert "no such checkpoint: missing.pt" in printed and "mAP50-95" in printed
    assert names["pruned"].after.gflops < names["pruned"].before.gflops
    assert names["tuned"].best.is_file() and not names["tuned"].folder.is_absolute()
    assert len(list(names["seen"].folder.glob("*.jpg"))) == 2


@pytest.mark.slow
def test_the_notebook_runs(execute: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    cells = [cell for cell in cells_of(NOTEBOOKS[0], "code") if not cell.startswith(INSTALLING)]
    names = execute([cell.replace("teacher=", "noplots=True, teacher=") for cell in cells])  # pictures are shown once
    assert names["exported"].name == "best.onnx" and names["exported"].is_file()
    assert names["pruned"].after.parameters < names["pruned"].before.parameters
    assert "parameters" in capsys.readouterr().out


def test_both_notebooks_have_the_same_code_and_the_same_sections() -> None:
    english, chinese = NOTEBOOKS
    assert cells_of(english, "code") == cells_of(chinese, "code")
    headings = [
        [re.findall("^(#+ [0-9.]*)", cell, re.MULTILINE) for cell in cells_of(file, "markdown")] for file in NOTEBOOKS
    ]
    assert headings[0] == headings[1]
    codes = [[re.findall("`[^`]+`", cell) for cell in cells_of(file, "markdown")] for file in NOTEBOOKS]
    assert codes[0] == codes[1]
    targets = [re.findall(r"\]\(([^)]+)\)", "".join(cells_of(file, "markdown"))) for file in NOTEBOOKS]
    assert [re.sub("^docs/", "docs/zh-CN/", target) for target in targets[0]] == targets[1]
    assert all((ROOT / target).is_file() for target in targets[0] + targets[1])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.name)
def test_notebooks_are_stored_without_output(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    identities = [cell["id"] for cell in content["cells"]]
    assert len(set(identities)) == len(identities)
