"""The best epoch, and early stopping."""

from __future__ import annotations

from utils.training.stopping import BestEpoch, EarlyStopping


def outcomes(patience: float, fitness: list[float]) -> tuple[list[int], int | None, int]:
    """Epochs with possible_stop, the epoch at which it stops (None: never), the best epoch."""
    stopper, possible = EarlyStopping(patience), []
    for epoch, value in enumerate(fitness):
        stop = stopper(epoch, value)
        if stopper.possible_stop:
            possible.append(epoch)
        if stop:
            return possible, epoch, stopper.best_epoch
    return possible, None, stopper.best_epoch


def test_stops_when_fitness_no_longer_rises():
    assert outcomes(3, [0, 0, 0.1, 0.2, 0.05, 0.05, 0.05, 0.05]) == ([5, 6], 6, 3)
    assert outcomes(3, [0.1, 0.05, 0.2, 0.1, 0.3]) == ([], None, 4)


def test_a_plateau_is_no_progress():
    assert outcomes(3, [0.1, 0.2, 0.2, 0.2, 0.2, 0.2]) == ([3, 4], 4, 1)


def test_the_start_without_detections_does_not_count():
    assert outcomes(2, [0.0] * 6) == ([], None, 5)
    assert outcomes(2, [0.1, 0.0, 0.0]) == ([1, 2], 2, 0)


def test_patience_zero_never_stops():
    assert outcomes(0, [0.5] + [0.1] * 500) == ([], None, 0)


def bests(epochs: list[tuple[float, float]], saves: bool = True) -> list[int]:
    """The epochs, given as (fitness, grade), that are each the best so far."""
    best = BestEpoch(patience=0)
    found = []
    for number, (fitness, grade) in enumerate(epochs):
        if best.update(number, fitness, grade):
            found.append(number)
            best.saved |= saves
    return found


def test_the_fittest_epoch_is_the_best_and_of_equals_the_first():
    assert bests([(0.0, 0), (0.2, 0), (0.2, 0), (0.1, 0), (0.3, 0)]) == [0, 1, 4]


def test_a_higher_grade_comes_before_fitness():
    assert bests([(0.9, 0), (0.1, 1), (0.8, 0), (0.2, 1), (0.0, 2)]) == [0, 1, 3, 4]


def test_without_a_saved_checkpoint_every_epoch_is_the_best():
    assert bests([(0.3, 0), (0.1, 0), (0.2, 0)], saves=False) == [0, 1, 2]


def test_a_higher_grade_starts_the_waiting_over():
    best = BestEpoch(patience=2)
    for number, (fitness, grade) in enumerate([(0.9, 0), (0.1, 0), (0.1, 1), (0.05, 1)]):
        best.update(number, fitness, grade)
    assert (best.stopper.stopped, best.stopper.best_epoch, best.fitness) == (False, 2, 0.1)
    best.update(4, 0.05, 1)
    assert best.stopper.stopped
