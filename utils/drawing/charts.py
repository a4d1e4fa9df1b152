"""Diagrams of a run: precision and recall curves, confusion matrix, results over the epochs.

They are drawn with matplotlib's objects on separate canvases, so the caller's backend and styles do not change.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils.drawing.fonts import DEFAULT_FAMILY, find_font
from utils.errors import InputError, MissingFileError
from utils.log import terminal_text
from utils.storage.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND_LIMIT = 20  # with more classes, curves are grey, and only their mean is in the legend
NUMBER_LIMIT = 30  # from as many classes on, the confusion matrix shows colours without numbers
NAME_LIMIT = 99  # from as many classes on, its ticks have no names
LONGEST_NAME = 40  # characters of a class name that are drawn
BLANK_SHARE = 0.005  # smaller shares stay white
PNG_COMPRESSION = 1  # of 9; with the usual 6, compression takes half the time of drawing
SMOOTHING_POINTS = 3  # standard deviation of the smoothed line of results.png, in epochs
# results.png, row by row: (title, column of results.csv).
RESULT_PANELS = (
    ("box, train", "train/box_loss"),
    ("objectness, train", "train/obj_loss"),
    ("classes, train", "train/cls_loss"),
    ("precision", "metrics/precision"),
    ("recall", "metrics/recall"),
    ("box, val", "val/box_loss"),
    ("objectness, val", "val/obj_loss"),
    ("classes, val", "val/cls_loss"),
    ("mAP@.5", "metrics/mAP_0.5"),
    ("mAP@.5:.95", "metrics/mAP_0.5:0.95"),
)


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` x ``height`` inches on an Agg canvas, unknown to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="tight")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write ``figure`` to ``path`` atomically; names in other scripts get a font that has them, if one is installed."""
    from matplotlib.text import Text

    texts: list[Any] = figure.findobj(Text)
    characters = "".join(sorted(set("".join(text.get_text() for text in texts))))
    if not characters.isascii():
        families = list(dict.fromkeys((DEFAULT_FAMILY, find_font(characters)[1])))
        for text in texts:
            text.set_fontfamily(families)
    with warnings.catch_warnings(), atomic_path(path) as draft:
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as boxes if no font has them
        figure.savefig(draft, dpi=dpi, pil_kwargs={"compress_level": PNG_COMPRESSION})


def name_in_chart(name: str) -> str:
    """Prepare a class name for matplotlib: shortened, without control characters and formulas."""
    text = terminal_text(name)
    text = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}\u2026"
    return text.replace("$", r"\$")


def smooth(y: NDArray, f: float = 0.05) -> NDArray:
    """Smooth ``y`` (n,) with a box filter over a share 2 * ``f`` of its points; its ends are repeated -> (n,)."""
    taps = round(len(y) * f * 2) // 2 + 1
    padded = np.pad(np.asarray(y, dtype=float), taps // 2, mode="edge")
    return np.convolve(padded, np.full(taps, 1 / taps), mode="valid")[: len(y)]


def plot_pr_curve(
    px: NDArray, py: NDArray, ap: NDArray, save_dir: str | Path = "pr_curve.png", names: Sequence[str] = ()
) -> None:
    """Draw precision (C, K) over recall ``px`` (K,), with each class's AP at IoU .5, the first column of ``ap`` (C, T).

    ``save_dir`` is the file to write, 2250 x 1500 pixels.
    """
    labels = [f"{name_in_chart(name)} {value:.3f}" for name, value in zip(names, ap[:, 0], strict=False)]
    mean = f"all classes {ap[:, 0].mean():.3f} mAP@0.5" if len(ap) else "no classes"
    figure = _curves(px, py, labels, mean)
    figure.axes[0].set(xlabel="Recall", ylabel="Precision")
    save_figure(figure, save_dir, dpi=250)


def plot_mc_curve(
    px: NDArray,
    py: NDArray,
    save_dir: str | Path = "mc_curve.png",
    names: Sequence[str] = (),
    xlabel: str = "Confidence",
    ylabel: str = "Metric",
) -> None:
    """Draw a metric (C, K) of every class over confidence ``px`` (K,); ``save_dir`` is the file, 2250 x 1500 pixels.

    The legend gives the confidence at which the smoothed mean is largest.
    """
    mean = "no classes"
    if len(py):
        level = smooth(py.mean(0), 0.05)
        mean = f"all classes {level.max():.2f} at {px[level.argmax()]:.3f}"
    figure = _curves(px, py, [name_in_chart(name) for name in names], mean)
    figure.axes[0].set(xlabel=xlabel, ylabel=ylabel)
    save_figure(figure, save_dir, dpi=250)


def _curves(px: NDArray, py: NDArray, labels: list[str], mean_label: str) -> Figure:
    """Draw curves (C, K) over ``px`` (K,) and their mean, on axes from 0 to 1."""
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    if 0 < len(labels) <= LEGEND_LIMIT:
        for curve, label in zip(py, labels, strict=True):
            axes.plot(px, curve, linewidth=1, label=label)
    elif len(py):
        axes.plot(px, py.T, linewidth=1, color="lightgrey")
    if len(py):
        axes.plot(px, py.mean(0), linewidth=3, color="blue", label=mean_label)
        axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def plot_confusion_matrix(matrix: NDArray, names: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix (nc + 1, nc + 1), 3000 x 2250 pixels: true classes across, predicted ones down."""
    class_count = len(matrix) - 1
    figure = new_figure(12, 9)
    axes = figure.add_subplot()
    shown = np.ma.masked_less(matrix, BLANK_SHARE)
    top = max(float(matrix.max(initial=0)), 1.0)
    edges = np.arange(class_count + 2) - 0.5
    image = axes.pcolormesh(edges, edges, shown, cmap="Blues", vmin=0, vmax=top)  # an image would be resampled
    axes.invert_yaxis()
    figure.colorbar(image, ax=axes)
    if class_count < NUMBER_LIMIT:
        for row, column in zip(*np.nonzero(matrix >= BLANK_SHARE), strict=True):
            value = matrix[row, column]
            text = f"{value:.2f}" if top == 1 else f"{value:.0f}"
            axes.text(column, row, text, ha="center", va="center", color="white" if value > top / 2 else "black")
    if 0 < class_count < NAME_LIMIT and len(names) == class_count:
        ticks, shown_names = range(class_count + 1), [*map(name_in_chart, names)]
        axes.set_xticks(ticks, [*shown_names, "background FP"], rotation=90)
        axes.set_yticks(ticks, [*shown_names, "background FN"])
    axes.set(xlabel="True", ylabel="Predicted")
    save_figure(figure, path, dpi=250)


def read_results(file: str | Path) -> dict[str, NDArray]:
    """Read the columns of a results.csv by name, without surrounding blanks. Raises InputError for any other file."""
    path = Path(file)
    if not path.is_file():
        raise MissingFileError(f"no such results file: {path}")
    with path.open(newline="", encoding="utf-8") as text:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text) if row]
    try:
        header = rows[0]
        values = np.array([list(map(float, row)) for row in rows[1:]])
        return dict(zip(header, values.reshape(-1, len(header)).T, strict=True))
    except (IndexError, ValueError) as error:
        raise InputError(
            f"{path} is not the results.csv of a training run (expected a line of column names, then numbers): {error}"
        ) from error


def plot_results(file: str | Path = "path/to/results.csv", dir: str | Path = "") -> None:
    """Draw every ``results*.csv`` in the folder of ``file`` (or in ``dir``) into ``results.png``, 2400 x 1200 pixels.

    Two rows of five panels: training losses, precision and recall, validation losses, mAPs. Dotted lines are smoothed.
    """
    folder = Path(dir) if dir else Path(file).parent
    files = sorted(folder.glob("results*.csv"))
    if not files:
        raise MissingFileError(f"no results*.csv in {folder}: train there first, or name another folder")
    figure = new_figure(12, 6)
    figure.set_layout_engine("constrained")  # leaves room for the legend
    panels = figure.subplots(2, 5, sharex=True).ravel()
    drawn: dict[str, Any] = {}  # lines of the legend by their labels
    for number, path in enumerate(files):
        columns = read_results(path)
        epochs = columns.get("epoch", np.arange(0))
        for axes, (title, name) in zip(panels, RESULT_PANELS, strict=True):
            axes.set_title(title, fontsize=11)
            if name in columns:
                style = {"color": f"C{number % 10}", "linewidth": 1.5}
                labels = (path.stem, f"{path.stem}, smoothed") if len(files) > 1 else ("each epoch", "smoothed")
                (drawn[labels[0]],) = axes.plot(epochs, columns[name], marker=".", markersize=5, alpha=0.6, **style)
                (drawn[labels[1]],) = axes.plot(epochs, _smooth_line(columns[name]), linestyle=":", **style)
    for axes, (_, name) in zip(panels, RESULT_PANELS, strict=True):
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if name.startswith("metrics/") and axes.lines:
            axes.set_ylim(bottom=0)
    for axes in panels[5:]:
        axes.set_xlabel("epoch")
    if drawn:
        figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, folder / "results.png", dpi=200)


def _smooth_line(values: NDArray) -> NDArray:
    """Average (n,) over neighbouring epochs with Gaussian weights; at the ends over those that exist.

    In a short run fewer neighbours count, so that the line still follows it.
    """
    distance = np.arange(len(values))[:, None] - np.arange(len(values))
    deviation = min(SMOOTHING_POINTS, max(len(values), 1) / 10)
    weight = np.exp(-0.5 * (distance / deviation) ** 2)
    return weight @ values / weight.sum(1)
