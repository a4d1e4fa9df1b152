"""v6.2's iterator over one camera and v7.0's over the screen. detect.py reads cameras with ``LoadStreams``."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from utils.commands.packages import require
from utils.detection.sources import network_image
from utils.detection.streams import LoadStreams
from utils.errors import InputError

LiveItem = tuple[str, np.ndarray, np.ndarray, None, str]


class LoadWebcam:
    """Iterate over the newest pictures of a camera, mirrored as in v6.2.

    Each item is ('webcam.jpg', image as RGB (3, h, w) uint8 letterboxed, mirrored picture BGR (H, W, 3), None, text for
    the log). ``pipe`` is the number or the address of a camera.

    Raises:
        InputError: the camera cannot be opened.
    """

    mode = "webcam"

    def __init__(self, pipe: str | int = "0", img_size: int | Sequence[int] = 640, stride: int = 32) -> None:
        """Open the camera."""
        self.pipe, self.img_size, self.stride = str(pipe), img_size, stride
        self._streams = LoadStreams(self.pipe, img_size, stride)

    def __len__(self) -> int:
        """Return 0: nobody knows how many pictures will come."""
        return 0

    def __iter__(self) -> LoadWebcam:
        return self

    def __next__(self) -> LiveItem:
        """Wait for a new picture."""
        pictures = next(self._streams)[2]
        mirrored = cv2.flip(pictures[0], 1)
        image = network_image(mirrored, self.img_size, self.stride, auto=True)
        return "webcam.jpg", image, mirrored, None, f"webcam {self._streams.count}: "

    def close(self) -> None:
        """Release the camera."""
        self._streams.close()


class LoadScreenshots:
    """Iterate over pictures of the screen, or of a part of it; needs the package mss.

    Each item is (source, image as RGB (3, h, w) uint8 letterboxed, picture BGR (H, W, 3), None, text for the log).

    Args:
        source: ``screen``, and after it nothing, the number of the screen, the four numbers left, top, width and height
            in pixels, or all five: ``screen 1 100 100 512 256``.
        img_size: side of the square to fit into, or (height, width), in pixels.
        stride: the letterboxed sides are multiples of this.
        auto: pad to the smallest rectangle of such sides.

    Raises:
        InputError: a source of another form, or mss is not installed.
    """

    mode = "stream"

    def __init__(self, source: str, img_size: int | Sequence[int] = 640, stride: int = 32, auto: bool = True) -> None:
        """Find the part of the screen."""
        words = source.split()
        numbers = [int(word) for word in words[1:] if word.lstrip("-").isdigit()]
        if not words or len(numbers) != len(words) - 1 or len(numbers) not in (0, 1, 4, 5):
            raise InputError(f"{source!r}: expected screen, screen NUMBER or screen NUMBER LEFT TOP WIDTH HEIGHT")
        self.source, self.img_size, self.stride, self.auto = source, img_size, stride, auto
        self.screen = numbers.pop(0) if len(numbers) in (1, 5) else 0
        self.frame = 0
        self._grabber = require("mss", f"source {source!r}").mss()
        if not 0 <= self.screen < len(self._grabber.monitors):
            raise InputError(
                f"{source!r}: there is no screen {self.screen}, 0 to {len(self._grabber.monitors) - 1} exist"
            )
        whole = self._grabber.monitors[self.screen]
        left, top, width, height = numbers or (0, 0, whole["width"], whole["height"])
        self.monitor = {"left": whole["left"] + left, "top": whole["top"] + top, "width": width, "height": height}

    def __iter__(self) -> LoadScreenshots:
        return self

    def __next__(self) -> LiveItem:
        """Take a picture."""
        picture = np.ascontiguousarray(np.asarray(self._grabber.grab(self.monitor))[..., :3])  # BGRA -> BGR
        image = network_image(picture, self.img_size, self.stride, self.auto)
        self.frame += 1
        part = ",".join(str(value) for value in self.monitor.values())
        return self.source, image, picture, None, f"screen {self.screen} (LTWH): {part}: "
