"""Records of a run: results.csv, event files, pictures of batches."""

from __future__ import annotations

import builtins
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.callbacks import Callbacks
from utils.drawing.background import DrawingProcess
from utils.log import LOGGER
from utils.loggers import RESULT_COLUMNS, Loggers

VALUES = [0.123456789, 0.2, 0.3, 0.5, 0.25, 1e-7, 0, 12345.678, 0.02, 0.01, 0.1, 0.01, 0.001]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    return caplog


class Network(nn.Module):
    """Batch norm and an output that differs between training and evaluation, like the detector's."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3, stride=8), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> object:
        features = self.norm(self.convolution(images))
        return [features] if self.training else (features.flatten(1), [features])


def events_of(folder: Path) -> object:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def batch() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    return torch.rand(2, 3, 64, 64), torch.tensor([[0, 1, 0.5, 0.5, 0.2, 0.2]]), ["a/first.jpg", "a/second.jpg"]


def test_csv_has_the_published_form(tmp_path: Path) -> None:
    loggers = Loggers(tmp_path, tensorboard=False)
    loggers.on_fit_epoch_end(VALUES, 0, 0.1, 0.1)
    Loggers(tmp_path, tensorboard=False).on_fit_epoch_end(VALUES, 12, 0.1, 0.1)  # a resumed run carries on
    header, first, second = (tmp_path / "results.csv").read_text().splitlines()
    assert header == ",".join(f"{name:>20}" for name in ("epoch", *RESULT_COLUMNS))
    cells = ["0", "0.12346", "0.2", "0.3", "0.5", "0.25", "1e-07", "0", "12346", "0.02", "0.01", "0.1", "0.01", "0.001"]
    assert first == ",".join(cell.rjust(20) for cell in cells)
    assert second.startswith(" " * 18 + "12,")


def test_csv_row_of_wrong_length_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        Loggers(tmp_path, tensorboard=False).on_fit_epoch_end(VALUES[:-1], 0, 0.1, 0.1)


@pytest.mark.slow
def test_event_file_holds_scalars_graph_and_pictures(tmp_path: Path) -> None:
    import cv2

    loggers, model = Loggers(tmp_path), Network().train()
    loggers.on_train_batch_end(0, model, *batch(), True)
    for epoch in (0, 1):
        loggers.on_fit_epoch_end(VALUES, epoch, 0.1, 0.1)
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., 2] = 200  # red in OpenCV's order
    cv2.imwrite(str(tmp_path / "PR_curve.png"), picture)
    loggers.on_train_end(Path("last.pt"), Path("best.pt"), True, 1, ())
    loggers.close()
    events = events_of(tmp_path)
    assert set(events.Tags()["scalars"]) == set(RESULT_COLUMNS) and events.Tags()["graph"]
    recorded = events.Scalars("metrics/precision")
    assert [(event.step, event.value) for event in recorded] == [(0, 0.5), (1, 0.5)]
    assert set(events.Tags()["images"]) == {"results", "PR_curve"}
    image = events.Images("PR_curve")[0]
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert image.step == 1 and decoded[0, 0].tolist() == [0, 0, 200]
    assert cv2.imread(str(tmp_path / "results.png")).shape == (1200, 2400, 3)


@pytest.mark.slow
def test_graph_leaves_the_live_model_and_random_numbers_alone(tmp_path: Path) -> None:
    loggers, model = Loggers(tmp_path), Network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, targets, paths = batch()
    generator = torch.get_rng_state()
    loggers.on_train_batch_end(0, model, images, targets, paths, True)
    assert torch.equal(torch.get_rng_state(), generator)
    loggers.close()
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_graph_that_cannot_be_traced_is_only_reported(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    loggers = Loggers(tmp_path)
    loggers.on_train_batch_end(0, nn.Linear(7, 7), *batch(), True)
    loggers.close()
    assert "graph cannot be recorded" in heard.text


@pytest.mark.slow
def test_first_three_batches_are_drawn_from_copies(tmp_path: Path) -> None:
    import cv2

    loggers = Loggers(tmp_path, tensorboard=False)
    images, targets, paths = batch()
    images.fill_(1.0)
    for number in range(5):
        loggers.on_train_batch_end(number, nn.Identity(), images, targets, paths, True)
    images.zero_()  # the trainer goes on; the pictures must not see it
    loggers.close()
    drawn = sorted(path.name for path in tmp_path.glob("*.jpg"))
    assert drawn == ["train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg"]
    assert cv2.imread(str(tmp_path / drawn[0]))[60, 32].min() > 240


@pytest.mark.parametrize("cores", [1, 2])
def test_pictures_are_there_after_the_first_epoch_and_no_process_stays(tmp_path: Path, monkeypatch, cores: int) -> None:
    monkeypatch.setattr("utils.loggers.usable_cores", lambda: cores)
    processes = []
    start = DrawingProcess.__init__
    monkeypatch.setattr(DrawingProcess, "__init__", lambda self, charts: processes.append(self) or start(self, charts))
    loggers = Loggers(tmp_path, tensorboard=False)
    loggers.on_train_batch_end(0, nn.Identity(), *batch(), True)
    loggers.on_fit_epoch_end(VALUES, 0, 0.1, 0.1)
    assert (tmp_path / "train_batch0.jpg").is_file()
    assert len(processes) == cores - 1 and all(process.exit_code is not None for process in processes)


@pytest.mark.slow
def test_picture_that_cannot_be_drawn_is_only_reported(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    images, targets, paths = batch()
    loggers = Loggers(tmp_path / "missing", tensorboard=False)
    loggers.on_train_batch_end(0, nn.Identity(), images, targets, paths, True)
    loggers.close()
    assert "train_batch0.jpg could not be drawn" in heard.text


@pytest.mark.parametrize(("plots", "argument"), [(False, True), (True, False)])
def test_without_plots_there_are_no_pictures(tmp_path: Path, plots: bool, argument: bool) -> None:
    loggers = Loggers(tmp_path, plots=plots, tensorboard=False)
    loggers.on_train_batch_end(0, nn.Identity(), *batch(), argument)
    loggers.on_fit_epoch_end(VALUES, 0, 0.1, 0.1)
    loggers.on_train_end(Path("last.pt"), Path("best.pt"), argument, 0, ())
    loggers.close()
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_registration_serves_the_hooks_that_have_a_method(tmp_path: Path) -> None:
    callbacks, loggers = Callbacks(), Loggers(tmp_path, plots=False)
    callbacks.add(loggers)
    served = {hook for hook, actions in callbacks.get_registered_actions().items() if actions}
    assert served == {
        "on_train_start", "on_train_batch_end", "on_train_epoch_end", "on_fit_epoch_end", "on_train_end", "teardown",
    }  # fmt: skip
    callbacks.run("on_fit_epoch_end", VALUES, 0, 0.1, 0.1)
    callbacks.run("teardown")
    assert len(events_of(tmp_path).Scalars("x/lr0")) == 1


def test_writer_is_lazy_and_stays_shut(tmp_path: Path) -> None:
    loggers = Loggers(tmp_path)
    assert not list(tmp_path.iterdir())
    assert loggers.writer is loggers.writer is not None
    loggers.close()
    loggers.close()
    assert loggers.writer is None and Loggers(tmp_path, tensorboard=False).writer is None


def test_removed_loggers_take_no_part_in_the_next_run(tmp_path: Path) -> None:
    callbacks = Callbacks()
    for number in range(2):
        loggers = Loggers(tmp_path / str(number), tensorboard=False)
        loggers.save_dir.mkdir()
        callbacks.add(loggers)
        callbacks.run("on_fit_epoch_end", VALUES, 0, 0.1, 0.1)
        callbacks.run("teardown")
        callbacks.remove_actions(loggers.name)
    assert [len((tmp_path / name / "results.csv").read_text().splitlines()) for name in "01"] == [2, 2]


def test_resumed_run_hides_the_epochs_that_it_repeats(tmp_path: Path) -> None:
    for first, merit in ((0, 0.5), (1, 0.75)):
        loggers = Loggers(tmp_path)
        loggers.resume_at(first)
        for epoch in range(first, 3):
            loggers.on_fit_epoch_end([merit] * 13, epoch, 0.1, 0.1)
        loggers.close()
        time.sleep(1.1)  # event files are ordered by the second that their names hold
    recorded = events_of(tmp_path).Scalars("x/lr0")
    assert [(event.step, event.value) for event in recorded] == [(0, 0.5), (1, 0.75), (2, 0.75)]


def test_missing_tensorboard_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: pytest.LogCaptureFixture
) -> None:
    genuine = builtins.__import__

    def without(name: str, *arguments: object, **keywords: object) -> object:
        if "tensorboard" in name:
            raise ImportError(name)
        return genuine(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    loggers = Loggers(tmp_path)
    loggers.on_fit_epoch_end(VALUES, 0, 0.1, 0.1)
    loggers.on_fit_epoch_end(VALUES, 1, 0.1, 0.1)
    assert loggers.writer is None and len(heard.records) == 1 and "pip install tensorboard" in heard.text
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
