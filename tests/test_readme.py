"""The commands of README.md and README.zh-CN.md: both have the same, and each block runs as it stands, on tiny data.

A block runs in a folder where its file names (data/mask_demo.yaml, yolov5n.pt, best.pt ...) stand for a small data set
and a small detector. Flags are only appended, the last of two counts: short runs, small images, the CPU, a folder.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

import detect
import export
import train
import val
from benchmarks import latency
from data.scripts import draw_mask_demo
from models.loading import strip_optimizer
from prune_tools import finetune, pipeline, pipeline_run, prune, train_sparity
from prune_tools.pipeline_options import PipelineOptions
from tests.conftest import draw_tiny_dataset
from tests.exports.helpers import needs
from utils.commands.options import build, parse
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.options import TrainOptions

COMMANDS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "train.py": (TrainOptions, train.main),
    "val.py": (val.ValOptions, val.main),
    "detect.py": (detect.DetectOptions, detect.main),
    "export.py": (export.ExportOptions, export.main),
    "prune_tools/train_sparity.py": (train_sparity.SparseOptions, train_sparity.main),
    "prune_tools/prune.py": (prune.PruneOptions, prune.main),
    "prune_tools/finetune.py": (finetune.FinetuneOptions, finetune.main),
    "prune_tools/pipeline.py": (PipelineOptions, pipeline.main),
    "benchmarks.latency": (latency.LatencyOptions, latency.main),
}
# What installs, or needs make, a camera, or an archive from Kaggle; everything else must run
LEFT_OUT = (
    "git clone", "cd ", "python3 -m venv", "source ", "pip install", "make",
    "python detect.py --weights best.pt --source 0", "python data/scripts/get_dataset.py",
)  # fmt: skip
SHORT = {"--epochs": 1, "--base-epochs": 1, "--sparse-epochs": 1, "--finetune-epochs": 1, "--imgsz": 64,
         "--batch-size": 4, "--target-flops": 0.5}  # fmt: skip
TRAINING = ("--noplots", "--workers", "0", "--device", "cpu", "--project", "runs/train")
MEASURING = ("--workers", "0", "--device", "cpu", "--project", "runs/val")
APPENDED: dict[str, tuple[str, ...]] = {
    "train.py": TRAINING, "prune_tools/train_sparity.py": TRAINING, "prune_tools/finetune.py": TRAINING,
    "prune_tools/prune.py": (*MEASURING, "--reconstruct", "4"), "val.py": MEASURING,
    "detect.py": ("--device", "cpu", "--project", "runs/detect"), "export.py": (),
    "prune_tools/pipeline.py": (*MEASURING[:-1], "runs/pipeline", "--reconstruct", "4"),
    "benchmarks.latency": ("--repetitions", "1", "--threads", "1", "--project", "runs/latency"),
}  # fmt: skip
DATA_SETS = ("mask.yaml", "mask_demo.yaml", "face_mask.yaml")


def blocks_of(readme: str) -> list[tuple[str, str]]:
    """Return language and text of the code blocks that run here."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(r"^```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> list[str]:
    """Return the commands of a block, without comments, and <what the reader fills in> as <>."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in block.splitlines())
    return [re.sub("<.*?>", "<>", line) for line in lines if line]


BLOCKS = blocks_of("README.md")
RUNNING = [
    (language, text) for language, text in BLOCKS
    if language == "python" or any(not line.startswith(LEFT_OUT) for line in lines_of(text))
]  # fmt: skip


def first_words(block: tuple[str, str]) -> str:
    """Return a name for a block: its language and the longest word of its first line."""
    return f"{block[0]}-{max(lines_of(block[1])[-1].split(), key=len)[:40]}"


def test_both_languages_have_the_same_commands_and_sections():
    assert [[language, *lines_of(text)] for language, text in blocks_of("README.zh-CN.md")] == [
        [language, *lines_of(text)] for language, text in BLOCKS
    ]
    levels = [re.findall(r"^(#+) ", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
              for name in ("README.md", "README.zh-CN.md")]  # fmt: skip
    assert levels[0] == levels[1]
    assert len(RUNNING) >= 6


def test_every_command_is_known_and_what_is_left_out_is_there():
    """A command with a misspelt name is not mistaken for one that is left out."""
    lines = [line for language, text in BLOCKS if language == "bash" for line in lines_of(text)]
    left_out = [line for line in lines if line.startswith(LEFT_OUT)]
    assert {start for start in LEFT_OUT if any(line.startswith(start) for line in left_out)} == set(LEFT_OUT)
    for line in set(lines) - set(left_out):
        assert script_of(shlex.split(line))[0] in {*COMMANDS, "data/scripts/draw_mask_demo.py"}, line


def script_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the script of a command, or the module after -m, and its arguments."""
    assert words[0] == "python", words
    start = 2 if words[1] == "-m" else 1
    return words[start], words[start + 1 :]


def run_line(line: str) -> None:
    """Run one command in this process."""
    script, words = script_of(shlex.split(line))
    words = [*words, *(str(part) for flag, value in SHORT.items() if flag in words for part in (flag, value))]
    if script == "data/scripts/draw_mask_demo.py":
        draw_mask_demo.main([*words, "--images", "4", "--output", "drawn"])
        return
    options_class, main = COMMANDS[script]
    main(parse(options_class, "", [*words, *APPENDED[script]]))


def build_without_charts(options_class: type, **given: Any) -> Any:
    """Build the options of a pipeline's step; charts take most of the time of a short training."""
    return build(options_class, **given, **({"noplots": True} if issubclass(options_class, TrainOptions) else {}))


@pytest.fixture(scope="module")
def stage(tiny_dataset: Path, wide_cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name: small ones, and a trained detector."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data/weights").mkdir(parents=True)
    (folder / "models").mkdir()
    shutil.copytree(ROOT / "data/images", folder / "data/images")
    shutil.copy(ROOT / "hubconf.py", folder)
    own = read_yaml(draw_tiny_dataset(folder / "drawn_before", train=8, val=4))
    for name in DATA_SETS:
        write_yaml(folder / "data" / name, own)
    shutil.copy(wide_cfg, folder / "models/yolov5n_mask.yaml")
    train.main(build(
        TrainOptions, data=str(folder / "data/mask.yaml"), cfg=str(wide_cfg), weights="", imgsz=64, batch_size=4,
        epochs=1, workers=0, device="cpu", noplots=True, project=str(folder / "before"),
    ))  # fmt: skip
    for name in ("yolov5n.pt", "best.pt", "data/weights/drawn_faces.pt"):
        strip_optimizer(folder / "before/exp/weights/best.pt", folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("quick_timing")
@pytest.mark.parametrize("block", RUNNING, ids=first_words)
def test_each_block_runs_as_it_stands(block: tuple[str, str], stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language, text = block
    if "onnx" in text:
        needs("onnx")
    if "openvino" in text:
        needs("openvino")
    monkeypatch.chdir(stage)
    monkeypatch.setattr(pipeline_run, "build", build_without_charts)
    shutil.rmtree(stage / "runs", ignore_errors=True)  # run folders are exp, exp2 ... as for a new user
    if language == "python":
        exec(compile(text, "README.md", "exec"), {})  # the block's own names
        plt.close("all")
        return
    for line in lines_of(text):
        if not line.startswith(LEFT_OUT):
            run_line(line)
