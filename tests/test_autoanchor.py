"""Check of the anchors and the search for better ones."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.autoanchor import anchor_fit, check_anchor_order, check_anchors, kmean_anchors
from utils.log import LOGGER

P5 = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    return caplog


def detector(pixels: list | None = None, stride: tuple[float, ...] = (8, 16, 32)) -> SimpleNamespace:
    strides = torch.tensor(stride, dtype=torch.float32)
    head = SimpleNamespace(anchors=torch.tensor(pixels or P5).float() / strides.view(-1, 1, 1), stride=strides)
    return SimpleNamespace(model=[head])


def dataset(sizes: np.ndarray, per_image: int = 4, width: int = 640, height: int = 480) -> SimpleNamespace:
    """Labels of ``sizes`` (n, 2) pixels in images of 640 x 480."""
    rows = np.concatenate((np.zeros((len(sizes), 1)), np.full((len(sizes), 2), 0.5), sizes / [width, height]), 1)
    labels = np.split(rows, range(per_image, len(rows), per_image)) if len(rows) else [rows]
    return SimpleNamespace(labels=labels, shapes=np.array([[width, height]] * len(labels)))


def clusters(seed: int = 0) -> np.ndarray:
    """Boxes about nine very flat shapes that no published anchor is near."""
    generator = np.random.default_rng(seed)
    centres = np.array([[6 * k, k] for k in (6, 17, 28, 39, 50, 61, 72, 83, 94)])
    return np.repeat(centres, 30, 0) * generator.uniform(0.97, 1.03, (270, 2))


def test_fit_of_the_worked_example() -> None:
    recall, matches = anchor_fit(np.array([[10, 13], [33, 23], [62, 45]]), np.array([[20, 30], [100, 10]]), 4.0)
    assert (recall, matches) == (1.0, 2.0)
    assert anchor_fit(np.array([[10.0, 10]]), np.array([[10, 10], [10, 40]]), 4.0)[0] == 0.5  # the limit is strict


def test_fitting_anchors_stay(heard: pytest.LogCaptureFixture) -> None:
    model = detector()
    before = model.model[0].anchors.clone()
    sizes = np.array(P5).reshape(-1, 2) * 0.99
    check_anchors(dataset(np.minimum(np.repeat(sizes, 5, 0), [630, 470])), model, imgsz=640)
    assert torch.equal(model.model[0].anchors, before) and "1.000 Best Possible Recall" in heard.text


def test_unfit_anchors_are_replaced_in_place(heard: pytest.LogCaptureFixture) -> None:
    model = detector([[[2, 60], [3, 90], [4, 99]]] * 3)
    anchors = model.model[0].anchors
    check_anchors(dataset(clusters()), model, thr=2.0, imgsz=640)
    pixels = (anchors * model.model[0].stride.view(-1, 1, 1)).view(-1, 2)
    assert model.model[0].anchors is anchors
    assert anchor_fit(pixels.numpy(), clusters(1), 2.0)[0] > 0.98
    assert pixels.prod(1).diff().min() >= 0 and "BPR rises from 0.000" in heard.text


def test_a_search_without_gain_changes_nothing(
    heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = detector()
    before = model.model[0].anchors.clone()
    monkeypatch.setattr("utils.autoanchor.kmean_anchors", lambda *_, **__: np.full((9, 2), 2.0))
    check_anchors(dataset(clusters()), model, thr=1.2)
    assert torch.equal(model.model[0].anchors, before) and "found no better anchors" in heard.text


def test_data_without_labels_keeps_the_anchors(heard: pytest.LogCaptureFixture) -> None:
    model = detector()
    check_anchors(dataset(np.zeros((0, 2))), model)
    assert "no labels" in heard.text and torch.equal(model.model[0].anchors, detector().model[0].anchors)


def test_clusters_are_found() -> None:
    sizes = clusters()
    anchors = kmean_anchors(dataset(sizes), n=9, img_size=640, gen=100, verbose=False)
    assert anchors.shape == (9, 2) and (np.diff(anchors.prod(1)) >= 0).all()
    assert anchor_fit(anchors, sizes, 1.1)[0] > 0.98


def test_the_search_can_be_repeated_and_leaves_global_random_numbers_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, second = (kmean_anchors(dataset(clusters()), gen=30, seed=5) for _ in range(2))
    other = kmean_anchors(dataset(clusters()), gen=30, seed=6)
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert np.array_equal(np.random.get_state()[1], before)


def test_mutation_never_makes_the_fit_worse() -> None:
    sizes = np.random.default_rng(0).uniform(8, 300, (400, 2))

    def quality(anchors: np.ndarray) -> float:
        ratio = sizes[:, None] / anchors
        best = np.minimum(ratio, 1 / ratio).min(2).max(1)
        return (best * (best > 0.25)).mean()

    plain, evolved = (kmean_anchors(dataset(sizes), gen=generations, verbose=False) for generations in (0, 200))
    assert quality(evolved) > quality(plain)


def test_sizes_follow_the_image_size() -> None:
    small, large = (kmean_anchors(dataset(clusters()), img_size=size, gen=0) for size in (320, 640))
    np.testing.assert_allclose(large, 2 * small, rtol=0.05)


@pytest.mark.parametrize("sizes", [np.zeros((0, 2)), np.full((50, 2), 40.0), np.array([[30, 40], [50, 60]])])
def test_too_few_sizes_start_at_random(sizes: np.ndarray, heard: pytest.LogCaptureFixture) -> None:
    anchors = kmean_anchors(dataset(sizes), n=9, gen=50)
    assert anchors.shape == (9, 2) and np.isfinite(anchors).all() and (anchors >= 2).all()
    assert "starting from random anchors" in heard.text


def test_tiny_labels_are_counted_and_left_out(heard: pytest.LogCaptureFixture) -> None:
    sizes = np.concatenate((clusters(), np.full((20, 2), 1.0)))
    anchors = kmean_anchors(dataset(sizes), gen=0)
    assert "20 of 290 labels are under 3 pixels" in heard.text and anchors.min() >= 2


def test_layer_order_follows_the_strides() -> None:
    head = detector(P5[::-1]).model[0]
    head.anchors = torch.tensor(P5[::-1]).float()  # in pixels: large to small
    check_anchor_order(head)
    assert head.anchors[0, 0].tolist() == [10, 13]
    check_anchor_order(head)
    assert head.anchors[0, 0].tolist() == [10, 13]
