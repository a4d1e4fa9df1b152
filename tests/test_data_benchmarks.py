"""The benchmarks of loading run, on a few small images."""

from __future__ import annotations

import multiprocessing

import cv2
import torch

from benchmarks import data, scaling


def test_loading_is_measured(monkeypatch):
    monkeypatch.setattr(data, "LARGE_PHOTOGRAPH", (300, 400))
    threads = torch.get_num_threads(), cv2.getNumThreads()
    figures = data.measure(imgsz=64, images=3, repetitions=1)
    assert [figure.goal for figure in figures] == [1.35, None, 2.8, None]
    assert all(figure.ours > 0 and figure.plain > 0 and figure.ratio > 0 for figure in figures)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads


def test_growth_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "SETTLED_BATCHES", 1)
    counts = []
    for function in ("seconds_of_checking", "start_costs"):
        monkeypatch.setattr(scaling, function, lambda images: counts.append(len(list(images.iterdir()))) or {"x": 2.0})
    monkeypatch.setattr(scaling, "ProcessPoolExecutor", InThisProcess)
    (figure,) = scaling.measure(2, 6)
    assert counts == [2, 2, 6, 6] and figure.ratio == 3.0


def test_costs_of_a_start(tmp_path):
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
