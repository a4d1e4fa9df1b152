"""Runs recorded by services: what each is given, what a failing one costs, and the real packages where they are."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

import train
from prune_tools.pipeline_options import PipelineOptions
from utils.callbacks import Callbacks
from utils.commands.options import build
from utils.drawing.annotator import write_picture
from utils.errors import InputError
from utils.log import LOGGER
from utils.loggers import RESULT_COLUMNS, Loggers
from utils.storage.files import ROOT
from utils.tracking import services
from utils.tracking.recording import Trackers, configuration, grouped, label_of, recorded
from utils.tracking.services import SERVICES, Service, check_services
from utils.tracking.to_tensorboard import TensorBoardTracker
from utils.tracking.tracker import RunLabel, Tracker
from utils.training.options import TrainOptions


class Recorder(Tracker):
    """Keeps what it is given; a method that ``broken`` names raises."""

    runs: ClassVar[list[Recorder]] = []
    broken = ""

    def __init__(self, label: RunLabel, run_id: str = "") -> None:
        self.label, self.run_id = label, run_id or f"run-{len(Recorder.runs)}"
        self.calls: list[tuple[Any, ...]] = []
        self._note("start", run_id)
        Recorder.runs.append(self)

    def _note(self, *call: Any) -> None:
        if call[0] == Recorder.broken:
            raise ConnectionError("no route\nto host")
        self.calls.append(call)

    def config(self, values):
        self._note("config", values)

    def scalars(self, values, step):
        self._note("scalars", step, values)

    def histogram(self, tag, values, step):
        self._note("histogram", step, tag, values)

    def image(self, tag, file, step):
        self._note("image", step, tag, file.stat().st_size)

    def table(self, tag, header, rows):
        self._note("table", tag, header, rows)

    def artifact(self, file):
        self._note("artifact", file.name, file.stat().st_size)

    def finish(self, succeeded):
        self._note("finish", succeeded)

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of the calls of ``name``."""
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """A service called 'fake', whose package is there."""
    module = ModuleType("utils.tracking.to_fake")
    module.Recorder = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SERVICES, "fake", Service("Fake", "json", "Recorder", "wake it up"))
    monkeypatch.setattr(Recorder, "runs", [])
    monkeypatch.setattr(Recorder, "broken", "")
    return Recorder


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    return caplog


def run_options(data: Path, cfg: Path, folder: Path, **changes: Any) -> TrainOptions:
    common = {
        "data": str(data), "cfg": str(cfg), "weights": "", "imgsz": 64, "epochs": 2, "batch_size": 4, "workers": 0,
        "device": "cpu", "project": str(folder), "logger": ["fake"],
    }  # fmt: skip
    return build(TrainOptions, **common | changes)


@pytest.mark.slow
def test_a_training_is_recorded_whole_and_resumed_in_the_same_run(recorder, heard, tiny_dataset, tiny_cfg, tmp_path):
    def stop(last: Path, epoch: int, *_: Any) -> None:
        raise KeyboardInterrupt

    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(run_options(tiny_dataset, tiny_cfg, tmp_path), callbacks)
    (first,) = recorder.runs
    assert first.label == RunLabel(tmp_path.name, "", "exp", tmp_path / "exp")
    (config,) = first.of("config")
    assert config[0]["epochs"] == 2 and config[0]["hyp/lr0"] == 0.01 and config[0]["freeze"] == "[0]"
    assert first.calls[-1] == ("finish", False) and not first.of("artifact")

    last = tmp_path / "exp/weights/last.pt"
    train.main(build(TrainOptions, resume=str(last), logger=["fake"]))
    second = recorder.runs[1]
    assert second.of("start") == [(first.run_id,)] and second.run_id == first.run_id
    for run, epoch in ((first, 0), (second, 1)):
        (scalars,) = run.of("scalars")
        assert scalars[0] == epoch and tuple(scalars[1]) == RESULT_COLUMNS
        (histogram,) = run.of("histogram")
        assert histogram[:2] == (epoch, "bn_weights/hist") and (histogram[2] >= 0).all() and len(histogram[2]) > 8
    pictures = {tag for _, tag, size in second.of("image") if size}
    assert {"results", "confusion_matrix", "labels", "val_batch0_labels", "val_batch0_pred"} <= pictures
    files = dict(second.of("artifact"))
    weights = tmp_path / "exp/weights"
    assert files == {name: (weights / name).stat().st_size for name in ("best.pt", "last.pt")}  # stripped by then
    assert second.calls[-1] == ("finish", True)


@pytest.mark.slow
def test_a_service_that_fails_costs_one_line_and_not_the_training(recorder, heard, tiny_dataset, tiny_cfg, tmp_path):
    recorder.broken = "scalars"
    train.main(run_options(tiny_dataset, tiny_cfg, tmp_path, noplots=True))
    warnings = [line for line in heard.messages if "Fake has failed" in line]
    assert len(warnings) == 1 and "no route to host" in warnings[0] and "\n" not in warnings[0]
    assert not recorder.runs[0].of("finish") and (tmp_path / "exp/weights/best.pt").is_file()


@pytest.mark.slow
def test_a_service_that_cannot_start_ends_the_command_before_training(recorder, tiny_dataset, tiny_cfg, tmp_path):
    recorder.broken = "start"
    with pytest.raises(InputError, match=r"Fake cannot start a run \(no route to host\): wake it up, or leave out"):
        train.main(run_options(tiny_dataset, tiny_cfg, tmp_path, noplots=True))
    assert not (tmp_path / "exp/weights/last.pt").exists()


def test_later_runs_of_a_group_do_without_a_service_that_fails(recorder, heard, tmp_path):
    with grouped(tmp_path / "pipe"):
        for number, broken in enumerate(("", "start", "")):
            recorder.broken = broken
            with recorded(["fake"], tmp_path / f"step{number}", {}) as trackers:
                trackers.each(methodcaller("scalars", {"a": 1.0}, 0))
    assert [run.label.name for run in recorder.runs] == ["step0", "step2"]
    assert {(run.label.project, run.label.group) for run in recorder.runs} == {(tmp_path.name, "pipe")}
    assert all(run.calls[-1] == ("finish", True) for run in recorder.runs)
    assert sum("step1 is not recorded there" in line for line in heard.messages) == 1


def test_a_block_that_fails_is_recorded_as_failed(recorder, tmp_path):
    with pytest.raises(ZeroDivisionError), recorded(["fake"], tmp_path, {"a": 1}):
        raise ZeroDivisionError
    assert recorder.runs[0].calls == [("start", ""), ("config", {"a": 1}), ("finish", False)]


def test_a_run_is_ended_where_the_next_service_cannot_start(recorder, monkeypatch, tmp_path):
    """A second service fails: the run at the first does not stay open."""
    module = ModuleType("utils.tracking.to_broken")  # without a tracker
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SERVICES, "broken", Service("Broken", "sys", "Recorder", "repair it"))
    with pytest.raises(InputError, match="Broken cannot start a run"), recorded(["fake", "broken"], tmp_path, {}):
        pytest.fail("it has started")
    assert recorder.runs[0].calls[-1] == ("finish", False)


@pytest.mark.parametrize("make", [TrainOptions, PipelineOptions])
def test_services_are_checked_before_anything_starts(monkeypatch, make):
    monkeypatch.setattr(services, "is_installed", lambda module: module != "mlflow")
    with pytest.raises(InputError, match=r"--logger mlflow needs the package mlflow.*pip install mlflow"):
        build(make, logger=["wandb", "mlflow"])
    with pytest.raises(InputError, match=r"unknown --logger 'neptune': choose from wandb, mlflow, clearml, comet"):
        build(make, logger="neptune")
    with pytest.raises(InputError, match="names wandb twice"):
        build(make, logger=["wandb", "wandb"])
    assert build(make, logger="comet").logger == ["comet"] and build(make).logger == []


@pytest.mark.parametrize("record", [["a"], {"fake": 1}, {"fake": "../x"}, {"fake": ""}, {"other": "abc"}, "abc"])
def test_damaged_records_are_refused(recorder, tmp_path, record):
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        Loggers(tmp_path, tensorboard=False, services=["fake"]).load_state_dict(record)


def test_a_run_that_is_resumed_without_its_service_says_so_and_keeps_the_id(recorder, heard, tmp_path):
    loggers = Loggers(tmp_path, tensorboard=False)
    loggers.load_state_dict({"fake": "run-7"})
    assert "add --logger fake to continue there" in heard.text and loggers.state_dict() == {"fake": "run-7"}


def test_labels_follow_the_folders(tmp_path):
    default = label_of(ROOT / "runs/train/exp3")
    assert (default.project, default.group, default.name) == ("YOLOv5", "", "exp3")
    with grouped(ROOT / "runs/pipeline/mask"):
        step = label_of(ROOT / "runs/pipeline/mask/sparse")
    assert (step.project, step.group, step.name) == ("YOLOv5", "mask", "sparse")
    assert label_of(tmp_path / "mine/exp").project == "mine"


def picture_in(folder: Path) -> Path:
    file = folder / "results.png"
    write_picture(file, np.full((16, 16, 3), 200, np.uint8))
    return file


def use_all(trackers: Any, folder: Path) -> None:
    """Record one of each sort."""
    for step in (0, 1):
        trackers.each(methodcaller("scalars", {"metrics/mAP_0.5:0.95": 0.25 + step, "x/lr0": 0.1}, step))
        trackers.each(methodcaller("histogram", "bn_weights/hist", np.linspace(0, 1, 101), step))
        trackers.each(methodcaller("flush"))
    trackers.each(methodcaller("image", "results", picture_in(folder), 1))
    trackers.each(methodcaller("table", "steps", ["step", "mAP50"], [["base", 0.5], ["pruned", None]]))
    (folder / "best.pt").write_bytes(b"weights")
    (folder / "report.html").write_text("<p>report</p>", encoding="utf-8")
    for name in ("best.pt", "report.html"):
        trackers.each(methodcaller("artifact", folder / name))


def test_tensorboard_takes_all_sorts(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class One:
        tracker = TensorBoardTracker(tmp_path)

        def each(self, record: Any) -> None:
            record(self.tracker)

    use_all(One(), tmp_path)
    One.tracker.finish(True)
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert tags["histograms"] == ["bn_weights/hist"] and tags["images"] == ["results"]
    assert set(tags["scalars"]) == {"metrics/mAP_0.5:0.95", "x/lr0"} and tags["tensors"] == ["steps/text_summary"]


OFFLINE = {
    "wandb": {"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
    "mlflow": {"MLFLOW_TRACKING_URI": "sqlite:///{folder}/mlflow.db"},
    "clearml": {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": "{folder}/clearml"},
    "comet": {"COMET_START_ONLINE": "0", "COMET_OFFLINE_DIRECTORY": "{folder}/comet"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_real_services_take_all_sorts_offline(name, tmp_path, monkeypatch, heard):
    if find_spec(SERVICES[name].module) is None:
        pytest.skip(f"{SERVICES[name].module} is not installed")
    for variable, value in OFFLINE[name].items():
        monkeypatch.setenv(variable, value.format(folder=tmp_path))
    monkeypatch.chdir(tmp_path)
    trackers = Trackers([name])
    trackers.start(RunLabel("project", "group", "exp", tmp_path), {"epochs": 2, "hyp/lr0": 0.01, "cfg": ""})
    use_all(trackers, tmp_path)
    trackers.finish(True)
    assert not [line for line in heard.messages if line.startswith("WARNING")]
    assert trackers.run_ids[name]
    if name in ("wandb", "mlflow"):  # the others cannot continue an offline run
        again = Trackers([name])
        again.resume(trackers.run_ids)
        again.start(RunLabel("project", "group", "exp", tmp_path), {"epochs": 3})
        again.each(methodcaller("scalars", {"x/lr0": 0.2}, 2))
        again.finish(False)
        assert again.run_ids == trackers.run_ids
    if name == "mlflow":
        _check_mlflow(trackers.run_ids[name])


def _check_mlflow(run_id: str) -> None:
    """Compare what a run holds with what ``use_all`` recorded, and the resumed part."""
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(run_id)
    assert run.info.status == "FAILED" and run.data.tags["group"] == "group"
    assert run.data.params == {"epochs": "2", "hyp/lr0": "0.01", "cfg": ""}
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "metrics/mAP_0.5:0.95")] == [
        (0, 0.25),
        (1, 1.25),
    ]
    assert [point.value for point in client.get_metric_history(run_id, "x/lr0")] == [0.1, 0.1, 0.2]
    assert run.data.metrics["bn_weights/hist/q0.90"] == pytest.approx(0.9)
    assert {file.path for file in client.list_artifacts(run_id)} == {"pictures", "steps.json", "weights"}


def test_configuration_is_flat():
    values = configuration(build(TrainOptions, epochs=5), {"lr0": 0.01})
    assert values["epochs"] == 5 and values["freeze"] == "[0]" and values["hyp/lr0"] == 0.01


def test_every_service_has_its_adapter():
    for name, service in SERVICES.items():
        source = (ROOT / f"utils/tracking/to_{name}.py").read_text(encoding="utf-8")
        assert f"class {service.tracker}(Tracker)" in source and f'require("{service.module}"' in source
    check_services([])
