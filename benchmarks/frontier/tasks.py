"""The tasks of a run: shared trainings and cells, each in a folder of its own, in an order in which all can run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.frontier.methods import BASE, LARGER, LARGER_POLARIZED, METHODS, ONCE, POLARIZED
from benchmarks.frontier.options import FrontierOptions

CELL = "cell"
FULL = 1.0  # budget of what does not depend on one
OF_BUDGET = (POLARIZED, LARGER_POLARIZED, ONCE)
WITHOUT_TEACHER = (BASE, LARGER)


@dataclass(frozen=True)
class Task:
    """A shared training, or a cell: one method, budget, seed, data set and choice of teacher.

    Attributes:
        work: CELL, or the name of a training in ``methods``.
        data: name of the data set, that of its YAML file.
        seed: of all random numbers.
        teacher: 'all' or 'none'; '' for a base, which has none in any case.
        budget: share of the base's operations to keep; FULL where it does not matter.
        method: of a cell.
    """

    work: str
    data: str
    seed: int
    teacher: str = ""
    budget: float = FULL
    method: str = ""

    @property
    def name(self) -> str:
        """The folder of the task below that of all results; it identifies the task."""
        parts = [self.data, f"seed{self.seed}", *([f"teacher-{self.teacher}"] if self.teacher else [])]
        last = self.method or self.work
        return "/".join([*parts, last if self.budget == FULL else f"{last}-{self.budget:g}"])

    def of(self, work: str) -> Task:
        """The training ``work`` that this task starts from."""
        teacher = "" if work in WITHOUT_TEACHER else self.teacher
        budget = self.budget if work in OF_BUDGET else FULL
        return Task(work, self.data, self.seed, teacher, budget)

    def needs(self) -> list[Task]:
        """The tasks that have to be finished before."""
        if self.work == CELL:
            return [self.of(work) for work in METHODS[self.method].needs]
        if self.work == BASE:
            return []
        return [self.of(work) for work in ((BASE, LARGER) if self.work == LARGER_POLARIZED else (BASE,))]


def cells_of(options: FrontierOptions) -> list[Task]:
    """All cells that the options ask for, seed by seed, so that a run cut short has whole seeds."""
    cells: dict[Task, None] = {}
    for seed in options.seeds:
        for data in (Path(file).stem for file in options.data):
            for teacher in options.teachers:
                for budget in options.budgets:
                    for method in options.methods:
                        cell = Task(CELL, data, seed, teacher, budget, method)
                        cells[cell if METHODS[method].has_budget else replace(cell, budget=FULL)] = None
    return list(cells)


def with_needs(cells: list[Task]) -> list[Task]:
    """The cells and all that they need, each after what it needs itself."""
    ordered: dict[Task, None] = {}

    def add(task: Task) -> None:
        for needed in task.needs():
            add(needed)
        ordered[task] = None

    for cell in cells:
        add(cell)
    return list(ordered)
