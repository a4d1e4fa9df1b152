"""Drawing boxes and labels into images, cropping and saving images."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.drawing.fonts import load_font
from utils.errors import InputError
from utils.log import terminal_text
from utils.storage.files import atomic_path

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
PALETTE_SIZE = 20
CROP_GAIN = 1.02  # crops are a little larger than the box
CROP_PADDING = 10  # pixels


class Colors:
    """Twenty repeating colours: ``colors(class_index, bgr=False)`` -> three values from 0 to 255.

    Hues of neighbouring indices are a golden angle apart; lightness alternates between three levels.
    """

    def __init__(self) -> None:
        golden_angle = (5**0.5 - 1) / 2
        self.palette: list[Colour] = []
        for index in range(PALETTE_SIZE):
            lightness = (0.45, 0.58, 0.36)[index % 3]
            red, green, blue = colorsys.hls_to_rgb(index * golden_angle % 1.0, lightness, 0.9)
            self.palette.append((round(red * 255), round(green * 255), round(blue * 255)))

    def __call__(self, i: int, bgr: bool = False) -> Colour:
        """Return the colour of class index ``i``, as RGB, or as BGR for OpenCV."""
        red, green, blue = self.palette[int(i) % len(self.palette)]
        return (blue, green, red) if bgr else (red, green, blue)


colors = Colors()


class Annotator:
    """Draws into an image (H, W, 3) uint8, BGR by convention; ``result`` returns it.

    OpenCV draws everything but text that is not plain ASCII: PIL draws text, with a font that has the characters, if
    ``example`` (a sample of the texts to come) is not ASCII, or if ``pil`` is set. ``line_width`` defaults to 3/1000 of
    the mean side length, and at least 2 pixels. The image is changed in place if possible. Raises InputError for other
    arrays.
    """

    def __init__(
        self,
        im: np.ndarray,
        line_width: int | None = None,
        font_size: int | None = None,
        pil: bool = False,
        example: str = "abc",
    ):
        if not (isinstance(im, np.ndarray) and im.dtype == np.uint8 and im.ndim == 3 and im.shape[2] == 3):
            got = f"{im.dtype} {im.shape}" if isinstance(im, np.ndarray) else type(im).__name__
            raise InputError(f"an image to draw on must be a uint8 array of shape (H, W, 3), got {got}")
        self.im = np.ascontiguousarray(im)
        height, width = self.im.shape[:2]
        self.line_width = line_width or max(round((height + width + 3) / 2 * 0.003), 2)
        self.font_size = font_size or max(round((height + width) / 2 * 0.035), 12)
        self.pil = pil or not example.isascii()
        self._characters = "".join(sorted(set(terminal_text(example))))
        self._sizes: dict[str, tuple[int, int]] = {}  # of texts, which are measured once

    def box_label(
        self, box: Sequence[float], label: str = "", color: Colour = (128, 128, 128), txt_color: Colour = WHITE
    ) -> None:
        """Frame ``box`` (x1, y1, x2, y2 in pixels), with ``label`` on a plate above it, or inside if there is no room.

        Control characters in ``label`` are spelled out.
        """
        label = terminal_text(label)
        left, top, right, bottom = _whole_pixels(box)
        cv2.rectangle(self.im, (left, top), (right, bottom), color, thickness=self.line_width)
        if not label:
            return
        width, height = self.plate_size(label)
        corner = max(min(left, self.im.shape[1] - width), 0), top - height if top >= height else top
        self.plate(corner, label, color, txt_color)

    def plate_size(self, label: str) -> tuple[int, int]:
        """Width and height in pixels of the plate of a label."""
        text_width, text_height = self._measure(terminal_text(label))
        return text_width, text_height + 3

    def plate(self, corner: tuple[int, int], label: str, color: Colour, txt_color: Colour = WHITE) -> None:
        """Draw ``label`` on a plate of ``color`` with its upper left corner at ``corner``."""
        width, height = self.plate_size(label)
        left, top = corner
        cv2.rectangle(self.im, corner, (left + width, top + height), color, cv2.FILLED)
        self._write((left, top + 1), terminal_text(label), txt_color)

    def rectangle(self, xy: Sequence[float], color: Colour = WHITE, width: int = 1) -> None:
        """Draw a frame of ``width`` pixels around x1, y1, x2, y2."""
        left, top, right, bottom = _whole_pixels(xy)
        cv2.rectangle(self.im, (left, top), (right, bottom), color, thickness=width)

    def text(self, xy: Sequence[float], text: str, txt_color: Colour = WHITE) -> None:
        """Draw ``text`` with its upper left corner at ``xy``."""
        self._write((round(float(xy[0])), round(float(xy[1]))), terminal_text(text), txt_color)

    def result(self) -> np.ndarray:
        """Return the image with everything drawn so far."""
        return self.im

    def _font(self) -> Any:
        return load_font(self._characters, self.font_size)

    def _measure(self, text: str) -> tuple[int, int]:
        """Width and height of ``text`` in pixels."""
        if text not in self._sizes:
            self._sizes[text] = self._measured(text)
        return self._sizes[text]

    def _measured(self, text: str) -> tuple[int, int]:
        if self.pil:
            left, _, right, bottom = self._font().getbbox(text)
            return int(right - min(left, 0)) + 2, int(bottom) + 1
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self.line_width / 3, self._weight())
        return width, height + below

    def _weight(self) -> int:
        return max(self.line_width - 1, 1)

    def _write(self, corner: tuple[int, int], text: str, color: Colour) -> None:
        if not self.pil:
            scale, weight = self.line_width / 3, self._weight()
            (_, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
            baseline = corner[0], corner[1] + height
            cv2.putText(self.im, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, color, weight, cv2.LINE_AA)
            return
        from PIL import Image, ImageDraw

        # PIL gets only the patch behind the text: otherwise every label would copy the whole picture twice.
        width, height = self._measure(text)
        left, top = max(corner[0], 0), max(corner[1], 0)
        patch = self.im[top : top + height, left : left + width]
        if patch.size:
            picture = Image.fromarray(np.ascontiguousarray(patch))
            ImageDraw.Draw(picture).text((corner[0] - left, corner[1] - top), text, fill=color, font=self._font())
            patch[:] = np.asarray(picture)


def _whole_pixels(box: Sequence[float]) -> list[int]:
    """Round x1, y1, x2, y2, which may be tensors of one number."""
    return [round(float(value)) for value in box]


@dataclass(frozen=True)
class BoxStyle:
    """Style of drawn detections.

    Attributes:
        line_width: of the boxes in pixels; None for 3/1000 of the mean side length of the image.
        hide_labels: draw the boxes alone. hide_confidence: label them with the class name alone.
    """

    line_width: int | None = None
    hide_labels: bool = False
    hide_confidence: bool = False


def draw_detections(
    image: np.ndarray,
    detections: Sequence[Sequence[float]],
    names: Mapping[int, str],
    style: BoxStyle,
    bgr: bool = True,
) -> np.ndarray:
    """Draw detections into a copy of ``image`` (H, W, 3) uint8, the last on top.

    Args:
        image: BGR, or RGB without ``bgr``; it sets the order of the colours.
        detections: rows x1, y1, x2, y2 in pixels of the image, confidence, class index.
        names: {class index: name}.
        style: of boxes and labels.
        bgr: the order of the channels.
    """
    annotator = Annotator(image.copy(), line_width=style.line_width, example=" ".join(names.values()))
    for *box, confidence, class_index in detections:
        index = int(class_index)
        label = ""
        if not style.hide_labels:
            label = names.get(index, f"class{index}")
            if not style.hide_confidence:
                label += f" {confidence:.2f}"
        annotator.box_label(box, label, color=colors(index, bgr))
    return annotator.result()


def crop_box(
    native: np.ndarray,
    box: Sequence[float],
    gain: float = CROP_GAIN,
    padding: float = CROP_PADDING,
    square: bool = False,
) -> np.ndarray:
    """Crop ``native`` (H, W, 3) to ``box`` (x1, y1, x2, y2 pixels), enlarged by the factor ``gain`` and then padded.

    ``square`` first makes the shorter side as long as the other one.
    """
    height, width = native.shape[:2]
    x1, y1, x2, y2 = box
    sides = x2 - x1, y2 - y1
    if square:
        sides = max(sides), max(sides)
    half_width = (sides[0] * gain + padding) / 2
    half_height = (sides[1] * gain + padding) / 2
    center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, right = max(int(center_x - half_width), 0), min(int(center_x + half_width), width)
    top, bottom = max(int(center_y - half_height), 0), min(int(center_y + half_height), height)
    return native[top:bottom, left:right]


def write_picture(path: str | Path, image: np.ndarray, quality: int = 95, full_colour: bool = False) -> None:
    """Save ``image`` (H, W, 3 BGR or H, W) in the format of the suffix, atomically; the path may have any characters.

    With ``full_colour`` a JPEG keeps the colour of each pixel (no chroma subsampling). Raises InputError if OpenCV
    cannot encode the format.
    """
    target = Path(path)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if target.suffix.lower() in (".jpg", ".jpeg") else []
    if parameters and full_colour:
        parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    if not cv2.haveImageWriter(f"picture{target.suffix}"):
        raise InputError(f"cannot write {target}: OpenCV has no encoder for {target.suffix!r}; use .jpg or .png")
    try:
        done, encoded = cv2.imencode(target.suffix, image, parameters)
    except cv2.error:  # empty, or larger than the format takes
        done = False
    if not done:
        raise InputError(f"cannot write {target}: OpenCV could not encode the image of shape {image.shape}")
    with atomic_path(target, sync=False) as draft:
        draft.write_bytes(encoded.tobytes())
