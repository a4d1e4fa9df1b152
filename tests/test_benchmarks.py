"""The benchmarks run, on next to nothing, and their plain ways give the same results."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import val
from benchmarks import __main__ as bench
from benchmarks import detection, material, memory, peers, pruning, seeds, start, training, validation
from benchmarks.figures import Figure
from benchmarks.two_step import TwoStepImages
from tests.colour_detector import save_colour_detector
from utils.checks import check_dataset
from utils.commands.options import parse
from utils.dataloaders import collate_fn
from utils.dataset.shared_memory import shared_memory
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
    plain = validation.plain_matching(detections, labels, thresholds)
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
    assert [command[0] for command in started] == ["val.py", "-c"] * 2 and "plain_way" in started[1][1]
    assert [figure.goal for figure in figures] == [1.45, 2.0, None]
    assert all(figure.ours > 0 for figure in figures)


def test_the_two_ways_of_validation_must_agree(tiny_dataset, tmp_path):
    weights = save_colour_detector(tmp_path / "colour.pt")

    def validate(callbacks, more=0.0):
        keywords = {"imgsz": 128, "workers": 0, "plots": False, "device": "cpu", "project": str(tmp_path)}
        val.run(str(tiny_dataset), str(weights), conf_thres=0.001 + more, callbacks=callbacks, **keywords)

    same = validation.compare_ways(validate, validate, 128)
    assert same == "predictions equal within 0e+00, and 1200 detections the same from the same predictions"
    with pytest.raises(InputError, match="do not agree: other detections in 4 images"):
        validation.compare_ways(validate, lambda callbacks: validate(callbacks, 0.5), 128)


def test_predictions_are_compared_as_numbers():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(2, 50, 7, generator=generator)
    assert validation.largest_gap([rows, rows], [rows, rows], 100) == 0
    for column, change in ((0, 20.0), (3, 20.0), (4, 0.2), (6, 0.2), (6, torch.nan)):
        wrong = rows.clone()
        wrong[1, 7, column] += change
        expected = pytest.approx(change / 100 if column < 4 else change, rel=1e-4, nan_ok=True)
        assert validation.largest_gap([rows, wrong], [rows, rows], 100) == expected
    assert validation.largest_gap([rows], [rows, rows], 100) == np.inf


def test_detections_are_compared_exactly():
    rows = np.random.default_rng(0).random((20, 6))
    assert validation.compare_detections({"a": rows, "b": rows[:3]}, {"b": rows[:3], "a": rows}) == 23
    for wrong in ({"a": rows + 1e-9}, {"a": rows[:19]}, {"a": rows[::-1]}, {"a": rows, "b": rows}, {}):
        with pytest.raises(InputError, match=r"other detections in 1 images, one is [ab]"):
            validation.compare_detections({"a": rows}, wrong)
    with pytest.raises(InputError, match="nothing is detected"):
        validation.compare_detections({}, {})


def test_the_default_network_of_validation_sees_images(tiny_dataset, tmp_path):
    split = check_dataset(str(tiny_dataset))["val"]
    weights = material.responsive_checkpoint(tmp_path, "yolov5n", split, 64)

    def validate(callbacks):
        val.run(str(tiny_dataset), str(weights), imgsz=64, workers=0, plots=False, callbacks=callbacks)

    first, second, *_ = validation.detections_of(validate).values()
    assert len(first) > 10 and np.ptp(first[:, 4]) > 0.01
    assert not np.allclose(first[:10], second[:10], atol=1e-2)


def test_training_is_measured(tiny_dataset, tiny_cfg, monkeypatch):
    ran = []
    result = {"train_images_per_second": 5.0, "peak_memory_gb": 1.0}
    monkeypatch.setattr(training, "_run", lambda options, folder, *given: ran.append(given) or result)
    monkeypatch.setattr(training.penalty, "PENALIZED", ("yolov5n",))
    options = training.TrainingOptions(str(tiny_dataset), str(tiny_cfg), 64, batch_size=2, batches=1, repetitions=1)
    figures = training.measure(options)
    assert len(figures) == 7 and all(figure.ours > 0 for figure in figures)
    assert [given[0] for given in ran] == [1, 2, 1, 1]
    assert [given[-1] for given in ran[2:]] == ["auto", "none"] and {given[2] for given in ran[2:]} == {2}
    assert float(figures[1].note.split("differ by ")[1].split()[0]) < 1e-4  # the losses of the two ways


def test_memory_of_children_counts_and_shared_pages_once():
    if not Path("/proc/self/smaps_rollup").is_file():
        pytest.skip("reads /proc")
    shared = shared_memory(64_000_000)
    shared.array[:] = 1
    with memory.PeakMemory(0.01) as alone:
        time.sleep(0.05)
    with memory.PeakMemory(0.01) as together:
        multiprocessing.get_context("fork").Process(target=_touch, args=(shared,)).start()
        multiprocessing.active_children()[0].join()
    assert 35 < together.megabytes - alone.megabytes < 100  # its own 48 MB, not the 64 MB once more


def _touch(shared) -> None:
    own = np.ones(6_000_000) * shared.array[:6_000_000]
    time.sleep(0.3 + 0 * float(own[0] + shared.array.sum()))


def test_an_epoch_has_the_same_losses_and_weights_both_ways(tiny_dataset, tiny_cfg):
    data = check_dataset(str(tiny_dataset))
    options = training.TrainingOptions(str(tiny_dataset), str(tiny_cfg), 64, batch_size=2)
    ours, plain = (training.Loop(options, data["train"], data["names"], way) for way in (False, True))
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


def test_detection_is_measured(tiny_dataset, tmp_path):
    weights = save_colour_detector(tmp_path / "colour.pt")
    source = str(tiny_dataset.parent / "images/val")
    (figure,) = detection.measure(detection.DetectionOptions(source, str(weights), 64, 2, 1))
    assert figure.ours > 0 and figure.plain > 0


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
    sections = {name: (command, lambda: [figure]) for name, (command, _) in bench.SECTIONS.items()}
    monkeypatch.setattr(bench, "SECTIONS", sections)
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
    assert warnings == ["below what is wanted: something: 2.00 instead of 3"] * len(bench.SECTIONS)


def test_one_section_measured_again_leaves_the_others(monkeypatch, tmp_path):
    page = page_of(monkeypatch, tmp_path, 2.0)
    bench.main()
    page_of(monkeypatch, tmp_path, 1.0)
    page.write_text(page.read_text().replace("## Not", "## Measured apart\n\nBy hand.\n\n## Not"))
    bench.main(["Detection"])
    titles = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    assert titles == [*(f"## {title}" for title in bench.SECTIONS), "## Measured apart", "## Not measured"]
    assert "\nBy hand.\n" in page.read_text()
    assert page.read_text().count("| something | 1 s |") == 1
    with pytest.raises(InputError, match="Pruning"):
        bench.main(["Prune"])


def test_the_commit_is_unknown_without_git(monkeypatch):
    assert bench.commit() != ""
    monkeypatch.setenv("PATH", "")
    assert bench.commit() == "unknown"


def test_start_is_measured(monkeypatch):
    monkeypatch.setattr(start, "COMMANDS", ("val.py",))
    monkeypatch.setattr(start, "BASELINE", "while __import__('time').process_time() < 0.4: pass")
    (figure,) = start.measure(1)
    assert 0 < figure.ours < figure.plain and figure.plain >= 0.4


def test_seeds_of_both_ways_are_compared(tiny_dataset, tiny_cfg, tmp_path, monkeypatch, caplog):
    chosen = {"data": str(tiny_dataset), "cfg": str(tiny_cfg), "imgsz": 64, "batch_size": 4, "epochs": 1, "seeds": 2}
    options = seeds.SeedOptions(**chosen, jobs=1, project=str(tmp_path))
    started = []

    def call(command, **_):
        own = parse(seeds.SeedOptions, "", command[2:])
        started.append(own.only)
        seeds.main(own)
        return 0

    def load(dataset, index):
        loaded.append(started[-1])
        return two_step(dataset, index)

    two_step, loaded = TwoStepImages.__getitem__, []
    monkeypatch.setattr(TwoStepImages, "__getitem__", load)
    monkeypatch.setattr(seeds.subprocess, "call", call)
    results = seeds.main(options)
    assert started == list(results) == ["fast-0", "plain-0", "fast-1", "plain-1"]
    assert set(loaded) == {"plain-0", "plain-1"}
    for seed in (0, 1):  # the same draws give about the same
        assert results[f"plain-{seed}"] == pytest.approx(results[f"fast-{seed}"], rel=1e-3)
    assert results["fast-0"] != pytest.approx(results["fast-1"], rel=1e-3)
    assert seeds.main(options) == results and len(started) == 4  # kept
    with pytest.raises(InputError, match=r"fast-0\.json was made with other options: choose another --project"):
        seeds.main(replace(options, epochs=2))


def test_the_table_of_seeds():
    results = {"fast-0": [0, 0, 0.5, 0.2], "fast-1": [0, 0, 0.7, 0.4], "plain-0": [0, 0, 0.5, 0.3]}
    lines = seeds.as_table(results | {"plain-1": results["plain-0"]}, 2).splitlines()
    assert lines[2] == "| fast | 0.600 ± 0.141 | 0.300 ± 0.141 |"
    assert lines[4] == "| fast - plain | +0.100 | +0.000 |"


def test_peers_are_timed_in_turns(tiny_dataset, tiny_cfg, tmp_path):
    """With a stand-in for ultralytics; the own side is real."""
    (tmp_path / "python").write_text("#!/bin/sh\necho $3 >> " + str(tmp_path / "asked") + "\necho '[50, 60]'\n")
    (tmp_path / "python").chmod(0o755)
    named = {"data": str(tiny_dataset), "cfg": str(tiny_cfg), "python": str(tmp_path / "python")}
    options = peers.PeerOptions(peers=["a.yaml", "b.yaml"], imgsz=64, batch_size=4, rounds=1, **named)
    figures = peers.measure(options)
    assert [figure.note for figure in figures] == ["ultralytics, a.yaml", "ultralytics, b.yaml"]
    assert (tmp_path / "asked").read_text().split() == ["a.yaml", "b.yaml"]
    assert all(figure.plain == pytest.approx(12 / 55) and figure.ratio > 10 for figure in figures)
    (tmp_path / "python").write_text("#!/bin/sh\necho no ultralytics >&2\nexit 1\n")
    with pytest.raises(InputError, match=r"a\.yaml does not train with .*python: \['no ultralytics'\]"):
        peers.measure(options)
