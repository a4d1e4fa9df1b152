"""Pictures of a pruning: gammas, layer widths, detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from models.backends import DetectMultiBackend
from models.loading import load_checkpoint
from utils.augmentations import letterbox
from utils.dataset.images import read_image
from utils.detection.detector import Detector
from utils.device import select_device
from utils.drawing.annotator import Annotator, write_picture
from utils.drawing.charts import new_figure, save_figure
from utils.drawing.objects import class_legend, draw_objects
from utils.errors import InputError
from utils.log import log_once

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 130
REPORT_SIZE = 6.4, 3.8  # inches; letters stay readable on a phone
BINS = 80  # of histograms
TILES = 12  # validation images in the picture of detections
COLUMNS = 4
SMALLEST_TILE = 480  # pixels: small images are enlarged, so that the labels can be read
FONT_SHARE = 1 / 24  # of the side of a picture: the labels are still read where it is shown at half its size
LEGEND_FONT = 24
EMPTY_GREY = 114  # shown instead of a picture that cannot be read; also the grey of letterboxes


def layer_widths(model: nn.Module) -> dict[str, int]:
    """Channels of every batch norm, by module path, in the model's order."""
    return {path: module.num_features for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def gamma_histogram(gammas: Mapping[str, torch.Tensor], threshold: float | None = None) -> dict[str, Any]:
    """Histogram of |gamma|: common edges (BINS + 1,), counts (BINS,) and the median of each series of gammas (C,).

    ``threshold`` is the value below which channels are removed; None where layers have different ones.
    """
    series = {name: values.detach().abs().float().cpu().numpy() for name, values in gammas.items()}
    largest = max((float(values.max()) for values in series.values() if len(values)), default=0.0) or 1.0
    edges = np.linspace(0, largest, BINS + 1)
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": {name: np.histogram(values, edges)[0].tolist() for name, values in series.items()},
        "median": {name: float(np.median(values)) if len(values) else None for name, values in series.items()},
        "threshold": threshold,
    }


def draw_gammas(histogram: Mapping[str, Any], path: Path) -> None:
    """Draw a ``gamma_histogram`` as outlines, none of which hides another, with the counts on a logarithmic axis."""
    figure = new_figure(*REPORT_SIZE)
    axes = figure.subplots()
    for color, (name, counts) in zip(("#3b5b9d", "#d95f02"), histogram["counts"].items(), strict=False):
        median = histogram["median"][name]
        label = name if median is None else f"{name}, median {median:.2g}"
        axes.stairs(counts, histogram["edges"], fill=True, alpha=0.15, color=color)
        axes.stairs(counts, histogram["edges"], label=label, color=color, linewidth=1.4)
    if histogram["threshold"] is not None:
        title = f"threshold {histogram['threshold']:.2g}"
        axes.axvline(histogram["threshold"], color="#444444", linestyle="--", linewidth=1, label=title)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)  # a bin with one channel is still seen
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="|gamma| of the prunable channels", ylabel="channels in each bin (logarithmic)")
    finish(axes)
    save_figure(figure, path, DPI)


def finish(axes: Axes) -> None:
    """Give a diagram the common style: a legend without a frame, no lines above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def draw_widths(before: nn.Module, after: nn.Module, path: Path) -> None:
    """Draw the channels of every layer before and after pruning."""
    original, remaining = layer_widths(before), layer_widths(after)
    positions = range(len(original))
    figure = new_figure(11, 3.8)
    axes = figure.subplots()
    axes.bar(positions, list(original.values()), color="#d9d9d9", label="base")
    axes.bar(positions, [remaining[name] for name in original], color="#66c2a5", label="pruned")
    names = [name.removeprefix("model.").removesuffix(".bn") for name in original]
    axes.set_xticks(positions, names, rotation=90, fontsize=6)
    axes.set_ylabel("channels")
    axes.margins(x=0.01)
    finish(axes)
    save_figure(figure, path, DPI)


def picture_detections(
    weights: Path | str, images: Sequence[str], image_size: int, device: str
) -> tuple[list[np.ndarray], dict[int, str]]:
    """Each image with the detections of the model of ``weights`` drawn in.

    Returns:
        The pictures (S, S, 3) BGR, S the image size but at least SMALLEST_TILE, and the classes by index.
    """
    detector = Detector(DetectMultiBackend(weights, select_device(device)))
    side = max(image_size, SMALLEST_TILE)
    tiles = []
    for file in images:
        try:
            native = read_image(file)
        except InputError as error:
            log_once(f"WARNING: an empty picture is shown instead: {error}")
            tiles.append(np.full((side, side, 3), EMPTY_GREY, np.uint8))
            continue
        network_input = letterbox(native, image_size, stride=detector.model.stride)[0]
        rgb = np.ascontiguousarray(network_input[..., ::-1].transpose(2, 0, 1))  # (3, H, W)
        detections = detector(rgb, native.shape[:2]).cpu().numpy()  # (N, 6), best first
        tile, scale, padding = letterbox(native, side, auto=False)
        boxes = detections[:, :4] * (*scale, *scale) + (*padding, *padding)  # (N, 4) in pixels of the tile
        example = " ".join(detector.names.values())
        annotator = Annotator(tile.copy(), 2, round(side * FONT_SHARE), pil=True, example=example)
        draw_objects(annotator, boxes, detections[:, 5].astype(int), detector.names, detections[:, 4])
        tiles.append(annotator.result())
    return tiles, dict(detector.names)


def spread(images: Sequence[str], count: int) -> list[str]:
    """``count`` of the images, evenly spread over them; all if there are no more."""
    count = min(count, len(images))
    return [images[index * len(images) // count] for index in range(count)]


def _sheet(tiles: list[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of equal size in rows of COLUMNS; the last row is filled with white."""
    blank = np.full_like(tiles[0], 255)
    tiles = tiles + [blank] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)


def draw_run(
    checkpoints: dict[str, Path], image_paths: Sequence[str], image_size: int, device: str, folder: Path
) -> None:
    """Write widths.png and detections.jpg of a finished pipeline run into ``folder``."""
    before = load_checkpoint(next(iter(checkpoints.values())))["model"].float()  # of the first step
    pruned = load_checkpoint(checkpoints["pruned"])["model"].float()
    draw_widths(before, pruned, folder / "widths.png")
    tiles, names = picture_detections(checkpoints["finetuned"], image_paths[:TILES], image_size, device)
    sheet = _sheet(tiles)
    legend = class_legend(list(names), names, sheet.shape[1], LEGEND_FONT)
    write_picture(folder / "detections.jpg", np.concatenate((sheet, legend)))
