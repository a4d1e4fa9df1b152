"""The records of a training run: results.csv, TensorBoard events, pictures of the first batches."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn

from utils.callbacks import Plugin
from utils.commands.interrupts import deferred, requested
from utils.drawing.background import BackgroundDrawing
from utils.drawing.charts import plot_results
from utils.drawing.pictures import plot_images
from utils.log import LOGGER, colorstr
from utils.resources import usable_cores
from utils.storage.files import append_whole
from utils.training.results import RESULT_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.utils.tensorboard import SummaryWriter

RESULT_PICTURES = ("results", "confusion_matrix", "F1_curve", "PR_curve", "P_curve", "R_curve")
PICTURED_BATCHES = 3  # train_batch0.jpg ...
PICTURED_IMAGES = 16  # of each


class Loggers(Plugin):
    """Writes the records of one run into ``save_dir``.

    ``plots`` switches pictures and the TensorBoard graph, ``tensorboard`` the event file as a whole. ``close`` must be
    called at the end, also of a run that failed: it ends the drawing process and finishes the event file.
    """

    def __init__(self, save_dir: str | Path, plots: bool = True, tensorboard: bool = True):
        self.save_dir = Path(save_dir)
        self.csv = self.save_dir / "results.csv"
        self.plots = plots
        self._tensorboard = tensorboard
        self._writer: CarefulWriter | None = None
        self._drawing: BackgroundDrawing | None = None
        self.first_epoch = 0  # of a resumed run; TensorBoard hides what an event file before this one has from it on

    @property
    def writer(self) -> CarefulWriter | None:
        """TensorBoard's writer, opened at first use; None if it is switched off, closed, not installed, or broken."""
        if self._writer is not None and self._writer.broken:
            return None
        if self._tensorboard and self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._tensorboard = False
                LOGGER.info("TensorBoard is not installed: no event file is written (pip install tensorboard)")
                return None
            purge_step = self.first_epoch or None
            self._writer = CarefulWriter(partial(SummaryWriter, str(self.save_dir), purge_step=purge_step))
            if self._writer.broken:
                return None
            label = colorstr("TensorBoard: ")
            LOGGER.info(f"{label}watch with 'tensorboard --logdir {self.save_dir.parent}' at http://localhost:6006/")
        return self._writer

    def on_train_batch_end(
        self, ni: int, model: nn.Module, imgs: torch.Tensor, targets: torch.Tensor, paths: Sequence[str], plots: bool
    ) -> None:
        """Draw the first batches in the background; record the model's graph at the very first.

        ``imgs`` (B, 3, H, W) in 0..1 and ``targets`` (n, 6) are copied before the method returns.
        """
        if not (plots and self.plots):
            return
        writer = self.writer
        if ni == 0 and writer is not None:
            _add_graph(writer, model, (int(imgs.shape[2]), int(imgs.shape[3])))
        if ni < PICTURED_BATCHES:
            self._draw_batch(self.save_dir / f"train_batch{ni}.jpg", imgs, targets, paths)

    def _draw_batch(self, file: Path, imgs: torch.Tensor, targets: torch.Tensor, paths: Sequence[str]) -> None:
        if self._drawing is None:
            self._drawing = BackgroundDrawing(min(usable_cores() - 1, 1), charts=False)
        pixels = (imgs[:PICTURED_IMAGES].detach() * 255).round_().to("cpu", torch.uint8)  # a copy
        rows = targets[targets[:, 0] < PICTURED_IMAGES].detach().cpu()  # a copy
        self._drawing(file, partial(plot_images, pixels.numpy(), rows.numpy(), list(paths[:PICTURED_IMAGES]), file))

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """Add an epoch: ``vals`` are 3 training losses, 4 metrics, 3 validation losses and 3 learning rates."""
        self._end_drawing()
        values = dict(zip(RESULT_COLUMNS, map(float, vals), strict=True))
        self._append_row(epoch, list(values.values()))
        writer = self.writer
        if writer is not None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, epoch)
            writer.flush()

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Sequence[float]) -> None:
        """Draw results.png from results.csv, and put the final pictures that exist into the event file."""
        self._end_drawing()
        if plots and self.plots and self.csv.is_file():
            plot_results(self.csv)
        writer = self.writer
        if writer is not None:
            for name in RESULT_PICTURES:
                file = self.save_dir / f"{name}.png"
                if file.is_file():
                    writer.add_image(name, _read_rgb(file), epoch, dataformats="HWC")
            writer.flush()

    def teardown(self) -> None:
        """The same as ``close``, as a hook."""
        self.close()

    def close(self) -> None:
        """Wait for the pictures being drawn and close the event file. Nothing can be written to it afterwards."""
        self._end_drawing()
        self._tensorboard = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _end_drawing(self) -> None:
        """Wait for the pictures being drawn, but not if a signal ends the run: they are not worth the time."""
        drawing = self._drawing
        self._drawing = None
        if drawing is not None:
            with drawing:
                if not requested():
                    drawing.finish()

    def _append_row(self, epoch: int, values: list[float]) -> None:
        """One line in results.csv; the header goes before the first one, so a resumed run carries on in its file."""
        cells = [f"{epoch:20d}", *(f"{value:20.5g}" for value in values)]
        text = ",".join(cells) + "\n"
        if not self.csv.exists() or not self.csv.stat().st_size:
            text = ",".join(f"{name:>20}" for name in ("epoch", *RESULT_COLUMNS)) + "\n" + text
        append_whole(self.csv, text)


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
