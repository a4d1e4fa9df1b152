"""Drawing all objects of an image so that their labels hide none of them, and the legend of the classes' colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.drawing.annotator import BLACK, WHITE, Annotator, Colour, colors
from utils.drawing.label_layout import LabelLayout

THIN_BELOW = 32  # pixels: smaller objects get a line of one pixel
LEGEND_LINES = 3  # at most
BRIGHT = 160  # of 255: text on brighter colours is black


def draw_objects(
    annotator: Annotator,
    boxes: NDArray,
    classes: Sequence[int] | NDArray,
    names: Mapping[int, str],
    confidences: Sequence[float] | NDArray | None = None,
) -> None:
    """Draw boxes (n, 4) x1, y1, x2, y2 in pixels, the first on top, and labels where they hide no object.

    A label has the class and the confidence, or the confidence alone where there is room for no more.

    Args:
        annotator: of the image.
        boxes: of the objects, the most certain first.
        classes: (n,) index of each one's class. names: {class index: name}; an index without a name is written.
        confidences: (n,) of predictions; None for labels.
    """
    for box, class_index in zip(boxes[::-1], classes[::-1], strict=True):
        is_small = min(box[2:] - box[:2]) < THIN_BELOW
        annotator.rectangle(box, colors(class_index, bgr=True), 1 if is_small else annotator.line_width)
    height, width = annotator.result().shape[:2]
    layout = LabelLayout(boxes, (width, height))
    for index, class_index in enumerate(classes):
        name = names.get(int(class_index), str(int(class_index)))
        labels = [name]
        if confidences is not None:
            labels = [f"{name} {confidences[index]:.1f}", f"{confidences[index]:.1f}"]
        for label in labels:
            corner = layout.reserve(index, annotator.plate_size(label))
            if corner is not None:
                color = colors(class_index, bgr=True)
                annotator.plate(corner, label, color, _readable_on(color))
                break


def _readable_on(color: Colour) -> Colour:
    """Black or white, whichever is easier to read on a BGR colour."""
    blue, green, red = color
    return BLACK if 0.114 * blue + 0.587 * green + 0.299 * red > BRIGHT else WHITE


def class_legend(shown: Sequence[int], names: Mapping[int, str], width: int, font_size: int) -> NDArray:
    """A strip (h, width, 3) BGR with the colour and the name of each class of ``shown``; h is 0 if there are none.

    Where they need more than LEGEND_LINES lines, the last of them are left out, and their number is given.
    """
    line_height = 2 * font_size
    strip = np.full((LEGEND_LINES * line_height, width, 3), 255, dtype=np.uint8)
    annotator = Annotator(
        strip, 1, font_size, pil=True, example="and more " + " ".join(names[index] for index in shown)
    )
    left, top = font_size, 0
    for count, index in enumerate(shown):
        needed = annotator.plate_size(names[index])[0] + 3 * font_size
        is_last = count == len(shown) - 1
        note = f"and {len(shown) - count} more"
        room = 0 if is_last or top < (LEGEND_LINES - 1) * line_height else annotator.plate_size(note)[0]
        if left + needed + room > width and left > font_size:
            if top == (LEGEND_LINES - 1) * line_height:
                annotator.text((left, top + font_size // 2), note, BLACK)
                break
            left, top = font_size, top + line_height
        square = left, top + font_size // 2, left + font_size, top + 3 * font_size // 2
        annotator.rectangle(square, colors(index, bgr=True), cv2.FILLED)
        annotator.text((left + 3 * font_size // 2, top + font_size // 2), names[index], BLACK)
        left += needed
    return strip[: top + line_height if len(shown) else 0]
