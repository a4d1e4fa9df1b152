"""Run tasks, each when what it needs is finished, one after the other or several side by side."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress

from benchmarks.frontier.cell import RESULT, run_cell
from benchmarks.frontier.methods import TORCH_PRUNING
from benchmarks.frontier.options import FrontierOptions
from benchmarks.frontier.results import Results
from benchmarks.frontier.rivals import missing_package
from benchmarks.frontier.tasks import CELL, Task, cells_of, with_needs
from benchmarks.frontier.trainings import Bench
from utils.commands.interrupts import run_child
from utils.commands.options import default_of, flag_words
from utils.errors import InputError
from utils.log import LOGGER, colorstr
from utils.resources import usable_cores
from utils.storage.files import ROOT, atomic_path
from utils.storage.folder_lock import held_folder

PROBLEM, LOG = "problem.txt", "log.txt"  # in the folder of a task: why it has no result; what a job of its own logged
THREADS = "OMP_NUM_THREADS"


def run_task(options: FrontierOptions, task: Task) -> None:
    """Make one shared training or cell, in this process. What stops it is written beside it, and raised."""
    bench = Bench(options, task)
    problem = bench.folder / PROBLEM
    LOGGER.info(colorstr(f"\n{task.name}"))
    try:
        if task.work == CELL:
            with held_folder(bench.folder):
                run_cell(options, task)
        else:
            bench.run_shared()
    except InputError as error:
        with atomic_path(problem) as draft:
            draft.write_text(str(error), encoding="utf-8")
        raise
    with suppress(FileNotFoundError):
        problem.unlink()


def task_of(options: FrontierOptions, name: str) -> Task:
    """The task of this name. Raises InputError if the options do not ask for it."""
    for task in with_needs(cells_of(options)):
        if task.name == name:
            return task
    raise InputError(f"--only {name} is not among the tasks that the other options ask for")


def words_of(options: FrontierOptions, task: Task) -> list[str]:
    """The command of a process that makes one task."""
    words = [sys.executable, "-m", "benchmarks.frontier"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name != "only" and value != default_of(field):
            words += flag_words(field.name, value)
    return [*words, "--only", task.name]


class Runner:
    """Runs all tasks of the options, at most ``jobs`` at a time, and collects the results of the cells."""

    def __init__(self, options: FrontierOptions, results: Results) -> None:
        """Find out what is left to do."""
        self.options, self.results = options, results
        cells = cells_of(options)
        results.expect(cells)
        for cell in cells:
            self._collect(cell)
        missing = missing_package()
        skipped = [cell for cell in cells if cell.method == TORCH_PRUNING and missing and not results.is_measured(cell)]
        for cell in skipped:
            LOGGER.warning(f"{cell.name}: {missing}")
            results.put(cell, {"problem": missing})
        self.waiting = with_needs([cell for cell in cells if not results.is_measured(cell) and cell not in skipped])
        self.running: dict[Future[None], Task] = {}
        self.done: set[Task] = set()
        self.failed: dict[Task, str] = {}

    def run(self) -> None:
        """Run until nothing is left that can run. A task that fails stops those that need it, and no others."""
        with ThreadPoolExecutor(self.options.jobs) as pool:
            while self.waiting or self.running:
                for task in list(self.waiting):
                    self._advance(task, pool)
                finished = wait(self.running, return_when=FIRST_COMPLETED).done if self.running else ()
                for future in finished:
                    self._finish(self.running.pop(future), future.exception())

    def _advance(self, task: Task, pool: ThreadPoolExecutor) -> None:
        """Start a task if its turn has come, or give it up if something that it needs has failed."""
        missing = next((needed for needed in task.needs() if needed in self.failed), None)
        if missing is not None:
            self.waiting.remove(task)
            self._fail(task, f"{missing.name}: {self.failed[missing]}")
        elif all(needed in self.done for needed in task.needs()) and len(self.running) < self.options.jobs:
            self.waiting.remove(task)
            if self.options.jobs > 1:
                self.running[pool.submit(self._run_apart, task)] = task
                return
            try:
                run_task(self.options, task)
            except InputError as error:
                self._finish(task, error)
            else:
                self._finish(task, None)

    def _run_apart(self, task: Task) -> None:
        """Run a task in a process of its own; its log goes into its folder."""
        folder = Bench(self.options, task).folder
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.getenv("PYTHONPATH"))))}
        environment.setdefault(THREADS, str(max(usable_cores() // self.options.jobs, 1)))
        with (folder / LOG).open("ab") as log:
            code = run_child(words_of(self.options, task), env=environment, stdout=log, stderr=log)
        if code:
            problem = folder / PROBLEM
            words = (
                problem.read_text(encoding="utf-8") if problem.is_file() else f"exit code {code}: see {folder / LOG}"
            )
            raise InputError(words)

    def _finish(self, task: Task, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, InputError):
            raise error
        if error is not None:
            self._fail(task, str(error))
            return
        self.done.add(task)
        LOGGER.info(f"{task.name}: finished, {len(self.waiting)} tasks left")
        self._collect(task)

    def _fail(self, task: Task, words: str) -> None:
        LOGGER.warning(f"{task.name}: {words}")
        self.failed[task] = words
        if task.work == CELL:
            self.results.put(task, {"problem": words})

    def _collect(self, task: Task) -> None:
        """Take the result of a finished cell from its folder."""
        file = self.results.folder / task.name / RESULT
        if task.work == CELL and file.is_file():
            self.results.put(task, json.loads(file.read_text(encoding="utf-8")))
