"""The four steps in one command: outputs, continuing, and refusing to mix two runs in one folder."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import pipeline, pipeline_run
from prune_tools.pipeline_options import STEPS, PipelineOptions
from prune_tools.planning.goals import parse_target
from prune_tools.report.table import Row, as_text
from prune_tools.units import choice
from tests.conftest import WIDE_MODEL
from utils.checkpoint import save_checkpoint
from utils.commands.options import build
from utils.errors import InputError
from utils.model_info import gflops
from utils.storage.files import read_yaml
from utils.training.options import TrainOptions

pytestmark = pytest.mark.usefixtures("quick_timing", "without_charts")


@pytest.fixture(scope="module")
def without_charts() -> Iterator[None]:
    """Let the trainings draw nothing: their charts have tests of their own and would take most of the time."""

    def build_without(options_class: type, **values: Any) -> Any:
        return build(options_class, **values, **({"noplots": True} if issubclass(options_class, TrainOptions) else {}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prune_tools.pipeline_run.build", build_without)
        yield


def varied_weights(folder: Path) -> Path:
    """A checkpoint whose gammas differ: a few steps of training do not make them."""
    path = folder.parent / "varied.pt"
    if not path.exists():
        torch.manual_seed(0)
        model = DetectionModel(deepcopy(WIDE_MODEL))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.1, 1.0)
        save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


def options(tiny_dataset: Path, folder: Path, **changes) -> PipelineOptions:
    """A pipeline of one epoch each on small drawings."""
    common = {
        "data": str(tiny_dataset), "weights": str(varied_weights(folder)), "imgsz": 64, "batch_size": 4,
        "base_epochs": 1, "sparse_epochs": 1, "finetune_epochs": 2, "device": "cpu", "workers": 0, "cache": "none",
        "project": str(folder),
    }  # fmt: skip
    return build(PipelineOptions, **(common | changes))


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory) -> Path:
    """The folder of a finished pipeline."""
    return pipeline.main(options(tiny_dataset, tmp_path_factory.mktemp("pipeline")))


def test_it_ends_with_a_table_and_pictures(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"table.txt", "table.csv", "table.png", "gammas.png", "widths.png", "detections.jpg"} <= names
    assert {"report.html", "report.json"} <= names
    rows = list(csv.DictReader((finished / "table.csv").open()))
    assert [row["step"] for row in rows] == list(STEPS)
    sizes = [int(row["parameters"]) for row in rows]
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]
    assert all(float(row["milliseconds"]) > 0 for row in rows)


def test_it_reports_all_four_steps(finished):
    figures = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert [step["step"] for step in figures["steps"]] == list(STEPS)
    scripts = [command.split()[1] for command in figures["commands"]]
    steps = ["train.py", *(f"prune_tools/{name}.py" for name in ("train_sparity", "prune", "finetune"))]
    assert scripts == ["prune_tools/pipeline.py", *steps]
    assert not any("{" in command for command in figures["commands"])  # files, not what they hold
    assert set(figures["gammas"]["counts"]) == {"base", "sparse"} and figures["notes"]
    assert any(layer["after"] < layer["before"] for layer in figures["layers"])
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 * 4 and ": detections of base" in page


def test_the_last_model_is_pruned_and_rebuilds_from_its_yaml(finished):
    tuned = load_checkpoint(finished / "finetuned/weights/best.pt")["model"].float()
    rebuilt = DetectionModel(finished / "pruned/pruned_model.yaml")
    shapes = {name: value.shape for name, value in tuned.state_dict().items()}
    assert shapes == {name: value.shape for name, value in rebuilt.state_dict().items()}


def test_the_base_model_teaches_the_last(finished):
    chosen = read_yaml(finished / "finetuned/opt.yaml")
    assert chosen["teacher"] == str(finished / "base/weights/best.pt")
    assert (chosen["recipe"], chosen["optimizer"]) == ("gentle", "AdamW")  # nothing is lost where nothing was found
    sparse = read_yaml(finished / "sparse/opt.yaml")
    assert (sparse["recipe"], sparse["teacher"]) == ("short", chosen["teacher"])


@pytest.mark.parametrize("left, recipe", [(0.79, "gentle"), (0.7, "short")])
def test_what_pruning_has_cost_decides_on_the_recipe(tiny_dataset, tmp_path, monkeypatch, left, recipe):
    run = pipeline_run.Pipeline(options(tiny_dataset, tmp_path / "runs"))
    run.record["base"] = {"checkpoint": "base/weights/best.pt"}
    (tmp_path / "report.json").write_text(json.dumps({"steps": [{"map50": 0.7}, {"map50": left}]}))
    validated = []
    monkeypatch.setattr(
        "val.run", lambda data, weights, **_: validated.append(weights) or ((0.9, 0.9, 0.8, 0.5), [], ())
    )
    assert run._recipe(tmp_path) == recipe
    assert validated == [str(run.folder / "base/weights/best.pt")]


def test_finished_steps_are_not_run_again(finished, tiny_dataset, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a finished step was run again")

    monkeypatch.setattr(train, "main", fail)
    assert pipeline.main(options(tiny_dataset, finished.parent)) == finished


def test_other_options_run_only_the_steps_that_they_concern(finished, tiny_dataset):
    narrow = (finished / "pruned/pruned_model.pt").read_bytes()
    pipeline.main(options(tiny_dataset, finished.parent, reconstruct=0))
    record = read_yaml(finished / pipeline_run.RECORD)
    assert [record[step]["folder"] for step in STEPS] == ["base", "sparse", "pruned2", "finetuned2"]
    assert (finished / "pruned/pruned_model.pt").read_bytes() == narrow


def test_a_moved_run_is_still_finished(finished, tiny_dataset, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "exp")
    images = read_yaml(finished / pipeline_run.RECORD)["pruned"]["options"]["reconstruct"]
    monkeypatch.setattr(train, "main", lambda *_, **__: pytest.fail("a finished step was run again"))
    pipeline.main(options(tiny_dataset, tmp_path, reconstruct=images))


@pytest.mark.parametrize(
    "bad",
    [
        {"percent": 1.5}, {"base_epochs": 0}, {"sr": -1.0, "penalty": "l1"}, {"sr": 0.1}, {"batch_size": 0},
        {"percent": 0.4, "target_flops": "0.5"}, {"target_flops": "lots"}, {"round_to": 0},
        {"percent": 0.4, "round_to": 16}, {"rounds": 0}, {"rounds": 2},
    ],
)  # fmt: skip
def test_bad_values_stop_before_the_first_step(tiny_dataset, tmp_path, bad):
    with pytest.raises(InputError):
        options(tiny_dataset, tmp_path, **bad)


def test_a_share_of_nothing_is_refused_by_its_own_name(tiny_dataset, tmp_path):
    with pytest.raises(InputError, match=r"--percent must lie in \(0, 1\), got 0"):
        options(tiny_dataset, tmp_path, percent=0.0)


def test_a_broken_off_step_is_resumed(tiny_dataset, tmp_path, monkeypatch):
    original, epochs = train.main, []

    def interrupted(chosen, callbacks=None, **keywords):
        from utils.callbacks import Callbacks

        callbacks = callbacks or Callbacks()

        def watch(values, epoch, *_: object) -> None:
            epochs.append((Path(chosen.name).name, epoch))

        def stop(*_: object) -> None:
            if chosen.name == "finetuned" and not chosen.resume:
                raise KeyboardInterrupt

        callbacks.register_action("on_fit_epoch_end", callback=watch)
        callbacks.register_action("on_model_save", callback=stop)
        return original(chosen, callbacks, **keywords)

    monkeypatch.setattr(train, "main", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.main(options(tiny_dataset, tmp_path))
    record = read_yaml(tmp_path / "exp" / pipeline_run.RECORD)
    assert [step for step in STEPS if record[step]["checkpoint"]] == ["base", "sparse", "pruned"]
    pipeline.main(options(tiny_dataset, tmp_path))
    assert epochs == [("base", 0), ("sparse", 0), ("finetuned", 0), ("finetuned", 1)]


def test_the_table_is_aligned():
    rows = [Row("base", 0.9, 0.8, 0.85, 0.5, 1766623, 4.2, 10.25, "a.pt"), Row("x", 0, 0, 0, 0, 1, 0.1, 1.0, "b.pt")]
    lines = as_text(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "1,766,623" in lines[2]


def test_the_goal_of_sparse_training_is_that_of_pruning(tiny_dataset, tmp_path):
    budget = options(tiny_dataset, tmp_path)
    assert budget.of_penalty() | {"penalty": "polarize"} == budget.of_penalty()
    for chosen in (budget.of_penalty(), budget.of_pruning()):
        assert (chosen["target_flops"], chosen["round_to"]) == ("0.5", 8)
    assert budget.of_penalty()["scope"] == "all"
    share = options(tiny_dataset, tmp_path, percent=0.3)
    assert (share.of_penalty()["target_share"], share.of_pruning()["percent"]) == (0.3, 0.3)
    assert (share.of_penalty()["scope"], share.of_pruning()["round_to"]) == ("seed", 1)
    assert options(tiny_dataset, tmp_path, penalty="l1", sr=0.02, percent=0.3).of_penalty()["sr"] == 0.02


def test_rounds_shrink_by_the_same_factor_and_share_the_epochs(tiny_dataset, tmp_path):
    base = varied_weights(tmp_path / "runs")
    operations = 1e6 * gflops(load_checkpoint(base)["model"], 640) * 1e3
    chosen = options(tiny_dataset, tmp_path / "runs", rounds=3, sparse_epochs=7, finetune_epochs=3, target_flops="0.5")
    targets = [pipeline_run.target_of_round(chosen, number, base, base) for number in (1, 2, 3)]
    rounds = [chosen.of_round(number, target) for number, target in enumerate(targets, start=1)]
    budgets = [parse_target("flops", each.target_flops).value / operations for each in rounds]
    assert budgets == pytest.approx([0.5 ** (1 / 3), 0.5 ** (1 / 2), 0.5], rel=1e-6)  # of the rounds that are left
    assert [each.sparse_epochs for each in rounds] == [2, 2, 3]
    assert [each.finetune_epochs for each in rounds] == [1, 1, 1]
    share = options(tiny_dataset, tmp_path / "runs", rounds=2, percent=0.4, sparse_epochs=2).of_round(1)
    assert (1 - share.percent) ** 2 == pytest.approx(0.6)


def test_two_rounds_prune_twice_and_learn_from_the_base(tiny_dataset, tmp_path, heard):
    chosen = {"rounds": 2, "sparse_epochs": 2, "target_flops": "0.5", "skip": ["model.1"]}
    folder = pipeline.main(options(tiny_dataset, tmp_path / "runs", **chosen))
    assert heard.text.count("Next: ") == 1  # that of the pipeline, none of its steps
    rows = list(csv.DictReader((folder / "table.csv").open()))
    names = [f"round1-{step}" for step in STEPS[1:]]
    assert [row["step"] for row in rows] == ["base", *names, *STEPS[1:]]
    better = "finetuned" if float(rows[-1]["map"]) > float(rows[-2]["map"]) else "pruned"
    (detector,) = [text for text in heard.messages if text.startswith("The pruned detector: ")]
    assert detector.startswith(f"The pruned detector: {folder / better}")
    assert heard.messages[-1].count(f"--weights {folder / better}") == 2  # export.py and detect.py
    operations = {row["step"]: float(row["gflops"]) / float(rows[0]["gflops"]) for row in rows}
    assert operations["round1-pruned"] == pytest.approx(0.5**0.5, abs=0.05)
    assert operations["finetuned"] == pytest.approx(0.5, abs=0.05)
    assert read_yaml(folder / "sparse/opt.yaml")["weights"] == str(folder / "round1-finetuned/weights/best.pt")
    for step in ("round1-finetuned", "finetuned"):
        assert read_yaml(folder / step / "opt.yaml")["teacher"] == str(folder / "base/weights/best.pt")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    scripts = [command.split()[1].rpartition("/")[2] for command in report["commands"]]
    round_ = ["train_sparity.py", "prune.py", "finetune.py"]
    assert scripts == ["pipeline.py", "train.py", *round_, *round_]
    base = load_checkpoint(folder / "base/weights/best.pt")["model"]
    widths = {layer["name"]: layer["before"] for layer in report["layers"]}
    assert widths == {name: base.get_submodule(name).num_features for name in widths}
    (kept,) = (layer for layer in report["layers"] if layer["name"] == "model.1.bn")
    assert kept["after"] == kept["before"]
    assert read_yaml(folder / "sparse/opt.yaml")["skip"] == ["model.1"]


@pytest.mark.slow
def test_once_trains_no_base(tiny_dataset, tmp_path, finished):
    teacher = str(finished / "base/weights/best.pt")
    once = {"once": True, "base_epochs": 100, "sparse_epochs": 2, "teacher": teacher}
    folder = pipeline.main(options(tiny_dataset, tmp_path, **once))
    assert list(read_yaml(folder / pipeline_run.RECORD)) == ["sparse", "pruned", "finetuned"]
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["step"] for row in rows] == ["sparse", "pruned", "finetuned"]
    assert int(rows[0]["parameters"]) > int(rows[1]["parameters"]) == int(rows[2]["parameters"])
    sparse, tuned = (read_yaml(folder / step / "opt.yaml") for step in ("sparse", "finetuned"))
    assert (sparse["reversible"], sparse["penalty"], sparse["weights"]) == (
        True,
        "polarize",
        str(varied_weights(tmp_path)),
    )
    assert sparse["teacher"] == tuned["teacher"] == teacher
    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(figures["gammas"]["counts"]) == {"sparse"}


@pytest.mark.parametrize(
    "changes, message",
    [({"rounds": 2}, "--rounds"), ({"base_epochs": 3}, "--base-epochs"), ({"penalty": "l1"}, "--penalty l1")],
)
def test_once_refuses_what_needs_a_base(changes, message):
    with pytest.raises(InputError, match=message):
        build(PipelineOptions, once=True, **changes)
    assert build(PipelineOptions, once=True).sparse_epochs > build(PipelineOptions).sparse_epochs


@pytest.mark.slow
def test_levels_go_before_the_sparse_training(tiny_dataset, tmp_path, monkeypatch):
    """Their operations count against the budget of the base, and the base, with all levels, stays the teacher."""
    monkeypatch.setattr(choice, "LEAST_SAVING", 0.0)
    monkeypatch.setattr(choice, "obstacle", lambda _, removal: "" if removal.levels == (2,) else "kept by this test")
    folder = pipeline.main(
        options(tiny_dataset, tmp_path, units=["levels", "channels"], target_params="0.2", round_to=1)
    )
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["step"] for row in rows] == ["base", "units", *STEPS[1:]]
    sizes = [int(row["parameters"]) for row in rows]
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3] == sizes[4] and sizes[4] <= 0.2 * sizes[0]
    tuned = load_checkpoint(folder / "finetuned/weights/best.pt")["model"]
    assert tuned.stride.tolist() == [8, 16]
    assert any("stride 32 is removed" in note for note in json.loads((folder / "report.json").read_text())["notes"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"units": ["levels"]}, "add channels"),
        ({"units": ["channels", "levels"], "skip": ["model.1"]}, "--skip names layers, which move"),
        ({"units": ["channels", "levels"], "once": True}, "--once trains no base to judge by"),
        ({"units": ["channels", "blocks"], "percent": 0.3}, "give --target-flops or --target-params"),
    ],
)
def test_units_that_a_pipeline_cannot_remove(change, message):
    with pytest.raises(InputError, match=message):
        build(PipelineOptions, **change)
