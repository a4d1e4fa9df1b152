"""Disks fill up, folders vanish: one line, nothing lost, and the run continues to the same results."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import detect
import export
import train
import val
from models.loading import load_checkpoint
from prune_tools import finetune, prune, train_sparity
from prune_tools.pipeline_run import resumable
from tests.write_faults import FailingWrites
from utils.callbacks import Callbacks
from utils.commands.cli import _report_error_of_thread, describe
from utils.commands.options import build
from utils.log import LOGGER
from utils.loggers import RESULT_COLUMNS, Loggers
from utils.storage.files import append_whole, atomic_path
from utils.tracking.to_tensorboard import CarefulWriter
from utils.training.options import TrainOptions

VALUES = [0.5] * len(RESULT_COLUMNS)
COMMANDS = ("train", "sparse", "prune", "finetune", "export", "val", "detect")
FAILING = ((0.2, True), (0.5, False), (0.85, True))  # share of a run's writes that succeed; whether all others fail


@dataclass
class Commands:
    """The commands on the smallest inputs. Each writes below ``folder / project`` and returns its run folder.

    A training whose last.pt can be resumed is resumed.
    """

    data: Path
    cfg: Path
    folder: Path

    def __post_init__(self) -> None:
        """Make the checkpoints that the commands start from."""
        self.base = self.train("base") / "weights/best.pt"
        self.pruned = self.prune("pruned") / "pruned_model.pt"

    def _common(self, project: str) -> dict[str, Any]:
        return {"data": str(self.data), "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0,
                "project": str(self.folder / project), "name": "exp", "exist_ok": True}  # fmt: skip

    def _training(self, command: Any, options_class: type, project: str, **more: Any) -> Path:
        run = self.folder / project / "exp"
        last = run / "weights/last.pt"
        if not last.is_file():
            command(build(options_class, **self._common(project), epochs=2, noplots=True, **more))
        elif resumable(last):
            command(build(options_class, resume=str(last)))
        return run

    def train(self, project: str) -> Path:
        return self._training(train.main, TrainOptions, project, cfg=str(self.cfg), weights="")

    def sparse(self, project: str) -> Path:
        return self._training(train_sparity.main, train_sparity.SparseOptions, project, weights=str(self.base), sr=0.01)

    def prune(self, project: str) -> Path:
        options = build(prune.PruneOptions, **self._common(project), weights=[str(self.base)], percent=0.6, noval=True)
        return Path(prune.main(options))

    def finetune(self, project: str) -> Path:
        more = {"weights": str(self.pruned), "teacher": str(self.base)}
        return self._training(finetune.main, finetune.FinetuneOptions, project, **more)

    def export(self, project: str) -> Path:
        run = self.folder / project / "exp"
        run.mkdir(parents=True, exist_ok=True)
        with atomic_path(run / "model.pt") as draft:
            draft.write_bytes(self.base.read_bytes())
        export.run(weights=str(run / "model.pt"), imgsz=64, include=["torchscript"], data=str(self.data))
        return run

    def val(self, project: str) -> Path:
        options = self._common(project)
        data = options.pop("data")
        val.run(data, str(self.base), plots=False, save_txt=True, save_json=True, conf_thres=0.05, **options)
        return self.folder / project / "exp"

    def detect(self, project: str) -> Path:
        options = self._common(project)
        for name in ("data", "workers", "batch_size"):
            del options[name]
        source = self.data.parent / "images/val"
        detect.run(
            source=str(source), weights=str(self.base), conf_thres=0.01, max_det=3, save_txt=True, save_crop=True,
            **options,
        )  # fmt: skip
        return self.folder / project / "exp"


@pytest.fixture(scope="module")
def commands(tiny_dataset, tiny_cfg, tmp_path_factory) -> Commands:
    return Commands(tiny_dataset, tiny_cfg, tmp_path_factory.mktemp("failing"))


def assert_nothing_is_lost(folder: Path, before: dict[Path, int]) -> None:
    """Check that the files of ``before`` (with their sizes) are there, that no draft is, and that files can be read."""
    assert not list(folder.rglob(".draft-*"))
    for path, size in before.items():
        assert path.exists() and (path.stat().st_size or not size)
    for path in folder.rglob("*.pt"):
        load_checkpoint(path)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def files_of(run: Path) -> set[Path]:
    """Return the files of a run folder, those of TensorBoard left out, which a run may do without."""
    return {path.relative_to(run) for path in run.rglob("*") if not path.name.startswith("events.")}


def assert_same_training(first: Path, second: Path) -> None:
    for name in ("last.pt", "best.pt"):
        states = [load_checkpoint(run / "weights" / name)["model"].state_dict() for run in (first, second)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert (first / "results.csv").read_bytes() == (second / "results.csv").read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_survives_writes_that_fail(commands, name):
    """A command ends with one line, or continues where nothing depends on the file; repeated, it comes to its end."""
    command = getattr(commands, name)
    with FailingWrites(commands.folder, 0) as writes:
        whole = command(f"{name}-whole")
    for share, stays in FAILING:
        project = f"{name}-{share}"
        before = {path: path.stat().st_size for path in commands.folder.rglob("*") if path.is_file()}
        try:
            with FailingWrites(commands.folder, int(share * writes.count), stays) as failing:
                command(project)
        except Exception as error:
            line = describe(error)
            if not line or "\n" in line:
                raise
        assert failing.happened
        assert_nothing_is_lost(commands.folder, before)
        run = command(project)
        assert_nothing_is_lost(commands.folder, before)
        assert files_of(run) == files_of(whole)
        if (whole / "results.csv").exists():
            assert_same_training(whole, run)


def test_writes_are_counted_and_fail(tmp_path):
    def work() -> None:
        with atomic_path(tmp_path / "file") as draft:
            draft.write_text("text")
        (tmp_path / "folder").mkdir()

    with FailingWrites(tmp_path, 0) as writes:
        work()
    assert writes.count == 7 and not writes.happened  # open, write, open, fsync, rename, fsync of the folder, mkdir
    for number in range(1, writes.count + 1):
        shutil.rmtree(tmp_path / "folder", ignore_errors=True)
        with FailingWrites(tmp_path, number) as writes, pytest.raises(OSError):
            work()
        assert writes.happened
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    work()


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("before", [None, "row 1\n"])
def test_a_line_is_added_whole_or_not_at_all(tmp_path, failing, before):
    file = tmp_path / "results.csv"
    if before:
        file.write_text(before)
    with FailingWrites(tmp_path, failing, stays=False) as writes, pytest.raises(OSError) as caught:
        append_whole(file, "row 2\n")
    assert writes.happened and caught.value.filename == str(file)
    assert (file.read_text() if before else file.exists()) == (before or False)
    append_whole(file, "row 2\n")
    assert file.read_text() == (before or "") + "row 2\n"


def test_what_torch_cannot_write_is_an_error_of_a_user():
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    assert "free space" in describe(error) and "\n" not in describe(error)
    absent = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert describe(absent) == "the package torch is not installed: pip install -r requirements.txt"
    assert describe(ModuleNotFoundError("No module named 'utils.absent'", name="utils.absent")) == ""
    assert describe(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""
    error = OSError(errno.ENOSPC, "No space left on device", "last.pt")
    error.advice = "continue with --resume last.pt"
    assert describe(error).endswith("has free space; then continue with --resume last.pt")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failing", [2, 3, 5, 8])
def test_event_files_that_cannot_be_written_cost_a_line(tmp_path, caplog, capfd, monkeypatch, failing):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr(threading, "excepthook", _report_error_of_thread)
    monkeypatch.setattr("utils.log._said", set())
    folder = tmp_path / "run"
    folder.mkdir()
    loggers = Loggers(folder, plots=False)
    append = "utils.loggers.append_whole"
    with FailingWrites(folder, failing), monkeypatch.context() as patch:
        patch.setattr(append, lambda *_: None)
        for epoch in range(3):
            loggers.on_fit_epoch_end(VALUES, epoch, 0.1, 0.1)
        loggers.close()
    assert sum("TensorBoard's event file cannot be written" in line for line in caplog.messages) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_other_errors_of_a_writer_are_not_hidden():
    def fault() -> None:
        raise TypeError("a fault of the program")

    with pytest.raises(TypeError):
        CarefulWriter(fault)


def test_a_run_folder_that_is_removed_costs_a_line(tiny_dataset, tiny_cfg, tmp_path):
    def remove(epoch: int) -> None:
        if epoch == 1:
            shutil.rmtree(tmp_path / "exp")

    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", "vandal", remove)
    options = build(
        TrainOptions, data=str(tiny_dataset), cfg=str(tiny_cfg), weights="", imgsz=64, epochs=3, batch_size=4,
        workers=0, device="cpu", project=str(tmp_path), noplots=True,
    )  # fmt: skip
    with pytest.raises(OSError) as caught:
        train.main(options, callbacks)
    assert "No such file" in describe(caught.value) and "\n" not in describe(caught.value)
    assert os.path.basename(caught.value.filename) == "results.csv"


def test_a_removed_checkpoint_is_written_again(tiny_dataset, tiny_cfg, tmp_path):
    last = Path(tmp_path / "exp/weights/last.pt")

    def remove(saved: Path, epoch: int, final_epoch: bool, *_: float) -> None:
        if not final_epoch:
            saved.unlink()

    callbacks = Callbacks()
    callbacks.register_action("on_model_save", "vandal", remove)
    options = build(
        TrainOptions, data=str(tiny_dataset), cfg=str(tiny_cfg), weights="", imgsz=64, epochs=2, batch_size=4,
        workers=0, device="cpu", project=str(tmp_path), noplots=True,
    )  # fmt: skip
    train.main(options, callbacks)
    assert last.is_file()
