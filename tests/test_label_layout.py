"""Labels beside boxes: where they go, and what they leave free; the legend of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from utils.drawing.annotator import Annotator, colors
from utils.drawing.label_layout import LabelLayout
from utils.drawing.objects import class_legend, draw_objects

SIZE = (30, 10)  # width, height of a label


def corner_of(*boxes: list[float], frame: tuple[int, int] = (200, 200)) -> tuple[int, int] | None:
    """Upper left corner of the label of the first box."""
    return LabelLayout(np.array(boxes, float), frame).reserve(0, SIZE)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[50, 50, 90, 90]], (50, 40)),  # above it
        ([[180, 50, 195, 90]], (170, 40)),  # above it, moved into the picture
        ([[50, 50, 90, 90], [50, 30, 60, 48]], (60, 40)),  # above it, at its right
        ([[50, 50, 90, 90], [50, 30, 90, 48]], (50, 90)),  # below it
        ([[50, 0, 90, 195]], (50, 0)),  # inside a large one
        ([[50, 5, 60, 195]], None),  # no room in a narrow one
        ([[50, 50, 90, 90], [0, 0, 200, 200]], (50, 40)),  # a label may cover a little of what is large
    ],
)
def test_a_label_goes_where_it_hides_nothing(boxes, expected):
    assert corner_of(*boxes) == expected


def test_labels_do_not_hide_one_another():
    layout = LabelLayout(np.array([[50.0, 50, 90, 90], [55, 52, 95, 92], [60, 54, 100, 94]]), (200, 200))
    corners = [layout.reserve(index, SIZE) for index in range(3)]
    assert len(layout.reserved) == sum(corner is not None for corner in corners) >= 2
    for index, (left, top, right, bottom) in enumerate(layout.reserved):
        for other in layout.reserved[index + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_confidences_alone_where_names_have_no_room():
    image = np.zeros((60, 60, 3), np.uint8)
    annotator = Annotator(image, 1, 10, pil=True)
    draw_objects(annotator, np.array([[20.0, 20, 40, 40]]), [0], {0: "a very long name of a class"}, [0.93])
    plate = (image == colors(0, True)).all(2)
    assert plate[9:19, 20:36].sum() > 60 and not plate[:, 50:].any()


def test_the_legend_has_a_line_for_what_fits():
    names = {index: f"class {index}" for index in range(60)}
    assert class_legend([], names, 400, 10).shape == (0, 400, 3)
    assert class_legend([0, 1], names, 400, 10).shape == (20, 400, 3)
    full = class_legend(list(names), names, 400, 10)
    assert full.shape == (60, 400, 3) and (full[2:18, 10:20] == colors(0, True)).all(2).sum() > 80
