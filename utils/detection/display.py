"""Windows that show pictures while a command runs."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import cv2
import numpy as np

from utils.log import terminal_text

PROBE = "import cv2, numpy; cv2.imshow('probe', numpy.zeros((9, 9, 3), 'uint8')); cv2.waitKey(1)"
PROBE_SECONDS = 20


@cache
def display_problem() -> str:
    """Return why no window can be opened here; '' if one can.

    Another process tries it: without a display, some builds of OpenCV end the whole process.
    """
    try:
        probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"opening a window timed out after {PROBE_SECONDS} s"
    if probe.returncode == 0:
        return ""
    lines = [line.strip() for line in probe.stderr.decode(errors="replace").splitlines() if line.strip()]
    relevant = [line for line in lines if "display" in line.lower() or "not implemented" in line.lower()]
    return (relevant or lines or ["no display"])[0][:160]


class Viewer:
    """Shows pictures in one window for each name."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def show(self, name: str, picture: np.ndarray) -> bool:
        """Show ``picture`` (H, W, 3) BGR; returns whether the key q was pressed."""
        name = terminal_text(name)
        if name not in self._names:
            self._names.add(name)
            cv2.namedWindow(name, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(name, picture.shape[1], picture.shape[0])
        cv2.imshow(name, picture)
        return cv2.waitKey(1) & 0xFF == ord("q")

    def close(self) -> None:
        """Close the windows."""
        for name in self._names:
            cv2.destroyWindow(name)
        self._names.clear()
