"""The progress of a training epoch: a bar on terminals, one line per epoch in log files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm

from utils.log import LOGGER, tqdm_is_quiet
from utils.training.state import TrainingState

BAR_SECONDS = 0.3  # between updates of the losses in the bar; each one makes the host wait for the GPU
COLUMNS = ("Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size")


class Progress:
    """Shows the mean losses of one epoch; only the first rank has a bar.

    Attributes:
        batches: those of the loader, to be iterated.
    """

    def __init__(self, state: TrainingState) -> None:
        """Log the header, in a log file once per run."""
        self.state = state
        self.batches: Iterable[Any] = state.loader
        self._bar: tqdm | None = None
        self._shown = -math.inf  # seconds
        self._latest: tuple[torch.Tensor, int, int] = torch.zeros(3), 0, 0  # losses, labels, width of the images
        if state.epoch == 0 or not tqdm_is_quiet():
            LOGGER.info("\n" + "%10s" * len(COLUMNS), *COLUMNS)
        if state.run.is_main:
            self._bar = tqdm(state.loader, total=len(state.loader), disable=None, bar_format="{l_bar}{bar:10}{r_bar}")
            self.batches = self._bar

    def show(self, losses: torch.Tensor, labels: int, width: int, is_last: bool) -> None:
        """Update the bar after a batch, at most every ``BAR_SECONDS`` and after the last one.

        Args:
            losses: (3,) mean box, objectness and class loss.
            labels: number of labels in the batch.
            width: of its images, pixels.
            is_last: this is the last batch of the epoch.
        """
        self._latest = losses, labels, width
        if self._bar is None or self._bar.disable:
            return
        if is_last or time.monotonic() > self._shown + BAR_SECONDS:
            self._bar.set_description(self._row())
            self._shown = time.monotonic()

    def end_epoch(self) -> None:
        """Write the line of a log file."""
        if tqdm_is_quiet():
            LOGGER.info(self._row())

    def _row(self) -> str:
        """One row under COLUMNS."""
        state = self.state
        losses, labels, width = self._latest
        epoch = f"{state.epoch}/{state.epochs - 1}"
        return ("%10s" * 2 + "%10.4g" * 5) % (epoch, gpu_memory(state.device), *losses.tolist(), labels, width)


def gpu_memory(device: torch.device) -> str:
    """Memory reserved on the GPU, in gigabytes."""
    return f"{torch.cuda.memory_reserved(device) / 1e9 if device.type == 'cuda' else 0:.3g}G"
