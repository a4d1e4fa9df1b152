"""The benchmarks run, on next to nothing, and their plain ways give the same results."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module

import cv2
import numpy as np
import pytest
import torch

import val
from benchmarks import __main__ as bench
from benchmarks import data, material, plain_ways, pruning, training, validation
from benchmarks.figures import Figure
from tests.colour_detector import save_colour_detector
from utils.dataloaders import collate_fn
from utils.dataset.description import check_dataset
from utils.errors import InputError
from utils.metrics import match_predictions


@pytest.mark.parametrize("seed", range(5))
def test_plain_matching_is_the_same(seed):
    generator = np.random.default_rng(seed)
    low = generator.random((40, 2)) * 30
    boxes = np.concatenate((low, low + 5 + generator.random((40, 2)) * 20), 1).astype(np.float32)
    boxes[12:] = boxes[generator.integers(0, 12, 28)] + generator.normal(0, 1, (28, 4))  # near the labels
    classes = generator.integers(0, 2, (40, 1)).astype(np.float32)
    labels = np.concatenate((classes[:12], boxes[:12]), 1)
    confidence = np.linspace(0.9, 0.1, 28, dtype=np.float32)[:, None]
    detections = np.concatenate((boxes[12:], confidence, classes[12:]), 1)
    thresholds = torch.linspace(0.5, 0.95, 10).numpy()
    got = match_predictions(detections, labels, thresholds)
    plain = plain_ways.plain_matching(detections, labels, thresholds)
    assert got.any() and (got == plain).all()


def test_validation_is_measured(tiny_dataset, tmp_path, monkeypatch):
    weights = save_colour_detector(tmp_path / "colour.pt")
    options = validation.ValidationOptions(
        str(tiny_dataset), str(weights), imgsz=128, repetitions=1, command_repetitions=1
    )
    started = []

    def run(command, **keywords):
        started.append(command[4:])
        return subprocess.CompletedProcess(command, 0, "2000\n", "")

    monkeypatch.setattr(validation.subprocess, "run", run)
    figures = validation.measure(options)  # raises where the two ways disagree
    assert [command[0] for command in started] == ["val.py", "-c"] * 2 and "plain_validation" in started[1][1]
    assert [figure.goal for figure in figures] == [1.45, 2.0, None, None]
    assert all(figure.ours > 0 for figure in figures) and figures[-1].subject.startswith("detect.py --batch-size 32")


@pytest.mark.slow
def test_the_two_ways_of_validation_must_agree(tiny_dataset, tmp_path):
    weights = save_colour_detector(tmp_path / "colour.pt")

    def validate(callbacks, more=0.0):
        keywords = {"imgsz": 128, "workers": 0, "plots": False, "device": "cpu", "project": str(tmp_path)}
        val.run(str(tiny_dataset), str(weights), conf_thres=0.001 + more, callbacks=callbacks, **keywords)

    same = validation.compare_ways(validate, validate, 128)
    assert same == "predictions equal within 0e+00; 1200 detections equal, made from the same predictions"
    with pytest.raises(InputError, match="do not agree: detections of 4 images differ"):
        validation.compare_ways(validate, lambda callbacks: validate(callbacks, 0.5), 128)


def test_predictions_are_compared_as_numbers():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(2, 50, 7, generator=generator)
    assert validation.largest_difference([rows, rows], [rows, rows], 100) == 0
    for column, change in ((0, 20.0), (3, 20.0), (4, 0.2), (6, 0.2), (6, torch.nan)):
        wrong = rows.clone()
        wrong[1, 7, column] += change
        expected = pytest.approx(change / 100 if column < 4 else change, rel=1e-4, nan_ok=True)
        assert validation.largest_difference([rows, wrong], [rows, rows], 100) == expected
    assert validation.largest_difference([rows], [rows, rows], 100) == np.inf


def test_detections_are_compared_exactly():
    rows = np.random.default_rng(0).random((20, 6))
    assert validation.compare_detections({"a": rows, "b": rows[:3]}, {"b": rows[:3], "a": rows}) == 23
    for wrong in ({"a": rows + 1e-9}, {"a": rows[:19]}, {"a": rows[::-1]}, {"a": rows, "b": rows}, {}):
        with pytest.raises(InputError, match=r"detections of 1 images differ, one is [ab]"):
            validation.compare_detections({"a": rows}, wrong)
    with pytest.raises(InputError, match="nothing is detected"):
        validation.compare_detections({}, {})


@pytest.mark.slow
def test_the_default_network_of_validation_sees_images(tiny_dataset, tmp_path):
    split = check_dataset(str(tiny_dataset))["val"]
    weights = material.responsive_checkpoint(tmp_path, "yolov5n", split, 64)

    def validate(callbacks):
        val.run(str(tiny_dataset), str(weights), imgsz=64, workers=0, plots=False, callbacks=callbacks)

    first, second, *_ = validation.detections_of(validate).values()
    assert len(first) > 10 and np.ptp(first[:, 4]) > 0.01
    assert not np.allclose(first[:10], second[:10], atol=1e-2)


@pytest.mark.slow
def test_loading_is_measured(monkeypatch):
    monkeypatch.setattr(data, "LARGE_PHOTOGRAPH", (300, 400))
    threads = torch.get_num_threads(), cv2.getNumThreads()
    figures = data.measure(imgsz=64, images=3, repetitions=1)
    assert [figure.goal for figure in figures] == [1.35, None, 2.8, None]
    assert all(figure.ours > 0 and figure.plain > 0 and figure.ratio > 0 for figure in figures)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads


@pytest.mark.slow
def test_training_is_measured(tiny_dataset, tiny_cfg):
    options = training.TrainingOptions(str(tiny_dataset), str(tiny_cfg), 64, batch_size=2, batches=1, repetitions=1)
    figures = training.measure(options)
    assert len(figures) == 2 and all(figure.ours > 0 for figure in figures)
    assert float(figures[1].note.split("differ by ")[1].split()[0]) < 1e-4  # the losses of the two ways


@pytest.mark.slow
def test_an_epoch_has_the_same_losses_and_weights_both_ways(tiny_dataset, tiny_cfg):
    description = check_dataset(str(tiny_dataset))
    options = training.TrainingOptions(str(tiny_dataset), str(tiny_cfg), 64, batch_size=2)
    ours, plain = (training.Loop(options, description["train"], description["names"], way) for way in (False, True))
    losses = []
    for first in range(0, len(plain.dataset) - 1, 2):
        items = [plain.dataset[number, number] for number in (first, first + 1)]
        ours.batch = plain.batch = collate_fn(items)[:2]
        ours.step(), plain.step()
        losses.append((ours.loss, plain.loss))
    fast, slow = np.transpose(losses)
    assert len(losses) > 2 and np.ptp(slow) > 0.01
    assert np.allclose(fast, slow, rtol=1e-4)
    for name, value in plain.state.ema.ema.state_dict().items():
        assert torch.allclose(ours.state.ema.ema.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-5), name


def test_pruning_is_measured(monkeypatch):
    monkeypatch.setattr(pruning, "LIMITS", {"yolov5n": 5.0})
    monkeypatch.setattr(pruning, "demo_data", lambda folder: "demo.yaml")
    called = []
    monkeypatch.setattr("prune_tools.prune.run", lambda **options: called.append(options))
    monkeypatch.setattr("prune_tools.sweep.run", lambda **options: called.append(options))
    figures = pruning.measure()
    assert called[0]["noval"] and called[1]["ratios"] == [20] and called[1]["images"] == 134
    assert [figure.plain for figure in figures] == [5.0, 180.0]


def page_of(monkeypatch, tmp_path, ours):
    """Let every section measure one figure, and the page be written to ``tmp_path``."""
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir(exist_ok=True)
    figure = Figure("something", "s", ours, 4.0, 2.0, 0.1, 3.0, "the plain way")
    for module in bench.SECTIONS.values():
        monkeypatch.setattr(import_module(f"benchmarks.{module}"), "measure", lambda: [figure])
    return tmp_path / "docs/BENCHMARKS.md"


def test_the_page_shows_every_section(monkeypatch, tmp_path):
    page, warnings = page_of(monkeypatch, tmp_path, 2.0), []
    monkeypatch.setattr(bench.LOGGER, "warning", warnings.append)
    bench.main()
    text = page.read_text()
    assert text.count("| something | 2 s | 4 s | 2.00 ± 0.10 | 3 | the plain way |") == len(bench.SECTIONS)
    assert re.search(r"^- commit: ([0-9a-f]{7,}(-dirty)?|unknown)$", text, re.MULTILINE)
    assert text.count("## Not measured") == 1
    assert "- torch: " in text and "python benchmarks/training.py" in text
    assert warnings == ["below the goal: something: 2.00 instead of 3"] * len(bench.SECTIONS)


def test_one_section_measured_again_leaves_the_others(monkeypatch, tmp_path):
    page = page_of(monkeypatch, tmp_path, 2.0)
    bench.main()
    page_of(monkeypatch, tmp_path, 1.0)
    page.write_text(page.read_text().replace("## Not", "## Measured once\n\nBy hand.\n\n## Not"))
    bench.main(bench.titles_of_command_line(["Validation"]))
    titles = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    assert titles == [*(f"## {title}" for title in bench.SECTIONS), "## Measured once", "## Not measured"]
    assert "\nBy hand.\n" in page.read_text()
    assert page.read_text().count("| something | 1 s |") == 1
    with pytest.raises(InputError, match="Pruning"):
        bench.main(["Prune"])


def test_the_commit_is_unknown_without_git(monkeypatch):
    assert bench.commit() != ""
    monkeypatch.setenv("PATH", "")
    assert bench.commit() == "unknown"
