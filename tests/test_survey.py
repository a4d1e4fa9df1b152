"""Sweep and sensitivity: the curve, the layers to protect, resuming, and what cannot be measured."""

from __future__ import annotations

import csv
import json
import shutil
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import val
from models.yolo import DetectionModel
from prune_tools import pruning, sensitivity, sweep
from prune_tools.prune import PruneOptions
from prune_tools.survey import record as survey_record
from prune_tools.survey import sensitivity as sensitivity_work
from prune_tools.survey import survey
from prune_tools.survey import sweep as sweep_work
from prune_tools.survey.options import SensitivityOptions, SweepOptions
from prune_tools.survey.record import Point, Record
from prune_tools.survey.survey import KeptBatches
from tests.colour_detector import save_colour_detector
from tests.conftest import TINY_MODEL
from tests.pruning_networks import with_random_norms
from utils.checkpoint import save_checkpoint
from utils.commands.options import build
from utils.dataset.description import check_dataset
from utils.errors import InputError
from utils.model_info import count_parameters
from utils.storage.files import read_yaml, write_json, write_yaml
from utils.validation.inputs import make_loader
from utils.validation.options import ValOptions

pytestmark = pytest.mark.usefixtures("quick_timing")


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    """A small detector of the tiny data set's classes whose gammas differ."""
    network = with_random_norms(DetectionModel({**TINY_MODEL, "width_multiple": 4.0})).float()
    network.names = ["disc", "square"]
    return network


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("thin") / "thin.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None, "opt": None}, path)
    return path


def chosen(checkpoint: Path, tiny_dataset: Path, folder: Path, **more) -> dict:
    return {
        "weights": str(checkpoint), "data": str(tiny_dataset), "project": str(folder), "imgsz": 64, "batch_size": 2,
        "device": "cpu", "reconstruct": 0, **more,
    }  # fmt: skip


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def points(*accuracies: float) -> list[Point]:
    """A sweep in steps of 0.1 with these mAP50-95."""
    return [Point("", round(0.1 * step, 4), 1, 1, 1.0, 0, 0, 0, value) for step, value in enumerate(accuracies)]


def test_a_sweep_measures_what_prune_would_make(checkpoint, model, tiny_dataset, tmp_path, heard):
    folder = sweep.run(**chosen(checkpoint, tiny_dataset, tmp_path, by="params", ratios=[0.2, 0.4], images=3))
    assert {file.name for file in folder.iterdir()} >= {"sweep.csv", "sweep.json", "sweep.png", "images.txt"}
    rows = read_csv(folder / "sweep.csv")
    assert [float(row["ratio"]) for row in rows] == [0, 0.2, 0.4]
    whole = count_parameters(model)
    assert int(rows[0]["parameters"]) == whole
    for row in rows[1:]:
        assert int(row["parameters"]) == pytest.approx(whole * (1 - float(row["ratio"])), rel=0.02)
        assert float(row["milliseconds"]) > 0 and 0 <= float(row["map"]) <= 1
    assert float(rows[2]["gflops"]) < float(rows[1]["gflops"]) < float(rows[0]["gflops"])
    assert len((folder / "images.txt").read_text().splitlines()) == 3
    assert "Results saved to" in heard.text and "Next: python" in heard.text


def test_the_repairs_act_on_every_point(checkpoint, tiny_dataset, tmp_path, monkeypatch):
    original, fitted = pruning.reconstruct, []

    def counted(structure, pruned, cuts, batches, *more):
        fitted.append(sum(len(batch.images) for batch in batches))
        return original(structure, pruned, cuts, batches, *more)

    monkeypatch.setattr(pruning, "reconstruct", counted)
    sweep.run(**chosen(checkpoint, tiny_dataset, tmp_path, ratios=[0.3, 0.6], reconstruct=4))
    assert fitted == [4, 4]  # nothing to repair in the whole model


def test_an_interrupted_sweep_goes_on(checkpoint, tiny_dataset, tmp_path, monkeypatch):
    original, measured = survey.Survey.measure, []

    def watched(self, plan, ratio, *rest, **more):
        if ratio == 0.4 and 0.4 not in measured:
            measured.append(ratio)
            raise KeyboardInterrupt
        measured.append(ratio)
        return original(self, plan, ratio, *rest, **more)

    monkeypatch.setattr(survey.Survey, "measure", watched)
    keywords = chosen(checkpoint, tiny_dataset, tmp_path, ratios=[0.2, 0.4])
    with pytest.raises(KeyboardInterrupt):
        sweep.run(**keywords)
    assert not (tmp_path / "exp/sweep.csv").exists()
    with pytest.raises(InputError, match="not finished"):
        survey_record.find_surveys(build(PruneOptions, sweep=str(tmp_path / "exp")), tmp_path)
    assert sweep.run(**keywords) == tmp_path / "exp"
    assert measured == [0, 0.2, 0.4, 0.4]
    sweep.run(**{**keywords, "ratios": [0.3, 0.4]})  # further ratios join
    assert measured == [0, 0.2, 0.4, 0.4, 0.3]
    assert [float(row["ratio"]) for row in read_csv(tmp_path / "exp/sweep.csv")] == [0, 0.2, 0.3, 0.4]


def test_a_run_stopped_before_its_first_point_goes_on_in_its_folder(tmp_path):
    first = Record.open(tmp_path / "exp", "sweep", {"images": 3}, exist_ok=False)
    assert Record.open(tmp_path / "exp", "sweep", {"images": 3}, exist_ok=False).file == first.file


@pytest.mark.slow
def test_a_stored_sweep_with_these_options_is_continued(checkpoint, tiny_dataset, tmp_path):
    """The record of an earlier version."""
    keywords = chosen(checkpoint, tiny_dataset, tmp_path, ratios=[0.2], by="flops")
    stored = {
        "batch_size": 2, "by": "flops", "conf_thres": 0.001, "data": str(tiny_dataset), "device": "cpu",
        "fold": True, "half": False, "image count": 4, "imgsz": 64, "iou_thres": 0.6, "max_det": 300,
        "max_layer_ratio": 1.0, "min_channels": 1, "recalibrate": 0, "reconstruct": 0, "round_to": 8,
        "runtime": "torch", "scope": "all", "score": "gamma", "score_images": 256, "single_cls": False, "skip": [],
        "training images": "", "weights": str(checkpoint),
    }  # fmt: skip
    opened = sweep_work.Sweep(build(SweepOptions, **keywords), "sweep")
    hashes = {name: opened.record.options[name] for name in ("checkpoint", "images")}
    write_json(opened.record.file, {"options": stored | hashes, "points": [asdict(points(0.5)[0])]})
    again = sweep_work.Sweep(build(SweepOptions, **keywords), "sweep")
    assert again.folder == opened.folder and list(again.record.points) == [("", 0)]


def test_other_options_start_a_new_folder_or_are_refused(tmp_path):
    first = Record.open(tmp_path / "exp", "sweep", {"images": 3}, exist_ok=False)
    first.add(points(0.5)[0])
    again = Record.open(tmp_path / "exp", "sweep", {"images": 3}, exist_ok=False)
    assert again.file == first.file and len(again.points) == 1
    other = Record.open(tmp_path / "exp", "sweep", {"images": 4}, exist_ok=False)
    assert other.file.parent == tmp_path / "exp2" and not other.points
    with pytest.raises(InputError, match="images 3 instead of 4"):
        Record.open(tmp_path / "exp", "sweep", {"images": 4}, exist_ok=True)
    first.file.write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json is not a record"):
        Record.open(tmp_path / "exp", "sweep", {"images": 3}, exist_ok=False)


@pytest.mark.slow
def test_another_checkpoint_is_another_survey(checkpoint, model, tiny_dataset, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes(checkpoint.read_bytes())
    keywords = chosen(copy, tiny_dataset, tmp_path / "runs", ratios=[0.5])
    first = sweep_work.Sweep(build(SweepOptions, **keywords), "sweep")
    first.record.save()
    trained = deepcopy(model)
    trained.model[1].bn.weight.data *= 2
    save_checkpoint({"epoch": -1, "model": trained, "ema": None, "optimizer": None, "opt": None}, copy)
    second = sweep_work.Sweep(build(SweepOptions, **keywords), "sweep")
    assert second.folder == tmp_path / "runs/exp2"


def test_fewer_images_than_asked_for(checkpoint, tiny_dataset, tmp_path, heard):
    keywords = chosen(checkpoint, tiny_dataset, tmp_path, ratios=[0.5], images=50)
    opened = sweep_work.Sweep(build(SweepOptions, **keywords), "sweep")
    assert "--images 50, but there are 4 validation images: all are used" in heard.text
    assert opened.record.options["image count"] == 4


def test_the_sweep_ends_where_the_limits_do(checkpoint, tiny_dataset, tmp_path, heard):
    keywords = chosen(checkpoint, tiny_dataset, tmp_path, by="params", max_layer_ratio=0.3)
    folder = sweep.run(**keywords, ratios=[0.1, 0.9, 0.95])
    assert [float(row["ratio"]) for row in read_csv(folder / "sweep.csv")] == [0, 0.1]
    assert heard.text.count("the sweep ends before 90.0%") == 1
    with pytest.raises(InputError, match="nothing to sweep"):
        sweep.run(**keywords, ratios=[0.9], name="other")


@pytest.mark.parametrize(
    "accuracies, cliff, proposal",
    [
        ((0.5, 0.5, 0.49, 0.2, 0.1), (0.2, 0.3), 0.2),
        ((0.5, 0.48, 0.46, 0.44, 0.42), None, 0.1),
        ((0.5, 0.1, 0.5, 0.5), (0.0, 0.1), None),  # what comes back later does not count
        ((0.0, 0.0, 0.0), None, None),
    ],
)
def test_cliff_and_proposal(accuracies, cliff, proposal):
    options = build(SweepOptions, weights="x.pt")
    data, text = sweep_work.conclude(points(*accuracies), options)
    assert (tuple(data["cliff"]) if data["cliff"] else None, data["proposal"]) == (cliff, proposal)
    assert ("The cliff" in text) == (cliff is not None)


def test_closer_points_do_not_hide_the_cliff():
    coarse = points(0.5, 0.5, 0.48, 0.3, 0.1)
    between = [replace(coarse[0], ratio=0.3 + 0.02 * step, map=0.3 - 0.02 * step) for step in range(1, 5)]
    fine = sorted([*coarse, *between], key=lambda point: point.ratio)
    assert [point.ratio for point in sweep_work.find_cliff(coarse)] == [0.3, 0.4]
    assert sweep_work.find_cliff(fine) is not None
    assert sweep_work.find_cliff(points(*(0.5 - 0.09 * step for step in range(6)))) is None  # it declines evenly


def test_the_steepest_fall_counts_per_ratio():
    uneven = points(0.5, 0.4, 0.28)
    uneven[2] = replace(uneven[2], ratio=0.9)
    assert [point.ratio for point in sweep_work.find_cliff(uneven)] == [0.0, 0.1]


def test_ratios():
    assert build(SweepOptions, ratios=20).grid() == [round(0.05 * step, 4) for step in range(20)]
    assert build(SweepOptions, ratios=[3], largest=0.5).grid() == [0, 0.25, 0.5]
    assert build(SweepOptions, ratios=[0.4, 0.2, 0.2]).grid() == [0, 0.2, 0.4]
    assert build(SweepOptions).scope == "seed" and build(SweepOptions, by="flops").scope == "all"


@pytest.mark.parametrize(
    "module, bad, message",
    [
        (SweepOptions, {"ratios": [1]}, "nothing to sweep"),
        (SweepOptions, {"ratios": [2.5]}, "nothing to sweep"),
        (SweepOptions, {"ratios": [0.2, 1.5]}, "below 1"),
        (SweepOptions, {"largest": 1.0}, "--largest"),
        (SweepOptions, {"images": -1}, "--images"),
        (SweepOptions, {"round_to": 0}, "--round-to"),
        (SensitivityOptions, {"ratios": [0.0]}, "--ratios"),
        (SensitivityOptions, {"tolerance": 0.0}, "--tolerance"),
        (SensitivityOptions, {"runtime": "openvino"}, "no effect here: no time is measured"),
    ],
)
def test_bad_options(module, bad, message):
    with pytest.raises(InputError, match=message):
        build(module, **bad)


def test_the_proposed_command_repeats_the_options(tmp_path):
    options = build(SweepOptions, weights="my model.pt", by="flops", round_to=8, skip=["model.9"], fold=False)
    command = sweep_work.prune_command(options, 0.4, tmp_path)
    for part in ("--weights 'my model.pt'", "--target-flops 0.6", "--round-to 8", "--skip model.9", "--no-fold"):
        assert part in command
    assert "--percent" not in command and "--score " not in command


def test_sensitivity_prunes_each_layer_alone(checkpoint, model, tiny_dataset, tmp_path, heard):
    keywords = chosen(checkpoint, tiny_dataset, tmp_path, ratios=[0.5], skip=["model.3", "model.[2]"])
    folder = sensitivity.run(**keywords)
    rows = read_csv(folder / "sensitivity.csv")
    layers = [row["layer"] for row in rows]
    assert layers[0] == "" and "model.1.conv" in layers and "model.4.cv1.conv" in layers
    assert not any(layer.startswith(("model.2", "model.3")) for layer in layers)
    whole = int(rows[0]["parameters"])
    assert whole == count_parameters(model) and all(int(row["parameters"]) < whole for row in rows[1:])
    assert {"sensitivity.json", "sensitivity.png"} <= {file.name for file in folder.iterdir()}
    assert "Next: python prune_tools/sweep.py" in heard.text


def test_the_sensitive_layers_are_named_worst_first_and_none_is_proposed_for_protection():
    losses = {"model.1.conv": 0.3, "model.2.cv1.conv#2": 0.1, "model.3.conv": 0.4, "model.4.conv": 0.499}
    measured = points(0.5) + [Point(name, 0.5, 1, 1, 1.0, 0, 0, 0, value) for name, value in losses.items()]
    measured.append(Point("model.4.conv", 0.9, 1, 1, 1.0, 0, 0, 0, 0.0))  # larger ratios do not decide
    data, text = sensitivity_work.conclude(measured, build(SensitivityOptions, ratios=[0.5, 0.9]))
    assert data["sensitive"] == ["model.2.cv1.conv#2", "model.1.conv", "model.3.conv"]
    assert "3 of 4 layers" in text and "model.2.cv1.conv#2 (0.400), model.1.conv (0.200), model.3.conv (0.100)" in text
    assert "None is proposed for --skip" in text
    options = build(SensitivityOptions, weights="x.pt", skip=["model.9"])
    assert sensitivity_work.sweep_command(options).count("--skip") == 1
    none, text = sensitivity_work.conclude([*points(0.5), measured[4]], build(SensitivityOptions))
    assert none["sensitive"] == [] and "none is sensitive" in text


def test_nothing_to_analyse(checkpoint, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="leave every layer whole"):
        sensitivity.run(**chosen(checkpoint, tiny_dataset, tmp_path, min_channels=10_000))


@pytest.mark.slow
def test_kept_batches_are_read_once_and_survive_validation(tiny_dataset, tmp_path):
    options = ValOptions(data=str(tiny_dataset), batch_size=3, workers=0)
    loader = make_loader(options, check_dataset(str(tiny_dataset)), 128, 32)
    read = []

    class Watched:
        """The loader, which notes each batch that is read."""

        def __len__(self):
            return len(loader)

        def __iter__(self):
            for batch in loader:
                read.append(batch)
                yield batch

    kept, results = KeptBatches(Watched()), []
    weights = save_colour_detector(tmp_path / "colours.pt")
    for batches in (kept, kept, kept, loader):
        how = {"imgsz": 128, "dataloader": batches, "plots": False, "save_dir": tmp_path, "device": "cpu"}
        results.append(val.run(str(tiny_dataset), str(weights), **how)[0])
    assert len(read) == 2 and results[0][2] > 0.5
    assert results == [results[0]] * 4


def test_too_many_images_are_read_anew(monkeypatch):
    import torch

    monkeypatch.setattr(survey, "KEPT_BYTES", 10)
    batches = [(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 6), (), ())]
    kept = KeptBatches(batches)
    assert len(list(kept)) == len(list(kept)) == len(kept) == 1 and not kept.kept


@pytest.mark.slow
def test_other_training_images_are_another_survey_if_they_take_part(checkpoint, tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset.parent, tmp_path / "data")
    write_yaml(tmp_path / "data.yaml", {**read_yaml(tiny_dataset), "path": str(tmp_path / "data")})
    known = []
    for step in range(2):
        for reconstruct in (0, 4):
            keywords = chosen(checkpoint, tmp_path / "data.yaml", tmp_path, reconstruct=reconstruct)
            opened = survey.Survey(build(SweepOptions, **keywords, name=f"{step}-{reconstruct}"), "sweep")
            known.append(opened.record.options)
        next((tmp_path / "data/images/train").iterdir()).unlink()
    assert known[0] == known[2] and known[1] != known[3]


def test_a_survey_of_another_checkpoint_is_not_shown(checkpoint, tmp_path, heard):
    own = {"options": {"checkpoint": survey_record.checkpoint_digest(checkpoint), "weights": "moved.pt"}}
    other = {"options": {"checkpoint": "0", "weights": "other.pt"}}
    assert survey_record.surveys_of({"sweep": own, "sensitivity": other}, [checkpoint]) == {"sweep": own}
    told = f"the sensitivity is not shown in the report: it is of other.pt, whose content is not that of {checkpoint}"
    assert told in heard.text


def test_the_sweep_after_an_analysis_scores_as_it_did(checkpoint, tiny_dataset, tmp_path):
    keywords = chosen(checkpoint, tiny_dataset, tmp_path, score="taylor", score_images=64, fold=False, conf_thres=0.01)
    command = sensitivity_work.sweep_command(build(SensitivityOptions, skip=["model.1"], **keywords))
    for flag in ("--score taylor", "--score-images 64", "--no-fold", "--conf-thres 0.01", "--skip model.1"):
        assert flag in command


def test_the_record_is_readable_json(tmp_path):
    record = Record.open(tmp_path / "exp", "sweep", {}, exist_ok=False)
    record.add(points(0.25)[0])
    assert json.loads(record.file.read_text())["points"][0]["map"] == 0.25
