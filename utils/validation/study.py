"""Study of image sizes: accuracy and speed of checkpoints from small images to large ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.drawing.charts import new_figure, save_figure
from utils.log import LOGGER, colorstr
from utils.storage.files import atomic_path
from utils.storage.folder_lock import claimed_folder
from utils.training_record import TrainingRecord, with_record
from utils.validation.options import ValOptions

SIZES = tuple(range(256, 1537, 128))  # pixels
MAP_COLUMN, TIMES = 3, slice(7, 10)  # of a row: mAP50-95; milliseconds of pre-process, inference and NMS


def run_study(options: ValOptions, validate: Callable[..., tuple], record: TrainingRecord) -> Path:
    """Validate each checkpoint at every image size; write the figures and study.png, and return the run folder.

    ``validate`` is called as ``val.run`` is, and returns the same; ``record`` is that of the first checkpoint.
    """
    options = with_record(options, record, fields=("data",))
    with claimed_folder(Path(options.project) / options.name, options.exist_ok) as folder:
        keywords = vars(options) | {"task": "val", "plots": False, "save_dir": folder}
        data = keywords.pop("data")
        files = []
        for weights in keywords.pop("weights"):
            file = study_file(folder, data, weights)
            files.append(file)
            rows = []
            for size in SIZES:
                LOGGER.info(f"\n{weights} at {size} pixels:")
                results, _, milliseconds = validate(data, weights, **(keywords | {"imgsz": size}))
                rows.append((*results, *milliseconds))
                write_study(file, rows)  # after each size, so that what has been measured is kept
        zip_studies(files, folder / "study.zip")
        plot_studies(files, folder / "study.png", SIZES)
        LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}")
    return folder


def study_file(folder: Path, data: str, weights: str) -> Path:
    """File for the rows of one checkpoint: study_<stem of the data set>_<stem of the weights>.txt."""
    return folder / f"study_{Path(data).stem}_{Path(weights).stem}.txt"


def write_study(file: Path, rows: Sequence[Sequence[float]]) -> None:
    """Write rows of 10 numbers: P, R, mAP50, mAP50-95, box, objectness, class loss; three times in milliseconds."""
    text = ""
    for row in rows:
        text += " ".join(f"{value:10.4g}" for value in row) + "\n"
    with atomic_path(file) as draft:
        draft.write_text(text, encoding="utf-8")


def zip_studies(files: Sequence[Path], target: Path) -> None:
    """Pack the files into ``target``."""
    with atomic_path(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)


def plot_studies(files: Sequence[Path], target: Path, sizes: Sequence[int]) -> None:
    """Draw mAP50-95 over the time per image: a line for each file, its points labelled with the image size."""
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    for file in files:
        rows = np.loadtxt(file, ndmin=2)
        milliseconds, accuracy = rows[:, TIMES].sum(1), 100 * rows[:, MAP_COLUMN]
        axes.plot(milliseconds, accuracy, marker=".", markersize=8, label=file.stem.removeprefix("study_"))
        for x, y, size in zip(milliseconds, accuracy, sizes, strict=True):
            axes.annotate(str(size), (x, y), textcoords="offset points", xytext=(0, 6), fontsize=7, ha="center")
    axes.set(xlabel="milliseconds per image (pre-process, inference, NMS)", ylabel="mAP@.5:.95 in %", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    save_figure(figure, target, dpi=250)
