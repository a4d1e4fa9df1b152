"""Trainings: each in a folder of its own, continued where it was interrupted, never repeated when it is finished."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import train
from benchmarks.frontier.costs import ROUNDING, SIZE, Spent, affordable_epochs
from benchmarks.frontier.methods import BASE, L1, LARGER, LARGER_POLARIZED, ONCE
from benchmarks.frontier.options import FrontierOptions
from benchmarks.frontier.tasks import Task
from prune_tools import finetune, train_sparity
from prune_tools.opening import load_model
from prune_tools.pipeline_run import resumable
from prune_tools.planning.goals import Target
from prune_tools.sparsity.options import SparseOptions
from prune_tools.tuning.options import NO_TEACHER, FinetuneOptions
from prune_tools.tuning.recipes import PUBLISHED, RECIPES
from utils.checks import check_file
from utils.commands.next_steps import no_proposals
from utils.commands.options import build
from utils.errors import InputError
from utils.model_info import gflops
from utils.storage.files import make_folder, read_yaml_mapping, write_yaml
from utils.training.options import TrainOptions


def operations(checkpoint: str | Path) -> float:
    """GFLOPs of the network of a checkpoint at SIZE."""
    return _operations(str(checkpoint), Path(checkpoint).stat().st_mtime_ns)


@cache
def _operations(checkpoint: str, _changed: int) -> float:
    return gflops(load_model(checkpoint)[0], SIZE) or 0.0


class Bench:
    """The trainings of one data set, seed and choice of teacher.

    Attributes:
        options: of the benchmark.
        task: the shared training or the cell that is made.
        folder: of its files.
        data: data set YAML.
        image_size: of the base, in pixels.
    """

    def __init__(self, options: FrontierOptions, task: Task) -> None:
        """Create the folder of the task."""
        self.options, self.task = options, task
        self.folder = make_folder(Path(options.folder).resolve() / task.name)
        self.data = options.data_file(task.data)
        self.image_size = options.image_size(task.data)
        self._finished: dict[str, Path] = {}  # shared trainings

    @property
    def has_teacher(self) -> bool:
        """Tell whether all methods have a teacher."""
        return self.task.teacher == "all"

    def shared(self, work: str) -> Path:
        """The best checkpoint of a training that is shared with other cells, which is finished.

        Raises:
            InputError: it is not.
        """
        if work == BASE and self.options.base:
            return Path(check_file(self.options.base, ".pt"))
        if work not in self._finished:
            task = self.task.of(work)
            weights = Path(self.options.folder).resolve() / task.name / "weights"
            if not (weights / "best.pt").is_file() or resumable(weights / "last.pt"):
                raise InputError(f"{task.name} is not finished: run the benchmark without --only")
            self._finished[work] = weights / "best.pt"
        return self._finished[work]

    def base_operations(self) -> float:
        """GFLOPs of the base."""
        return operations(self.shared(BASE))

    def relative(self, checkpoint: str | Path, image_size: int = 0) -> float:
        """Operations of a network, at ``image_size`` pixels, as a share of those of the base at its own size."""
        pixels = ((image_size or self.image_size) / self.image_size) ** 2
        return operations(checkpoint) / self.base_operations() * pixels

    # -- shared trainings ----------------------------------------------------------------------------------------------

    def run_shared(self) -> None:
        """Make the shared training of the task, unless it is a base that is given."""
        work, options = self.task.work, self.options
        if work == LARGER:
            self._train_base(options.start, self._larger_epochs())
        elif work != BASE:
            self._train_sparsely()
        elif not options.base:
            self._train_base(options.weights, options.base_epochs)

    def _larger_epochs(self) -> int:
        """The epochs of the larger base, which cost no more than those of the base."""
        share = operations(check_file(self.options.start, ".pt")) / self.base_operations()
        return affordable_epochs(self.options.base_epochs, share)

    def _train_base(self, weights: str, epochs: int) -> None:
        if not epochs:
            raise InputError(f"--base-epochs {self.options.base_epochs} do not pay for one epoch of {weights}")
        if self.options.base_recipe == PUBLISHED:
            self.train(train.main, TrainOptions, self.folder, weights=weights, epochs=epochs)
            return
        recipe = self.options.base_recipe
        self.train(finetune.main, FinetuneOptions, self.folder, weights=weights, epochs=epochs, recipe=recipe)

    def base_spending(self, larger: bool = False) -> Spent:
        """Epochs and cost of the base."""
        if not larger:
            return Spent(BASE, self.options.base_epochs, 1.0)
        return Spent(LARGER, self._larger_epochs(), self.relative(self.shared(LARGER)))

    def sparse_spending(self) -> Spent:
        """Epochs and cost of the sparse training that is the task."""
        work, larger = self.task.work, self.task.work == LARGER_POLARIZED
        share = self.relative(self.shared(LARGER if larger else BASE))
        teacher = share if self.has_teacher else 0.0
        rest = self.options.cost
        if work != ONCE or self.has_teacher:
            rest -= self.base_spending(larger).cost
        return Spent(work, affordable_epochs(self.options.sparse_share * rest, share, teacher), share, teacher)

    def _train_sparsely(self) -> None:
        work, epochs = self.task.work, int(self.sparse_spending().epochs)
        if not epochs:
            raise InputError(f"--cost {self.options.cost:g} does not pay for one epoch of {work}")
        teacher = self.shared(LARGER if work == LARGER_POLARIZED else BASE)
        polarize = {"penalty": "polarize", "target_flops": str(self.target()), "round_to": ROUNDING}
        keywords: dict[str, Any] = {
            L1: {"penalty": "l1", "st": True, "sr": self.options.sr},
            ONCE: {**polarize, "reversible": True},
        }.get(work, polarize)
        self.train(
            train_sparity.main,
            SparseOptions,
            self.folder,
            weights=check_file(self.options.weights, ".pt") if work == ONCE else str(teacher),
            epochs=epochs,
            teacher=str(teacher) if self.has_teacher else NO_TEACHER,
            **keywords,
        )

    def target(self) -> Target:
        """The budget of the task in operations."""
        return Target("flops", self.task.budget * self.base_operations() * 1e9, relative=False)

    # -- one training --------------------------------------------------------------------------------------------------

    def train(
        self, command: Callable[[Any], Any], options_class: type, folder: Path, image_size: int = 0, **keywords: Any
    ) -> Path:
        """Train in ``folder``, unless that is finished; returns the best checkpoint.

        Raises:
            InputError: a callback stopped the training before its end.
        """
        best, last = folder / "weights/best.pt", folder / "weights/last.pt"
        if last.is_file() and not resumable(last):
            return best
        options = self.options
        settings: Any = build(
            options_class,
            data=self.data,
            imgsz=image_size or self.image_size,
            batch_size=options.batch_size,
            workers=options.workers,
            device=options.device,
            seed=self.task.seed,
            patience=0,
            project=str(folder.parent),
            name=folder.name,
            exist_ok=True,
            noplots=True,
            resume=str(last) if last.is_file() else False,
            **keywords,
        )
        with no_proposals():
            if command(settings) is None:
                raise InputError(f"{folder} was stopped before its end: run the same command to continue it")
        return best

    def tune(self, start: Path, epochs: int, recipe: str, rate: float, folder: Path, image_size: int) -> Path:
        """Fine-tune ``start`` by a recipe at ``rate`` times its learning rate; returns the best checkpoint."""
        keywords: dict[str, Any] = {"hyp": self._scaled(recipe, rate)} if rate != 1 else {}
        teacher = str(self.teacher()) if self.has_teacher else NO_TEACHER
        return self.train(
            finetune.main, FinetuneOptions, folder, image_size, weights=str(start), epochs=epochs, recipe=recipe,
            teacher=teacher, **keywords,
        )  # fmt: skip

    def teacher(self) -> Path:
        """The teacher of the task: the base, the larger one of what starts from that."""
        return self.shared(LARGER if self.task.method == "B10" else BASE)

    def _scaled(self, recipe: str, rate: float) -> str:
        """A hyperparameter file with ``rate`` times the learning rate of a recipe."""
        values = read_yaml_mapping(RECIPES[recipe].hyp_file)
        file = self.folder / f"hyp-{recipe}-{rate:g}.yaml"
        write_yaml(file, {**values, "lr0": values["lr0"] * rate})
        return str(file)
