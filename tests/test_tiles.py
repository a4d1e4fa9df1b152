"""Scenes drawn in one go against the two-step way, which lays out the whole canvas and flips at the end."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest

from benchmarks.plain_ways import TwoStepImages
from tests.test_dataloaders import write_split
from utils.dataset.items import LoadImagesAndLabels
from utils.geometry.tiles import Scene, Tile
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters

SIZES = {"a": (150, 90), "b": (70, 120), "c": (100, 100), "d": (33, 140), "e": (260, 200), "f": (64, 48)}
TEXT = "0 .3 .3 .4 .5\n1 .7 .6 .2 .3\n0 .5 .5 .9 .9\n"
POLYGONS = "0 .1 .1 .6 .1 .5 .7 .2 .8\n1 .6 .5 .9 .5 .9 .9\n"

CASES = {
    "low": {},
    "high": {"scale": 0.9, "mixup": 0.5, "copy_paste": 0.1, "flipud": 0.5},
    "turned": {"degrees": 15.0, "shear": 5.0, "flipud": 0.5},
    "tilted": {"perspective": 0.0005, "mixup": 0.5},
    "single": {"mosaic": 0.0, "flipud": 0.5},
    "single, turned": {"mosaic": 0.0, "degrees": 15.0},
    "copies": {"copy_paste": 1.0},
    "still": {"scale": 0.0, "translate": 0.0},
    "colours only": {"mosaic": 0.0, "scale": 0.0, "translate": 0.0},
    "no colours": {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0},
    "no colours, single": {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "mosaic": 0.0, "scale": 0.0, "translate": 0.0},
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    boxes, polygons = (tmp_path_factory.mktemp(name) for name in ("boxes", "polygons"))
    return {"boxes": write_split(boxes, SIZES, TEXT), "polygons": write_split(polygons, SIZES, POLYGONS)}


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", ["boxes", "polygons"])
@pytest.mark.parametrize("side", [64, 97])
def test_items_equal_those_made_in_two_steps(splits, kind, changes, side):
    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml") | changes
    ours, plain = (
        loader(splits[kind], side, augment=True, hyp=hyp, cache_images="ram")
        for loader in (LoadImagesAndLabels, TwoStepImages)
    )
    differences, seen = [], 0
    for seed in range(24):
        image, labels, _, shapes = ours[seed % 6, seed]
        after = random.random(), np.random.rand()
        expected, expected_labels, _, expected_shapes = plain[seed % 6, seed]
        assert after == (random.random(), np.random.rand())  # as many numbers were drawn, from both
        assert image.shape == expected.shape and image.is_contiguous() and shapes == expected_shapes
        assert labels.shape == expected_labels.shape
        np.testing.assert_allclose(labels[:, 1], expected_labels[:, 1])
        np.testing.assert_allclose(labels[:, 2:] * side, expected_labels[:, 2:] * side, atol=0.01)
        differences.append(float((image.float() - expected.float()).abs().mean()))
        seen += len(labels)
    assert max(differences) <= 0.25 and seen > 24


def test_flips_are_exact_where_nothing_else_is_done():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    scene = Scene([Tile(image)], (20, 30), np.eye(3), (20, 30))
    assert scene.render() is image
    for upside_down, mirrored, code in ((True, False, 0), (False, True, 1), (True, True, -1)):
        np.testing.assert_array_equal(scene.render(upside_down, mirrored)[..., :3], cv2.flip(image, code))


def test_a_warp_that_shows_nothing_is_grey():
    image = np.zeros((20, 30, 3), np.uint8)
    away = np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1.0]])
    picture = Scene([Tile(image)], (20, 30), away, (20, 30)).render()
    assert picture.shape[:2] == (20, 30) and (picture == 114).all()


def test_the_canvas_is_laid_out_where_it_is_seen_only(monkeypatch):
    laid_out = []
    real = np.full
    monkeypatch.setattr(
        "utils.geometry.tiles.np.full", lambda shape, *rest: laid_out.append(shape) or real(shape, *rest)
    )
    image = np.zeros((100, 100, 3), np.uint8)
    tiles = [Tile(image, x, y) for x in (0, 100) for y in (0, 100)]
    twice = np.array([[2, 0, -100], [0, 2, -100], [0, 0, 1.0]])
    Scene(tiles, (200, 200), twice, (100, 100)).render(mirrored=True)
    assert laid_out and max(max(shape) for shape in laid_out) <= 56
