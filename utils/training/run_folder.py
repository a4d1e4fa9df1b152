"""The folder of a training run: options, hyperparameters and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.checkpoint import CheckpointWriter
from utils.commands.interrupts import advising, resume_flag
from utils.distributed import by_first
from utils.log import LOGGER
from utils.storage.drafts import remove_abandoned
from utils.storage.files import make_folder, write_yaml
from utils.storage.folder_lock import claimed_folder, held_folder
from utils.training.options import TrainOptions
from utils.training.resume import as_recorded
from utils.training.resume_record import snapshot
from utils.training.state import TrainingState


@contextmanager
def run_folder(options: TrainOptions, resumed: Path) -> Iterator[Path]:
    """The folder of a training run, on all ranks; the first one locks it for the duration of the block.

    It is a new one named by ``options``, or with --resume the folder ``resumed``. Raises InputError on all ranks if it
    cannot be used.
    """
    name = Path(options.cfg).stem if options.name == "cfg" else options.name
    with ExitStack() as held:

        def lock() -> Path:
            if options.resume:
                return held.enter_context(held_folder(resumed))
            return held.enter_context(claimed_folder(Path(options.project) / name, options.exist_ok))

        folder = by_first(lock)
        with advising(lambda: resume_flag(folder / "weights/last.pt", options.augment)):
            yield folder


class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder.
        last, best: its checkpoints, last.pt and best.pt.
        writer: writes them while training continues; ``writer.finish()`` waits until they are complete.
    """

    def __init__(self, path: Path) -> None:
        """Name the files; nothing is read or written yet."""
        self.path = path
        self.last = path / "weights/last.pt"
        self.best = path / "weights/best.pt"
        self.writer = CheckpointWriter()

    def start(self, options: TrainOptions, hyp: dict[str, Any]) -> None:
        """Create the folder with hyp.yaml and opt.yaml; ``hyp`` has the gains as they were given.

        An evolution has one folder for all its runs, which keep nothing but their lines of results.csv there.
        """
        if options.evolve:
            make_folder(self.path)
            return
        make_folder(self.path / "weights")
        remove_abandoned(self.path, held=True)
        if not options.resume:
            self._set_earlier_run_aside()
        write_yaml(self.path / "hyp.yaml", hyp)
        write_yaml(self.path / "opt.yaml", self._record(options, hyp))

    def _set_earlier_run_aside(self) -> None:
        """With --exist-ok: an earlier run's last.pt would be resumed with this run's opt.yaml."""
        (self.path / "results.csv").unlink(missing_ok=True)
        if self.last.exists():
            earlier = self.last.with_name("earlier_last.pt")
            self.last.replace(earlier)
            LOGGER.info(f"The last.pt of an earlier run in this folder is now {earlier}")

    def _record(self, options: TrainOptions, hyp: dict[str, Any]) -> dict[str, Any]:
        return {**as_recorded(options), "hyp": hyp, "save_dir": str(self.path)}

    def save(self, state: TrainingState, improved: bool) -> None:
        """Start to write the checkpoints of the epoch that has ended, as best.pt as well if it ``improved``.

        last.pt comes last: a run killed before that repeats the epoch, and writes the same other files again. An error
        of writing is raised by the next call, or by ``writer.finish``.
        """
        options = state.run.options
        checkpoint = {
            "epoch": state.epoch,
            "best_fitness": state.best.fitness,
            "model": state.model,
            "ema": state.ema.ema,
            "updates": state.ema.updates,
            "optimizer": state.optimizer.state_dict(),
            "wandb_id": None,
            "opt": self._record(options, state.run.unscaled_hyp),
            "date": datetime.now().isoformat(),
            "resume": snapshot(state),
        }
        targets = [self.best] if improved else []
        if options.save_period > 0 and state.epoch % options.save_period == 0:
            targets.append(self.path / f"weights/epoch{state.epoch}.pt")
        self.writer.write(checkpoint, *targets, self.last)
