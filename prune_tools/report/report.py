"""What a pruning gained and lost: the table of layers as text, and one report as report.json and report.html."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn

from prune_tools.report.pictures import layer_widths
from utils.storage.files import atomic_path
from utils.version import PROGRAM, __version__

if TYPE_CHECKING:
    import numpy as np

    from prune_tools.report.table import Row

PICTURES = 6  # validation images on which two models are shown side by side
PICTURE_SIDE = 480  # pixels, at most
JPEG_QUALITY = 85
LIBRARIES = ("torch", "numpy", "opencv-python-headless", "opencv-python")


def layer_table(before: nn.Module, after: nn.Module) -> str:
    """A row for each batch norm: name, original channels, remaining channels, share that remains."""
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
    """Return what the figures were measured with: this program, Python, the libraries, the processor, the system."""
    from importlib import metadata

    import torch

    found = {PROGRAM: __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["processor"] = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return {**found, "system": f"{platform.system()} {platform.release()}"}


@dataclass
class Report:
    """A finished pruning.

    Attributes:
        title: of the page.
        rows: the models in their order, the first being what the others are compared with.
        widths: channels of each layer before and after (see ``layer_widths``).
        gammas: a ``pictures.gamma_histogram``.
        commands: that made the models.
        notes: what the plan and the repairs say of themselves, a line each.
        surveys: 'sweep' and 'sensitivity', as far as they were run: the content of their JSON files.
        images: names of the pictures in ``detections``.
        detections: by step, the images (H, W, 3) BGR with what that model finds drawn in.
    """

    title: str
    rows: Sequence[Row]
    widths: tuple[Mapping[str, int], Mapping[str, int]]
    gammas: Mapping[str, Any]
    commands: Sequence[str]
    notes: Sequence[str] = ()
    surveys: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: Sequence[str] = ()
    detections: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)

    def show_detections(self, checkpoints: Mapping[str, Path | str], images: Sequence[str], image_size: int,
                        device: str) -> None:  # fmt: skip
        """Let the models of ``checkpoints`` (by step) detect in a few of the images."""
        from prune_tools.report.pictures import picture_detections, spread

        chosen = spread(images, PICTURES)
        self.images = [Path(file).name for file in chosen]
        self.detections = {
            step: picture_detections(file, chosen, image_size, device) for step, file in checkpoints.items()
        }

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
            "commands": list(self.commands),
            "notes": list(self.notes),
            "versions": versions(),
        }

    def save(self, folder: Path) -> None:
        """Write report.json and report.html."""
        from prune_tools.report.page import render
        from utils.storage.files import write_json

        figures = self.figures()
        write_json(folder / "report.json", figures)
        page = render(
            figures, self._pictures(), {step: list(map(_jpeg, tiles)) for step, tiles in self.detections.items()}
        )
        with atomic_path(folder / "report.html") as draft:
            draft.write_text(page, encoding="utf-8")

    def _pictures(self) -> dict[str, bytes]:
        """The diagrams as PNG."""
        from prune_tools.report.pictures import draw_gammas
        from prune_tools.report.sensitivity_view import draw_sensitivity
        from prune_tools.report.sweep_view import draw_sweep

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
    import cv2

    scale = PICTURE_SIDE / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
