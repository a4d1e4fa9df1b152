"""What a training run keeps in its folder: options, hyperparameters and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.commands.interrupts import advising, resume_flag
from utils.log import LOGGER
from utils.storage.drafts import remove_abandoned
from utils.storage.files import make_folder, write_yaml
from utils.storage.folder_lock import claimed_folder, held_folder
from utils.training.options import TrainOptions

if TYPE_CHECKING:
    from utils.training.optim import EarlyStopping
    from utils.training.state import TrainingState


@contextmanager
def run_folder(options: TrainOptions, resumed: Path) -> Iterator[Path]:
    """The folder of a training, for all ranks; the first one holds it meanwhile.

    It is a new one by ``options``, or with --resume ``resumed``. Raises InputError on all ranks if it cannot be used.
    """
    from utils.distributed import by_first

    name = Path(options.cfg).stem if options.name == "cfg" else options.name
    with ExitStack() as held:

        def take() -> Path:
            place = Path(options.project) / name
            return held.enter_context(
                held_folder(resumed) if options.resume else claimed_folder(place, options.exist_ok)
            )

        folder = by_first(take)
        with advising(lambda: resume_flag(folder / "weights/last.pt")):
            yield folder


class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder. last, best: its checkpoints. best_fitness: the highest so far.
    """

    def __init__(self, path: Path) -> None:
        """Name the files; nothing is read or written yet."""
        self.path = path
        self.last, self.best = path / "weights/last.pt", path / "weights/best.pt"
        self.best_fitness = 0.0
        self.saved_best = False  # best.pt is of this run

    def start(self, options: TrainOptions, hyp: dict[str, Any]) -> None:
        """Create the folder with hyp.yaml and opt.yaml; ``hyp`` has the gains as they were given.

        An evolution has one folder for all its runs, which keep nothing but their lines of results.csv there.
        """
        if options.evolve:
            make_folder(self.path)
            return
        make_folder(self.path / "weights")
        remove_abandoned(self.path, held=True)
        if options.resume:
            self.saved_best = self.best.exists()
        else:
            self._set_earlier_run_aside()
        write_yaml(self.path / "hyp.yaml", hyp)
        write_yaml(self.path / "opt.yaml", self._record(options, hyp))

    def _set_earlier_run_aside(self) -> None:
        """With --exist-ok: an earlier run's last.pt beside this run's opt.yaml would be resumed with wrong options."""
        (self.path / "results.csv").unlink(missing_ok=True)
        if self.last.exists():
            earlier = self.last.with_name("earlier_last.pt")
            self.last.replace(earlier)
            LOGGER.info(f"The last.pt of an earlier run in this folder is now {earlier}")

    def _record(self, options: TrainOptions, hyp: dict[str, Any]) -> dict[str, Any]:
        from utils.training.resume import as_recorded

        return {**as_recorded(options), "hyp": hyp, "save_dir": str(self.path)}

    def rate(self, fitness: float, state: TrainingState, stopper: EarlyStopping) -> bool:
        """Take in the fitness of an epoch; whether it is the best so far of the highest grade, of equals the first."""
        if state.grade > state.best_grade:  # fitter epochs of a lower grade no longer count
            state.best_grade, self.best_fitness, self.saved_best = state.grade, 0.0, False
            stopper.best_fitness = -1.0
        improved = (state.grade == state.best_grade and fitness > self.best_fitness) or not self.saved_best
        self.best_fitness = max(fitness, self.best_fitness) if improved else self.best_fitness
        return improved

    def save(
        self, state: TrainingState, stopper: EarlyStopping, options: TrainOptions, hyp: dict[str, Any],
        improved: bool, maps: Sequence[float],
    ) -> None:  # fmt: skip
        """Write the checkpoints of the epoch that has ended.

        last.pt comes last: a run killed before that repeats the epoch, and writes the other files again just so.
        """
        from utils.checkpoint import save_checkpoint
        from utils.training.resume_record import snapshot

        checkpoint = {
            "epoch": state.epoch,
            "best_fitness": self.best_fitness,
            "model": state.model,
            "ema": state.ema.ema,
            "updates": state.ema.updates,
            "optimizer": state.optimizer.state_dict(),
            "wandb_id": None,
            "opt": self._record(options, hyp),
            "date": datetime.now().isoformat(),
            "resume": snapshot(state, stopper, maps),
        }
        targets = [self.best] if improved else []
        if options.save_period > 0 and state.epoch % options.save_period == 0:
            targets.append(self.path / f"weights/epoch{state.epoch}.pt")
        save_checkpoint(checkpoint, *targets, self.last)
        self.saved_best |= improved
