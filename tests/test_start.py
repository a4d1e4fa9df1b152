"""What a run loads: libraries that it does not need, or not yet, would make its start slow."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from utils.files import ROOT

NEEDED = {"torch", "numpy", "cv2", "yaml", "tqdm", "PIL"}  # PIL checks the images
OURS = {"train", "val", "detect", "models", "utils", "prune_tools"}

# Runs a command and prints which modules are loaded at each of its hooks, without those of the standard library,
# inner ones with an underscore, and those that torch loads by itself for loaders and optimizers.
PROBE = """
import json, runpy, sys
sys.path.insert(0, "")
import torch, torch.utils.data
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
from multiprocessing import pool, queues
before = set(sys.modules)

def loaded():
    names = {name.split(".")[0] for name in set(sys.modules) - before}
    return sorted(name for name in names - sys.stdlib_module_names if not name.startswith("_"))

script, *sys.argv = json.loads(sys.argv[1])
seen = {}
from utils.callbacks import Callbacks
real = Callbacks.run
def run(self, hook, *values, **keywords):
    seen.setdefault(hook, loaded())
    return real(self, hook, *values, **keywords)
Callbacks.run = run
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    seen["exit code"] = end.code
seen["end"] = loaded()
print("SEEN" + json.dumps(seen))
"""


def run(script: str, *arguments: object) -> dict:
    """Run a command in a process of its own and return what was loaded at each hook, and at the end."""
    given = json.dumps([script, script, *map(str, arguments)])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, given], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN")]
    assert lines, done.stdout + done.stderr
    seen = json.loads(lines[0].removeprefix("SEEN"))
    assert seen["exit code"] == 0, done.stderr
    return seen


@pytest.fixture(scope="module")
def training(tiny_dataset, tiny_cfg, tmp_path_factory) -> dict:
    """What a training of one epoch without plots loads, validation included."""
    return run(
        "train.py", "--weights", "", "--cfg", tiny_cfg, "--data", tiny_dataset, "--imgsz", 64, "--epochs", 1,
        "--device", "cpu", "--workers", 0, "--noplots", "--project", tmp_path_factory.mktemp("runs"),
    )  # fmt: skip


def test_a_training_starts_with_what_it_needs(training):
    assert set(training["on_train_start"]) <= NEEDED | OURS
    assert {"cv2", "models"} <= set(training["on_train_start"])  # the probe sees something


def test_tensorboard_is_loaded_when_the_first_figures_are_there(training):
    if find_spec("tensorboard") is None:
        pytest.skip("TensorBoard is not installed")
    assert "tensorboard" not in training["on_train_batch_end"] and "tensorboard" in training["end"]


def test_plots_bring_their_libraries_only_when_they_are_drawn(training):
    assert not {"matplotlib", "pandas", "seaborn", "scipy", "torchvision"} & set(training["end"])


def test_detection_loads_no_more(tiny_dataset, tiny_cfg, tmp_path):
    from models.yolo import DetectionModel
    from utils.checkpoint import save_checkpoint

    weights = tmp_path / "tiny.pt"
    save_checkpoint({"model": DetectionModel(tiny_cfg)}, weights)
    seen = run(
        "detect.py", "--weights", weights, "--source", tiny_dataset.parent / "images/val", "--imgsz", 64,
        "--device", "cpu", "--project", tmp_path, "--nosave", "--conf-thres", 0.0001,  # there is much to suppress
    )  # fmt: skip
    assert set(seen["end"]) <= NEEDED | OURS
