"""Box conversions and overlaps: worked values, round trips, in-place rules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from utils.geometry.boxes import box_iou, clip_coords, scale_coords, xywh2xyxy, xywhn2xyxy, xyxy2xywh, xyxy2xywhn


def random_corners(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 300, (count, 2))
    return np.concatenate((corner, corner + generator.uniform(1, 200, (count, 2))), 1)


@pytest.fixture(params=["array", "tensor"])
def convert(request):
    return np.array if request.param == "array" else lambda values: torch.tensor(np.array(values))


def test_corners_to_centre_and_size(convert):
    assert np.allclose(xyxy2xywh(convert([[10.0, 20.0, 30.0, 60.0, 7.0]])), [[20, 40, 20, 40, 7]])


def test_round_trip_keeps_further_columns_and_the_input(convert):
    corners = convert(np.hstack((random_corners(50), np.arange(100).reshape(50, 2))))
    before = convert(corners.tolist())
    assert np.allclose(xywh2xyxy(xyxy2xywh(corners)), before)
    assert (corners == before).all()


def test_integer_boxes_keep_their_halves(convert):
    assert xyxy2xywh(convert([[0, 0, 5, 3]])).tolist() == [[2.5, 1.5, 5, 3]]


def test_batches_of_boxes_are_accepted(convert):
    corners = random_corners(12)
    batched = xyxy2xywh(convert(corners.reshape(3, 4, 4)))
    assert np.allclose(batched.reshape(12, 4), xyxy2xywh(corners))


def test_normalised_to_pixels_and_back(convert):
    normalised = convert([[0.5, 0.25, 0.5, 0.5]])
    pixels = xywhn2xyxy(normalised, w=200, h=100, padw=10, padh=20)
    assert np.allclose(pixels, [[60, 20, 160, 70]])
    assert np.allclose(xyxy2xywhn(xywhn2xyxy(normalised, 200, 100), 200, 100), normalised)


def test_normalising_with_clip_works_on_a_copy(convert):
    corners = convert([[-10.0, -10.0, 640.0, 640.0]])
    assert np.allclose(xyxy2xywhn(corners, clip=True, eps=0.001), [[0.5, 0.5, 0.999998, 0.999998]], atol=1e-6)
    assert corners.tolist() == [[-10, -10, 640, 640]]


def test_scale_coords_worked_value_in_place(convert):
    coords = convert([[100.0, 150.0, 300.0, 400.0, 0.9]])
    result = scale_coords((384, 640), coords, (720, 1280, 3))
    assert result is coords
    assert np.allclose(coords, [[200, 276, 600, 720, 0.9]])


def test_scale_coords_uses_the_recorded_height_ratio(convert):
    coords = convert([[116.0, 127.5, 216.0, 227.5]])
    scale_coords((512, 672), coords, (366, 512), ratio_pad=((2.0, 9.0), (16.0, 27.5)))
    assert np.allclose(coords, [[50, 50, 100, 100]])


def test_scale_coords_matches_recorded_figures(shared_folder):
    folder = shared_folder / "conformance" / "v6.2"
    recorded = np.load(folder / "geometry.npz")
    rows = [row for row in json.loads((folder / "geometry.json").read_text()) if "img1" in row]
    assert rows
    for index, row in enumerate(rows):
        result = scale_coords(row["img1"], torch.tensor(recorded[f"scale/{index}/boxes"]), row["img0"])
        np.testing.assert_allclose(result, recorded[f"scale/{index}/out"], atol=1e-3)


def test_clip_is_in_place_and_leaves_further_columns(convert):
    boxes = convert([[-5.0, -6.0, 700.0, 500.0, -1.0], [10.0, 20.0, 30.0, 40.0, 900.0]])
    assert clip_coords(boxes, (480, 640)) is boxes
    assert boxes.tolist() == [[0, 0, 640, 480, -1], [10, 20, 30, 40, 900]]


def test_iou_of_every_pair():
    first = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    second = torch.tensor([[0.0, 0, 10, 8], [5, 5, 15, 15], [40, 40, 50, 50]])
    expected = [[0.8, 25 / 175, 0], [0, 0, 0]]
    assert torch.allclose(box_iou(first, second), torch.tensor(expected), atol=1e-6)


def test_iou_is_symmetric_and_one_on_the_diagonal():
    boxes = torch.tensor(random_corners(30))
    iou = box_iou(boxes, boxes)
    assert torch.equal(iou, iou.T)
    assert torch.allclose(iou.diagonal(), torch.ones(30, dtype=iou.dtype))


def test_iou_of_empty_boxes_is_zero_not_nan():
    assert box_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_empty_inputs(convert):
    nothing = convert(np.zeros((0, 6)))
    assert xyxy2xywh(nothing).shape == xywh2xyxy(nothing).shape == (0, 6)
    assert scale_coords((64, 64), nothing, (32, 32)).shape == (0, 6)
    assert box_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
