"""The weights that a run starts from: what they are worth, and that it does not end with less."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from utils.commands.options import AUTO_BATCH
from utils.errors import OtherClassesError
from utils.log import LOGGER

if TYPE_CHECKING:
    from utils.callbacks import Callbacks
    from utils.training.options import TrainOptions

SAFE_BATCH = 16  # images; while what fits is still to be found out
Results = tuple[float, ...]  # P, R, mAP50, mAP50-95, ...


def measure_start(options: TrainOptions) -> Results | None:
    """P, R, mAP50 and mAP50-95 of ``options.weights`` on the validation images.

    None when they cannot be had: no weights, or weights that know other classes.
    """
    import val

    if not options.weights:
        return None
    batch_size = SAFE_BATCH if options.batch_size == AUTO_BATCH else options.batch_size * 2
    LOGGER.info(f"Measuring {options.weights}, where this run starts...")
    with TemporaryDirectory() as folder:
        try:
            results, _, _ = val.run(
                options.data, options.weights, batch_size=batch_size, imgsz=options.imgsz,
                device=options.device.split(",")[0], single_cls=options.single_cls, workers=options.workers,
                plots=False, save_dir=Path(folder),
            )  # fmt: skip
        except OtherClassesError as error:
            LOGGER.info(f"The start weights cannot be measured ({error})")
            return None
    return results[:4]


def start_map50(options: TrainOptions) -> float:
    """mAP50 of the weights that a run starts from, 0 where they cannot be measured."""
    results = measure_start(options)
    return results[2] if results else 0.0


class KeepStart:
    """Puts the start weights into best.pt when no epoch came up to them."""

    def __init__(self, options: TrainOptions) -> None:
        """``options`` of the run; nothing is measured yet."""
        self.options = options
        self.results: Results | None = None

    def register(self, callbacks: Callbacks) -> None:
        """Hang it on the start and the end of a run, where the first rank alone comes by."""
        for hook in ("on_pretrain_routine_end", "on_train_end"):
            callbacks.register_action(hook, name="start", callback=getattr(self, hook))

    def on_pretrain_routine_end(self, *_: Any) -> None:
        """Measure the start, when everything that the run needs has been found good."""
        self.results = measure_start(self.options)

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Any) -> None:
        """Compare ``results``, those of ``best``, with the start's by the fitness that chooses best.pt."""
        import numpy as np

        from models.loading import strip_optimizer
        from utils.metrics import fitness

        if self.results is None:
            return
        before, after = (float(fitness(np.array([values[:4]]))[0]) for values in (self.results, results))
        if before <= after:
            return
        LOGGER.warning(
            f"WARNING: no epoch came up to the start (mAP50 {results[2]:.3f} after {self.results[2]:.3f}, mAP50-95 "
            f"{results[3]:.3f} after {self.results[3]:.3f}): best.pt holds the start weights; train for more epochs, "
            "or with a lower lr0"
        )
        strip_optimizer(self.options.weights, best)
