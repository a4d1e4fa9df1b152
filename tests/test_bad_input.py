"""User errors end in one clear line and exit code 1 or 2, and what was saved before stays whole."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import train
import val
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import finetune, pipeline, prune, train_sparity
from tests.conftest import TINY_CFG
from utils.checkpoint import save_checkpoint
from utils.commands.cli import run_command
from utils.commands.options import parse
from utils.storage.files import ROOT, read_yaml
from utils.training.options import TrainOptions

CFG = str(TINY_CFG)
COMMANDS = {
    "train": (train.main, TrainOptions),
    "val": (val.main, val.ValOptions),
    "detect": (detect.main, detect.DetectOptions),
    "sparse": (train_sparity.main, train_sparity.SparseOptions),
    "finetune": (finetune.main, finetune.FinetuneOptions),
    "prune": (prune.main, prune.PruneOptions),
    "pipeline": (pipeline.main, pipeline.PipelineOptions),
}


def failure(command: str, *arguments: object) -> str:
    """Run a command as its script does; returns its one-line error. Fails if it succeeds or dies otherwise."""
    main, options = COMMANDS[command]
    with pytest.raises(SystemExit) as caught:
        run_command(lambda: main(parse(options, "", [str(argument) for argument in arguments])))
    message = caught.value.code
    assert isinstance(message, str), f"expected an error message, got exit code {message}"  # text means exit code 1
    assert "\n" not in message
    assert message.startswith("error: ")
    return message


def short(data: Path, folder: Path, *more: object) -> list[object]:
    """Flags of a short training run."""
    return ["--data", data, "--cfg", CFG, "--weights", "", "--imgsz", 64, "--batch-size", 4, "--epochs", 1,
            "--workers", 0, "--device", "cpu", "--noplots", "--project", folder, *more]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained two-class detector as a checkpoint."""
    path = tmp_path_factory.mktemp("weights") / "plain.pt"
    model = DetectionModel(CFG)
    model.names = ["disc", "square"]
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


@pytest.fixture
def own_data(tiny_dataset, tmp_path) -> Path:
    """A private copy of the drawn data set that a test may damage."""
    import shutil

    shutil.copytree(tiny_dataset.parent, tmp_path / "data")
    content = read_yaml(tiny_dataset) | {"path": str(tmp_path / "data")}
    lines = [f"{key}: {value}\n" for key, value in content.items()]
    (tmp_path / "data" / tiny_dataset.name).write_text("".join(lines))
    for cache in (tmp_path / "data").rglob("*.cache"):
        cache.unlink()
    return tmp_path / "data" / tiny_dataset.name


@pytest.mark.parametrize("command", ["train", "val", "sparse", "prune", "finetune", "pipeline"])
def test_missing_data_yaml(command, checkpoint, tmp_path):
    message = failure(command, "--data", "nowhere.yaml", "--weights", checkpoint, "--project", tmp_path)
    assert "nowhere.yaml" in message


@pytest.mark.parametrize("command", ["train", "val", "detect", "sparse", "prune", "finetune", "pipeline"])
def test_missing_weights(command, tiny_dataset, tmp_path):
    source = ["--source", ROOT / "README.md"] if command == "detect" else []
    message = failure(command, "--data", tiny_dataset, "--weights", "nowhere.pt", "--project", tmp_path, *source)
    assert "nowhere.pt" in message


def test_missing_image_folder(tmp_path):
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [face, face_mask]\n")
    assert "images/train" in failure("train", *short(data, tmp_path))


def test_no_labels_at_all(own_data, tmp_path):
    for label in own_data.parent.rglob("*.txt"):
        label.unlink()
    assert "label" in failure("train", *short(own_data, tmp_path))


def test_class_index_beyond_the_names(own_data, tmp_path):
    label = next(iter(sorted((own_data.parent / "labels/train").glob("*.txt"))))
    label.write_text("7 0.5 0.5 0.2 0.2\n")
    message = failure("train", *short(own_data, tmp_path))
    assert label.name in message
    assert "7" in message


def test_a_corrupt_image_is_named_and_skipped(own_data, tmp_path, caplog, monkeypatch):
    from utils.log import LOGGER

    monkeypatch.setattr(LOGGER, "propagate", True)
    image = next(iter(sorted((own_data.parent / "images/train").iterdir())))
    image.write_bytes(b"this is no image")
    train.main(parse(TrainOptions, "", [str(flag) for flag in short(own_data, tmp_path)]))
    assert image.name in caplog.text
    assert (tmp_path / "exp/weights/last.pt").is_file()


@pytest.mark.parametrize("command", ["train", "val", "prune", "finetune"])
def test_truncated_checkpoint(command, checkpoint, tiny_dataset, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    assert "broken.pt" in failure(command, "--data", tiny_dataset, "--weights", broken, "--project", tmp_path / "runs")


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, "text", {"model": 3}])
def test_a_pickle_that_is_no_checkpoint(content, tiny_dataset, tmp_path):
    file = tmp_path / "other.pt"
    torch.save(content, file)
    assert "other.pt" in failure("val", "--data", tiny_dataset, "--weights", file, "--project", tmp_path / "runs")


def test_a_malicious_file_is_refused(tiny_dataset, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/attacked",)

    for name, save in (("zip.pt", torch.save), ("plain.pt", lambda thing, path: path.write_bytes(pickle.dumps(thing)))):
        save({"model": Attack()}, tmp_path / name)
        message = failure("val", "--data", tiny_dataset, "--weights", tmp_path / name, "--project", tmp_path / "runs")
        assert "system" in message or "not a" in message
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("percent", ["1.5", "-0.1", "nan"])
def test_impossible_percent(percent, checkpoint, tiny_dataset, tmp_path):
    message = failure(
        "prune", "--data", tiny_dataset, "--weights", checkpoint, "--percent", percent, "--project", tmp_path
    )
    assert "percent" in message


@pytest.mark.slow
def test_a_model_without_prunable_layers(tiny_dataset, tmp_path):
    model = DetectionModel(CFG)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            parent.bn = torch.nn.Identity()
    model.names = ["disc", "square"]
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, tmp_path / "bare.pt")
    message = failure(
        "prune", "--data", tiny_dataset, "--weights", tmp_path / "bare.pt", "--project", tmp_path / "runs"
    )
    assert "prunable" in message


@pytest.mark.parametrize("command", ["val", "prune"])
def test_classes_that_differ_from_the_checkpoint(command, checkpoint, own_data, tmp_path):
    text = own_data.read_text().split("names:")[0]
    lines = [line for line in text.splitlines() if not line.startswith("nc")]
    own_data.write_text("\n".join([*lines, "names: [cat, dog, bird]"]) + "\n")
    message = failure(command, "--data", own_data, "--weights", checkpoint, "--project", tmp_path / "runs")
    assert "3" in message
    assert "2" in message


@pytest.mark.parametrize("command", ["train", "prune", "detect"])
def test_runs_folder_that_cannot_be_created(command, checkpoint, tiny_dataset, tmp_path):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    source = ["--source", next((tiny_dataset.parent / "images/val").iterdir())] if command == "detect" else []
    more = ["--data", tiny_dataset, "--weights", checkpoint, "--imgsz", 64, "--project", tmp_path / "occupied", *source]
    assert "occupied" in failure(command, *more)


def test_unreadable_source_is_named_and_the_rest_is_done(checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"no image")
    cv2.imwrite(str(folder / "good.jpg"), np.full((64, 64, 3), 90, np.uint8))
    done = detect.run(
        weights=str(checkpoint), source=str(folder), imgsz=64, project=str(tmp_path / "runs"), device="cpu"
    )
    assert (done / "good.jpg").is_file()
    assert not (done / "bad.jpg").exists()


def test_argparse_errors_exit_with_two():
    with pytest.raises(SystemExit) as caught:
        parse(TrainOptions, "", ["--epochs", "many"])
    assert caught.value.code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_during_training(tiny_dataset, tmp_path):
    command = [sys.executable, "train.py", *map(str, short(tiny_dataset, tmp_path))]
    command[command.index("--epochs") + 1] = "1000"
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    last, deadline = tmp_path / "exp/weights/last.pt", time.time() + 120
    while not last.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted" in errors.strip().splitlines()[-1]
    assert load_checkpoint(last)["optimizer"] is not None
    assert not [path for path in last.parent.iterdir() if path.name.startswith(".")]


TERMINATED = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from utils.commands.cli import run_command
from utils.storage.files import atomic_output, atomic_path


def work():
    if sys.argv[1] == "forked":  # a process of a pool, say, ends at once
        child = multiprocessing.get_context("fork").Process(target=wait)
        child.start()
        time.sleep(0.5)
        child.terminate()
        child.join()
        print(child.exitcode, flush=True)
    with atomic_output("export") as folder, atomic_path("file") as file:
        folder.mkdir()
        file.write_text("half of it")
        wait()


def wait():
    print("writing", flush=True)
    time.sleep(60)


run_command(work)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
@pytest.mark.parametrize("way", ["plain", "forked"])
def test_what_is_terminated_leaves_no_drafts(tmp_path, way):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TERMINATED, way]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    words = []
    while "writing" not in words[-1:] or not any(path.is_file() for path in tmp_path.glob(".draft-*")):
        words.append(process.stdout.readline().strip())
        assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
    assert way == "plain" or str(-signal.SIGTERM) in words
