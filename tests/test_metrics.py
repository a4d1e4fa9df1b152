"""Overlap, matching, average precision, confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.metrics import (
    ConfusionMatrix,
    ap_per_class,
    bbox_iou,
    box_iou,
    compute_ap,
    fitness,
    match_predictions,
    smooth,
)

THRESHOLDS = torch.linspace(0.5, 0.95, 10)
DETECTIONS = torch.tensor(
    [
        [0, 0, 10, 8, 0.9, 0],
        [0, 0, 10, 10, 0.8, 0],
        [20, 20, 30, 30, 0.7, 1],
        [0, 0, 10, 9.6, 0.6, 0],
    ]
)
LABELS = torch.tensor([[0, 0, 0, 10, 10], [1, 20, 20, 30, 31]]).float()
VARIANTS = {"IoU": 0.4166667, "GIoU": 0.3055556, "DIoU": 0.3739316, "CIoU": 0.3711164}


@pytest.mark.parametrize("variant", VARIANTS)
def test_overlap_of_the_worked_boxes(variant: str) -> None:
    flags = {} if variant == "IoU" else {variant: True}
    first, second = torch.tensor([[10.0, 10, 4, 8]]), torch.tensor([[11.0, 12, 6, 6]])
    got = bbox_iou(first, second, xywh=True, **flags)
    assert got.shape == (1, 1) and got.item() == pytest.approx(VARIANTS[variant], abs=1e-6)
    corners = [torch.cat((box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2), 1) for box in (first, second)]
    assert bbox_iou(*corners, xywh=False, **flags).item() == pytest.approx(VARIANTS[variant], abs=1e-6)


def test_overlap_broadcasts_and_agrees_with_the_pairwise_one() -> None:
    torch.manual_seed(0)
    low = torch.rand(7, 2)
    boxes = torch.cat((low, low + torch.rand(7, 2)), 1)
    torch.testing.assert_close(bbox_iou(boxes[:, None], boxes[None], xywh=False)[..., 0], box_iou(boxes, boxes))


def test_equal_boxes_overlap_wholly():
    """Also where rounding makes their IoU larger than 1."""
    boxes = (torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)) + 0.3).requires_grad_(True)
    overlap = bbox_iou(boxes, boxes.detach(), CIoU=True)
    torch.testing.assert_close(overlap, torch.ones(1000, 1), atol=1e-5, rtol=0)
    overlap.sum().backward()
    assert boxes.grad.isfinite().all()


def test_overlap_has_finite_gradients_for_distant_and_empty_boxes() -> None:
    first = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 0], [5, 5, 2, 3]], requires_grad=True)
    bbox_iou(first, torch.tensor([[50.0, 50, 1, 1], [0, 0, 0, 0], [5, 5, 2, 3]]), CIoU=True).sum().backward()
    assert torch.isfinite(first.grad).all()


def test_matching_of_the_worked_example() -> None:
    expected = np.zeros((4, 10), dtype=bool)
    expected[0, :7] = True  # .50 to .80: the most certain, though others overlap more
    expected[1, 7:] = True
    expected[2, :9] = True
    assert (match_predictions(DETECTIONS, LABELS, THRESHOLDS) == expected).all()
    assert (match_predictions(DETECTIONS.numpy(), LABELS.numpy(), THRESHOLDS.numpy()) == expected).all()


def test_matching_without_detections_or_labels() -> None:
    assert match_predictions(torch.zeros(0, 6), LABELS, THRESHOLDS).shape == (0, 10)
    nothing = match_predictions(DETECTIONS, torch.zeros(0, 5), THRESHOLDS)
    assert nothing.shape == (4, 10) and nothing.dtype == bool and not nothing.any()


def loop_matching(detections: torch.Tensor, labels: torch.Tensor, threshold: float) -> list[bool]:
    """The rule in words: each detection claims its best label, the first claim of a label counts."""
    overlap, taken, result = box_iou(labels[:, 1:], detections[:, :4]), set(), []  # in torch
    for index, detection in enumerate(detections):
        own = [(overlap[j, index].item(), j) for j in range(len(labels)) if labels[j, 0] == detection[5]]
        best = max(own, default=(-1.0, -1))
        result.append(best[0] >= threshold and best[1] not in taken)
        if best[0] >= threshold:
            taken.add(best[1])
    return result


@pytest.mark.parametrize("seed", range(5))
def test_matching_agrees_with_the_rule_in_words(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(40, 2, generator=generator) * 30
    boxes = torch.cat((low, low + 5 + torch.rand(40, 2, generator=generator) * 20), 1)
    classes = torch.randint(0, 2, (40, 1), generator=generator)
    labels = torch.cat((classes[:12], boxes[:12]), 1)
    detections = torch.cat((boxes[12:], torch.linspace(0.9, 0.1, 28)[:, None], classes[12:]), 1)
    got = match_predictions(detections, labels, THRESHOLDS)
    assert got.any()
    for column, threshold in enumerate(THRESHOLDS):
        assert got[:, column].tolist() == loop_matching(detections, labels, threshold)


def test_average_precision_of_the_worked_example() -> None:
    tp = np.array([[1, 1], [0, 0], [1, 0], [1, 1], [0, 0], [1, 0]], dtype=bool)
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    predicted, wanted = np.array([0, 0, 1, 0, 1, 1]), np.array([0, 0, 0, 1, 1])
    for order in (np.arange(6), np.array([3, 1, 5, 0, 2, 4])):  # the order of the rows does not matter
        true, false, p, r, f1, ap, classes = ap_per_class(tp[order], confidence[order], predicted[order], wanted)
        np.testing.assert_allclose(p, [0.6667, 0.6667], atol=1e-4)
        np.testing.assert_allclose(r, [0.6667, 1.0], atol=1e-4)
        np.testing.assert_allclose(f1, [0.6667, 0.8], atol=1e-4)
        np.testing.assert_allclose(ap, [[0.6672, 0.6672], [0.828333, 0]], atol=1e-4)
        assert true.tolist() == [2, 2] and false.tolist() == [1, 1] and classes.tolist() == [0, 1]


def test_area_under_the_curve() -> None:
    assert compute_ap([1], [1])[0] == pytest.approx(0.995)
    assert compute_ap([0.5, 0.5, 1], [1, 0.5, 0.6667])[0] == pytest.approx(0.82835, abs=1e-5)


def test_metrics_where_nothing_is_found() -> None:
    nothing = np.zeros((0, 10), dtype=bool), np.zeros(0), np.zeros(0)
    *figures, ap, classes = ap_per_class(*nothing, np.array([0, 2, 2]))
    assert classes.tolist() == [0, 2] and not ap.any() and all(not figure.any() for figure in figures)
    wrong = np.zeros((3, 10), dtype=bool), np.array([0.9, 0.5, 0.1]), np.zeros(3)
    *figures, ap, classes = ap_per_class(*wrong, np.array([0, 2]))
    assert ap.shape == (2, 10) and not ap.any() and not figures[3].any()


@pytest.mark.slow
def test_metrics_without_labels_are_empty(tmp_path: Path) -> None:
    results = ap_per_class(np.zeros((3, 10)), np.ones(3), np.zeros(3), np.zeros(0), plot=True, save_dir=tmp_path)
    assert [len(result) for result in results] == [0] * 7 and results[5].shape == (0, 10)


def test_smoothing_keeps_length_and_level() -> None:
    assert smooth(np.full(1000, 3.0), 0.1) == pytest.approx(np.full(1000, 3.0))
    impulse = np.eye(1000)[500]
    assert (smooth(impulse, 0.1) > 0).sum() == 101 and (smooth(impulse) > 0).sum() == 51
    assert len(smooth(np.arange(7.0), 0.3)) == 7


def test_fitness_is_a_weighted_sum() -> None:
    rows = np.array([[0.5, 0.6, 0.7, 0.4, 9.0, 9.0], [0, 0, 1, 0, 0, 0]])
    assert fitness(rows) == pytest.approx([0.43, 0.1])


def test_confusion_counts_matches_misses_and_inventions() -> None:
    matrix = ConfusionMatrix(nc=2)
    matrix.process_batch(DETECTIONS, LABELS)
    assert matrix.matrix.tolist() == [[1, 0, 2], [0, 1, 0], [0, 0, 0]]  # two of class 0 are left over
    matrix.process_batch(None, LABELS[:, 0])
    assert matrix.matrix[2].tolist() == [1, 1, 0]
    stray = torch.tensor([[50, 50, 60, 60, 0.9, 1], [0, 0, 10, 10, 0.2, 0]])  # far from all; too uncertain
    matrix.process_batch(stray, LABELS)
    assert matrix.matrix[:, 2].tolist() == [2, 1, 0] and matrix.matrix[2].tolist() == [2, 2, 0]
    matrix.process_batch(stray, torch.zeros(0, 5))
    assert matrix.matrix[:, 2].tolist() == [2, 2, 0]
    true_positives, false_positives = matrix.tp_fp()
    assert true_positives.tolist() == [1, 1] and false_positives.tolist() == [2, 2]


def test_confusion_gives_a_label_to_the_closest_of_any_class() -> None:
    matrix = ConfusionMatrix(nc=2)
    detections = torch.tensor([[0, 0, 10, 8, 0.9, 0], [0, 0, 10, 10, 0.3, 1]])
    matrix.process_batch(detections, LABELS[:1])
    assert matrix.matrix.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_every_figure_of_the_recording(shared_folder: Path) -> None:
    z = np.load(shared_folder / "conformance/v6.2/metrics.npz")
    number = 0
    while f"ap/{number}/tp" in z:
        results = ap_per_class(*(z[f"ap/{number}/{key}"] for key in ("tp", "conf", "pred_cls", "target_cls")))
        for i, result in enumerate(results):
            np.testing.assert_allclose(result, z[f"ap/{number}/out{i}"], atol=1e-6)
        number += 1
    assert number
    first, second, detections, labels = (
        torch.from_numpy(z[key]) for key in ("iou/box1", "iou/box2", "match/det", "match/labels")
    )
    for variant in VARIANTS:
        flags = {} if variant == "IoU" else {variant: True}
        np.testing.assert_allclose(bbox_iou(first, second, **flags), z[f"iou/{variant}"], atol=1e-6)
    assert (match_predictions(detections, labels, THRESHOLDS) == z["match/correct"]).all()
    matrix = ConfusionMatrix(nc=3)
    matrix.process_batch(detections, labels)
    assert (matrix.matrix == z["match/confusion"]).all()
    np.testing.assert_allclose(fitness(z["fitness/x"]), z["fitness/y"])
