"""Non-maximum suppression: worked values, the exact greedy rule, and which implementation runs."""

from __future__ import annotations

import builtins
import json
import sys
import types

import numpy as np
import pytest
import torch

from utils import log
from utils.errors import InputError
from utils.geometry import batched_nms, nms
from utils.geometry.nms import non_max_suppression, suppress_overlaps


def greedy_by_loop(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The rule written as loops over single-precision scalars, the threshold compared in double precision."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    zero = np.float32(0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for candidate in order:
        for better in kept:
            width = max(zero, min(boxes[better, 2], boxes[candidate, 2]) - max(boxes[better, 0], boxes[candidate, 0]))
            height = max(zero, min(boxes[better, 3], boxes[candidate, 3]) - max(boxes[better, 1], boxes[candidate, 1]))
            shared = width * height
            with np.errstate(invalid="ignore"):
                if float(shared / (areas[better] + areas[candidate] - shared)) > threshold:
                    break
        else:
            kept.append(int(candidate))
    return kept


def crowded_boxes(count: int, seed: int, spread: float = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes on a half-pixel grid with few distinct scores, so that equal overlaps and equal scores abound."""
    generator = torch.Generator().manual_seed(seed)
    corner = (torch.rand(count, 2, generator=generator) * spread * 2).round() / 2
    size = (torch.rand(count, 2, generator=generator) * 80).round()  # some have no area
    scores = torch.randint(1, 40, (count,), generator=generator) / 40
    return torch.cat((corner, corner + size), 1), scores


@pytest.fixture
def plain_torch(monkeypatch):
    monkeypatch.setattr(nms, "_compiled_nms", lambda device_type: None)


@pytest.fixture
def fresh_choice(monkeypatch):
    """Forget which implementation was chosen, and what was said about it, before and after a test."""
    monkeypatch.setattr(log, "_said", set())
    nms._compiled_nms.cache_clear()
    yield
    nms._compiled_nms.cache_clear()


def worked_example() -> torch.Tensor:
    return torch.tensor(
        [
            [50, 50, 20, 20, 0.9, 0.9, 0.1],
            [52, 50, 20, 20, 0.8, 0.95, 0.05],
            [50, 50, 20, 20, 0.9, 0.6, 0.7],
            [150, 150, 40, 20, 0.3, 0.9, 0.2],
            [150, 150, 40, 20, 0.25, 1.0, 0.2],
        ]
    )[None]


def scores_and_classes(detections: torch.Tensor) -> list[tuple[float, int]]:
    return [(round(confidence, 2), int(category)) for confidence, category in detections[:, 4:].tolist()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0.81, 0), (0.63, 1), (0.27, 0)]),
        ({"agnostic": True}, [(0.81, 0), (0.27, 0)]),
        ({"classes": [1]}, [(0.63, 1)]),
        ({"classes": []}, []),
        ({"max_det": 2}, [(0.81, 0), (0.63, 1)]),
        ({"multi_label": True, "conf_thres": 0.05}, [(0.81, 0), (0.63, 1), (0.27, 0), (0.06, 1)]),
        ({"conf_thres": 0.9}, []),
    ],
)
def test_worked_values(options, expected):
    prediction = worked_example()
    (detections,) = non_max_suppression(prediction, **options)
    assert scores_and_classes(detections) == expected
    assert detections.shape == (len(expected), 6)
    assert torch.equal(prediction, worked_example())  # not modified


def test_known_boxes_join_the_predictions():
    label = torch.tensor([[1.0, 30, 30, 10, 10]])
    (detections,) = non_max_suppression(worked_example(), labels=[label])
    assert detections[0].tolist() == [25, 25, 35, 35, 1, 1]
    assert scores_and_classes(detections[1:]) == [(0.81, 0), (0.63, 1), (0.27, 0)]
    (unchanged,) = non_max_suppression(worked_example(), labels=[label[:0]])
    assert len(unchanged) == 3


def test_tuple_predictions_are_accepted():
    heads = [torch.zeros(1)]
    assert torch.equal(*(non_max_suppression(given)[0] for given in (worked_example(), (worked_example(), heads))))


def test_images_are_independent():
    batch = torch.cat((worked_example(), torch.zeros(1, 5, 7), worked_example()))
    first, second, third = non_max_suppression(batch)
    assert torch.equal(first, third)
    assert second.shape == (0, 6)


def test_half_precision_predictions_keep_classes_apart():
    """Class offsets beyond 65504 do not fit into half precision."""
    row = torch.zeros(2, 5 + 80, dtype=torch.float16)
    row[:, :5] = torch.tensor([100, 100, 50, 50, 1.0])
    row[0, 5 + 78], row[1, 5 + 79] = 0.9, 0.8
    (detections,) = non_max_suppression(row[None])
    assert detections.dtype == torch.float32
    assert scores_and_classes(detections) == [(0.9, 78), (0.8, 79)]


@pytest.mark.slow
def test_matches_recorded_figures(shared_folder):
    folder = shared_folder / "conformance" / "v6.2"
    recorded = np.load(folder / "nms.npz")
    rows = json.loads((folder / "nms.json").read_text())
    assert rows
    for case, row in enumerate(rows):
        result = non_max_suppression(torch.tensor(recorded[f"{case}/pred"]), **row["kwargs"])
        for image, detections in enumerate(result):
            np.testing.assert_allclose(detections, recorded[f"{case}/out{image}"], atol=1e-3)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.45, 0.5, 0.6, 1.0])
@pytest.mark.parametrize(("count", "spread"), [(1, 10), (60, 50), pytest.param(700, 300, marks=pytest.mark.slow)])
def test_torch_implementation_follows_the_rule_exactly(threshold, count, spread):
    boxes, scores = crowded_boxes(count, seed=count, spread=spread)
    expected = greedy_by_loop(boxes.numpy(), scores.numpy(), threshold)
    assert suppress_overlaps(boxes, scores, threshold).tolist() == expected


@pytest.mark.slow
def test_small_blocks_give_the_same(monkeypatch):
    boxes, scores = crowded_boxes(500, seed=3)
    expected = suppress_overlaps(boxes, scores, 0.3)
    assert 20 < len(expected) < 500
    monkeypatch.setattr(nms, "BLOCK_BOXES", 7)
    monkeypatch.setattr(nms, "KEPT_BLOCK_BOXES", 5)
    assert torch.equal(suppress_overlaps(boxes, scores, 0.3), expected)


@pytest.mark.parametrize("limit", [1, 50, 10_000])
def test_limit_gives_the_first_of_all(limit):
    boxes, scores = crowded_boxes(2000, seed=5)
    assert torch.equal(suppress_overlaps(boxes, scores, 0.4, limit), suppress_overlaps(boxes, scores, 0.4)[:limit])


@pytest.mark.parametrize("spread", [5, 60])  # pixels: hundreds of boxes are kept, or a few
def test_the_best_boxes_are_enough_while_they_fill_the_limit(spread, monkeypatch):
    given = []

    def operator(boxes, scores, threshold):
        given.append(len(boxes))
        return suppress_overlaps(boxes, scores, threshold)

    monkeypatch.setattr(nms, "_compiled_nms", lambda device_type: operator)
    generator = torch.Generator().manual_seed(2)
    centres = (torch.rand(900, 2, generator=generator) * 300 / spread).round() * spread
    rows = torch.cat((centres, torch.full((900, 2), 12.0), torch.rand(900, 2, generator=generator)), 1)[None]
    everything = non_max_suppression(rows, 0.01, 0.5, max_det=10_000)[0]
    assert given == [len(rows[0][rows[0, :, 4] * rows[0, :, 5] > 0.01])]
    given.clear()
    assert torch.equal(non_max_suppression(rows, 0.01, 0.5, max_det=40)[0], everything[:40])
    assert given[0] == 320 and len(given) == (1 if len(everything) >= 80 else 2)


@pytest.mark.parametrize(("numerator", "threshold"), [(9, 0.45), (12, 0.6), (14, 0.7), (2, 0.1)])
def test_overlap_right_at_the_threshold_is_judged_in_double_precision(numerator, threshold):
    """IoU n/20 in single precision may lie above or below the threshold's decimal value, as in 0.6 -> 0.60000002."""
    boxes = torch.tensor([[0.0, 0, 20, 1], [0, 0, numerator, 1]])
    suppressed = float(np.float32(numerator) / np.float32(20)) > threshold
    assert len(suppress_overlaps(boxes, torch.tensor([0.9, 0.8]), threshold)) == 2 - suppressed


def test_no_boxes():
    assert suppress_overlaps(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_validation_sized_input_is_not_cut_by_time(plain_torch):
    """Thousands of boxes with every class over the threshold: each of the images gets its detections."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(4, 3000, 5 + 20, generator=generator)
    prediction[..., :2] *= 640
    prediction[..., 2:4] *= 100
    result = non_max_suppression(prediction, conf_thres=0.001, iou_thres=0.6, multi_label=True)
    assert [len(detections) for detections in result] == [300] * 4
    for detections in result:
        assert (detections[:-1, 4] >= detections[1:, 4]).all()


@pytest.mark.slow
def test_both_implementations_agree():
    operator = nms._compiled_nms("cpu")
    if operator is None:
        pytest.skip("torchvision's operator does not work here")
    for seed in range(5):
        boxes, scores = crowded_boxes(1500, seed)
        for threshold in (0.2, 0.45, 0.6):
            assert torch.equal(suppress_overlaps(boxes, scores, threshold), operator(boxes, scores, threshold))


def with_torchvision(monkeypatch, operator) -> None:
    operators = types.ModuleType("torchvision.ops")
    operators.nms = operator
    package = types.ModuleType("torchvision")
    package.ops = operators
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.ops", operators)


def test_the_compiled_operator_is_used_where_it_works(monkeypatch, fresh_choice):
    calls = []

    def operator(boxes, scores, threshold):
        calls.append(len(boxes))
        return suppress_overlaps(boxes, scores, threshold)

    with_torchvision(monkeypatch, operator)
    (detections,) = non_max_suppression(worked_example(), max_det=2)
    assert scores_and_classes(detections) == [(0.81, 0), (0.63, 1)]
    assert calls == [1, 4]  # the trial, then the candidates


def test_a_broken_operator_is_replaced_and_said_once(monkeypatch, fresh_choice, caplog):
    def operator(boxes, scores, threshold):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    with_torchvision(monkeypatch, operator)
    monkeypatch.setattr(log.LOGGER, "propagate", True)
    for _ in range(3):
        (detections,) = non_max_suppression(worked_example())
        assert scores_and_classes(detections) == [(0.81, 0), (0.63, 1), (0.27, 0)]
    assert len(caplog.records) == 1
    assert "operator torchvision::nms does not exist" in caplog.text
    assert "and more" not in caplog.text


def test_torchvision_that_is_absent_is_replaced_and_said_once(monkeypatch, fresh_choice, caplog):
    real_import = builtins.__import__

    def without_torchvision(name, *arguments, **keywords):
        if name.startswith("torchvision"):
            raise ModuleNotFoundError("No module named 'torchvision'")
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_torchvision)
    monkeypatch.setattr(nms, "find_spec", lambda name: None)
    monkeypatch.setattr(log.LOGGER, "propagate", True)
    with caplog.at_level("INFO", "yolov5"):
        non_max_suppression(worked_example())
        non_max_suppression(worked_example())
    assert [record.message for record in caplog.records if "not installed" in record.message] == [caplog.messages[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf_thres": 1.5}, "confidence threshold must lie between 0 and 1, got 1.5"),
        ({"conf_thres": float("nan")}, "confidence threshold"),
        ({"iou_thres": -0.1}, "IoU threshold must lie between 0 and 1, got -0.1"),
        ({"max_det": 0}, "max_det"),
        ({"prediction": torch.zeros(3, 7)}, r"\(3, 7\)"),
        ({"prediction": torch.zeros(1, 3, 5)}, r"\(1, 3, 5\)"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        non_max_suppression(**{"prediction": worked_example(), **options})


def one_by_one(prediction: torch.Tensor, labels=(), classes=None, **options) -> list[torch.Tensor]:
    """The simple way: each image filtered, sorted and suppressed by itself, its candidates collected box by box."""
    results = []
    for index, boxes in enumerate(prediction):
        rows = [row for row in boxes if row[4] > options["conf_thres"]]
        for category, *box in labels[index].tolist() if labels else ():
            rows.append(torch.tensor([*box, 1, *(float(other == category) for other in range(boxes.shape[1] - 5))]))
        candidates = []
        for row in rows:
            scores = row[4] * row[5:]
            categories = range(len(scores)) if options["multi_label"] else [int(scores.argmax())]
            corners = torch.cat((row[:2] - row[2:4] / 2, row[:2] + row[2:4] / 2))
            for category in categories:
                if scores[category] > options["conf_thres"] and (classes is None or category in classes):
                    candidates.append(torch.cat((corners, scores[category, None], torch.tensor([float(category)]))))
        found = torch.stack(candidates) if candidates else torch.zeros(0, 6)
        found = found[found[:, 4].argsort(descending=True, stable=True)][: nms.MAX_CANDIDATES]
        shift = 0 if options["agnostic"] else found[:, 5:] * nms.CLASS_OFFSET_PIXELS
        kept = greedy_by_loop((found[:, :4] + shift).numpy(), found[:, 4].numpy(), options["iou_thres"])
        results.append(found[kept][: options["max_det"]])
    return results


def crowded_predictions(seed: int) -> torch.Tensor:
    """Five images of 60 boxes in few places with few distinct scores, three classes; the third image is empty."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(2, 9, (5, 60, 2), generator=generator) * 8.0
    sizes = torch.randint(2, 5, (5, 60, 2), generator=generator) * 8.0
    scores = torch.randint(0, 11, (5, 60, 4), generator=generator) / 10
    prediction = torch.cat((places, sizes, scores), 2)
    prediction[2, :, 4] = 0
    return prediction


@pytest.mark.parametrize("implementation", ["plain", "chosen"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"multi_label": True, "conf_thres": 0.001},
        {"agnostic": True},
        {"classes": [0, 2], "multi_label": True},
        {"max_det": 5},
        {"known": True},
        {"known": True, "multi_label": True, "agnostic": True, "classes": [1]},
        {"limit": 20, "multi_label": True},
    ],
    ids=str,
)
def test_a_batch_gives_what_its_images_give_one_by_one(changes, implementation, monkeypatch):
    if implementation == "plain":
        monkeypatch.setattr(nms, "_compiled_nms", lambda device_type: None)
    monkeypatch.setattr(nms, "BLOCK_BOXES", 16)
    options = {"conf_thres": 0.2, "iou_thres": 0.5, "agnostic": False, "multi_label": False, "max_det": 300} | changes
    if limit := options.pop("limit", 0):
        monkeypatch.setattr(nms, "MAX_CANDIDATES", limit)
    if options.pop("known", False):
        box = torch.tensor([[1.0, 30, 30, 16, 16], [0.0, 40, 40, 24, 24]])
        options["labels"] = [box, box[:0], box[1:], box[:0], box.flip(0)]
    prediction = crowded_predictions(seed=len(str(changes)))
    expected = one_by_one(prediction, **options)
    assert sum(map(len, expected)) >= 20
    for got, wanted in zip(non_max_suppression(prediction, **options), expected, strict=True):
        assert torch.equal(got, wanted)


# -- many images together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("limit", "threshold"), [(300, 0.6), (7, 0.45), (300, 0.0), (1024, 1.0)])
def test_images_together_give_what_each_gives_alone(limit: int, threshold: float, agnostic: bool) -> None:
    """Crowds, few boxes, none, equal scores, boxes without area; more than a block, more than the limit."""
    generator = torch.Generator().manual_seed(0)
    counts = [900, 0, 3, 256, 257, 1, 600]
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    low = torch.rand(len(image), 2, generator=generator) * 60
    size = torch.rand(len(image), 2, generator=generator) * 40
    score = (torch.rand(len(image), 1, generator=generator) * 50).round() / 50
    classes = torch.randint(0, 3, (len(image), 1), generator=generator).float()
    candidates = torch.cat((low, low + size, score, classes), 1)
    candidates[:5, 2:4] = candidates[:5, :2]
    together = nms._suppress_batch(candidates, image, counts, threshold, agnostic, limit)
    alone = [nms._suppress(part, threshold, agnostic, limit) for part in candidates.split(counts)]
    assert [len(rows) for rows in together] == [len(rows) for rows in alone]
    assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    assert max(map(len, alone)) <= limit and len(alone[0]) > 5


def test_parts_of_a_batch_are_judged_one_after_another(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    counts = [40] * 9
    low = torch.rand(360, 2, generator=generator) * 30
    boxes = torch.cat((low, low + 8), 1)
    whole = batched_nms.suppress_together(boxes, counts, 0.3, 300, nms._overlaps)
    monkeypatch.setattr(batched_nms, "MOST_PAIRS", 2 * 256 * 556)
    parts = batched_nms.suppress_together(boxes, counts, 0.3, 300, nms._overlaps)
    assert all(torch.equal(*pair) for pair in zip(whole, parts, strict=True)) and len(whole) == len(parts) == 9
