"""The report of a pruning: the table of layers as text, and everything as report.json and report.html."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from prune_tools.report.page import render
from prune_tools.report.pictures import draw_gammas, layer_widths, picture_detections, spread
from prune_tools.report.sensitivity_view import draw_sensitivity
from prune_tools.report.sweep_view import draw_sweep
from prune_tools.report.table import Row
from utils.drawing.annotator import colors
from utils.storage.files import atomic_path, write_json
from utils.version import PROGRAM, __version__

PICTURES = 6  # validation images on which two models are shown side by side
PICTURE_SIDE = 480  # pixels, at most
JPEG_QUALITY = 85
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "opencv-python")


def layer_table(before: nn.Module, after: nn.Module) -> str:
    """A line for each batch norm: name, original channels, remaining channels, share that remains."""
    original, remaining = layer_widths(before), layer_widths(after)
    width = max(len("layer"), *map(len, original))
    lines = [f"{'layer':<{width}}  {'original':>8}  {'remaining':>9}  {'kept':>6}"]
    lines += [
        f"{name:<{width}}  {count:>8}  {remaining[name]:>9}  {remaining[name] / count:>6.0%}"
        for name, count in original.items()
    ]
    total, left = sum(original.values()), sum(remaining.values())
    lines.append(f"{'all':<{width}}  {total:>8}  {left:>9}  {left / total:>6.0%}")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of this program, Python and the libraries; the processor, GPU and system of the measurements."""
    names = {PROGRAM: __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            names[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    names["processor"] = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names["GPU"] = torch.cuda.get_device_name()
    return {**names, "system": f"{platform.system()} {platform.release()}"}


@dataclass
class Report:
    """A finished pruning.

    Attributes:
        title: of the page.
        rows: the models in order; the others are compared with the first.
        widths: channels of each layer before and after (see ``layer_widths``).
        gammas: a ``pictures.gamma_histogram``.
        commands: the commands that made the models.
        export: the command that exports the model.
        notes: a line from the plan and from each repair.
        surveys: the content of sweep.json and sensitivity.json, by command, as far as they were run.
        images: names of the pictures in ``detections``.
        detections: by step, images (H, W, 3) BGR with that model's detections drawn in.
        classes: names by class index, for the legend of their colours.
    """

    title: str
    rows: Sequence[Row]
    widths: tuple[Mapping[str, int], Mapping[str, int]]
    gammas: Mapping[str, Any]
    commands: Sequence[str]
    export: str
    notes: Sequence[str] = ()
    surveys: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: Sequence[str] = ()
    detections: dict[str, Sequence[np.ndarray]] = field(default_factory=dict)
    classes: Mapping[int, str] = field(default_factory=dict)

    def show_detections(
        self, checkpoints: Mapping[str, Path | str], images: Sequence[str], image_size: int, device: str
    ) -> None:
        """Add the detections of the models of ``checkpoints`` (by step) in a few of the images."""
        shown = spread(images, PICTURES)
        self.images = [Path(file).name for file in shown]
        for step, file in checkpoints.items():
            self.detections[step], self.classes = picture_detections(file, shown, image_size, device)

    def figures(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        before, after = self.widths
        return {
            "title": self.title,
            "made": datetime.now().isoformat(sep=" ", timespec="minutes"),
            "steps": [asdict(row) for row in self.rows],
            "layers": [{"name": name, "before": count, "after": after[name]} for name, count in before.items()],
            "gammas": dict(self.gammas),
            "sweep": self.surveys.get("sweep"),
            "sensitivity": self.surveys.get("sensitivity"),
            "images": list(self.images),
            "classes": [{"name": name, "rgb": list(colors(index))} for index, name in self.classes.items()],
            "export": self.export,
            "commands": list(self.commands),
            "notes": list(self.notes),
            "versions": versions(),
        }

    def save(self, folder: Path) -> None:
        """Write report.json and report.html."""
        figures = self.figures()
        write_json(folder / "report.json", figures)
        detections = {step: [_jpeg(tile) for tile in tiles] for step, tiles in self.detections.items()}
        page = render(figures, self._diagrams(), detections)
        with atomic_path(folder / "report.html") as draft:
            draft.write_text(page, encoding="utf-8")

    def _diagrams(self) -> dict[str, bytes]:
        """The diagrams as PNG files, by name."""
        draws: dict[str, Callable[[Path], None]] = {"gammas": partial(draw_gammas, self.gammas)}
        for name, draw in (("sweep", draw_sweep), ("sensitivity", draw_sensitivity)):
            survey = self.surveys.get(name)
            if survey:
                draws[name] = partial(draw, survey["points"], survey["conclusion"])
        drawn = {}
        with TemporaryDirectory() as folder:
            for name, call in draws.items():
                call(Path(folder) / f"{name}.png")
                drawn[name] = (Path(folder) / f"{name}.png").read_bytes()
        return drawn


def _jpeg(picture: np.ndarray) -> bytes:
    """A BGR picture as JPEG, at most PICTURE_SIDE pixels wide and high."""
    scale = PICTURE_SIDE / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
