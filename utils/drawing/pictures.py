"""Pictures of data: batches with their boxes, statistics of the labels, feature maps. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.dataset.classes import names_by_index
from utils.drawing.annotator import Annotator, colors, write_picture
from utils.drawing.charts import name_in_chart, new_figure, save_figure
from utils.drawing.objects import class_legend, draw_objects
from utils.geometry.boxes import xywh2xyxy, xyxy2xywh
from utils.log import LOGGER
from utils.storage.files import atomic_path, make_folder

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST_SCALE = 2.0  # small images are enlarged by at most as much
FONT_SHARE = 0.018  # of the mean side of an image
SMALLEST_FONT = 10  # pixels
SHOWN_CONFIDENCE = 0.25  # less certain predictions are not drawn
MAX_NAME_TICKS = 30  # with more classes, the bars of labels.jpg have no names
DRAWN_BOXES = 1000  # of labels.jpg
CANVAS = 2000  # side of its picture of boxes, pixels
Names = Mapping[int, str] | Sequence[str] | None


def output_to_target(output: Sequence[torch.Tensor | NDArray], max_det: int = 300) -> NDArray:
    """Convert the detections of a batch for ``plot_images``.

    Args:
        output: for each image (N, 6) x1, y1, x2, y2, confidence, class, best first.
        max_det: maximum number of detections per image.

    Returns:
        (n, 7) image index, class, centre x, centre y, width, height, confidence.
    """
    rows = [np.zeros((0, 7), dtype=np.float32)]
    for index, detections in enumerate(output):
        kept = _to_array(detections[:max_det])  # (k, 6)
        image = np.full((len(kept), 1), index, dtype=np.float32)
        rows.append(np.concatenate((image, kept[:, 5:6], xyxy2xywh(kept[:, :4]), kept[:, 4:5]), 1))
    return np.concatenate(rows)


def plot_images(
    images: torch.Tensor | NDArray,
    targets: torch.Tensor | NDArray,
    paths: Sequence[str | Path] | None = None,
    fname: str | Path = "images.jpg",
    names: Names = None,
    max_size: int = 1920,
    max_subplots: int = 16,
) -> None:
    """Save the first images of a batch as one picture, filled column by column, with their boxes and file names.

    A box has its label beside it where that hides no other object; otherwise its colour says its class, and a legend
    below the images names the colours.

    Args:
        images: (B, 3, H, W) RGB, 0..1 or 0..255.
        targets: (n, 6) image index, class, centre x, centre y, width, height, in pixels, or normalised if none exceeds
            1.01. If there is a seventh column, it is the confidence, and rows up to .25 are not drawn.
        paths: of the images, whose file names are written into them.
        fname: file to write.
        names: of the classes; without them the indices are written, and there is no legend.
        max_size: maximum of the longer side of the images together in pixels. Small ones are enlarged up to twice.
        max_subplots: maximum number of images.
    """
    pixels = _to_array(images[:max_subplots])
    rows = _to_array(targets)
    if pixels.max(initial=0) <= 1:
        pixels = pixels * 255
    batch, _, height, width = pixels.shape
    side = math.ceil(batch**0.5)  # of the grid, in images
    scale = min(max_size / side / max(height, width), LARGEST_SCALE)
    cell_height, cell_width = math.ceil(scale * height), math.ceil(scale * width)
    canvas = np.full((side * cell_height, side * cell_width, 3), 255, dtype=np.uint8)

    if rows[:, 2:6].max(initial=0) > 1.01:
        rows = rows / np.array([1, 1, width, height, width, height] + [1] * (rows.shape[1] - 6), dtype=rows.dtype)
    if rows.shape[1] > 6:
        rows = rows[rows[:, 6] > SHOWN_CONFIDENCE]
    known = names_by_index(names)
    font_size = max(round((cell_height + cell_width) / 2 * FONT_SHARE), SMALLEST_FONT)
    for index in range(batch):
        cell = np.ascontiguousarray(pixels[index].transpose(1, 2, 0)[..., ::-1].round().astype(np.uint8))
        if scale != 1:
            interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            cell = cv2.resize(cell, (cell_width, cell_height), interpolation=interpolation)
        title = Path(paths[index]).name[:40] if paths else ""
        example = " ".join((*known.values(), title))
        annotator = Annotator(cell, max(round(font_size / 10), 1), font_size, pil=True, example=example)
        _draw_targets(annotator, rows[rows[:, 0] == index], known)
        annotator.rectangle((0, 0, cell_width - 1, cell_height - 1), (255, 255, 255), 1)
        annotator.text((6, 6), title, (50, 50, 50))  # a shadow, for bright images
        annotator.text((5, 5), title, (230, 230, 230))
        left, top = index // side * cell_width, index % side * cell_height
        canvas[top : top + cell_height, left : left + cell_width] = annotator.result()
    shown = sorted(set(rows[rows[:, 0] < batch, 1].astype(int).tolist()) & set(known))
    write_picture(fname, np.concatenate((canvas, class_legend(shown, known, canvas.shape[1], font_size))))


def _draw_targets(annotator: Annotator, rows: NDArray, names: dict[int, str]) -> None:
    """Draw normalised boxes (n, 6 or 7) into one image."""
    height, width = annotator.result().shape[:2]
    boxes = xywh2xyxy(rows[:, 2:6]) * np.array([width, height] * 2)  # (n, 4)
    draw_objects(annotator, boxes, rows[:, 1].astype(int), names, rows[:, 6] if rows.shape[1] > 6 else None)


def _to_array(values: torch.Tensor | NDArray) -> NDArray:
    return values.astype(np.float32) if isinstance(values, np.ndarray) else values.detach().float().cpu().numpy()


def plot_labels(labels: NDArray, names: Names = (), save_dir: str | Path = "") -> None:
    """Save labels.jpg (1600 x 1600) and labels_correlogram.jpg (2000 x 2000) of ``labels`` (n, 5: class, xywh).

    The first shows the number of labels per class, the first 1000 boxes around a common centre, and the distribution of
    positions and sizes; the second shows every pair of x, y, width and height. Without labels nothing is drawn.
    """
    if not len(labels):
        LOGGER.warning("no labels to draw: labels.jpg and labels_correlogram.jpg are not written")
        return
    folder, known = Path(save_dir), names_by_index(names)
    classes, boxes = labels[:, 0].astype(int), labels[:, 1:5]
    LOGGER.info(f"Plotting labels to {folder / 'labels.jpg'}... ")

    figure = new_figure(8, 8)
    histogram, drawing, positions, sizes = figure.subplots(2, 2).ravel()
    class_count = max(int(classes.max()) + 1, len(known))
    bar_colors = [np.array(colors(index)) / 255 for index in range(class_count)]
    histogram.bar(range(class_count), np.bincount(classes, minlength=class_count), color=bar_colors)
    histogram.set_ylabel("labels")
    if known and class_count <= MAX_NAME_TICKS:
        ticks = [name_in_chart(known.get(index, str(index))) for index in range(class_count)]
        histogram.set_xticks(range(class_count), ticks, rotation=90, fontsize=10)
    else:
        histogram.set_xlabel("classes")
    drawing.imshow(_boxes_about_centre(classes[:DRAWN_BOXES], boxes[:DRAWN_BOXES]))
    drawing.axis("off")
    _density(positions, boxes[:, 0], boxes[:, 1], "x", "y")
    _density(sizes, boxes[:, 2], boxes[:, 3], "width", "height")
    save_figure(figure, folder / "labels.jpg", dpi=200)
    save_figure(_correlogram(boxes), folder / "labels_correlogram.jpg", dpi=200)


def _boxes_about_centre(classes: NDArray, boxes: NDArray) -> NDArray:
    """Draw outlines of normalised boxes (n, 4), all moved to the middle of a white canvas, RGB."""
    canvas = np.full((CANVAS, CANVAS, 3), 255, dtype=np.uint8)
    centre = CANVAS / 2
    for index, (half_width, half_height) in zip(classes, boxes[:, 2:] * CANVAS / 2, strict=True):
        low = round(centre - half_width), round(centre - half_height)
        high = round(centre + half_width), round(centre + half_height)
        cv2.rectangle(canvas, low, high, colors(int(index)), thickness=2)
    return canvas


def _density(axes: Axes, x: NDArray, y: NDArray, x_label: str, y_label: str, bins: int = 50) -> None:
    """Draw a two-dimensional histogram; empty bins stay white."""
    axes.hist2d(x, y, bins=bins, cmin=1, cmap="Blues")
    axes.set(xlabel=x_label, ylabel=y_label)


def _correlogram(boxes: NDArray) -> Figure:
    """Draw histograms of x, y, width and height on the diagonal, and of their pairs below it."""
    titles = ("x", "y", "width", "height")
    figure = new_figure(10, 10)
    grid = figure.subplots(4, 4)
    for row, column in np.ndindex(4, 4):
        axes = grid[row, column]
        if row < column:
            axes.axis("off")
        elif row == column:
            axes.hist(boxes[:, row], bins=50)
            axes.set(xlabel=titles[row], ylabel="labels")
        else:
            _density(axes, boxes[:, column], boxes[:, row], titles[column], titles[row])
    return figure


def feature_visualization(
    x: torch.Tensor, module_type: str, stage: int, n: int = 32, save_dir: str | Path = "runs/detect/exp"
) -> None:
    """Save the first ``n`` channels of a layer's output (B, C, H, W) as a picture, and all of them as .npy.

    Only the first image of the batch is shown, 8 channels per row. The file is called stage5_Conv_features.png, after
    the layer's index ``stage`` and class ``module_type``, which may be a dotted name. Detection heads and maps of
    1 x 1 are skipped.
    """
    if "Detect" in module_type or x.ndim != 4 or max(x.shape[2:]) <= 1:
        return
    target = make_folder(save_dir) / f"stage{stage}_{module_type.split('.')[-1]}_features.png"
    maps = x[0].detach().float().cpu().numpy()
    shown = maps[:n]
    figure = new_figure(16, 2 * math.ceil(len(shown) / 8))
    grid = figure.subplots(math.ceil(len(shown) / 8), 8, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, channel in zip(grid, shown, strict=False):
        axes.imshow(channel)
    LOGGER.info(f"Saving {target}... ({len(shown)}/{len(maps)})")
    save_figure(figure, target, dpi=100)
    with atomic_path(target.with_suffix(".npy")) as draft:
        np.save(draft, maps)
