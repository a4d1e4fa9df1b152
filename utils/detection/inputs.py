"""The input of detection: a source becomes a loader, and the loader's items become batches of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.detection.sources import LoadImages
from utils.detection.streams import LoadStreams, is_stream, remote_file_name
from utils.downloads import download
from utils.log import LOGGER

WINDOW_BYTES = 1 << 28  # pictures that wait for others of their shape take no more memory


@dataclass
class Picture:
    """One image, or one frame of a video or stream, as it was read."""

    path: Path
    native: np.ndarray  # (H, W, 3) BGR
    text: str = ""  # start of its line in the log
    frame: int | None = None  # number of the frame; None for an image
    rate: float = 30.0  # frames per second
    live: bool = False  # a frame of a stream, between those of other streams

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.native.shape[0], self.native.shape[1]


Window = list[tuple[np.ndarray, Picture]]


def check_files(source: str) -> None:
    """Raise InputError if ``source`` names files and none is an image or a video."""
    if not is_stream(source) and not remote_file_name(source):
        LoadImages(source)


def open_sources(source: str, download_folder: Path, **keywords: Any) -> LoadImages | LoadStreams:
    """Make the loader of ``source``; ``keywords`` are the loader's. A file on the network is downloaded first."""
    if is_stream(source):
        return LoadStreams(source, **keywords)
    if name := remote_file_name(source):
        LOGGER.info(f"Downloading {source} to {download_folder}")
        source = str(download(source, download_folder / name))
    return LoadImages(source, **keywords)


def picture_batches(loader: LoadImages | LoadStreams) -> Iterator[tuple[np.ndarray, list[Picture]]]:
    """Yield letterboxed images (B, 3, H, W) and their pictures: one image or frame, or one frame per stream."""
    if isinstance(loader, LoadStreams):
        for names, batch, natives, _, _ in loader:
            pictures = []
            for name, native, index, frame in zip(names, natives, loader.indices, loader.frames, strict=True):
                pictures.append(Picture(Path(name), native, f"{index}: ", frame, loader.rates[index], live=True))
            yield batch, pictures
        return
    for path, rgb, native, capture, text in loader:
        picture = Picture(Path(path), native, text)
        if capture is not None:
            picture.frame = loader.frame
            picture.rate = (capture.get(cv2.CAP_PROP_FPS) or picture.rate) / loader.vid_stride
        yield rgb[None], [picture]


def windows(
    batches: Iterable[tuple[np.ndarray, list[Picture]]], most: int
) -> Iterator[list[tuple[np.ndarray, Picture]]]:
    """Yield letterboxed images (3, H, W) with their pictures in groups, up to ``most`` images or WINDOW_BYTES each."""
    window: Window = []
    size = 0
    for rgb, pictures in batches:
        window += zip(rgb, pictures, strict=True)
        size += sum(picture.native.nbytes for picture in pictures)
        if len(window) >= most or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def alike(window: Window, most: int) -> Iterator[list[int]]:
    """Yield all indices of ``window`` in groups of up to ``most`` images of one shape."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, (rgb, _) in enumerate(window):
        by_shape.setdefault(rgb.shape, []).append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]
