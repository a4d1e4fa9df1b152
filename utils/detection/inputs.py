"""What detection reads: a source becomes a loader, and what the loaders give becomes batches of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.detection.sources import LoadImages
from utils.detection.streams import LoadStreams, is_stream, remote_file_name
from utils.log import LOGGER

WINDOW_BYTES = 1 << 28  # of pictures that wait for others of their shape


@dataclass
class Picture:
    """One image, or one frame of a video or stream, as it came."""

    path: Path
    native: np.ndarray  # (H, W, 3) BGR
    text: str = ""  # how a line of the log about it begins
    frame: int | None = None  # number of the frame; None for an image
    rate: float = 30.0  # frames per second
    live: bool = False  # a frame of a stream: those of others come in between

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.native.shape[0], self.native.shape[1]


Window = list[tuple[np.ndarray, Picture]]


def check_files(source: str) -> None:
    """Raise InputError for a source of files that has no image or video."""
    if not is_stream(source) and not remote_file_name(source):
        LoadImages(source)


def open_sources(source: str, download_folder: Path, **how: Any) -> LoadImages | LoadStreams:
    """The loader for ``source``; ``how`` are its keywords. A file on the network is first downloaded."""
    if is_stream(source):
        return LoadStreams(source, **how)
    if name := remote_file_name(source):
        from utils.downloads import download

        LOGGER.info(f"Downloading {source} to {download_folder}")
        source = str(download(source, download_folder / name))
    return LoadImages(source, **how)


def picture_batches(loader: LoadImages | LoadStreams) -> Iterator[tuple[np.ndarray, list[Picture]]]:
    """Batches of letterboxed images (B, 3, H, W) with what they were made of: one image or frame, or one per stream."""
    if isinstance(loader, LoadStreams):
        for names, batch, natives, _, _ in loader:
            details = zip(names, natives, loader.indices, loader.frames, strict=True)
            yield (
                batch,
                [
                    Picture(Path(name), native, f"{index}: ", frame, loader.rates[index], live=True)
                    for name, native, index, frame in details
                ],
            )
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
    """Consecutive letterboxed images (3, H, W) with their pictures, up to ``most`` or WINDOW_BYTES at a time."""
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
    """Places in ``window`` of up to ``most`` images of one shape, until all are named."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, (rgb, _) in enumerate(window):
        places.setdefault(rgb.shape, []).append(place)
    for same in places.values():
        yield from (same[start : start + most] for start in range(0, len(same), most))
