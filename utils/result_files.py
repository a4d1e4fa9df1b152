"""The files that detection writes of each image or frame: annotated picture or video, labels, crops."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.drafts import draft_path
from utils.errors import InputError
from utils.files import increment_path, make_folder
from utils.log import LOGGER

if TYPE_CHECKING:
    import numpy as np
    import torch

    from utils.inputs import Picture

CROP_GAIN, CROP_PADDING = 1.02, 10  # crops are a little larger than the box: factor, then pixels


class UniqueStems:
    """Stems for files made of others: that of the file itself, numbered where another file has it already."""

    def __init__(self) -> None:
        self._stems: dict[Path, str] = {}
        self._taken: set[str] = set()

    def __call__(self, path: Path) -> str:
        """The stem for what is made of ``path``; the same at every call. A numbered one is told in the log."""
        if path not in self._stems:
            stem, number = path.stem, 2
            while stem in self._taken:
                stem, number = f"{path.stem}_{number}", number + 1
            if stem != path.stem:
                LOGGER.warning(f"another file is called {path.stem}, too: the results of {path} are called {stem}")
            self._taken.add(stem)
            self._stems[path] = stem
        return self._stems[path]


class Writer:
    """Writes what was asked for of each image: annotated picture or video frame, label file, crops."""

    def __init__(self, options: Any, names: dict[int, str], folder: Path) -> None:
        """Files go into ``folder``; ``names`` label the boxes; ``options`` are those of detect.py."""
        self.options, self.names, self.folder = options, names, folder
        self.label_files = 0
        self.stem = UniqueStems()
        self._videos: dict[str, VideoFile] = {}

    def write(self, picture: Picture, found: torch.Tensor, annotated: np.ndarray | None) -> None:
        """Write one result; ``found`` (N, 6) in rounded native pixels, best first, ``annotated`` (H, W, 3) BGR or None.

        Label files have the least certain detection first.
        """
        stem = self.stem(picture.path)
        if self.options.save_txt and len(found):
            from utils.evaluation import save_labels

            name = stem if picture.frame is None else f"{stem}_{picture.frame}"
            label_file = self.folder / "labels" / f"{name}.txt"
            save_labels(found.flip(0), picture.native.shape[:2], label_file, self.options.save_conf)
            self.label_files += 1
        if self.options.save_crop:
            for box in found.flip(0):
                self._crop(box, picture.native, stem)
        if annotated is None:
            return
        if picture.frame is None:
            write_image(self.folder / f"{stem}{picture.path.suffix}", annotated)
        else:
            self._video_frame(picture, annotated, stem)

    def annotate(self, native: np.ndarray, found: torch.Tensor) -> np.ndarray:
        """A copy of ``native`` (H, W, 3) BGR with the boxes (N, 6) drawn, the last on top."""
        from utils.annotator import Annotator, colors

        options = self.options
        text = " ".join(self.names.values())
        annotator = Annotator(native.copy(), line_width=options.line_thickness, example=text)
        for *box, confidence, class_index in found.tolist():
            name = self.names[int(class_index)]
            label = "" if options.hide_labels else name if options.hide_conf else f"{name} {confidence:.2f}"
            annotator.box_label(box, label, color=colors(int(class_index), True))
        return annotator.result()

    def close(self) -> None:
        """Finish the videos being written."""
        for video in self._videos.values():
            video.close()
        self._videos.clear()

    def _crop(self, box: torch.Tensor, native: np.ndarray, stem: str) -> None:
        from utils.annotator import write_picture

        folder = make_folder(self.folder / "crops" / safe_name(self.names[int(box[5])]))
        target = increment_path(folder / f"{stem}.jpg")
        write_picture(target, crop_box(native, box[:4].tolist()), full_colour=True)

    def _video_frame(self, picture: Picture, annotated: np.ndarray, stem: str) -> None:
        if stem not in self._videos:
            if not picture.live:
                self.close()  # files come one after the other
            self._videos[stem] = VideoFile(self.folder / f"{stem}.mp4", picture.rate)
        self._videos[stem].write(annotated)


class VideoFile:
    """An mp4 video that appears when it is finished. Frames of another size go on in a further, numbered file."""

    def __init__(self, target: Path, rate: float) -> None:
        """``rate`` in frames per second."""
        self.target, self.rate = target, rate
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Add one frame (H, W, 3) BGR. Raises InputError where OpenCV cannot write mp4."""
        size = frame.shape[1], frame.shape[0]
        if size != self._size:
            self.close()
            self._open(size)
        self._writer.write(frame)

    def _open(self, size: tuple[int, int]) -> None:
        import cv2

        if self._size != (0, 0):
            self.target = increment_path(self.target)
        self._draft = draft_path(self.target)
        self._size = size
        self._writer = cv2.VideoWriter(str(self._draft), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
        if not self._writer.isOpened():
            self._writer = None
            raise InputError(
                f"cannot write the video {self.target}: this OpenCV has no mp4v encoder; use --nosave --save-txt"
            )

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            os.replace(self._draft, self.target)


def crop_box(native: np.ndarray, box: list[float]) -> np.ndarray:
    """The part of ``native`` (H, W, 3) in ``box`` (x1, y1, x2, y2 pixels), which is made a little larger first."""
    height, width = native.shape[:2]
    x1, y1, x2, y2 = box
    half_width = ((x2 - x1) * CROP_GAIN + CROP_PADDING) / 2
    half_height = ((y2 - y1) * CROP_GAIN + CROP_PADDING) / 2
    center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, right = max(int(center_x - half_width), 0), min(int(center_x + half_width), width)
    top, bottom = max(int(center_y - half_height), 0), min(int(center_y + half_height), height)
    return native[top:bottom, left:right]


def safe_name(name: str) -> str:
    """A class name as the name of a folder: no separators, none of the names that mean another folder."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]|^\.+', "_", name) or "_"


def write_image(path: Path, picture: np.ndarray) -> None:
    """Encode ``picture`` (BGR) in the format of the suffix (PNG for formats that OpenCV cannot write)."""
    import cv2

    from utils.annotator import write_picture

    write_picture(path if cv2.haveImageWriter(f"x{path.suffix}") else path.with_suffix(".png"), picture)
