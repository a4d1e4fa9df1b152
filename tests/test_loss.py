"""The loss: recorded vectors, assignment of targets to cells, variants."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.loss import ComputeLoss, FocalLoss, smooth_BCE
from utils.storage.files import ROOT, read_yaml
from utils.training.assignment import pad_labels, padded_count

P5, P6 = (read_yaml(ROOT / "models" / name)["anchors"] for name in ("yolov5n.yaml", "hub/yolov5n6.yaml"))
GAINS = {"box": 0.05, "cls": 0.5, "obj": 1.0, "cls_pw": 1.0, "obj_pw": 1.0, "fl_gamma": 0.0, "anchor_t": 4.0}
FIRST, SECOND = [0, 1, 0.30, 0.55, 0.2, 0.3], [0, 0, 0.7, 0.2, 0.1, 0.1]


class Network(nn.Module):
    """Stand-in for a detector with what the loss reads."""

    def __init__(self, nc: int = 2, anchors: list[list[int]] | None = None, **changes: float):
        super().__init__()
        pixels = torch.tensor(anchors or P5).float().view(-1, 3, 2)
        stride = torch.tensor([8.0 * 2**layer for layer in range(len(pixels))])
        self.weight = nn.Parameter(torch.zeros(1))
        grid_anchors = pixels / stride.view(-1, 1, 1)
        self.model = [SimpleNamespace(na=3, nc=nc, nl=len(pixels), anchors=grid_anchors, stride=stride)]
        self.hyp = {**GAINS, **changes}


def sine_heads(batch: int = 1, nc: int = 2) -> list[torch.Tensor]:
    """Logits sin(.37 k) by flat index, the same for every image, for a 128-pixel image."""
    heads = []
    for side in (16, 8, 4):
        count = 3 * side * side * (nc + 5)
        one = torch.sin(0.37 * torch.arange(count, dtype=torch.float64)).float().view(1, 3, side, side, nc + 5)
        heads.append(one.repeat(batch, 1, 1, 1, 1))
    return heads


def targets_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).float().view(-1, 6)


@pytest.mark.parametrize(
    ("changes", "rows", "expected"),
    [
        ({}, (FIRST, SECOND), (4.921555, 0.082627, 4.071107, 0.767820)),
        ({"fl_gamma": 1.5}, (FIRST, SECOND), (1.638471, 0.082627, 1.369948, 0.185896)),
        ({"label_smoothing": 0.1}, (FIRST, SECOND), (4.921786, 0.082627, 4.071107, 0.768052)),
        ({"cls_pw": 2.0, "obj_pw": 0.5}, (FIRST, SECOND), (5.287889, 0.082627, 4.061559, 1.143702)),
        ({}, (), (4.075054, 0.0, 4.075054, 0.0)),
    ],
)
def test_recorded_values(changes: dict, rows: tuple, expected: tuple) -> None:
    total, items = ComputeLoss(Network(**changes))(sine_heads(), targets_of(*rows))
    assert total.shape == (1,) and items.shape == (3,) and not items.requires_grad
    assert [total.item(), *items.tolist()] == pytest.approx(expected, abs=2e-6)


def test_batch_of_two_doubles_the_total_only() -> None:
    rows = [FIRST, SECOND, [1, *FIRST[1:]], [1, *SECOND[1:]]]
    total, items = ComputeLoss(Network())(sine_heads(batch=2), targets_of(*rows))
    assert total.item() == pytest.approx(9.843109, abs=4e-6)
    assert items.tolist() == pytest.approx([0.082627, 4.071107, 0.767820], abs=2e-6)


def test_blank_logits() -> None:
    blank = [torch.zeros_like(head) for head in sine_heads()]
    total, items = ComputeLoss(Network())(blank, targets_of(FIRST))
    assert [total.item(), *items.tolist()] == pytest.approx([4.50534, 0.06920, 3.74300, 0.69315], abs=1e-5)


def test_autobalance_follows_the_layers() -> None:
    loss = ComputeLoss(Network(), autobalance=True)
    loss(sine_heads(), targets_of(FIRST, SECOND))
    assert loss.balance == pytest.approx([3.999604, 1.0, 0.400079], abs=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_every_figure_and_gradient_of_the_recording(shared_folder: Path, masked: bool) -> None:
    folder = shared_folder / "conformance/v6.2"
    arrays, rows = np.load(folder / "loss.npz"), json.loads((folder / "loss.json").read_text())
    assert rows
    for number, row in enumerate(rows):
        network = Network(row["nc"], P5 if row["layers"] == 3 else P6)
        network.hyp = row["hyp"]
        heads = [torch.from_numpy(arrays[f"{number}/pred{i}"].copy()).requires_grad_() for i in range(row["layers"])]
        loss, targets = ComputeLoss(network), torch.from_numpy(arrays[f"{number}/targets"])
        loss.masked = masked
        total, items = loss(heads, pad_labels(targets, torch.device("cpu")) if masked else targets)
        total.backward()
        np.testing.assert_allclose(items, arrays[f"{number}/items"], atol=1e-5, rtol=1e-5)
        for i, head in enumerate(heads):
            np.testing.assert_allclose(head.grad, arrays[f"{number}/grad{i}"], atol=1e-7, rtol=1e-4)


def random_labels(count: int, batch: int, classes: int, seed: int = 0) -> torch.Tensor:
    """(count, 6): of all sizes, some on the borders, many in the same cells."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 6, generator=generator)
    rows[:, 0], rows[:, 1] = (rows[:, 0] * batch).floor(), (rows[:, 1] * classes).floor()
    rows[::3, 2:4] = rows[::3, 2:4].round(decimals=1)
    rows[:, 4:6] = 0.02 + 0.6 * rows[:, 4:6] ** 2
    return rows


@pytest.mark.parametrize("changes", [{}, {"fl_gamma": 1.5}, {"label_smoothing": 0.1}, {"cls_pw": 2.0, "obj_pw": 0.5}])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_masked_candidates_give_the_loss_of_the_matches(count: int, changes: dict) -> None:
    labels = random_labels(count, batch=2, classes=2)
    outcomes = []
    for masked in (False, True):
        loss = ComputeLoss(Network(**changes))
        loss.masked = masked
        heads = [head.requires_grad_() for head in sine_heads(batch=2)]
        rows = pad_labels(labels, torch.device("cpu")) if masked else labels
        total, items = loss(heads, rows)
        outcomes.append((total, items, *torch.autograd.grad(total, heads)))
    assert len(rows) == padded_count(count) >= count
    for matches, candidates in zip(*outcomes, strict=True):
        torch.testing.assert_close(candidates, matches, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("masked", [False, True])
def test_rows_that_are_no_label_change_nothing(masked: bool) -> None:
    labels = random_labels(20, batch=1, classes=2)
    loss, heads = ComputeLoss(Network()), sine_heads()
    loss.masked = masked
    mixed = torch.full((50, 6), -1.0)
    mixed[7:27] = labels
    for got, expected in zip(loss(heads, mixed), loss(heads, labels), strict=True):
        torch.testing.assert_close(got, expected)


def test_masked_candidates_have_the_same_shapes_whatever_the_labels() -> None:
    loss = ComputeLoss(Network())
    loss.masked = True
    shapes = {
        tuple(tuple(part.shape) for layer in loss.assign(sine_heads(), rows) for part in layer)
        for rows in (random_labels(64, 1, 2, seed) for seed in range(5))
    }
    assert len(shapes) == 1


def test_masked_candidates_ask_for_no_value() -> None:
    """Neither the host nor a shape depends on what a device has computed."""
    loss, labels = ComputeLoss(Network()), pad_labels(random_labels(30, 1, 2), torch.device("cpu"))
    loss.masked = True
    heads = [head.requires_grad_() for head in sine_heads()]
    loss(heads, labels)[0].backward()  # constants are made
    with NoValues():
        loss(heads, labels)[0].backward()
    loss.masked = False
    with pytest.raises(AssertionError, match="nonzero"), NoValues():
        loss(heads, labels)


class NoValues(TorchDispatchMode):
    """Refuses operations for which the host waits for a GPU."""

    WAITING = ("nonzero", "item", "_local_scalar_dense", "masked_select", "unique", "bincount", "is_nonzero", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        boolean = name == "index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        assert name not in self.WAITING and not boolean, f"{name} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("count", "expected"), [(0, 64), (1, 64), (64, 64), (65, 128), (128, 128), (1000, 1024)])
def test_labels_are_padded_to_powers_of_two(count: int, expected: int) -> None:
    labels = random_labels(count, 4, 2)
    padded = pad_labels(labels, torch.device("cpu"))
    assert padded.shape == (expected, 6) and torch.equal(padded[:count], labels) and bool((padded[count:, 0] < 0).all())
    again = pad_labels(labels[:1], torch.device("cpu"), out=padded) if count else padded
    assert again is padded and bool((again[1 if count else 0 :, 0] < 0).all())


def cells(matched: tuple, anchor: int) -> list[tuple[int, int]]:
    chosen = matched.anchor == anchor
    return list(zip(matched.row[chosen].tolist(), matched.column[chosen].tolist(), strict=True))


def test_assignment_of_the_worked_target() -> None:
    fine, middle, coarse = ComputeLoss(Network()).assign(sine_heads(), targets_of(FIRST))
    assert fine.anchor.tolist() == [0, 1, 2] * 3 and middle.anchor.tolist() == [0, 1, 2] * 3  # centre, side, side
    assert cells(fine, 0) == [(8, 4), (8, 5), (9, 4)]  # the centre, its right and its lower neighbour
    boxes = dict(zip(cells(fine, 1), fine.boxes[fine.anchor == 1].tolist(), strict=True))
    assert set(boxes) == {(8, 4), (8, 5), (9, 4)}
    assert boxes[8, 4] == pytest.approx([0.8, 0.8, 3.2, 4.8], abs=1e-5)
    assert boxes[8, 5] == pytest.approx([-0.2, 0.8, 3.2, 4.8], abs=1e-5)
    assert boxes[9, 4] == pytest.approx([0.8, -0.2, 3.2, 4.8], abs=1e-5)
    boxes = dict(zip(cells(middle, 2), middle.boxes[middle.anchor == 2].tolist(), strict=True))
    assert set(boxes) == {(4, 2), (4, 1), (3, 2)}
    assert boxes[4, 1] == pytest.approx([1.4, 0.4, 1.6, 2.4], abs=1e-5)
    assert not len(coarse.image)
    assert set(fine.classes.tolist()) == {1}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (4.0, 4.0, [(4, 4), (4, 3), (3, 4), (4, 4), (4, 4)]),  # a whole number is near both sides
        (4.5, 4.5, [(4, 4)]),  # the middle is near none
        (1.0, 4.5, [(4, 1), (4, 1)]),  # no left neighbour; the right one truncates to the own cell
        (16.0, 16.0, [(15, 15)] * 3),  # on the border: left and up fall on the clamped cell too
    ],
)
def test_cells_at_special_places(x: float, y: float, expected: list[tuple[int, int]]) -> None:
    target = [0, 0, x / 16, y / 16, 16 / 128, 30 / 128]
    fine = ComputeLoss(Network()).assign(sine_heads(), targets_of(target))[0]
    assert cells(fine, 1) == expected
    if x == 16:
        assert fine.boxes[0, :2].tolist() == [1.0, 1.0]  # the offset counts from the clamped cell


def test_anchor_limit_is_strict() -> None:
    exact = [0, 0, 0.5, 0.5, 40 / 128, 13 / 128]  # four times as wide as the first anchor
    fine = ComputeLoss(Network()).assign(sine_heads(), targets_of(exact))[0]
    assert 0 not in fine.anchor.tolist()
    fine = ComputeLoss(Network(anchor_t=4.01)).assign(sine_heads(), targets_of(exact))[0]
    assert 0 in fine.anchor.tolist()


def test_in_a_cell_claimed_twice_the_last_row_counts() -> None:
    loss = ComputeLoss(Network())
    matched = loss.assign(sine_heads(), targets_of([0, 0, 0.25, 0.25, 0.1, 0.2]))[0]
    overlap = torch.linspace(0.9, 0.1, len(matched.image))
    positions = matched.positions(sine_heads()[0])
    target_map = loss._objectness(sine_heads()[0], matched, overlap).flatten()
    expected = dict(zip(positions.tolist(), overlap.tolist(), strict=True))  # later entries replace earlier ones
    assert len(expected) < len(overlap)
    assert {cell: target_map[cell].item() for cell in target_map.nonzero().flatten().tolist()} == expected
    loss.sort_obj_iou = True
    target_map = loss._objectness(sine_heads()[0], matched, overlap)
    assert target_map[0, 0, 4, 4].item() == pytest.approx(0.9)  # the largest


def test_gradients_of_many_targets_can_be_repeated() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.cat(
        (
            torch.randint(0, 2, (800, 2), generator=generator).float(),
            0.45 + 0.1 * torch.rand(800, 2, generator=generator),
            0.1 + 0.1 * torch.rand(800, 2, generator=generator),
        ),
        1,
    )
    heads = [head.requires_grad_() for head in sine_heads(batch=2)]
    gradients = []
    for _ in range(4):
        total, _ = ComputeLoss(Network())(heads, targets)
        gradients.append(torch.autograd.grad(total, heads))
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_constants_are_made_once(monkeypatch) -> None:
    loss, rows = ComputeLoss(Network()), targets_of(FIRST)
    first = loss.assign(sine_heads(), rows)
    heads = sine_heads()
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a copy to the device in each step"))
    for one, other in zip(first, loss.assign(heads, rows), strict=True):
        assert all(map(torch.equal, one[:-1], other[:-1]))


def test_build_targets_gives_the_rows_of_assign() -> None:
    loss, heads, rows = ComputeLoss(Network()), sine_heads(), targets_of(FIRST, SECOND)
    classes, boxes, indices, anchors = loss.build_targets(heads, rows)
    for layer, matched in enumerate(loss.assign(heads, rows)):
        assert torch.equal(boxes[layer], matched.boxes) and torch.equal(classes[layer], matched.classes)
        assert torch.equal(indices[layer][3], matched.column) and torch.equal(anchors[layer], matched.anchors)


@pytest.mark.parametrize("layers", [1, 2, 4, 6])
def test_any_number_of_layers(layers: int) -> None:
    network = Network(3, (P6 + P6)[:layers])
    heads = [torch.randn(2, 3, 64 >> i, 64 >> i, 8, requires_grad=True) for i in range(layers)]
    total, items = ComputeLoss(network)(heads, targets_of([0, 2, 0.4, 0.4, 0.1, 0.1], [1, 0, 0.5, 0.6, 0.3, 0.3]))
    total.backward()
    assert torch.isfinite(items).all() and all(head.grad.abs().sum() > 0 for head in heads)


def test_one_class_has_no_class_term_and_half_precision_works() -> None:
    network = Network(nc=1)
    heads = sine_heads(nc=1)
    _, items = ComputeLoss(network)(heads, targets_of([0, 0, *FIRST[2:]]))
    _, half = ComputeLoss(network)([head.half() for head in heads], targets_of([0, 0, *FIRST[2:]]))
    assert items[2] == 0 and half.dtype == torch.float32
    torch.testing.assert_close(half, items, rtol=2e-3, atol=1e-3)


def test_wrapped_model_and_live_anchors() -> None:
    network = Network()
    wrapper = nn.Module()
    wrapper.module = network
    loss = ComputeLoss(wrapper)
    network.model[0].anchors *= 100  # the anchor check replaces them in place
    assert all(not len(matched.image) for matched in loss.assign(sine_heads(), targets_of(SECOND)))


def test_focal_loss_weights_and_reductions() -> None:
    logits, wanted = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    p = logits.sigmoid()
    p_t = torch.stack((p[0], 1 - p[1]))
    expected = -p_t.log() * torch.tensor([0.25, 0.75]) * (1 - p_t) ** 1.5
    for reduction, value in (("none", expected), ("mean", expected.mean()), ("sum", expected.sum())):
        torch.testing.assert_close(FocalLoss(nn.BCEWithLogitsLoss(reduction=reduction), 1.5)(logits, wanted), value)


def test_label_smoothing() -> None:
    assert smooth_BCE(0.1) == pytest.approx((0.95, 0.05))
