"""TensorBoard's event files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from utils.commands.interrupts import deferred
from utils.log import LOGGER, colorstr
from utils.tracking.tracker import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker(Tracker):
    """Writes an event file into ``folder``, from the first record on; does nothing where TensorBoard is not installed.

    Attributes:
        first_epoch: of a resumed run; TensorBoard hides what an event file before this one has from it on.
    """

    def __init__(self, folder: Path) -> None:
        """Open nothing yet."""
        self.folder = folder
        self.first_epoch = 0
        self._closed = False
        self._writer: CarefulWriter | None = None

    @property
    def writer(self) -> CarefulWriter | None:
        """TensorBoard's writer, opened at first use; None if it is closed, not installed, or broken."""
        if not self._closed and self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._closed = True
                LOGGER.info("TensorBoard is not installed: no event file is written (pip install tensorboard)")
                return None
            purge_step = self.first_epoch or None
            self._writer = CarefulWriter(partial(SummaryWriter, str(self.folder), purge_step=purge_step))
            if not self._writer.broken:
                label = colorstr("TensorBoard: ")
                LOGGER.info(f"{label}watch with 'tensorboard --logdir {self.folder.parent}' at http://localhost:6006/")
        return None if self._writer is None or self._writer.broken else self._writer

    def open(self) -> None:
        """Open the event file now, so that the line about it stands above the table of the epochs."""
        _ = self.writer

    def config(self, values: Mapping[str, Any]) -> None:
        """Record nothing: options and hyperparameters are in opt.yaml and hyp.yaml beside the event file."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record figures by tag."""
        writer = self.writer
        if writer is not None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)

    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Record the distribution of ``values`` (n,)."""
        writer = self.writer
        if writer is not None:
            writer.add_histogram(tag, values, step, bins="doane")

    def image(self, tag: str, file: Path, step: int) -> None:
        """Record a picture."""
        writer = self.writer
        if writer is not None:
            writer.add_image(tag, _read_rgb(file), step, dataformats="HWC")

    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table as Markdown."""
        writer = self.writer
        if writer is not None:
            lines = [header, ["---"] * len(header), *rows]
            writer.add_text(tag, "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))

    def artifact(self, file: Path) -> None:
        """Record nothing: checkpoints lie beside the event file."""

    def graph(self, model: nn.Module, size: tuple[int, int]) -> None:
        """Record the model's graph for images of ``size`` (H, W)."""
        writer = self.writer
        if writer is not None:
            _add_graph(writer, model, size)

    def flush(self) -> None:
        """Write what has been collected."""
        if self._writer is not None:
            self._writer.flush()

    def finish(self, succeeded: bool) -> None:
        """Close the event file. Nothing can be written to it afterwards."""
        self._closed = True
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class CarefulWriter:
    """TensorBoard's writer; the first file error is logged, and nothing more is written, so that the run continues.

    Its methods are those of ``SummaryWriter``. Signals do not interrupt them, since that writer's locks would stay
    closed.
    """

    def __init__(self, open_writer: Callable[[], SummaryWriter]) -> None:
        """Open it."""
        self.broken = False
        self._writer: Any = None
        self._writer = self._try(open_writer)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """The method ``name``, without its result and its errors."""
        return lambda *arguments, **keywords: self._try(lambda: getattr(self._writer, name)(*arguments, **keywords))

    def _try(self, work: Callable[[], Any]) -> Any:
        if self.broken:
            return None
        try:
            with deferred():
                return work()
        except OSError as error:
            self.broken = True
            LOGGER.warning(
                f"WARNING: TensorBoard's event file cannot be written ({error.strerror or error}): "
                "the run continues without it"
            )
            return None


def _add_graph(writer: CarefulWriter, model: nn.Module, size: tuple[int, int]) -> None:
    """Trace an eval-mode copy on a blank image: the live model's batch norm statistics must not see it."""
    try:
        network = copy.deepcopy(getattr(model, "module", model)).float().eval()
        blank = torch.zeros(1, 3, *size, device=next(network.parameters()).device)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of every Python number in the network
            writer.add_graph(torch.jit.trace(network, blank, strict=False, check_trace=False), [])
    except Exception as error:  # noqa: BLE001 - tracing can fail in any way, and a missing graph harms nobody
        LOGGER.warning(f"TensorBoard: the model's graph cannot be recorded ({type(error).__name__}: {error})")


def _read_rgb(file: Path) -> NDArray:
    picture = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(np.asarray(picture), cv2.COLOR_BGR2RGB)
