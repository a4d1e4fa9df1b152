"""Accuracy against cost: all methods from end to end on tiny data, their cost, mAP of resampled images, resuming."""

from __future__ import annotations

import copy
import json
import random
from concurrent.futures import Future
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch

import val
from benchmarks.frontier import report, rivals, runs, timing
from benchmarks.frontier.bootstrap import difference, draw_weights, mean_ap
from benchmarks.frontier.costs import Spent, affordable_epochs, total
from benchmarks.frontier.cuts import Cutter
from benchmarks.frontier.matches import THRESHOLDS, Matches, match
from benchmarks.frontier.methods import METHODS
from benchmarks.frontier.options import FrontierOptions
from benchmarks.frontier.plans import lowest_that_fits
from benchmarks.frontier.results import Results
from benchmarks.frontier.tables import Row, Table
from benchmarks.frontier.tasks import CELL, FULL, Task, cells_of, with_needs
from benchmarks.frontier.trainings import Bench
from models.yolo import DetectionModel
from prune_tools import finetune
from prune_tools.opening import load_model, open_inputs
from prune_tools.options import PruneOptions
from tests.conftest import WIDE_MODEL, draw_tiny_dataset
from utils.callbacks import Callbacks, Plugin
from utils.checkpoint import save_checkpoint
from utils.commands.options import build, parse
from utils.errors import InputError
from utils.metrics import ap_per_class
from utils.model_info import gflops
from utils.storage.files import read_yaml, write_json, write_yaml

SIZE = 96  # pixels
ALL_HITS = (1 << THRESHOLDS) - 1


# -- material ----------------------------------------------------------------------------------------------------------


def save_network(path: Path, width: float) -> Path:
    """A detector with random weights and gammas that differ."""
    torch.manual_seed(0)
    model = DetectionModel({**copy.deepcopy(WIDE_MODEL), "width_multiple": width})
    model.names = ["disc", "square"]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.1, 1.0)
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, str]:
    """The released weights of the comparison, and larger ones."""
    folder = tmp_path_factory.mktemp("released")
    widths = {"weights": 2.0, "start": 2.25}
    return {name: str(save_network(folder / f"{name}.pt", width)) for name, width in widths.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A data set of 4 training images and 3 validation images; the test images are two of the latter."""
    folder = tmp_path_factory.mktemp("pictures")
    file = draw_tiny_dataset(folder, train=4, val=3)
    for name in ("images", "labels"):
        (folder / name / "test").mkdir()
        for each in sorted((folder / name / "val").glob("00[01].*")):
            copyfile(each, folder / name / "test" / f"t{each.name}")
    write_yaml(file, {**read_yaml(file), "test": "images/test"})
    return file


def options(networks: dict[str, str], pictures: Path, folder: Path, **changes) -> FrontierOptions:
    """The smallest comparison."""
    common = {
        **networks, "data": [str(pictures)], "imgsz": [SIZE], "budgets": [0.5], "seeds": [1], "teachers": ["all"],
        "base_epochs": 2, "cost": 6.0, "batch_size": 2, "workers": 0, "device": "cpu", "recipes": ["short"],
        "refit_images": 4, "folder": str(folder), "methods": list(METHODS),
    }  # fmt: skip
    return build(FrontierOptions, **(common | changes))


@pytest.fixture(scope="module")
def finished(networks, pictures, tmp_path_factory) -> FrontierOptions:
    """The options of a finished run of all methods, on a machine without Torch-Pruning."""
    chosen = options(networks, pictures, tmp_path_factory.mktemp("frontier"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rivals, "MODULE", "torch_pruning_that_is_not_there")
        report.run_and_report(chosen)
    return chosen


def results_of(chosen: FrontierOptions) -> dict[str, dict]:
    """What a run has recorded, by method."""
    return {cell.method: values for cell, values in Results(chosen).cells.items()}


# -- a whole run -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_method_reaches_the_budget_at_the_same_cost(finished):
    results = results_of(finished)
    assert results.keys() == METHODS.keys()
    assert results.pop("B7") == {"problem": "missing: pip install torch-pruning"}
    for method, values in results.items():
        share = values["gflops"] / values["base_gflops"]
        assert (share == pytest.approx(1)) if method == "B0" else 0.2 < share <= 0.5, method
        assert 4.5 < values["cost"] <= 6, method
        assert values["accuracy"].keys() == values["matches"].keys() == {"val", "test"}
        assert (Path(finished.folder) / values["checkpoint"]).is_file()
    assert results["B4"]["image_size"] == 64 and results["ours"]["image_size"] == SIZE
    assert results["ours"]["parameters"] == results["B3"]["parameters"] != results["B9-l1"]["parameters"]
    plain = load_model(Path(finished.folder) / results["B2"]["checkpoint"])[0]
    assert "channels" not in plain.yaml and results["B1"]["parameters"] == results["B2"]["parameters"]


@pytest.mark.slow
def test_the_record_of_a_cell_says_what_was_paid(finished):
    values = results_of(finished)["ours"]
    share = values["gflops"] / values["base_gflops"]
    stages = {stage["stage"]: stage for stage in values["stages"]}
    assert [stage["epochs"] for stage in values["stages"]] == [2, 1, 1, stages["fine-tuning"]["epochs"]]
    assert stages["base"]["cost"] == pytest.approx(2)
    assert stages["polarized"]["cost"] == pytest.approx(1.4)  # half of the 4 that are left pays for 1 epoch
    assert stages["re-fit"]["cost"] == pytest.approx(0.4 * (1 + share))  # all 4 images forward through both networks
    left = 6 - 2 - 1.4 - 0.4 * (1 + share)
    assert stages["fine-tuning"]["epochs"] == int(left / (share + 0.4))
    assert values["cost"] == pytest.approx(sum(stage["cost"] for stage in values["stages"]))
    csv = Path(finished.folder) / values["checkpoint"]
    epochs = len((csv.parents[1] / "results.csv").read_text().splitlines()) - 1
    assert epochs == stages["fine-tuning"]["epochs"]  # what is charged has been trained


@pytest.mark.slow
def test_tables_are_drawn_from_the_results_file_alone(finished, tmp_path):
    copyfile(Path(finished.folder) / "results.jsonl", tmp_path / "results.jsonl")
    stored = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["of"]
    assert stored["imgsz of tiny"] == SIZE and stored["cost"] == 6
    changes = {"folder": str(tmp_path), "table": True, "weights": "gone.pt"}
    report.run_and_report(FrontierOptions(**(vars(finished) | changes)))
    text = (tmp_path / "frontier.md").read_text(encoding="utf-8")
    assert text == (Path(finished.folder) / "frontier.md").read_text(encoding="utf-8")
    assert "## tiny at 96 pixels, the base teaches every method: 2 images of test" in text
    line = next(line for line in text.splitlines() if "B7: Torch-Pruning" in line)
    assert line.count("missing") == 10 and "0 of 1" in line
    assert "* tiny/seed1/teacher-all/B7-0.5: missing: pip install torch-pruning" in text
    assert (tmp_path / "frontier-tiny-teacher-all.png").stat().st_size
    report.run_and_report(FrontierOptions(**(vars(finished) | changes | {"split": "val+test"})))
    assert "5 images of val+test" in (tmp_path / "frontier.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_finished_cells_are_kept_and_other_options_refused(finished, monkeypatch):
    monkeypatch.setattr(runs, "run_task", None)
    report.run_and_report(FrontierOptions(**(vars(finished) | {"methods": ["B0", "B5"]})))
    with pytest.raises(InputError, match=r"cost=6\.0, asked for is 7\.0: choose another --folder"):
        Results(FrontierOptions(**(vars(finished) | {"cost": 7.0})))


@pytest.mark.slow
def test_the_matches_give_the_figures_of_val(finished, pictures):
    values = results_of(finished)["B0"]
    checkpoint = Path(finished.folder) / values["checkpoint"]
    measured, _, _ = val.run(pictures, checkpoint, imgsz=SIZE, batch_size=4, device="cpu", workers=0, plots=False)
    assert values["accuracy"]["val"] == pytest.approx(measured[2:4], abs=1e-9)
    matches = match(str(pictures), checkpoint, "test", SIZE, batch_size=1, device="cpu", workers=0)
    assert matches.images.tolist() == ["t000.jpg", "t001.jpg"] and len(matches.image)


class Kill(Plugin):
    """Ends a training as a signal would, after its first epoch is saved."""

    name = "kill"

    def on_train_epoch_start(self) -> None:
        if self.state.epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_cell_that_was_killed_in_the_middle_ends_as_if_it_had_not_been(networks, pictures, tmp_path, monkeypatch):
    changes = {"base": networks["weights"], "methods": ["ours"], "teachers": ["none"], "cost": 5.0}
    whole = options(networks, pictures, tmp_path / "whole", **changes)
    report.run_and_report(whole)
    cut_off = options(networks, pictures, tmp_path / "cut off", **changes)
    main, resumed = finetune.main, []

    def killed(settings, callbacks=None):
        callbacks = Callbacks()
        callbacks.add(Kill())
        return main(settings, callbacks)

    monkeypatch.setattr(finetune, "main", killed)
    with pytest.raises(KeyboardInterrupt):
        report.run_and_report(cut_off)
    assert "not run yet" in results_of(cut_off)["ours"]["problem"]
    monkeypatch.setattr(finetune, "main", lambda settings: resumed.append(settings.resume) or main(settings))
    report.run_and_report(cut_off)
    assert len(resumed) == 1 and str(resumed[0]).endswith("last.pt")
    first, second = results_of(whole)["ours"], results_of(cut_off)["ours"]
    for name in ("accuracy", "stages", "matches"):
        assert first[name] == second[name]
    for training in ("polarized-0.5", "ours-0.5/short-1"):  # no method has a teacher where none is to have one
        recorded_options = read_yaml(tmp_path / "whole/tiny/seed1/teacher-none" / training / "opt.yaml")
        assert recorded_options["teacher"] in ("", "none")


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_tasks_come_after_what_they_need(networks, pictures, tmp_path):
    cells = cells_of(options(networks, pictures, tmp_path, seeds=[1, 2], budgets=[0.5, 0.3], teachers=["none", "all"]))
    assert len(cells) == 2 * 2 * (2 * (len(METHODS) - 1) + 1)  # B0 has no budget
    tasks = with_needs(cells)
    assert len(set(tasks)) == len(tasks) and {task.name for task in tasks} == {task.name for task in set(tasks)}
    done: set[Task] = set()
    for task in tasks:
        assert done.issuperset(task.needs()), task
        done.add(task)
    names = [task.name for task in tasks]
    assert names[:2] == ["tiny/seed1/base", "tiny/seed1/teacher-none/B0"]
    assert "tiny/seed2/teacher-all/larger-polarized-0.3" in names


def test_what_fails_stops_only_what_needs_it(networks, pictures, tmp_path, monkeypatch):
    chosen = options(networks, pictures, tmp_path, methods=["B0", "B8", "ours"], jobs=2)
    asked: list[str] = []

    def run_child(words: list[str], **_) -> int:
        task = parse(FrontierOptions, "", words[3:])
        assert {**vars(task), "only": ""} == vars(chosen)
        asked.append(task.only)
        if task.only.endswith("sparse-l1"):
            return 3
        if (cell := runs.task_of(task, task.only)).work == CELL:
            write_json(tmp_path / cell.name / "result.json", {"figure": 1})
        return 0

    monkeypatch.setattr(runs, "run_child", run_child)
    results = Results(chosen)
    runs.Runner(chosen, results).run()
    assert {name.rpartition("/")[2] for name in asked} == {"base", "B0", "sparse-l1", "polarized-0.5", "ours-0.5"}
    problems = {cell.method: values.get("problem", "") for cell, values in Results(chosen).cells.items()}
    assert problems["B0"] == problems["ours"] == "" and "sparse-l1: exit code 3: see" in problems["B8"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_epochs": 6}, "leave nothing of --cost 6"),
        ({"data": ["a/x.yaml", "b/x.yaml"]}, "files of the same name"),
        ({"imgsz": [96, 96]}, "2 values for 1 data sets"),
        ({"data": ["a.yaml", "b.yaml"], "base": "base.pt", "methods": ["B0"]}, "give a single --data"),
        ({"base": "base.pt"}, "once starts from --weights"),
        ({"start": ""}, "B10 starts from larger weights"),
        ({"budgets": [1.0]}, "--budgets"),
    ],
)
def test_options_that_no_comparison_can_use(networks, pictures, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        options(networks, pictures, tmp_path, **changes)


# -- cost --------------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_run_computed_by_hand():
    stages = [
        Spent("base", 20, 1.0),  # 20
        Spent("sparse", 10, 1.0, teacher=1.0),  # 10 x (1 + .4) = 14
        Spent("re-fit", 0.5, 0.5, teacher=1.0, backward=False),  # .5 x (.2 + .4) = .3
        Spent("tuning", 30, 0.5, teacher=1.0),  # 30 x (.5 + .4) = 27
    ]
    assert [stage.cost for stage in stages] == pytest.approx([20, 14, 0.3, 27]) and total(stages) == pytest.approx(61.3)
    assert affordable_epochs(27, 0.5, 1.0) == 30 and affordable_epochs(26.99, 0.5, 1.0) == 29
    assert affordable_epochs(10, 0.25) == 40 and affordable_epochs(-1, 1.0) == 0


@pytest.mark.parametrize(
    ("method", "teacher", "paid"),
    [("B1", "none", 0), ("B1", "all", 2), ("B2", "none", 2), ("B3", "none", 0), ("once", "none", 0), ("B0", "all", 2)],
)
def test_the_base_is_paid_by_what_uses_it(networks, pictures, tmp_path, method, teacher, paid):
    bench = Bench(options(networks, pictures, tmp_path), Task(CELL, "tiny", 1, teacher, 0.5, method))
    assert total(Cutter(bench)._start(Path(networks["weights"])).spent) == paid


def test_the_lowest_removal_that_fits():
    assert lowest_that_fits(lambda removed: 1 - removed**2, 0.75, highest=0.9) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(InputError, match=r"removing 50% .* leaves 0\.75 GFLOPs, more than the budget of 0\.3"):
        lowest_that_fits(lambda removed: 1 - removed**2, 0.3, highest=0.5)


# -- mAP of resampled images -------------------------------------------------------------------------------------------


def matches_of(images: int, detections: list[tuple[int, float, int, int]], labels: list[tuple[int, int]]) -> Matches:
    """Matches of detections (image, confidence, class, bits) and labels (image, class)."""
    image, confidence, predicted, hits = zip(*detections, strict=True)
    label_image, label_class = zip(*labels, strict=True)
    return Matches(
        np.array([f"{index}.jpg" for index in range(images)]), np.array(image), np.array(confidence),
        np.array(predicted), np.array(hits, np.uint16), np.array(label_image), np.array(label_class),
    )  # fmt: skip


def test_average_precision_of_resampled_images_by_hand():
    # Image 0: its label is found. Image 1: its label is not, and there is a false detection.
    matches = matches_of(2, [(0, 0.9, 0, ALL_HITS), (1, 0.8, 0, 0)], [(0, 0), (1, 0)])
    figures = mean_ap(matches, np.array([[1, 1], [2, 0], [0, 2], [3, 1]]))
    # Once each: precision 1 up to recall .5, from there a line from .5 to 0. In steps of .01: .49 x 1,
    # (1 + .5) / 2 x .01, .5 x .5 / 2.
    assert figures[0] == pytest.approx([0.49 + 0.0075 + 0.125] * 2)
    assert figures[1] == pytest.approx([0.995] * 2)  # all is right; the curve ends at recall 1 with precision 0
    assert figures[2] == pytest.approx([0, 0])
    # Image 0 three times: precision 1 up to recall .75, then from 3 / 4 to 0
    assert figures[3] == pytest.approx([0.74 + (1 + 0.75) / 2 * 0.01 + 0.75 * 0.25 / 2] * 2)


def test_the_mean_is_over_the_classes_that_a_resample_has():
    bits_of_50 = 1  # correct at the lowest threshold alone
    matches = matches_of(2, [(0, 0.9, 0, bits_of_50), (1, 0.8, 1, 0)], [(0, 0), (1, 1)])
    figures = mean_ap(matches, np.array([[1, 1], [1, 0], [0, 1]]))
    assert figures.tolist() == pytest.approx(np.array([[0.4975, 0.04975], [0.995, 0.0995], [0, 0]]))


def test_resampled_figures_are_those_of_images_that_occur_several_times():
    rng = np.random.default_rng(0)
    for _ in range(20):
        images, classes = int(rng.integers(1, 8)), int(rng.integers(1, 4))
        labels = [(int(rng.integers(images)), int(rng.integers(classes))) for _ in range(rng.integers(1, 30))]
        detections = []
        for image, class_index in labels:
            if rng.random() < 0.7:
                detections.append((image, rng.random(), class_index, int(rng.integers(1 << THRESHOLDS))))
            detections.append((int(rng.integers(images)), rng.random(), int(rng.integers(classes)), 0))
        matches = matches_of(images, detections, labels)
        weights = np.concatenate((np.ones((1, images), int), draw_weights(images, 3, seed=images)))
        for row, figures in zip(weights, mean_ap(matches, weights), strict=True):
            assert figures == pytest.approx(repeated_ap(matches, row), abs=1e-12)


def repeated_ap(matches: Matches, counts: np.ndarray) -> tuple[float, float]:
    """mAP50 and mAP50-95 by utils.metrics, of images that occur several times."""
    rows = np.concatenate([np.flatnonzero(matches.image == i) for i in np.repeat(np.arange(len(counts)), counts)])
    labels = [np.flatnonzero(matches.label_image == i) for i in np.repeat(np.arange(len(counts)), counts)]
    targets = matches.label_class[np.concatenate(labels)]
    if not len(targets):
        return 0.0, 0.0
    correct = (matches.hits[rows][:, None] >> np.arange(THRESHOLDS) & 1).astype(bool)
    ap = ap_per_class(correct, matches.confidence[rows], matches.predicted[rows], targets)[5]
    return float(ap[:, 0].mean()), float(ap.mean(1).mean())


def test_intervals_of_paired_differences():
    rng = np.random.default_rng(0)
    theirs = [rng.normal(0.5, 0.05, 400) for _ in range(3)]  # far apart from image to image ...
    constant = difference([each + 0.01 for each in theirs], theirs, 0.01)
    assert (constant.low, constant.high) == pytest.approx((0.01, 0.01)) and constant.is_certain  # ... but not as a pair
    by_seed = difference([each + gap for each, gap in zip(theirs, (-0.02, 0.0, 0.02), strict=True)], theirs, 0.0)
    assert by_seed.low == pytest.approx(-0.02, abs=0.007) and by_seed.high == pytest.approx(0.02, abs=0.007)
    assert not by_seed.is_certain
    assert difference(theirs, theirs, 0.0).is_certain is False
    unpaired = difference([rng.normal(0.51, 0.05, 400) for _ in range(3)], theirs, 0.01)
    assert unpaired.low < 0 < unpaired.high


def test_weights_draw_as_many_images_as_there_are():
    weights = draw_weights(50, 200)
    assert weights.shape == (200, 50) and (weights.sum(1) == 50).all()
    assert weights.mean(0) == pytest.approx(1, abs=0.35) and (weights == draw_weights(50, 200)).all()


def test_matches_survive_the_results_file_and_can_be_joined():
    matches = matches_of(2, [(0, 0.9, 0, 5), (1, 0.8, 1, 0)], [(1, 1)])
    read = Matches.from_text(matches.to_text())
    assert all((getattr(read, name) == value).all() for name, value in vars(matches).items())
    joined = matches.joined(read)
    assert joined.image.tolist() == [0, 1, 2, 3] and joined.label_image.tolist() == [1, 3] and len(joined.images) == 4


# -- tables ------------------------------------------------------------------------------------------------------------


def recorded(matches: Matches, gflops_: float = 1.0) -> dict:
    """The values of a measured cell."""
    return {"parameters": 1e6, "gflops": gflops_, "cost": 9.0, "matches": {"val": matches.to_text()}}


def test_methods_are_compared_at_the_same_time(networks, pictures, tmp_path):
    cells = {
        "B0": (FULL, 18, 10.0),
        "ours": (0.5, 10, 6.0),
        "B4": (0.5, 14, 7.0),
    }  # budget, correct detections, milliseconds
    results = Results(options(networks, pictures, tmp_path, methods=["B0"]))
    for method, (budget, count, milliseconds) in cells.items():
        detections = [(image, 0.5, 0, ALL_HITS * (image < count)) for image in range(20)]
        matches = matches_of(20, detections, [(image, 0) for image in range(20)])
        values = recorded(matches) | {"milliseconds": {"onnxruntime": milliseconds}}
        results.put(Task(CELL, "tiny", 1, "all", budget, method), values)
    table = Table(results, "tiny", "all", "val", "ours")
    accuracy = {row.method: row.accuracy[1][1] for row in table.rows.values()}
    base, ours, smaller = (accuracy[method] for method in cells)
    expected = 100 * (smaller - (0.75 * ours + 0.25 * base))  # a quarter of the way from 6 to 10 ms
    line = next(line for line in table.as_text().splitlines() if "--methods B4" in line)
    assert expected > 1 and f"{expected:+.1f} [" in line and "| 7.0 " in line
    cell = Task(CELL, "tiny", 1, "all", 0.5, "B4")
    results.put(cell, results.cells[cell] | {"milliseconds": {"onnxruntime": 5.0}})  # faster than ours ever is
    faster = Table(results, "tiny", "all", "val", "ours")
    line = next(line for line in faster.as_text().splitlines() if "--methods B4" in line)
    assert f"{expected:+.1f} [" not in line and "| 5.0 " in line


def test_a_damaged_results_file_is_named(networks, pictures, tmp_path):
    chosen = options(networks, pictures, tmp_path)
    for content in ("{}\n", "", '{"of": {}}\n{"cell": 3}\n'):
        (tmp_path / "results.jsonl").write_text(content)
        with pytest.raises(InputError, match=r"results\.jsonl is damaged .* run the benchmark again"):
            Results(chosen)


def test_bold_is_what_is_certain_and_missing_what_is_not_there(networks, pictures, tmp_path):
    images = 40
    generator = random.Random(0)
    labels = [(image, 0) for image in range(images)]
    good = matches_of(images, [(i, generator.random(), 0, ALL_HITS) for i in range(images)], labels)
    bad = matches_of(images, [(i, generator.random(), 0, ALL_HITS * (i % 2)) for i in range(images)], labels)
    results = Results(options(networks, pictures, tmp_path, methods=["B0"]))
    cells = {
        name: [Task(CELL, "tiny", seed, "all", 0.5, name) for seed in (1, 2)] for name in ("ours", "B1", "B2", "B5")
    }
    for name, matches in {"ours": good, "B1": bad, "B2": good}.items():
        for cell in cells[name]:
            results.put(cell, recorded(matches))
    results.put(cells["B5"][0], recorded(good))
    results.put(cells["B5"][1], {"problem": "no memory"})
    table = Table(results, "tiny", "all", "test", "ours")
    lines = {line.split(":")[0].split("| ")[-1]: line for line in table.as_text().splitlines() if "--methods" in line}
    assert table.split == "val"  # the set has no test
    assert "| 99.5 ± 0.0 |" in lines["ours"] and "| **-" in lines["B1"] and "**" not in lines["B2"]
    assert "+0.0 [+0.0, +0.0]" in lines["B2"] and "1 of 2" in lines["B5"]
    assert "* tiny/seed2/teacher-all/B5-0.5: no memory" in table.as_text()
    other = Matches(good.images[::-1], *list(vars(good).values())[1:])
    results.put(cells["B5"][1], recorded(other))
    with pytest.raises(InputError, match="measured on other images"):
        Table(results, "tiny", "all", "val", "ours")
    assert Row(cells["B1"]).is_missing


# -- rivals and times --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bn-scale", "group-norm", "taylor"])
def test_torch_pruning_gives_files_that_we_read(networks, pictures, tmp_path, monkeypatch, variant):
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(rivals, "RATIOS", [0.2, 0.4, 0.6])
    monkeypatch.setattr(rivals, "FINE_STEPS", 2)
    weights = [networks["weights"]]
    inputs = open_inputs(build(PruneOptions, weights=weights, cfg="", data=str(pictures), imgsz=64, device="cpu"))
    budget = 0.6 * gflops(inputs.model)
    seen = rivals.prune_by_torch_pruning(inputs, variant, budget, tmp_path / "theirs.pt")
    assert seen == (1.0 if variant == "taylor" else 0.0)
    model, _ = load_model(tmp_path / "theirs.pt")
    rebuilt = DetectionModel(model.yaml)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in rebuilt.state_dict().items()}
    assert gflops(model) <= budget


@pytest.mark.slow
def test_torch_pruning_in_steps_pays_for_the_training_between_them(networks, pictures, tmp_path, monkeypatch):
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(rivals, "RATIOS", [0.1, 0.3, 0.5])
    monkeypatch.setattr(rivals, "FINE_STEPS", 2)
    changes = {"base": networks["weights"], "methods": ["B7"], "variants": ["group-norm-in-steps"], "cost": 8.0}
    chosen = options(networks, pictures, tmp_path, **changes)
    bench = Bench(chosen, Task(CELL, "tiny", 1, "none", 0.5, "B7"))
    start = Cutter(bench).starts()[0]
    assert [stage.stage for stage in start.spent] == ["base", "after step 1", "after step 2"]
    shares = [stage.share for stage in start.spent]
    assert 1 == shares[0] > shares[1] > shares[2] > bench.relative(start.checkpoint)
    assert shares[1] <= 0.5 ** (1 / 3) and shares[2] <= 0.5 ** (2 / 3)
    assert 2 < total(start.spent) <= 2 + 6 / 3  # a third of the 6 that are left after the base
    assert Cutter(bench).starts() == [start]  # read from its file
    poor = Bench(options(networks, pictures, tmp_path / "poor", **changes | {"cost": 3.0}), bench.task)
    with pytest.raises(InputError, match="group-norm-in-steps: the cost does not pay for an epoch after step 1 of 3"):
        Cutter(poor).starts()


class _Here:
    """An executor that runs in this process."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work, *arguments) -> Future:
        future: Future = Future()
        future.set_result(work(*arguments))
        return future


@pytest.mark.usefixtures("quick_timing")
def test_all_networks_of_a_data_set_are_timed_in_turns(networks, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "ProcessPoolExecutor", _Here)
    monkeypatch.setattr(timing, "RUNTIMES", ("torch", "no such runtime"))
    results = Results(options(networks, pictures, tmp_path))
    for seed in (1, 2):
        for name in ("B0", "ours"):
            values = {"checkpoint": networks["weights"], "image_size": 64}
            results.put(Task(CELL, "tiny", seed, "all", 0.5, name), values)
    timing.time_cells(results)
    timed = {cell.name for cell, values in results.cells.items() if "milliseconds" in values}
    assert timed == {"tiny/seed1/teacher-all/B0-0.5", "tiny/seed1/teacher-all/ours-0.5"}
    assert all(values["milliseconds"].keys() == {"torch"} for values in results.cells.values() if len(values) > 2)
    monkeypatch.setattr(timing, "time_in_turns", None)
    timing.time_cells(results)  # nothing is left to time
