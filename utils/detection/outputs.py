"""Files that detection writes for each image or frame: annotated picture or video, labels, crops."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from utils.dataset.labels import save_labels
from utils.detection.csv_table import DetectionTable
from utils.detection.inputs import Picture
from utils.detection.video_files import VideoFile
from utils.drawing.annotator import crop_box, write_picture
from utils.errors import InputError
from utils.log import LOGGER, log_once, terminal_text
from utils.storage.files import fitting_name, make_folder
from utils.storage.results import CropNames, Incomplete, UniqueStems, folder_names, one_result


class Writer:
    """Writes the files of each image: annotated picture or video frame, label file, crops.

    A file that cannot be written is logged and left out; an error that would also hit all others is raised.

    Attributes:
        table: of all detections, None without ``save_csv``.
        label_files: number of label files written.
        incomplete: images and videos some of whose files could not be written.
    """

    def __init__(
        self,
        names: dict[int, str],
        folder: Path,
        save_txt: bool = False,
        save_conf: bool = False,
        save_crop: bool = False,
        save_csv: bool = False,
    ) -> None:
        """Files go into ``folder``: label files, with confidences or not, crops in a folder for each class, a table."""
        self.names, self.folder = names, folder
        self.save_txt, self.save_conf, self.save_crop = save_txt, save_conf, save_crop
        self.table = DetectionTable(folder, names) if save_csv else None
        self.label_files = 0
        self.incomplete: Incomplete = {}
        self._stems = UniqueStems()
        self._shortened: set[Path] = set()
        self._class_folders = folder_names(names, folder)
        self._crop_names = CropNames()
        self._videos: dict[Path, VideoFile | None] = {}  # None: cannot be written

    def stem(self, picture: Picture) -> str:
        """Start of the names of files made from ``picture``; for a frame of a video, with its number."""
        stem = self._video_stem(picture)
        return stem if picture.frame is None else f"{stem}_{picture.frame}"

    def _video_stem(self, picture: Picture) -> str:
        return self._stems(picture.path, picture.frame is not None)

    def write(self, picture: Picture, detections: torch.Tensor, annotated: np.ndarray | None) -> None:
        """Write the files of one picture.

        Args:
            picture: the original.
            detections: (N, 6) x1, y1, x2, y2 in whole native pixels, confidence, class, best first. Label files and
                crops begin with the least certain one.
            annotated: (H, W, 3) BGR with the boxes drawn, to be saved; None for none.

        Raises:
            OSError, InputError: an error that does not concern one file alone, such as a full disk.
        """
        if self.save_txt and len(detections):
            with one_result(picture.path, self.folder, self.incomplete):
                label_file = self._path(picture, self.folder / "labels", self.stem(picture), ".txt")
                save_labels(detections.flip(0), picture.native.shape[:2], label_file, self.save_conf)
                self.label_files += 1
        if self.table is not None:
            self.table.add(picture, detections)
        if self.save_crop:
            for box in detections.flip(0):
                with one_result(picture.path, self.folder, self.incomplete):
                    self._crop(box, picture)
        if annotated is None:
            return
        with one_result(picture.path, self.folder, self.incomplete):
            if picture.frame is None:
                write_image(self._path(picture, self.folder, self.stem(picture), picture.path.suffix), annotated)
            else:
                self._video_frame(picture, annotated)

    def close(self) -> None:
        """Finish the table and the videos being written."""
        if self.table is not None:
            self.table.close()
        self._close_videos()

    def _close_videos(self) -> None:
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
                self._close_videos()  # files come one after the other
            target = self._path(picture, self.folder, self._video_stem(picture), ".mp4")
            self._videos[path] = VideoFile(target, picture.rate)
        video = self._videos[path]
        if video is None:
            return
        try:
            video.write(annotated)
        except (InputError, OSError):
            self._videos[path] = None  # logged once; labels and crops are still written
            raise


def write_image(path: Path, picture: np.ndarray) -> None:
    """Save ``picture`` (H, W, 3) BGR in the format of the suffix, or as PNG if OpenCV cannot write that format."""
    write_picture(path if cv2.haveImageWriter(f"x{path.suffix}") else path.with_suffix(".png"), picture)
