#!/usr/bin/env python3
"""Training, validation and detection on a GPU, compared with another checkout of YOLOv5 if one is given.

    python benchmarks/gpu.py                              # on drawn pictures; under 4 minutes
    python benchmarks/gpu.py --data data/mask.yaml --beside ../yolov5

Each checkout's train.py and detect.py are started with the same flags, in turns. The checkout needs no change: the
times of its optimizer steps, of the rows in its results.csv and of its label files are enough.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.checkouts import RowWatch, start, training_figures
from benchmarks.figures import GPU_TITLE
from benchmarks.material import demo_data
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.dataset.description import check_dataset
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT, atomic_path

DETECTED_PICTURES = 400
ROWS = {
    "step": "training step, ms",
    "epoch": "epoch with validation and saving, s",
    "gap": "of it: from the last epoch's row in results.csv to the first step, s",
    "validation": "of it: from the last step to the row, s",
    "busy": "share of a step for which the GPU computes",
    "kernels": "kernels in a step",
    "launches": "launches in a step",
    "memory": "memory reserved, GB",
    "loss": "loss of the last epoch (box + objectness + class)",
    "detection": "detection, images/s",
}


@dataclass
class GpuOptions:
    """Options of the benchmark."""

    data: str = option("", "data set YAML; default: drawn pictures")
    models: list[str] = option(["yolov5n", "yolov5s"], "architectures of models/", nargs="+")
    sizes: list[int] = option([320, 640], "image sizes, pixels", nargs="+")
    batch_size: int = option(64, "images in a batch")
    epochs: int = option(6, "epochs of each run")
    beside: str = option("", "folder of another checkout of YOLOv5, measured with the same flags in turns")
    device: str = option("0", "GPU")
    workers: int = option(8, "loader processes")
    write: bool = option(False, "write the section of docs/BENCHMARKS.md")
    flags: str = option("", "further flags of our train.py, such as --no-cuda-graph")


def measure(checkout: Path, options: GpuOptions, model: str, size: int, folder: Path) -> dict[str, float]:
    """Return the figures of one checkout by the names of ROWS. Raises InputError if one of its commands fails."""

    def arguments_of(name: str, *more: str) -> list[object]:
        return [*common, "--name", name, *more, *(options.flags.split() if checkout == ROOT else [])]

    common: list[object] = [
        "--weights", "", "--cfg", str(ROOT / f"models/{model}.yaml"), "--data", str(Path(options.data).resolve()),
        "--imgsz", size, "--batch-size", options.batch_size, "--epochs", options.epochs, "--cache", "ram", "--device",
        options.device, "--workers", options.workers, "--project", str(folder), "--noplots",
    ]  # fmt: skip
    rows = folder / "run/results.csv"
    with RowWatch(rows) as watch:
        notes = start(checkout, "train.py", arguments_of("run"), folder)
    profiled = start(checkout, "train.py", arguments_of("profiled", "--noval", "--nosave"), folder, "profiled")
    figures = training_figures(notes["steps"], notes["milliseconds"], watch.times, options.epochs)
    figures["busy"] = profiled["busy_per_step"] / (figures["step"] / 1e3)
    figures["kernels"] = profiled["kernels_per_step"]
    figures["launches"] = profiled["launches_per_step"]
    figures["memory"] = notes["memory"] / 1e9
    last = rows.read_text().strip().splitlines()[-1].split(",")
    figures["loss"] = sum(map(float, last[1:4]))
    figures["detection"] = detection(checkout, options, folder / "run/weights/best.pt", size, folder)
    return figures


def detection(checkout: Path, options: GpuOptions, weights: Path, size: int, folder: Path) -> float:
    """Return the images per second of detect.py, from the times at which it wrote the label files."""
    arguments: list[object] = [
        "--weights", weights, "--source", link_pictures(options, folder), "--imgsz", size, "--device", options.device,
        "--save-txt", "--nosave", "--conf-thres", 0.001, "--half", "--project", folder, "--name", "detect",
    ]  # fmt: skip
    if checkout == ROOT:
        arguments += ["--batch-size", options.batch_size]
    start(checkout, "detect.py", arguments, folder)
    written = sorted(file.stat().st_mtime for file in (folder / "detect/labels").glob("*.txt"))
    return (len(written) - 1) / (written[-1] - written[0]) if len(written) > 1 else 0.0


def link_pictures(options: GpuOptions, folder: Path) -> Path:
    """Return a folder with DETECTED_PICTURES links to the validation pictures, repeated as often as needed."""
    pictures = find_images(check_dataset(options.data)["val"])
    target = folder / "pictures"
    target.mkdir(exist_ok=True)
    for number in range(DETECTED_PICTURES):
        picture = Path(pictures[number % len(pictures)])
        link = target / f"{number:04d}{picture.suffix}"
        if not link.exists():
            link.symlink_to(picture.resolve())
    return target


def table(model: str, size: int, ours: dict[str, float], other: dict[str, float]) -> str:
    """Return the rows as Markdown; the ratio says how many times as fast, or as much, ours is."""
    lines = [f"| {model}, {size} px | ours | other | ratio |", "| --- | ---: | ---: | ---: |"]
    for name, title in ROWS.items():
        if name not in ours:
            continue
        row = f"| {title} | {ours[name]:.4g} |"
        if name in other:
            if name in ("detection", "busy", "loss"):
                ratio = ours[name] / max(other[name], 1e-9)
            else:
                ratio = other[name] / max(ours[name], 1e-9)
            row += f" {other[name]:.4g} | {ratio:.2f} |"
        else:
            row += " | |"
        lines.append(row)
    return "\n".join(lines)


def main(options: GpuOptions) -> str:
    """Measure everything and return the section."""
    if not torch.cuda.is_available():
        raise InputError("benchmarks/gpu.py measures on an NVIDIA GPU, and torch sees none here")
    start_time = time.time()
    parts = []
    checkouts = {"ours": ROOT} | ({"beside": Path(options.beside).resolve()} if options.beside else {})
    with tempfile.TemporaryDirectory() as name:
        options.data = options.data or demo_data(Path(name))
        for model in options.models:
            for size in options.sizes:
                figures: dict[str, dict[str, float]] = {}
                for title, checkout in checkouts.items():
                    folder = Path(name) / f"{title}-{model}-{size}"
                    folder.mkdir()
                    figures[title] = _measure_or_warn(checkout, options, model, size, folder)
                parts.append(table(model, size, figures["ours"], figures.get("beside", {})))
                LOGGER.info("\n" + parts[-1])
    card = torch.cuda.get_device_properties(0).name
    beside = f", compared with {Path(options.beside).name}" if options.beside else ""
    head = (
        f"`python benchmarks/gpu.py`{beside}, {date.today()}, {(time.time() - start_time) / 60:.1f} minutes: {card}, "
        f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, Python {platform.python_version()}, batch "
        f"{options.batch_size}, mixed precision"
    )
    section = f"## {GPU_TITLE}\n\n{head}\n\n" + "\n\n".join(parts) + "\n"
    if options.write:
        write_section(section)
    return section


def _measure_or_warn(checkout: Path, options: GpuOptions, model: str, size: int, folder: Path) -> dict[str, float]:
    try:
        return measure(checkout, options, model, size, folder)
    except InputError as error:
        LOGGER.warning(str(error))
        return {}


def write_section(section: str, page: Path = ROOT / "docs/BENCHMARKS.md") -> None:
    """Write ``section`` to the page; it replaces an earlier one of the same title."""
    text = page.read_text(encoding="utf-8")
    kept = re.sub(rf"## {GPU_TITLE}\n.*?(?=\n## |\Z)", "", text, flags=re.S).rstrip()
    with atomic_path(page) as draft:
        draft.write_text(f"{kept}\n\n{section}", encoding="utf-8")


if __name__ == "__main__":
    run_command(lambda: LOGGER.info(main(parse(GpuOptions, "Measure on a GPU."))))
