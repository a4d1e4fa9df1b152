"""The best epoch of a run, and when to stop waiting for a better one."""

from __future__ import annotations

import math

from utils.log import LOGGER


class EarlyStopping:
    """Ends a run when the fitness has not risen for ``patience`` epochs (0: never).

    Only a higher fitness counts as progress, unlike in YOLOv5 v6.2, where a plateau of equal values does and can keep a
    finished run going. The one exception is the start: epochs at fitness 0, before anything is detected, do not wait.

    Attributes:
        best_fitness, best_epoch: the best so far (the first epoch that reached it).
        possible_stop: the next epoch may be the last.
        stopped: the run has ended early.
    """

    def __init__(self, patience: float = 30) -> None:
        """Wait for ``patience`` epochs without progress."""
        self.patience = patience or math.inf
        self.best_fitness = 0.0
        self.best_epoch = 0
        self.possible_stop = False
        self.stopped = False

    def __call__(self, epoch: int, fitness: float) -> bool:
        """Record the fitness of ``epoch``; True if training should stop after it."""
        if fitness > self.best_fitness or self.best_fitness == fitness == 0:
            self.best_fitness = fitness
            self.best_epoch = epoch
        waited = epoch - self.best_epoch
        self.possible_stop = waited >= self.patience - 1
        self.stopped = waited >= self.patience
        if not self.stopped:
            return False
        LOGGER.info(
            f"Stopped early: no higher fitness for {self.patience} epochs; best.pt is of epoch {self.best_epoch} "
            "(--patience N waits longer, --patience 0 never stops)"
        )
        return True


class BestEpoch:
    """Decides which epoch becomes best.pt: the fittest of the highest grade; of equally fit ones, the first.

    Attributes:
        grade: the highest grade so far; plug-ins grade an epoch by ``TrainingState.grade``.
        fitness: the highest fitness among the epochs of that grade.
        saved: best.pt holds an epoch of that grade. Until then every epoch counts as the best.
        stopper: ends the run early. An epoch of a higher grade starts its waiting over.
    """

    def __init__(self, patience: float) -> None:
        """Start without any epoch; ``patience`` is that of EarlyStopping."""
        self.grade = 0.0
        self.fitness = 0.0
        self.saved = False
        self.stopper = EarlyStopping(patience)

    def update(self, epoch: int, fitness: float, grade: float) -> bool:
        """Record an epoch; True if it is the best so far."""
        if grade > self.grade:  # fitter epochs of a lower grade no longer count
            self.grade = grade
            self.fitness = 0.0
            self.saved = False
            self.stopper.best_fitness = -1.0
        improved = not self.saved or (grade == self.grade and fitness > self.fitness)
        if improved:
            self.fitness = max(fitness, self.fitness)
        self.stopper(epoch, fitness)
        return improved
