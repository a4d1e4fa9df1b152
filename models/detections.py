"""Results of AutoShape for a batch of pictures: as tensors, tables and text; drawn, cropped, saved, shown."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.dataset.classes import names_by_index
from utils.detection.display import display_problem
from utils.drawing.annotator import BoxStyle, crop_box, draw_detections, write_picture
from utils.errors import InputError
from utils.geometry.boxes import xyxy2xywh
from utils.log import LOGGER, terminal_text
from utils.storage.files import fitting_name, increment_path, make_folder
from utils.storage.results import CropNames, Incomplete, folder_names, one_result

DEFAULT_FOLDER = "runs/detect/exp"
_crop_names = CropNames()  # shared by all calls, as for the frames of a video
COLUMNS = {
    "xyxy": ("xmin", "ymin", "xmax", "ymax"),
    "xyxyn": ("xmin", "ymin", "xmax", "ymax"),
    "xywh": ("xcenter", "ycenter", "width", "height"),
    "xywhn": ("xcenter", "ycenter", "width", "height"),
}


class Detections:
    """Detections in ``n`` pictures; indexing and iteration return those in one picture.

    Attributes:
        imgs: the pictures, RGB (H, W, 3) uint8; ``render`` draws into them.
        pred: for each picture (N, 6): x1, y1, x2, y2 in pixels of the picture, confidence, class; best first.
        names: {class index: name}.
        files: a file name for each picture.
        xyxy, xywh: as pred, with corners or with centre and size in pixels. xyxyn, xywhn: divided by width and height.
        n: number of pictures.
        times: clock readings in seconds before and after each of the three stages; t: milliseconds per picture of
            pre-processing, inference, NMS.
        s: shape of the network's input.
        unreadable: {index in the batch: why that file could not be read}; it has no detections, and a black picture,
            which is neither saved nor shown.
    """

    def __init__(
        self,
        imgs: list[np.ndarray],
        pred: list[Tensor],
        files: list[str],
        times: Sequence[float] = (0, 0, 0, 0),
        names: Mapping[int, str] | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        """Arguments as the attributes of their names; ``shape`` is s."""
        self.imgs, self.pred = imgs, pred
        self.files, self.times = files, times
        self.names = names_by_index(names)
        self.n, self.s = len(pred), shape
        self.unreadable = dict(unreadable or {})
        self.t = tuple(1e3 * (end - start) / max(self.n, 1) for start, end in pairwise(times))
        self.xyxy: list[Any] = pred
        self.xywh: list[Any] = [xyxy2xywh(boxes) for boxes in pred]
        self.xyxyn: list[Any] = self._normalized(self.xyxy)
        self.xywhn: list[Any] = self._normalized(self.xywh)

    def _normalized(self, boxes: list[Tensor]) -> list[Tensor]:
        sizes = [image.shape[1::-1] * 2 for image in self.imgs]  # width, height, width, height
        return [rows / rows.new_tensor([*size, 1, 1]) for rows, size in zip(boxes, sizes, strict=True)]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.n

    def __getitem__(self, index: int) -> Detections:
        """Return the detections in one picture."""
        number = range(self.n)[index]  # negative indices count from the end
        unreadable = {0: self.unreadable[number]} if number in self.unreadable else None
        return Detections(
            [self.imgs[number]],
            [self.pred[number]],
            [self.files[number]],
            self.times,
            self.names,
            self.s,
            unreadable,
        )

    def __iter__(self) -> Iterator[Detections]:
        """Yield the detections in each picture."""
        return (self[index] for index in range(self.n))

    def tolist(self) -> list[Detections]:
        """Return a list with a Detections for each picture."""
        return list(self)

    # -- as text and tables ----------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """Return a line for each picture, ``image 1/2: 480x640 2 faces, 1 mask``, and one for the times."""
        lines = []
        for index, image in enumerate(self.imgs):
            counts = f"{image.shape[0]}x{image.shape[1]} {self._counts(self.pred[index])}"
            lines.append(f"image {index + 1}/{self.n}: " + terminal_text(self.unreadable.get(index) or counts))
        pre, inference, nms = self.t
        shape = tuple(self.s) if self.s else None
        times = f"Speed: {pre:.1f}ms pre-process, {inference:.1f}ms inference, {nms:.1f}ms NMS per image"
        return "\n".join([*lines, times + (f" at shape {shape}" if shape else "")])

    def _counts(self, detections: Tensor) -> str:
        if not len(detections):
            return "(no detections)"
        indices, counts = detections[:, 5].int().unique(return_counts=True)
        pairs = zip(indices.tolist(), counts.tolist(), strict=True)
        return ", ".join(f"{count} {self._name(index)}{'s' if count > 1 else ''}" for index, count in pairs)

    def _name(self, class_index: float) -> str:
        return self.names.get(int(class_index), f"class{int(class_index)}")

    def print(self) -> None:
        """Print ``str(self)``."""
        print(str(self))

    def pandas(self) -> Detections:
        """Return a copy whose xyxy, xyxyn, xywh and xywhn are lists of DataFrames with the class names."""
        import pandas

        tables = copy.copy(self)
        for form, columns in COLUMNS.items():
            frames = []
            for rows in getattr(self, form):
                frame = pandas.DataFrame(rows.double().cpu().numpy(), columns=[*columns, "confidence", "class"])
                frame["class"] = frame["class"].astype("int64")
                frame["name"] = [self._name(index) for index in frame["class"]]
                frames.append(frame)
            setattr(tables, form, frames)
        return tables

    # -- as pictures -----------------------------------------------------------------------------------------------

    def _drawn(self, labels: bool) -> list[np.ndarray]:
        """Copies of the pictures, RGB, with boxes, the best on top, and their labels if asked for."""
        style = BoxStyle(hide_labels=not labels)
        return [
            draw_detections(image, rows.flip(0).tolist(), self.names, style, bgr=False)
            for image, rows in zip(self.imgs, self.pred, strict=True)
        ]

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Draw the boxes into ``imgs`` and return them, RGB (H, W, 3) uint8."""
        self.imgs = self._drawn(labels)
        return self.imgs

    def show(self, labels: bool = True) -> None:
        """Show the pictures with their boxes: in a notebook, or in the desktop's viewer.

        Raises InputError if there is neither.
        """
        from PIL import Image

        drawn = self._readable(self._drawn(labels))
        pictures = [(Image.fromarray(picture), file) for picture, file in drawn]
        if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
            for picture, _ in pictures:
                sys.modules["IPython"].display.display(picture)
            return
        problem = display_problem()
        if problem:
            raise InputError(f"pictures cannot be shown here ({problem}): use save() or render()")
        for picture, file in pictures:
            picture.show(title=file)

    def save(self, labels: bool = True, save_dir: str | Path = DEFAULT_FOLDER) -> Path:
        """Write the pictures with their boxes into a folder, and return it. Those that cannot be written are logged.

        The default folder gets a number if it exists (exp, exp2, ...); any other existing folder is used.
        """
        folder = _results_folder(save_dir)
        self._write(self._drawn(labels), folder)
        return folder

    def crop(self, save: bool = True, save_dir: str | Path = DEFAULT_FOLDER) -> list[dict[str, Any]]:
        """Cut out each box, slightly enlarged; in each picture the least confident comes first.

        Returns:
            For each box a dict: ``box`` (four numbers, corners in pixels), ``conf`` and ``cls`` (tensors with one
            number), ``label`` (name and confidence), ``im`` (BGR (h, w, 3) uint8, as OpenCV writes it). With ``save``,
            crops/<class>/<file> and the pictures without boxes are written into the folder (see ``save``).
        """
        folder = _results_folder(save_dir) if save else None
        class_folders = folder_names(self.names, folder or Path())
        crops: list[dict[str, Any]] = []
        incomplete: Incomplete = {}
        for image, rows, file in zip(self.imgs, self.pred, self.files, strict=True):
            for *box, confidence, index in rows.flip(0):
                name = self._name(index)
                piece = np.ascontiguousarray(crop_box(image, [float(value) for value in box])[:, :, ::-1])
                label = f"{name} {float(confidence):.2f}"
                crops.append({"box": box, "conf": confidence, "cls": index, "label": label, "im": piece})
                if folder is not None and piece.size:
                    with one_result(Path(file), folder, incomplete):
                        class_folder = make_folder(folder / "crops" / class_folders.get(int(index), name))
                        write_picture(_crop_names(class_folder, Path(file).stem), piece, full_colour=True)
        if folder is not None:
            self._write(self.imgs, folder)
        return crops

    def _readable(self, pictures: list[np.ndarray]) -> list[tuple[np.ndarray, str]]:
        """Return the pictures that could be read, with their file names; ``pictures`` are all of the batch."""
        pairs = zip(pictures, self.files, strict=True)
        return [pair for index, pair in enumerate(pairs) if index not in self.unreadable]

    def _write(self, pictures: list[np.ndarray], folder: Path) -> None:
        incomplete: Incomplete = {}
        readable = self._readable(pictures)
        for picture, file in readable:
            with one_result(Path(file), folder, incomplete):
                name = fitting_name(folder, Path(file).stem, Path(file).suffix)
                write_picture(folder / name, picture[:, :, ::-1])
        written = len(readable) - len(incomplete)
        LOGGER.info(f"Saved {written} image{'s' * (written != 1)} to {folder}")
        if incomplete:
            LOGGER.warning(f"{len(incomplete)} image(s) could not be saved: they are named above")


def _results_folder(save_dir: str | Path) -> Path:
    return increment_path(save_dir, exist_ok=Path(save_dir) != Path(DEFAULT_FOLDER), mkdir=True)
