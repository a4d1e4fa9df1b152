"""The detections of a run as one table, predictions.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from utils.detection.inputs import Picture
from utils.storage.files import atomic_path, increment_path

COLUMNS = ("image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2")


class DetectionTable:
    """A CSV file that appears when it is closed: a line for each detection, corners in pixels of the image file.

    ``frame`` is empty for pictures. A table that is already there, in a folder used again, is kept: the new one is
    predictions2.csv.

    Attributes:
        file: the table, once it has been begun.
    """

    def __init__(self, folder: Path, names: Mapping[int, str]) -> None:
        """Open nothing before the first picture."""
        self.file: Path | None = None
        self._folder, self._names = folder, names
        self._finish = ExitStack()  # closes the draft, then renames it
        self._rows: Any = None

    def add(self, picture: Picture, detections: torch.Tensor) -> None:
        """Add the detections (N, 6) of one picture: x1, y1, x2, y2 in native pixels, confidence, class."""
        if self._rows is None:
            self.file = increment_path(self._folder / "predictions.csv")
            draft = self._finish.enter_context(atomic_path(self.file))
            self._rows = csv.writer(self._finish.enter_context(draft.open("w", newline="", encoding="utf-8")))
            self._rows.writerow(COLUMNS)
        frame = "" if picture.frame is None else picture.frame
        for *corners, confidence, class_index in detections.tolist():
            index = int(class_index)
            pixels = [f"{corner:g}" for corner in corners]
            self._rows.writerow([picture.path, frame, index, self._names[index], f"{confidence:.5f}", *pixels])

    def close(self) -> None:
        """Finish the file."""
        self._finish.close()
        self._rows = None
