"""v6.2's names for drawing: those of utils.drawing, and functions that only other people's code calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from utils.drawing.annotator import CROP_GAIN, CROP_PADDING, Annotator, colors, crop_box, write_picture
from utils.drawing.charts import (
    new_figure,
    plot_confusion_matrix,
    plot_mc_curve,
    plot_pr_curve,
    plot_results,
    save_figure,
)
from utils.drawing.pictures import feature_visualization, output_to_target, plot_images, plot_labels
from utils.log import LOGGER
from utils.metrics import fitness
from utils.other_versions import color_list, plot_one_box
from utils.storage.files import increment_path, make_folder
from utils.validation.study import SIZES, plot_studies

if TYPE_CHECKING:
    import torch

__all__ = [
    "Annotator",
    "color_list",
    "colors",
    "feature_visualization",
    "output_to_target",
    "plot_confusion_matrix",
    "plot_evolve",
    "plot_images",
    "plot_labels",
    "plot_mc_curve",
    "plot_one_box",
    "plot_pr_curve",
    "plot_results",
    "plot_val_study",
    "save_one_box",
]

EVOLVE_METRICS = 7  # first columns of evolve.csv: P, R, mAP50, mAP50-95 and the three validation losses


def plot_evolve(evolve_csv: str | Path = "path/to/evolve.csv") -> None:
    """Draw evolve.png beside a record of evolution: for each hyperparameter its values against the fitness."""
    file = Path(evolve_csv)
    with file.open(encoding="utf-8") as stream:
        names = [name.strip() for name in stream.readline().split(",")][EVOLVE_METRICS:]
        table = np.loadtxt(stream, delimiter=",", ndmin=2)  # (generations, metrics + hyperparameters)
    merit = fitness(table[:, :EVOLVE_METRICS])
    values = table[:, EVOLVE_METRICS:]
    best = int(merit.argmax())
    figure = new_figure(10, 12)
    for number, name in enumerate(names):
        axes = figure.add_subplot(6, 5, number + 1)
        axes.scatter(values[:, number], merit, c=merit, cmap="viridis", alpha=0.8, edgecolors="none")
        axes.plot(values[best, number], merit[best], "k+", markersize=15)
        axes.set_title(f"{name} = {values[best, number]:.3g}", fontsize=9)
        if number % 5:
            axes.set_yticks([])
    save_figure(figure, file.with_suffix(".png"), dpi=200)


def plot_val_study(file: str | Path = "", dir: str | Path = "", x: Sequence[int] | None = None) -> None:
    """Draw study.png of one file of val.py --task study, or of all study*.txt in ``dir``; ``x`` are the image sizes."""
    files = [Path(file)] if file else sorted(Path(dir).glob("study*.txt"))
    target = (Path(file).parent if file else Path(dir)) / "study.png"
    plot_studies(files, target, SIZES if x is None else x)
    LOGGER.info(f"Saving {target}...")


def save_one_box(
    xyxy: Sequence[float] | torch.Tensor,
    im: NDArray,
    file: str | Path = "im.jpg",
    gain: float = CROP_GAIN,
    pad: float = CROP_PADDING,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> NDArray:
    """Crop an image (H, W, 3), RGB unless ``BGR``, to a box x1, y1, x2, y2 in pixels and save it as a JPEG.

    The box is enlarged by the factor ``gain`` and then by ``pad`` pixels, of a square if ``square``. An existing file
    is kept: the crop gets the next free number. Returns the crop in BGR.
    """
    crop = crop_box(im, [float(value) for value in xyxy], gain, pad, square)
    crop = np.ascontiguousarray(crop if BGR else crop[..., ::-1])
    if save:
        make_folder(Path(file).parent)
        write_picture(increment_path(Path(file).with_suffix(".jpg")), crop, full_colour=True)
    return crop
