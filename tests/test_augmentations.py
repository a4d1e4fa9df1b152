"""Letterbox, random warps of images with boxes and polygons, colours, MixUp, mosaic, copy-paste."""

from __future__ import annotations

import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from utils.augmentations import (
    augment_hsv,
    box_candidates,
    draw_colours,
    letterbox,
    mixup,
    random_perspective,
    recolour,
    warp_limits,
)
from utils.dataset.mosaic import copy_paste, draw_mosaic, place_tile
from utils.geometry.tiles import compose

STILL = {"degrees": 0, "translate": 0, "scale": 0, "shear": 0, "perspective": 0}


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)


# -- letterbox -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "output", "ratio", "half_padding", "before"),
    [
        ((720, 1280), {}, (384, 640), (0.5, 0.5), (0, 12), (12, 0)),
        ((720, 1280), {"auto": False}, (640, 640), (0.5, 0.5), (0, 140), (140, 0)),
        ((1080, 810), {}, (640, 480), (0.592593, 0.592593), (0, 0), (0, 0)),
        ((427, 640), {}, (448, 640), (1, 1), (0, 10.5), (10, 0)),
        ((333, 500), {}, (448, 640), (1.28, 1.28), (0, 11), (11, 0)),
        ((333, 500), {"auto": False, "scaleup": False}, (640, 640), (1, 1), (70, 153.5), (153, 70)),
        ((500, 333), {"new_shape": (320, 640), "auto": False}, (320, 640), (0.64, 0.64), (213.5, 0), (0, 213)),
        ((641, 480), {}, (640, 480), (0.99844, 0.99844), (0.5, 0), (0, 0)),
        ((375, 500), {"stride": 64}, (512, 640), (1.28, 1.28), (0, 16), (16, 0)),
        ((375, 500), {"auto": False, "scaleFill": True}, (640, 640), (1.28, 1.706667), (0, 0), (0, 0)),
        ((481, 640), {}, (512, 640), (1, 1), (0, 15.5), (15, 0)),
        ((333, 500), {"new_shape": (416, 640), "auto": False}, (416, 640), (1.249249, 1.249249), (7.5, 0), (0, 7)),
    ],
)
def test_letterbox_shapes(size, options, output, ratio, half_padding, before):
    image, got_ratio, got_padding = letterbox(np.zeros((*size, 3), np.uint8), **options)
    assert image.shape == (*output, 3)
    assert got_ratio == pytest.approx(ratio, rel=1e-5) and got_padding == half_padding
    grey = (image == 114).all(2)
    assert (int(grey.all(1).argmin()), int(grey.all(0).argmin())) == before  # rows above, columns to the left


def test_letterbox_accepts_arrays_and_slivers():
    assert letterbox(np.zeros((5, 9, 3), np.uint8), np.array([64, 96]), auto=False)[0].shape == (64, 96, 3)
    assert letterbox(np.zeros((2000, 1, 3), np.uint8), 640)[0].shape == (640, 32, 3)


# -- warps ---------------------------------------------------------------------------------------------------------


def test_random_perspective_golden_vector():
    limits = {"degrees": 10, "translate": 0.1, "scale": 0.5, "shear": 2, "perspective": 0.0005}
    targets = np.array([[0, 10, 10, 40, 30.0]])
    image, moved = random_perspective(np.zeros((128, 128, 3), np.uint8), targets, border=(-32, -32), **limits)
    assert image.shape == (64, 64, 3)
    np.testing.assert_allclose(moved, [[0, 0, 0, 18.141, 2.8465]], atol=1e-3)
    np.testing.assert_array_equal(targets, [[0, 10, 10, 40, 30]])  # the caller's stay


def test_nothing_to_do_returns_the_same():
    image = np.random.randint(0, 255, (40, 60, 3), np.uint8)
    targets = np.array([[1, 3, 4, 20, 30]], np.float32)
    same, rows = random_perspective(image, targets, **STILL)
    assert same is image
    np.testing.assert_array_equal(rows, targets)
    assert len(random_perspective(image, **STILL)[1]) == 0


def test_crop_by_the_border_keeps_the_middle():
    image = np.random.randint(0, 255, (128, 128, 3), np.uint8)
    middle, rows = random_perspective(image, np.array([[0, 40, 40, 60, 70.0]]), border=(-32, -32), **STILL)
    np.testing.assert_array_equal(middle, image[32:96, 32:96])
    np.testing.assert_allclose(rows, [[0, 8, 8, 28, 38]])


@pytest.mark.parametrize("perspective", [0.0, 0.001])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_follow_the_pixels(seed, perspective):
    """A white rectangle, warped: the box must be the bounding box of what is white, up to the blur of its edge."""
    random.seed(seed)
    image = np.zeros((200, 240, 3), np.uint8)
    image[70:130, 80:150] = 255
    polygon = np.array([[80, 70], [150, 70], [150, 130], [80, 130]], float)
    limits = {"degrees": 20, "translate": 0.05, "scale": 0.2, "shear": 8, "perspective": perspective}
    for segments in ((), [polygon]):
        random.seed(seed)
        warped, rows = random_perspective(image, np.array([[0, 80, 70, 150, 130.0]]), segments, **limits)
        y, x = np.nonzero(warped.min(2) > 127)  # the border is darker
        np.testing.assert_allclose(rows[0, 1:], [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=1.6)


def test_polygon_gives_a_tighter_box_and_boxes_beside_it_stay_boxes():
    diamond = np.array([[50, 20], [80, 50], [50, 80], [20, 50]], float)
    targets = np.array([[0, 20, 20, 80, 80], [1, 20, 20, 80, 80.0]])
    image = np.zeros((100, 100, 3), np.uint8)
    limits = STILL | {"degrees": 45}
    _, rows = random_perspective(image, targets, [diamond, None], **limits)
    with_polygon, without = (rows[rows[:, 0] == label][0] for label in (0, 1))
    assert (with_polygon[3:] - with_polygon[1:3]).prod() < 0.8 * (without[3:] - without[1:3]).prod()
    random.seed(0)
    _, boxes_only = random_perspective(image, targets, **limits)
    np.testing.assert_allclose(boxes_only[1], without)


def test_box_candidates_limits_are_strict():
    before = np.array([[0, 0, 10, 10]] * 5, float).T
    after = np.array([[0, 0, 2, 10], [0, 0, 2.1, 10], [0, 0, 3, 3.3], [0, 0, 3, 3.4], [0, 0, 500, 5]], float).T
    np.testing.assert_array_equal(box_candidates(before, after), [False, True, False, True, False])
    assert box_candidates(before, after, area_thr=np.full(5, 0.01))[2]


# -- pixels --------------------------------------------------------------------------------------------------------


def test_hsv_golden_vector_and_no_gain():
    image = np.full((4, 5, 3), (10, 120, 200), np.uint8)
    augment_hsv(image, 0.015, 0.7, 0.4)
    assert (image == (0, 122, 216)).all()
    state = np.random.get_state()[2]
    augment_hsv(image, 0, 0, 0)
    assert (image == (0, 122, 216)).all() and np.random.get_state()[2] == state


def test_colours_looked_up_plane_by_plane_are_those_of_one_table():
    image = np.random.randint(0, 256, (61, 47, 3), np.uint8)
    tables = draw_colours(0.5, 0.9, 0.9)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), np.ascontiguousarray(tables.T)[None])
    np.testing.assert_array_equal(recolour(image, tables), cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))
    four = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)  # as scenes are rendered
    np.testing.assert_array_equal(recolour(four, tables), recolour(image, tables))
    assert draw_colours(0, 0, 0) is None


def test_mixup_blends_and_joins():
    first, second = (np.random.randint(0, 255, (16, 16, 3), np.uint8) for _ in range(2))
    np.random.seed(3)
    weight = np.random.beta(32, 32)
    np.random.seed(3)
    image, labels = mixup(first, np.zeros((2, 5)), second, np.ones((1, 5)))
    expected = (first * weight + second * (1 - weight)).astype(np.uint8)
    assert np.abs(image.astype(int) - expected).max() <= 1 and (image == expected).mean() > 0.99
    assert labels.shape == (3, 5) and labels[2].all()


# -- mosaic --------------------------------------------------------------------------------------------------------


def test_place_tile_example():
    """side 640, centre (500, 700), an image of 640 x 480 to the top left."""
    image = np.random.randint(1, 255, (480, 640, 3), np.uint8)
    tile = place_tile(image, 0, 500, 700)
    assert (tile.x, tile.y) == (-140, 220)
    canvas = compose([tile], (0, 0, 1280, 1280))[..., :3]
    np.testing.assert_array_equal(canvas[220:700, 0:500], image[:, 140:])
    canvas[220:700, 0:500] = 114
    assert (canvas == 114).all()


def test_four_tiles_meet_at_the_centre():
    tiles = [place_tile(np.full((30, 40, 3), corner + 1, np.uint8), corner, 45, 50) for corner in range(4)]
    assert [(tile.x, tile.y) for tile in tiles] == [(5, 20), (45, 20), (5, 50), (45, 50)]
    canvas = compose(tiles, (0, 0, 80, 80))
    assert [canvas[y, x, 0] for y, x in ((49, 44), (49, 45), (50, 44), (50, 45))] == [1, 2, 3, 4]
    np.testing.assert_array_equal(compose(tiles, (10, 40, 60, 70)), canvas[40:70, 10:60])


def mosaic_source(segments: list) -> SimpleNamespace:
    """Four images 64 x 48 of side 64, each with one white rectangle at pixels x 16-48, y 12-36 and its label."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[12:36, 16:48] = 255
    row = np.array([[1, 0.5, 0.5, 0.5, 0.5]], np.float32)
    return SimpleNamespace(
        img_size=64, mosaic_border=(-32, -32), indices=range(4), labels=[row] * 4, segments=segments, hyp={},
        load_image=lambda _: (image, (48, 64), (48, 64)),
    )  # fmt: skip


RECTANGLE = [np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]], np.float32)]


@pytest.mark.parametrize(
    "segments", [[[]] * 4, [RECTANGLE] * 4, [[], RECTANGLE, [], RECTANGLE]], ids=["boxes", "polygons", "mixed"]
)
def test_mosaic_labels_lie_on_their_objects(segments):
    dataset = mosaic_source(segments)
    seen = 0
    for _ in range(20):
        scene, labels = draw_mosaic(dataset, 0)
        image = scene.render()
        assert image.shape[:2] == (64, 64)
        for row in labels:
            x1, y1, x2, y2 = row[1:].round().astype(int)
            inside = image[y1:y2, x1:x2, 0]
            assert row[0] == 1 and (inside > 200).mean() > 0.95
            image[y1:y2, x1:x2] = 0
        left_over = np.count_nonzero(image[..., 0] > 200)
        assert left_over <= 64 * 5  # only slivers below the limits of area and side, and edges
        seen += len(labels)
    assert seen > 25


def test_mosaic_draws_in_the_documented_order():
    dataset = mosaic_source([[]] * 4)
    used = []
    image = dataset.load_image(0)
    dataset.load_image = lambda index: used.append(index) or image
    random.seed(5)
    draw_mosaic(dataset, 2)
    after = random.random()
    random.seed(5)
    [random.uniform(32, 96) for _ in range(2)]
    chosen = [2, *random.choices(range(4), k=3)]
    random.shuffle(chosen)
    [random.random() for _ in range(8)]
    assert used == chosen and random.random() == after


def test_copy_paste_mirrors_objects_that_have_a_polygon():
    image = np.zeros((20, 40, 3), np.uint8)
    cv2.rectangle(image, (2, 4), (8, 10), (9, 99, 199), cv2.FILLED)
    polygon = np.array([[2, 4], [8, 4], [8, 10], [2, 10]], float)
    labels = np.array([[1, 2, 4, 8, 10], [0, 15, 4, 25, 10]], np.float32)
    result, rows, segments = copy_paste(image.copy(), labels, [polygon, None], p=1.0)
    np.testing.assert_allclose(rows[2], [1, 32, 4, 38, 10])
    np.testing.assert_allclose(segments[2][:, 0], [38, 32, 32, 38])
    np.testing.assert_array_equal(result[:, 31:38], image[:, ::-1][:, 31:38])
    np.testing.assert_array_equal(result[:, :31], image[:, :31])
    assert len(copy_paste(image, labels, [polygon, None], p=0.5)[1]) == 2  # half of one rounds to none


def test_copy_paste_does_not_hide_others():
    image = np.zeros((20, 40, 3), np.uint8)
    polygon = np.array([[2, 4], [8, 4], [8, 10], [2, 10]], float)
    labels = np.array([[1, 2, 4, 8, 10], [0, 30, 4, 40, 10]], np.float32)  # the mirror image lies at 32 to 38
    assert len(copy_paste(image, labels, [polygon, None], p=1.0)[1]) == 2


def test_absent_hyperparameters_mean_no_warp():
    assert warp_limits({}) == STILL
    assert warp_limits({"scale": 0.5})["scale"] == 0.5
