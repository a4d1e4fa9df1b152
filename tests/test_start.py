"""What a run loads: libraries that it does not need, or not yet, would make its start slow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from utils.storage.files import ROOT

NEEDED = {"torch", "numpy", "cv2", "yaml", "tqdm", "PIL"}  # PIL checks the images
COMMANDS = (
    "train.py", "val.py", "detect.py", "export.py", "prune_tools/train_sparity.py", "prune_tools/prune.py",
    "prune_tools/finetune.py", "prune_tools/pipeline.py", "prune_tools/sweep.py", "prune_tools/groups.py",
    "prune_tools/sensitivity.py", "data/scripts/download_weights.py", "data/scripts/draw_mask_demo.py",
    "data/scripts/get_dataset.py", "data/scripts/convert_labels.py", "data/scripts/autosplit.py",
)  # fmt: skip
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
    """Return what a training of one epoch without plots loads, validation included."""
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


@pytest.fixture(scope="module")
def weights(tiny_cfg, tmp_path_factory) -> Path:
    """A checkpoint of the tiny model."""
    from models.yolo import DetectionModel
    from utils.checkpoint import save_checkpoint

    file = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint({"model": DetectionModel(tiny_cfg), "epoch": -1, "opt": {"sr": 0.001}}, file)
    return file


COMMON = ("--data", "{data}", "--imgsz", "64", "--device", "cpu", "--workers", "0", "--project", "{folder}")
RUNS = {
    "val.py": ("--weights", "{weights}", *COMMON),  # pictures included, which another process draws
    "detect.py": ("--weights", "{weights}", "--source", "{images}", "--imgsz", "64", "--device", "cpu", "--project",
                  "{folder}", "--nosave", "--conf-thres", "0.0001"),  # there is much to suppress
    "export.py": ("--weights", "{weights}", "--imgsz", "64", "--include", "torchscript"),
    "prune_tools/prune.py": ("--weights", "{weights}", "--noval", "--reconstruct", "0", *COMMON),
    "prune_tools/sweep.py": ("--weights", "{weights}", "--ratios", "2", "--images", "4", *COMMON),
    "prune_tools/finetune.py": ("--weights", "{pruned}", "--epochs", "1", "--noplots", *COMMON),
}  # fmt: skip


@pytest.mark.parametrize("script", RUNS)
def test_a_run_loads_no_more(script, tiny_dataset, weights, tmp_path):
    places = {"data": tiny_dataset, "images": tiny_dataset.parent / "images/val", "folder": tmp_path,
              "weights": shutil.copy(weights, tmp_path), "pruned": weights}  # fmt: skip
    seen = run(script, *(argument.format(**places) for argument in RUNS[script]))
    draws = script in ("prune_tools/prune.py", "prune_tools/sweep.py")  # diagrams, in the end
    if not draws:
        assert set(seen.get("on_train_start", seen["end"])) <= NEEDED | OURS | {"export"}
    assert not {"pandas", "seaborn", "scipy", "torchvision"} & set(seen["end"])
    assert draws or "matplotlib" not in seen["end"]


HELP_PROBE = """
import json, runpy, sys
script, *sys.argv = json.loads(sys.argv[1])
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert not end.code
names = {name.split(".")[0] for name in sys.modules}
print("SEEN" + json.dumps(sorted(names - sys.stdlib_module_names)))
"""


@pytest.mark.parametrize("script", COMMANDS)
def test_help_loads_next_to_nothing(script):
    done = subprocess.run(
        [sys.executable, "-c", HELP_PROBE, json.dumps([script, script, "--help"])], cwd=ROOT, capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    loaded = json.loads(done.stdout.split("SEEN")[1])
    drawing = {"numpy", "cv2"} if script == "data/scripts/draw_mask_demo.py" else {"numpy"}
    assert (NEEDED | {"torchvision", "matplotlib", "pandas", "scipy", "tensorboard"}).isdisjoint(set(loaded) - drawing)


def test_no_command_is_forgotten():
    scripts = [file for folder in (".", "prune_tools", "data/scripts") for file in (ROOT / folder).glob("*.py")]
    commands = {str(file.relative_to(ROOT)) for file in scripts if "__main__" in file.read_text()}
    assert commands == set(COMMANDS)
