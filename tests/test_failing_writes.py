"""Disks fill up, folders vanish: one line, nothing lost, and the run goes on where it was. benchmarks/failing_writes.py
lets every write of every command fail; here are a few."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

import train
from benchmarks.failing_writes import FailingOptions, main
from benchmarks.write_faults import FailingWrites
from utils.callbacks import Callbacks
from utils.commands.cli import _tell_error_of_thread, describe
from utils.commands.options import build
from utils.log import LOGGER
from utils.loggers import RESULT_COLUMNS, CarefulWriter, Loggers
from utils.storage.files import append_whole, atomic_path
from utils.training.options import TrainOptions

VALUES = [0.5] * len(RESULT_COLUMNS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread
@pytest.mark.parametrize("once", [False, True])
def test_a_training_survives_writes_that_fail(tiny_dataset, tiny_cfg, tmp_path, once):
    options = FailingOptions(
        data=str(tiny_dataset), cfg=str(tiny_cfg), commands=["train"], first=20 + once, every=60, once=once,
        folder=str(tmp_path / "failing"),
    )  # fmt: skip
    assert main(options)["train"] >= 2


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
    assert describe(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""
    error = OSError(errno.ENOSPC, "No space left on device", "last.pt")
    error.advice = "continue with --resume last.pt"
    assert describe(error).endswith("has free space; then continue with --resume last.pt")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failing", [2, 3, 5, 8])
def test_event_files_that_cannot_be_written_cost_a_line(tmp_path, caplog, capfd, monkeypatch, failing):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr(threading, "excepthook", _tell_error_of_thread)
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

    def remove(epoch: int) -> None:
        if epoch:
            last.unlink()

    callbacks = Callbacks()
    callbacks.register_action("on_train_epoch_end", "vandal", remove)
    options = build(
        TrainOptions, data=str(tiny_dataset), cfg=str(tiny_cfg), weights="", imgsz=64, epochs=2, batch_size=4,
        workers=0, device="cpu", project=str(tmp_path), noplots=True,
    )  # fmt: skip
    train.main(options, callbacks)
    assert last.is_file()
