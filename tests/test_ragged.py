"""Short arrays, texts and polygons in long arrays: the elements are those that were put in, and are views."""

from __future__ import annotations

import numpy as np
import pytest

from utils.dataset.ragged import Polygons, Ragged, Texts

PARTS = [np.full((count, 2), number, np.float32) for number, count in enumerate((2, 0, 3, 1))]
ORDER = np.array([3, 0, 2, 1])


def test_elements_are_the_parts():
    ragged = Ragged.of(PARTS, PARTS[0])
    assert len(ragged) == 4 and [part.tolist() for part in ragged] == [part.tolist() for part in PARTS]
    np.testing.assert_array_equal(np.concatenate(ragged, 0), np.concatenate(PARTS))
    assert [part.tolist() for part in ragged.reordered(ORDER)] == [PARTS[index].tolist() for index in ORDER]
    ragged.reordered(ORDER)[2][0] = 9  # of element 2
    assert (ragged[2][0] == 9).all() and np.shares_memory(ragged[2], ragged.rows)
    with pytest.raises(IndexError):
        ragged[4]


def test_nothing_has_the_right_type():
    empty = Ragged.of([], np.zeros((3, 5), np.float32))
    assert len(empty) == 0 and empty.rows.shape == (0, 5) and empty.rows.dtype == np.float32


def test_texts_of_any_bytes():
    names = ["a.jpg", "", "图/ä.png", "broken\udcff.jpg"]
    texts = Texts(names)
    assert list(texts) == names and texts[-1] == names[-1]
    assert list(texts.reordered(ORDER)) == [names[index] for index in ORDER]


def test_polygons_belong_to_labels():
    labels = Ragged.of([np.zeros((count, 5)) for count in (2, 0, 1, 1)], np.zeros((0, 5)))
    none, triangle, square = (np.full((points, 2), points, np.float32) for points in (0, 3, 4))
    polygons = Polygons(Ragged.of([none, triangle, none, square], none), labels)

    def shown(values):
        return [[None if polygon is None else len(polygon) for polygon in each] for each in values]

    assert shown(polygons) == [[None, 3], [], [], [4]]
    assert shown(polygons.reordered(ORDER)) == [[4], [None, 3], [], []]
    assert list(Polygons(Ragged.of([none] * 4, none), labels)) == [[], [], [], []]
