"""Images and videos from files, folders, patterns and lists, read one at a time."""

from __future__ import annotations

import glob
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.dataset.images import IMAGE_SUFFIXES, read_image
from utils.detection.captures import missing_bytes, next_frame, open_file, retrieved
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER, terminal_text
from utils.storage.text_lists import QUOTES, TextList, find_listed, locations, quoted

IMG_FORMATS = IMAGE_SUFFIXES
VID_FORMATS = ("asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "wmv")

Source = str | Path | Sequence[str | Path]
Item = tuple[str, np.ndarray, np.ndarray, cv2.VideoCapture | None, str]


class LoadImages:
    """Iterate over images, then over the frames of videos.

    Each item is (path, image as RGB (3, h, w) uint8 letterboxed to the network's size, original as BGR (H, W, 3) uint8,
    the open cv2.VideoCapture or None, text for the log such as ``image 1/5 <path>: ``).

    Args:
        path: a file, a folder (not searched recursively), a pattern with ``*`` (``**`` is recursive), a text file with
            one of these on each line, or a list of them.
        img_size: side of the square to fit into, or (height, width), in pixels.
        stride: the letterboxed sides are multiples of this.
        auto: pad to the smallest rectangle of such sides; otherwise to the whole ``img_size``.
        vid_stride: of a video, take the first frame and then every n-th.

    Attributes:
        files: paths, images first.
        mode: 'image' or 'video'.
        skipped: number of files so far that could not be read (each is named in the log).
        incomplete: number of videos so far that were read in part only (each is named in the log).
        cap, frame, frames: the open video, its current frame counted from 1, and the number of frames it announces.

    Raises:
        MissingFileError: a path does not exist.
        InputError: there is neither an image nor a video.
    """

    def __init__(
        self,
        path: Source,
        img_size: int | Sequence[int] = 640,
        stride: int = 32,
        auto: bool = True,
        vid_stride: int = 1,
    ) -> None:
        """Find the files; none is read before the first item is asked for."""
        files = find_files(path)
        images = [file for file in files if _suffix(file) in IMG_FORMATS]
        videos = [file for file in files if _suffix(file) in VID_FORMATS]
        if not images and not videos:
            raise InputError(
                f"no image or video in {path}: supported suffixes are {' '.join(IMG_FORMATS)} (images)"
                f" and {' '.join(VID_FORMATS)} (videos)"
            )
        self.files = images + videos
        self.image_count = len(images)
        self.img_size, self.stride, self.auto = img_size, stride, auto
        self.vid_stride = vid_stride
        self.cap: cv2.VideoCapture | None = None
        self._restart()

    def __len__(self) -> int:
        """Return the number of files; a video is one."""
        return len(self.files)

    def __iter__(self) -> LoadImages:
        """Start again from the first file."""
        self._restart()
        return self

    def __next__(self) -> Item:
        """Return the next image or frame."""
        return next(self._running)

    def close(self) -> None:
        """Stop, and release the open video."""
        self._running.close()

    def _restart(self) -> None:
        self.mode, self.frame, self.frames = "image", 0, 0
        self.skipped = self.incomplete = 0
        self._running = self._items()

    def _items(self) -> Generator[Item, None, None]:
        for index, file in enumerate(self.files):
            progress = f"{index + 1}/{len(self.files)}"
            if index < self.image_count:
                try:
                    picture = read_image(file)
                except InputError as error:
                    self._skip(str(error))
                    continue
                yield file, self._network_image(picture), picture, None, f"image {progress} {terminal_text(file)}: "
            else:
                yield from self._video_items(file, progress)

    def _video_items(self, file: str, progress: str) -> Iterator[Item]:
        self.mode, self.frame = "video", 0
        damaged = 0
        try:
            self.cap = capture = open_file(file)
        except InputError as error:
            self._skip(str(error))
            return
        try:
            self.frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            while (skipped := next_frame(capture)) is not None:
                self.frame += skipped + 1
                damaged += skipped
                if (self.frame - 1) % self.vid_stride:
                    continue
                picture = retrieved(capture)
                if picture is None:
                    damaged += 1
                    continue
                text = f"video {progress} ({self.frame}/{self.frames}) {terminal_text(file)}: "
                yield file, self._network_image(picture), picture, capture, text
            self._judge_video(file, damaged)
        finally:
            capture.release()
            self.cap = None

    def _judge_video(self, file: str, damaged: int) -> None:
        """Log what could not be read of a video that has ended."""
        missing = missing_bytes(file) if self.frame < max(self.frames, 1) else 0
        cut = f"the file is cut off, {missing} bytes are missing" if missing else ""
        if self.frame == damaged:
            empty = os.path.isfile(file) and not os.path.getsize(file)
            self._skip(f"{file} cannot be read as a video" + (" (0 bytes)" if empty else f": {cut}" if cut else ""))
            return
        if damaged:
            LOGGER.warning(f"{file}: {damaged} of {self.frame} frames cannot be decoded and were skipped")
        if self.frame < self.frames:
            remark = f": {cut}" if cut else ""
            LOGGER.warning(f"{file} ended after {self.frame} of {self.frames} announced frames{remark}")
        self.incomplete += bool(damaged or cut)

    def _skip(self, reason: str) -> None:
        self.skipped += 1
        LOGGER.warning(f"skipped: {reason}")

    def _network_image(self, picture: np.ndarray) -> np.ndarray:
        return network_image(picture, self.img_size, self.stride, self.auto)


def network_image(picture: np.ndarray, size: int | Sequence[int], stride: int, auto: bool) -> np.ndarray:
    """Letterbox BGR (H, W, 3) -> RGB (3, h, w), contiguous; the other arguments are those of LoadImages."""
    boxed = letterbox(picture, size, stride=stride, auto=auto)[0]
    return np.ascontiguousarray(boxed[:, :, ::-1].transpose(2, 0, 1))


def find_files(source: Source) -> list[str]:
    """List the absolute paths of a file, folder, pattern, list file, or list of these, each part sorted."""
    if not isinstance(source, (str, Path)):
        return [file for part in sorted(map(str, source)) for file in find_files(part)]
    name = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(name):
        files = [os.path.join(name, file) for file in sorted(os.listdir(name))]
        return [file for file in files if os.path.isfile(file) or _is_special(file)]
    if os.path.isfile(name):
        return _listed_files(Path(name)) if _suffix(name) == "txt" else [name]
    if "*" in str(source):
        matches = glob.glob(os.path.expanduser(source), recursive=True)
        return sorted(os.path.abspath(match) for match in matches if os.path.isfile(match))
    if "://" in str(source):
        raise MissingFileError(f"{source} is an address, only local images and videos can be read: download it first")
    raise MissingFileError(f"no such image, video or folder: {source}")


def _listed_files(list_file: Path) -> list[str]:
    """Read a list file: one source on each line, relative to the current folder, or with ``./`` to the list file's.

    See ``utils.storage.text_lists`` for what else lines may contain. Raises InputError for a line that is not a source.
    """
    listed = TextList(list_file)
    files: list[str] = []
    for number, text in listed.lines:
        where = f"{list_file}, {quoted(number, text)}"
        if _suffix(text.strip(QUOTES)) == "txt":
            raise InputError(f"{list_file} lists another list ({quoted(number, text)}): give images, videos or folders")
        is_local = "://" not in text
        source = (find_listed(text, list_file.parent) if is_local else None) or next(locations(text, list_file.parent))
        if is_local and os.path.isfile(source) and _suffix(source) not in (*IMG_FORMATS, *VID_FORMATS):
            listed.leave_out(number, text, "neither an image nor a video, as its suffix says")
            continue
        try:
            files += find_files(source if is_local else text)
        except MissingFileError as error:
            if not is_local or _suffix(text) not in (*IMG_FORMATS, *VID_FORMATS):
                raise MissingFileError(f"{where}: {error}") from error
            files.append(os.path.abspath(source))  # logged and skipped when it is to be read
    listed.report()
    return files


def _is_special(file: str) -> bool:
    """Tell whether ``file`` is named like an image or video but is a broken link or a pipe: that is logged later."""
    return not os.path.isdir(file) and _suffix(file) in (*IMG_FORMATS, *VID_FORMATS)


def _suffix(file: str | Path) -> str:
    return Path(file).suffix[1:].lower()
