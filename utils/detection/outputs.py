"""The files that detection writes of each image or frame: annotated picture or video, labels, crops."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.detection.video_files import VideoFile
from utils.errors import InputError, is_of_one_file, reason
from utils.log import LOGGER, log_once
from utils.names import safe_name, terminal_text
from utils.storage.files import fitting_name, make_folder

if TYPE_CHECKING:
    import numpy as np
    import torch

    from utils.detection.inputs import Picture

CROP_GAIN, CROP_PADDING = 1.02, 10  # crops are a little larger than the box: factor, then pixels
REMEMBERED_NAMES = 10_000  # of crops, whose last number is known


Incomplete = dict[Path, set[str]]  # sources of which something could not be written -> why


class UniqueStems:
    """Stems for files made of others: that of the file itself, numbered where another file has it already."""

    def __init__(self) -> None:
        self._stems: dict[Path, str] = {}
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # of each stem, the last one given

    def __call__(self, path: Path, is_video: bool = False) -> str:
        """The stem for what is made of ``path``; the same at every call. A numbered one is told in the log.

        What is made of a video has the number of the frame after the stem: no other stem may look like that.
        """
        if path not in self._stems:
            stem, number = path.stem, self._numbers.get(path.stem, 1)
            while stem in self._taken or (is_video and self._looks_like_frames(stem)):
                number += 1
                stem = f"{path.stem}_{number}"
            if stem != path.stem:
                self._numbers[path.stem] = number
                LOGGER.warning(f"{path.stem} has results of another file: the results of {path} are called {stem}")
            self._taken.add(stem)
            self._stems[path] = stem
        return self._stems[path]

    def _looks_like_frames(self, stem: str) -> bool:
        start = f"{stem}_"
        return any(taken.startswith(start) and taken[len(start) :].isdecimal() for taken in self._taken)


def folder_names(names: Mapping[int, str], parent: Path) -> dict[int, str]:
    """A folder name for each class: its own name if that is safe and short enough for ``parent``, and no two alike.

    Where names are equal, also but for upper and lower case, which some file systems take for equal, the class index is
    appended to the later ones. Those that need no change have the first choice.
    """
    wanted = {index: fitting_name(parent, safe_name(str(name))) for index, name in names.items()}
    result: dict[int, str] = {}
    taken: set[str] = set()
    for index, folder in wanted.items():
        if folder == names[index] and _as_compared(folder) not in taken:
            result[index] = folder
            taken.add(_as_compared(folder))
    for index, folder in wanted.items():
        if index in result:
            continue
        free, ending = folder, ""
        while _as_compared(free) in taken:
            ending += f"_{index}"
            free = fitting_name(parent, folder, ending)
        result[index] = free
        taken.add(_as_compared(free))
    return result


def _as_compared(name: str) -> str:
    """The form in which file systems that ignore case, or the composition of letters, compare names."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class CropNames:
    """Names for crops that no file has: ``a.jpg``, ``a2.jpg``, ...; each goes on from the one before, not from 2."""

    def __init__(self) -> None:
        self._last: dict[tuple[Path, str], int] = {}  # numbers of the newest files

    def __call__(self, folder: Path, name: str, separator: str = "") -> Path:
        """A free path in ``folder`` for a further crop that is called ``name``, and what goes before its number."""

        def path(number: int) -> Path:
            return folder / fitting_name(folder, name, f"{separator}{number}.jpg" if number > 1 else ".jpg")

        number = self._last.get((folder, name), 0)
        if number and not os.path.lexists(path(number)):
            number = 0  # they have been removed
        while os.path.lexists(path(number := number + 1)):
            pass
        if len(self._last) >= REMEMBERED_NAMES:
            self._last.clear()
        self._last[folder, name] = number
        return path(number)


@contextmanager
def one_result(source: Path, folder: Path, incomplete: Incomplete) -> Iterator[None]:
    """Write one file made of ``source`` in ``folder``: an error that concerns it alone is logged, not raised.

    It is added to ``incomplete``, and logged once of all files made of ``source``. Raises OSError or InputError for
    what other files would meet, too, such as a full disk.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if not is_of_one_file(error) or not os.access(folder, os.W_OK):
            raise
        reasons = incomplete.setdefault(source, set())
        kind = getattr(error, "strerror", "") or str(error)
        if kind not in reasons:
            reasons.add(kind)
            LOGGER.warning(f"not written: {reason(error)}")


class Writer:
    """Writes what was asked for of each image: annotated picture or video frame, label file, crops.

    What cannot be written of one image is named and left out; what would happen to all others, too, is raised.

    Attributes:
        label_files: written ones. incomplete: the images and videos of which something could not be written.
    """

    def __init__(self, options: Any, names: dict[int, str], folder: Path) -> None:
        """Files go into ``folder``; ``names`` label the boxes; ``options`` are those of detect.py."""
        self.options, self.names, self.folder = options, names, folder
        self.label_files = 0
        self.incomplete: Incomplete = {}
        self._stems = UniqueStems()
        self._shortened: set[Path] = set()
        self._class_folders = folder_names(names, folder)
        self._crop_names = CropNames()
        self._videos: dict[Path, VideoFile | None] = {}  # None: cannot be written

    def stem(self, picture: Picture) -> str:
        """The start of the names of files made of ``picture``; with the frame's number for one of a video."""
        stem = self._video_stem(picture)
        return stem if picture.frame is None else f"{stem}_{picture.frame}"

    def _video_stem(self, picture: Picture) -> str:
        return self._stems(picture.path, picture.frame is not None)

    def write(self, picture: Picture, found: torch.Tensor, annotated: np.ndarray | None) -> None:
        """Write one result; ``found`` (N, 6) in rounded native pixels, best first, ``annotated`` (H, W, 3) BGR or None.

        Label files have the least certain detection first. Raises OSError or InputError for what is not of one file,
        such as a full disk.
        """
        if self.options.save_txt and len(found):
            from utils.validation.scores import save_labels

            with one_result(picture.path, self.folder, self.incomplete):
                label_file = self._path(picture, self.folder / "labels", self.stem(picture), ".txt")
                save_labels(found.flip(0), picture.native.shape[:2], label_file, self.options.save_conf)
                self.label_files += 1
        if self.options.save_crop:
            for box in found.flip(0):
                with one_result(picture.path, self.folder, self.incomplete):
                    self._crop(box, picture)
        if annotated is None:
            return
        with one_result(picture.path, self.folder, self.incomplete):
            if picture.frame is None:
                write_image(self._path(picture, self.folder, self.stem(picture), picture.path.suffix), annotated)
            else:
                self._video_frame(picture, annotated)

    def annotate(self, native: np.ndarray, found: torch.Tensor) -> np.ndarray:
        """A copy of ``native`` (H, W, 3) BGR with the boxes (N, 6) drawn, the last on top."""
        from utils.drawing.annotator import Annotator, colors

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
        for path in list(self._videos):
            video = self._videos.pop(path)
            if video is not None:
                with one_result(path, self.folder, self.incomplete):
                    video.close()

    def _path(self, picture: Picture, folder: Path, stem: str, ending: str) -> Path:
        name = fitting_name(folder, stem, ending)
        if name != stem + ending and picture.path not in self._shortened:
            self._shortened.add(picture.path)
            LOGGER.warning(f"the name of {picture.path} is too long for its results: shortened, as in {name}")
        return folder / name

    def _crop(self, box: torch.Tensor, picture: Picture) -> None:
        from utils.drawing.annotator import write_picture

        index = int(box[5])
        folder = make_folder(self.folder / "crops" / self._class_folders[index])
        if folder.name != self.names[index]:
            log_once(f"the crops of class {index}, {terminal_text(self.names[index])}, are in {folder}")
        separator = "" if picture.frame is None else "-"
        target = self._crop_names(folder, self.stem(picture), separator)
        write_picture(target, crop_box(picture.native, box[:4].tolist()), full_colour=True)

    def _video_frame(self, picture: Picture, annotated: np.ndarray) -> None:
        path = picture.path
        if path not in self._videos:
            if not picture.live:
                self.close()  # files come one after the other
            target = self._path(picture, self.folder, self._video_stem(picture), ".mp4")
            self._videos[path] = VideoFile(target, picture.rate)
        video = self._videos[path]
        if video is None:
            return
        try:
            video.write(annotated)
        except (InputError, OSError):
            self._videos[path] = None  # told once; labels and crops go on
            raise


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


def write_image(path: Path, picture: np.ndarray) -> None:
    """Encode ``picture`` (BGR) in the format of the suffix (PNG for formats that OpenCV cannot write)."""
    import cv2

    from utils.drawing.annotator import write_picture

    write_picture(path if cv2.haveImageWriter(f"x{path.suffix}") else path.with_suffix(".png"), picture)
