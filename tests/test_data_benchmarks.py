"""The benchmarks of loading run, on a few small images."""

from __future__ import annotations

import multiprocessing

import cv2
import torch

from benchmarks import data, scaling
from utils.dataset.items import LoadImagesAndLabels


def test_loading_is_measured(monkeypatch):
    monkeypatch.setattr(data, "LARGE_PHOTOGRAPH", (300, 400))
    threads = torch.get_num_threads(), cv2.getNumThreads()
    figures = data.measure(imgsz=64, images=3, repetitions=1)
    assert [figure.goal for figure in figures] == [1.35, None, 2.8, None]
    assert all(figure.ours > 0 and figure.plain > 0 and figure.ratio > 0 for figure in figures)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads


def test_growth_is_measured(tmp_path, monkeypatch):
    checked, seconds = [], iter([1.0, 9.0, 2.0, 4.0, 8.0, 0.0])  # medians 2 and 4
    monkeypatch.setattr(
        scaling, "seconds_of_checking", lambda images: checked.append(len(list(images.iterdir()))) or {"x": 2.0}
    )
    monkeypatch.setattr(scaling, "start_costs", lambda images: {"y": next(seconds), "memory": 7.0})
    monkeypatch.setattr(scaling, "throughput", lambda repetitions: [repetitions])
    monkeypatch.setattr(scaling, "ProcessPoolExecutor", InThisProcess)
    *figures, last = scaling.measure(2, 6, 3)
    assert checked == [2, 6] and last == 3
    assert [(figure.ratio, figure.goal) for figure in figures] == [(3.0, 0.9), (1.5, 0.9), (1.0, 0.67)]


def test_loader_processes_are_measured(tiny_dataset, monkeypatch):
    monkeypatch.setattr(scaling, "THROUGHPUT_PIXELS", 32)
    monkeypatch.setattr("utils.drawing.background.usable_cores", lambda: 2)
    seconds, images = scaling.loading_seconds(str(tiny_dataset), 1)
    assert list(seconds) == [1, 2] and all(seconds.values()) and images == 3 * 12
    monkeypatch.setattr(scaling, "demo_data", lambda folder: "demo.yaml")
    monkeypatch.setattr(scaling, "loading_seconds", lambda data, repetitions: ({1: [4.0], 2: [2.0]}, 8))
    monkeypatch.setattr(scaling, "ProcessPoolExecutor", InThisProcess)
    assert [(figure.ours, figure.plain, figure.ratio) for figure in scaling.throughput(1)] == [(2, 2, 1), (4, 2, 2)]


def test_a_loader_process_has_seen_all_labels(tmp_path):
    scaling.write_split(tmp_path, 3)
    dataset = scaling.AllLabels(LoadImagesAndLabels(tmp_path / "images", 32))
    assert [dataset[number] for number in range(6)] == [1] * 6


def test_costs_of_a_start(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "SETTLED_BATCHES", 1)
    scaling.write_split(tmp_path, 20)
    assert scaling.seconds_of_checking(tmp_path / "images")["checking images and labels"] > 0
    assert (tmp_path / "labels.cache").is_file()
    costs = scaling.start_costs(tmp_path / "images")
    assert {"reading the label cache", "data set and loader", "first batch of an epoch"} <= set(costs)


class InThisProcess:
    """An executor that calls at once."""

    def __init__(self, *_, **__):
        self.value = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, call, *arguments):
        self.value = call(*arguments)
        return self

    def result(self):
        return self.value


def test_the_fresh_process_starts_others_as_this_one_does():
    with scaling._fresh_process() as fresh:
        assert fresh.submit(start_method).result(timeout=60) == multiprocessing.get_start_method()


def start_method() -> str:
    """That of the process which is asked; a method of a context would take its context along."""
    return multiprocessing.get_start_method()
