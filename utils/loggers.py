"""The records of a training run: results.csv, TensorBoard, services such as W&B, pictures of the first batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.callbacks import Plugin
from utils.commands.interrupts import requested
from utils.drawing.background import BackgroundDrawing
from utils.drawing.charts import plot_results
from utils.drawing.pictures import plot_images
from utils.resources import usable_cores
from utils.storage.files import append_whole
from utils.tracking.recording import Trackers, configuration, label_of
from utils.tracking.to_tensorboard import CarefulWriter, TensorBoardTracker
from utils.tracking.tracker import Tracker
from utils.training.results import RESULT_COLUMNS

RESULT_PICTURES = ("results", "confusion_matrix", "F1_curve", "PR_curve", "P_curve", "R_curve")
OTHER_PICTURES = ("labels.jpg", "train_batch*.jpg", "val_batch*.jpg")  # large: TensorBoard's file does not get them
PICTURED_BATCHES = 3  # train_batch0.jpg ...
PICTURED_IMAGES = 16  # of each
GAMMAS = "bn_weights/hist"


class Loggers(Plugin):
    """Writes the records of one run into ``save_dir``, and sends them to ``services``.

    ``plots`` switches pictures and the TensorBoard graph, ``tensorboard`` the event file as a whole. ``close`` must be
    called at the end, also of a run that failed: it ends the drawing process, the event file and the runs at services.

    Attributes:
        norms: whose gammas the histogram ``bn_weights/hist`` shows; all batch norms unless a plug-in names others.
    """

    def __init__(
        self, save_dir: str | Path, plots: bool = True, tensorboard: bool = True, services: Sequence[str] = ()
    ) -> None:
        """Open nothing yet. Raises InputError for a service that cannot be used here."""
        self.save_dir = Path(save_dir)
        self.csv = self.save_dir / "results.csv"
        self.plots = plots
        self.norms: Mapping[str, _BatchNorm] = {}
        self._tensorboard = TensorBoardTracker(self.save_dir) if tensorboard else None
        self._services = Trackers(services)
        self._complete = False  # the run has reached its end
        self._drawing: BackgroundDrawing | None = None

    @property
    def writer(self) -> CarefulWriter | None:
        """TensorBoard's writer, opened at first use; None if it is switched off, closed, not installed, or broken."""
        return None if self._tensorboard is None else self._tensorboard.writer

    def resume_at(self, epoch: int) -> None:
        """Note that the run continues with ``epoch``: TensorBoard hides what an earlier event file has from it on."""
        if self._tensorboard is not None:
            self._tensorboard.first_epoch = epoch

    # -- for plug-ins --------------------------------------------------------------------------------------------------

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record figures by tag, for the epoch ``step``."""
        self._each(methodcaller("scalars", values, step))

    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Record the distribution of ``values`` (n,), for the epoch ``step``."""
        self._each(methodcaller("histogram", tag, values, step))

    def _each(self, record: Callable[[Tracker], None]) -> None:
        if self._tensorboard is not None:
            record(self._tensorboard)
        self._services.each(record)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Open the event file, and start the runs at the services or continue those of the record of a resumed run."""
        if self._tensorboard is not None:
            self._tensorboard.open()
        run = self.state.run
        self._services.start(label_of(self.save_dir), configuration(run.options, run.unscaled_hyp))

    def on_train_epoch_end(self, epoch: int) -> None:
        """Record the magnitudes of the gammas, which sparse training moves towards zero."""
        norms = self.norms or {
            path: module for path, module in self.state.model.named_modules() if isinstance(module, _BatchNorm)
        }
        if norms:
            gammas = torch.cat([norm.weight.detach() for norm in norms.values()])  # (channels,)
            self.histogram(GAMMAS, gammas.abs().float().cpu().numpy(), epoch)

    def on_train_batch_end(
        self, ni: int, model: nn.Module, imgs: torch.Tensor, targets: torch.Tensor, paths: Sequence[str], plots: bool
    ) -> None:
        """Draw the first batches in the background; record the model's graph at the very first.

        ``imgs`` (B, 3, H, W) in 0..1 and ``targets`` (n, 6) are copied before the method returns.
        """
        if not (plots and self.plots):
            return
        if ni == 0 and self._tensorboard is not None:
            self._tensorboard.graph(model, (int(imgs.shape[2]), int(imgs.shape[3])))
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
        self.scalars(values, epoch)
        self._each(methodcaller("flush"))

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Sequence[float]) -> None:
        """Draw results.png from results.csv, and record the final pictures that exist."""
        self._end_drawing()
        if plots and self.plots and self.csv.is_file():
            plot_results(self.csv)
        for name in RESULT_PICTURES:
            file = self.save_dir / f"{name}.png"
            if file.is_file():
                self._each(methodcaller("image", name, file, epoch))
        for pattern in OTHER_PICTURES:
            for file in sorted(self.save_dir.glob(pattern)):
                self._services.each(methodcaller("image", file.stem, file, epoch))
        self._each(methodcaller("flush"))
        self._complete = True

    def teardown(self) -> None:
        """The same as ``close``, as a hook."""
        self.close()

    def close(self) -> None:
        """Wait for the pictures being drawn, and end the records. Nothing can be recorded afterwards."""
        self._end_drawing()
        if self._complete:  # by now last.pt is as small as best.pt
            for name in ("best", "last"):
                file = self.save_dir / f"weights/{name}.pt"
                if file.is_file():
                    self._services.each(methodcaller("artifact", file))
        if self._tensorboard is not None:
            self._tensorboard.finish(self._complete)
        self._services.finish(self._complete)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ids of the runs by service."""
        return dict(self._services.run_ids)

    def load_state_dict(self, record: Any) -> None:
        """Have these runs continued, by the services that were asked for. Raises InputError for a damaged record."""
        self._services.resume(record)

    # -- files ---------------------------------------------------------------------------------------------------------

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
