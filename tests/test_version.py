"""The version: written in one file, stated by everything that the program writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch

import detect
from models.checkpoints.safetensors_models import SUFFIX, read_model, write_model
from models.loading import load_checkpoint, strip_optimizer
from models.yolo import DetectionModel
from prune_tools import prune
from prune_tools.report.report import versions
from tests.test_start import COMMANDS
from utils.checkpoint import save_checkpoint
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.torch_files.safetensors_file import read_safetensors
from utils.version import MADE_BY, PROGRAM, __version__

# Runs a command and prints which large libraries it has loaded by then.
PROBE = """
import runpy, sys
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("LOADED", sorted({"torch", "matplotlib", "pandas", "tensorboard"} & set(sys.modules)))
"""


@pytest.fixture
def model(tiny_cfg) -> DetectionModel:
    """A small detector with seeded weights."""
    torch.manual_seed(0)
    return DetectionModel(tiny_cfg)


def test_it_is_a_semantic_version_and_heads_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert released[0][0] == __version__
    assert [date for _, date in released] == sorted((date for _, date in released), reverse=True)
    assert text.index("## [Unreleased]") < text.index(f"## [{__version__}]")


def test_the_project_table_reads_it():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11 and newer
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["name"] == PROGRAM
    assert "version" not in settings["project"] and "version" in settings["project"]["dynamic"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "utils.version.__version__"}


@pytest.mark.parametrize("script", COMMANDS)
def test_every_command_answers_without_loading_torch(script):
    code = f"import sys; sys.argv[:] = [{script!r}, '--version']\n{PROBE}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [MADE_BY, "LOADED []"]


def test_checkpoints_state_who_wrote_them(model, tmp_path):
    file = tmp_path / "model.pt"
    state = {"epoch": 2, "model": model, "ema": None, "optimizer": {"state": {}, "param_groups": []}}
    save_checkpoint(state | {"made_by": "yolov5-prune 0.0.1"}, file)  # read from an older version's file
    assert load_checkpoint(file)["made_by"] == MADE_BY
    strip_optimizer(file)
    assert load_checkpoint(file)["made_by"] == MADE_BY


def test_checkpoints_without_a_version_are_read(model, tmp_path):
    torch.save({"epoch": -1, "model": model.half(), "ema": None, "optimizer": None}, tmp_path / "old.pt")
    assert "made_by" not in load_checkpoint(tmp_path / "old.pt")
    strip_optimizer(tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt")["made_by"] == MADE_BY


def test_safetensors_state_who_wrote_them(model, tmp_path):
    file = tmp_path / f"model{SUFFIX}"
    write_model(model, file)
    (text,) = (text for text in read_safetensors(file)[1].values() if text.startswith("{"))
    assert json.loads(text)["made_by"] == MADE_BY
    read_model(file)


def test_pruned_files_and_the_log_of_a_pruning_state_it(model, tiny_dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger=LOGGER.name)
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, tmp_path / "model.pt")
    folder = prune.run(
        weights=tmp_path / "model.pt", data=tiny_dataset, imgsz=64, device="cpu", workers=0, noval=True, reconstruct=0,
        project=tmp_path,
    )  # fmt: skip
    assert f"{MADE_BY}, Python-" in caplog.text
    assert MADE_BY in (folder / "pruned_model.yaml").read_text(encoding="utf-8")
    assert load_checkpoint(folder / "pruned_model.pt")["made_by"] == MADE_BY
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["versions"][PROGRAM] == __version__


def test_the_log_of_a_detection_states_it(model, tiny_dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger=LOGGER.name)
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, tmp_path / "model.pt")
    images = tiny_dataset.parent / "images/val"
    detect.run(weights=tmp_path / "model.pt", source=images, imgsz=64, device="cpu", nosave=True, project=tmp_path)
    assert f"{MADE_BY}, Python-" in caplog.text


def test_reports_state_who_wrote_them():
    assert next(iter(versions().items())) == (PROGRAM, __version__)
