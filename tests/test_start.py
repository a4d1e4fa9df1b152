"""Libraries that a run loads: those that it does not need, or not yet, would make its start slow."""

from __future__ import annotations

import json
import os
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

# Runs commands, each in a fork of its own where there are several, and prints which modules are loaded at each hook of
# theirs, without those of the standard library, inner ones with an underscore, and those that torch loads by itself for
# loaders and optimizers.
PROBE = """
import json, os, runpy, sys
sys.path.insert(0, "")
import torch, torch.utils.data
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
from multiprocessing import pool, queues
before = set(sys.modules)

def loaded():
    names = {name.split(".")[0] for name in set(sys.modules) - before}
    return sorted(name for name in names - sys.stdlib_module_names if not name.startswith("_"))

def observe(script, arguments):
    seen = {}
    from utils.callbacks import Callbacks
    real = Callbacks.run
    def run(self, hook, *values, **keywords):
        seen.setdefault(hook, loaded())
        return real(self, hook, *values, **keywords)
    Callbacks.run = run
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        seen["exit code"] = end.code
    seen["end"] = loaded()
    print("SEEN" + json.dumps([script, seen]), flush=True)

commands = json.loads(sys.argv[1])
for script, arguments in commands.items():
    child = os.fork() if len(commands) > 1 else 0
    if child:
        os.waitpid(child, 0)
        continue
    observe(script, arguments)
    if len(commands) > 1:
        os._exit(0)
"""


def loaded_by(commands: dict[str, list[str]]) -> dict[str, dict]:
    """Run scripts in processes that have only loaded torch; return by script what was loaded at each hook and the end.

    Where processes can be forked, torch is loaded once for all of them.
    """
    seen = {}
    for group in [commands] if hasattr(os, "fork") else [{script: words} for script, words in commands.items()]:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, json.dumps(group)], cwd=ROOT, capture_output=True, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN")]
        seen |= dict(json.loads(line.removeprefix("SEEN")) for line in lines)
        assert group.keys() <= seen.keys(), done.stdout + done.stderr
        assert all(seen[script]["exit code"] == 0 for script in group), done.stderr
    return seen


COMMON = ("--data", "{data}", "--imgsz", "64", "--device", "cpu", "--workers", "0", "--project", "{folder}")
RUNS = {
    "train.py": ("--weights", "", "--cfg", "{cfg}", "--epochs", "1", "--noplots", *COMMON),  # and a validation
    "val.py": ("--weights", "{weights}", *COMMON),  # pictures included, which another process draws
    "detect.py": ("--weights", "{weights}", "--source", "{images}", "--imgsz", "64", "--device", "cpu", "--project",
                  "{folder}", "--nosave", "--conf-thres", "0.0001"),  # there is much to suppress
    "export.py": ("--weights", "{weights}", "--imgsz", "64", "--include", "torchscript"),
    "prune_tools/prune.py": ("--weights", "{weights}", "--noval", "--reconstruct", "0", *COMMON),
    "prune_tools/sweep.py": ("--weights", "{weights}", "--ratios", "2", "--images", "4", *COMMON),
    "prune_tools/finetune.py": ("--weights", "{weights}", "--epochs", "1", "--noplots", *COMMON),
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(tiny_dataset, tiny_cfg, tmp_path_factory) -> dict[str, dict]:
    """Return what each of the scripts loads."""
    from models.yolo import DetectionModel
    from utils.checkpoint import save_checkpoint

    commands = {}
    for script, words in RUNS.items():
        folder = tmp_path_factory.mktemp(Path(script).stem)
        checkpoint = {"model": DetectionModel(tiny_cfg), "epoch": -1, "opt": {"sr": 0.001}}
        save_checkpoint(checkpoint, folder / "tiny.pt")
        values = {"data": tiny_dataset, "images": tiny_dataset.parent / "images/val", "folder": folder / "runs",
                  "weights": folder / "tiny.pt", "cfg": tiny_cfg}  # fmt: skip
        commands[script] = [word.format(**values) for word in words]
    return loaded_by(commands)


def test_a_training_starts_with_what_it_needs(seen):
    assert set(seen["train.py"]["on_train_start"]) <= NEEDED | OURS
    assert {"cv2", "models"} <= set(seen["train.py"]["on_train_start"])  # the probe sees something


def test_tensorboard_is_loaded_when_the_training_starts(seen):
    if find_spec("tensorboard") is None:
        pytest.skip("TensorBoard is not installed")
    training = seen["train.py"]
    assert "tensorboard" not in training["on_training_ready"] and "tensorboard" in training["on_train_epoch_start"]


@pytest.mark.parametrize("script", RUNS)
def test_a_run_loads_no_more(script, seen):
    """Charts bring their libraries only when they are drawn."""
    found = seen[script]
    draws = script in ("prune_tools/prune.py", "prune_tools/sweep.py")  # diagrams, in the end
    if not draws:
        assert set(found.get("on_train_start", found["end"])) <= NEEDED | OURS | {"export"}
    assert not {"pandas", "seaborn", "scipy", "torchvision"} & set(found["end"])
    assert draws or "matplotlib" not in found["end"]


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
