"""From the shared trainings of a method to the networks that it fine-tunes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.frontier.costs import Spent, affordable_epochs, total
from benchmarks.frontier.methods import (
    BASE,
    BASE_METHOD,
    IN_STEPS,
    L1,
    LARGER,
    LARGER_POLARIZED,
    METHODS,
    ONCE,
    OURS,
    POLARIZED,
    TORCH_PRUNING,
)  # fmt: skip
from benchmarks.frontier.plans import Planner, by_score, narrow, narrow_configuration, of_original_tools, uniform
from benchmarks.frontier.rivals import prune_by_torch_pruning
from benchmarks.frontier.trainings import Bench
from models.yolo import DetectionModel
from prune_tools.opening import Inputs, open_inputs
from prune_tools.options import PruneOptions
from prune_tools.pruning import prune
from prune_tools.yolo_pruned import save_model
from utils.commands.options import build
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import write_json

STARTS = "starts.json"
GRID = 32  # pixels: sides of images are multiples of it
SMALLEST_IMAGE = 2 * GRID  # that training takes
STEPS = 3  # of Torch-Pruning with training between them
STEPS_SHARE = 1 / 3  # of the cost that is left after the base, for that training


@dataclass(frozen=True)
class Cut:
    """One way to prune.

    Attributes:
        work: the training whose network is pruned.
        planner: a score of prune.py, or another choice of channels.
        fold, refit: repairs.
    """

    work: str
    planner: str | Planner
    fold: bool = True
    refit: bool = True


NOTHING = Cut(BASE, "gamma", fold=False, refit=False)  # opens a network without reading training images
CUTS = {
    "B2": Cut(BASE, narrow),
    "B5": Cut(BASE, "random"),
    "B6": Cut(BASE, uniform, fold=False, refit=False),
    "B8": Cut(L1, of_original_tools, fold=False, refit=False),
    OURS: Cut(POLARIZED, "gamma"),
    "B9-no-sparse": Cut(BASE, "gamma"),
    "B9-l1": Cut(L1, "gamma"),
    "B9-no-fold": Cut(POLARIZED, "gamma", fold=False),
    "B9-no-refit": Cut(POLARIZED, "gamma", refit=False),
    "once": Cut(ONCE, "gamma"),
    "B10": Cut(LARGER_POLARIZED, "gamma"),
}


@dataclass(frozen=True)
class Start:
    """A network to fine-tune.

    Attributes:
        variant: the choice of the method that it stands for; '' where it has only one.
        checkpoint: of the network.
        spent: what has been paid for already.
        image_size: pixels, of its training and validation.
    """

    variant: str
    checkpoint: Path
    spent: tuple[Spent, ...]
    image_size: int

    def record(self, folder: Path) -> dict[str, Any]:
        """The start as plain values; the path of the checkpoint is relative to ``folder``."""
        path = os.path.relpath(self.checkpoint, folder)
        return {**asdict(self), "checkpoint": Path(path).as_posix()}

    @classmethod
    def read(cls, record: Mapping[str, Any], folder: Path) -> Start:
        """The start of a ``record``."""
        spent = tuple(Spent(**values) for values in record["spent"])
        return cls(record["variant"], (folder / record["checkpoint"]).resolve(), spent, record["image_size"])


class Cutter:
    """Makes the starts of one cell."""

    def __init__(self, bench: Bench) -> None:
        """Keep the bench, with its task and folder."""
        self.bench = bench
        self.method = bench.task.method

    def starts(self) -> list[Start]:
        """The networks to fine-tune, made now or before. Raises InputError where the method cannot reach the budget."""
        file = self.bench.folder / STARTS
        if file.is_file():
            return [Start.read(record, self.bench.folder) for record in json.loads(file.read_text(encoding="utf-8"))]
        starts = self._made()
        write_json(file, [start.record(self.bench.folder) for start in starts])
        return starts

    def _made(self) -> list[Start]:
        method = self.method
        if method == BASE_METHOD:
            return [self._start(self.bench.shared(BASE))]
        if method == "B4":
            return [self._start(self.bench.shared(BASE), image_size=self._smaller_image())]
        if method == TORCH_PRUNING:
            return self._variants_of_torch_pruning()
        if method in ("B1", "B3"):
            return [self._from_scratch()]
        return [self._cut(CUTS[method])]

    def _start(self, checkpoint: Path, stages: Sequence[Spent] = (), image_size: int = 0, variant: str = "") -> Start:
        """A start; ``stages`` are what was paid for besides the base and the shared sparse training."""
        bench, larger = self.bench, self.method == "B10"
        spent: list[Spent] = []
        if larger or METHODS[self.method].pays_base or bench.has_teacher:
            spent.append(bench.base_spending(larger))
        return Start(variant, checkpoint, (*spent, *stages), image_size or bench.image_size)

    def _sparse_spending(self, work: str) -> list[Spent]:
        """Cost of the shared sparse training ``work``."""
        if work in (BASE, LARGER):
            return []
        return [Bench(self.bench.options, self.bench.task.of(work)).sparse_spending()]

    def _open(self, checkpoint: Path, cut: Cut) -> Inputs[PruneOptions]:
        """The network of a checkpoint, and the images of its repairs."""
        bench = self.bench
        options = build(
            PruneOptions,
            weights=[str(checkpoint)],
            cfg="",
            data=bench.data,
            imgsz=bench.image_size,
            batch_size=bench.options.batch_size,
            device=bench.options.device,
            fold=cut.fold,
            reconstruct=bench.options.refit_images if cut.refit else 0,
        )
        return open_inputs(options)

    def _cut(self, cut: Cut) -> Start:
        """Prune the network of a training and repair it."""
        inputs = self._open(self.bench.shared(cut.work), cut)
        structure, plan = self._planner(cut)(inputs.model, self.bench.target())
        batches = inputs.repair_batches()
        device = next(inputs.model.parameters()).device
        images = batches[0].images.to(device).float() / 255 if batches else None  # (B, 3, H, W) in 0..1
        model = prune(structure, plan, inputs.options, batches, images).model
        if cut.planner is narrow:
            model = self._plain(model)
        checkpoint = self._save(model)
        stages = self._sparse_spending(cut.work)
        if cut.refit:
            seen = sum(len(batch.images) for batch in batches) / len(find_images(inputs.data["train"]))
            whole = self.bench.relative(self.bench.shared(cut.work))
            stages.append(Spent("re-fit", seen, self.bench.relative(checkpoint), whole, backward=False))
        return self._start(checkpoint, stages)

    def _planner(self, cut: Cut) -> Planner:
        """The choice of channels of a cut; random ones are by the seed of the cell."""
        return by_score(cut.planner, self.bench.task.seed) if isinstance(cut.planner, str) else cut.planner

    def _plain(self, sliced: DetectionModel) -> DetectionModel:
        """The narrow network of the YAML with the weights of the slices."""
        model = DetectionModel(narrow_configuration(sliced.yaml, self.bench.target()))
        model.load_state_dict(sliced.state_dict())
        model.names = sliced.names
        return model

    def _from_scratch(self) -> Start:
        """The narrow network (B1) or that of our widths (B3) with random weights, by the seed of the cell."""
        target = self.bench.target()
        if self.method == "B1":
            model = self._open(self.bench.shared(BASE), NOTHING).model
            configuration = narrow_configuration(model.yaml, target)
        else:
            inputs = self._open(self.bench.shared(POLARIZED), NOTHING)
            structure, plan = self._planner(CUTS[OURS])(inputs.model, target)
            model = prune(structure, plan, inputs.options).model
            configuration = model.yaml
        torch.manual_seed(self.bench.task.seed)
        fresh = DetectionModel(configuration)
        fresh.names = model.names
        return self._start(self._save(fresh))

    def _save(self, model: DetectionModel) -> Path:
        """Write the network to fine-tune."""
        file = self.bench.folder / "start.pt"
        save_model(model, file, {})
        return file

    def _smaller_image(self) -> int:
        """The largest image size within the budget, in pixels."""
        side = math.floor(self.bench.image_size * math.sqrt(self.bench.task.budget) / GRID) * GRID
        if side < SMALLEST_IMAGE:
            raise InputError(f"images of {SMALLEST_IMAGE} pixels, the smallest, have more operations than the budget")
        return side

    def _variants_of_torch_pruning(self) -> list[Start]:
        """The networks of all variants that reach the budget. Raises InputError if none does."""
        starts, problems = [], []
        for variant in self.bench.options.variants:
            try:
                starts.append(self._by_torch_pruning(variant))
            except InputError as error:
                LOGGER.warning(f"{self.bench.task.name} without {variant}: {error}")
                problems.append(f"{variant}: {error}")
        if not starts:
            raise InputError("; ".join(problems))
        return starts

    def _by_torch_pruning(self, variant: str) -> Start:
        """The network of one variant of Torch-Pruning; that of batch-norm scales prunes the L1-sparse model."""
        bench, work = self.bench, L1 if variant == "bn-scale" else BASE
        budget = bench.target().value / 1e9
        file = bench.folder / f"start-{variant}.pt"
        if variant == IN_STEPS:
            checkpoint, stages = self._tuned_between(bench.shared(BASE), variant)
        else:
            checkpoint, stages = bench.shared(work), self._sparse_spending(work)
        seen = prune_by_torch_pruning(self._open(checkpoint, NOTHING), variant, budget, file)
        if seen:
            stages.append(Spent("Taylor scores", seen, 1.0))
        return self._start(file, stages, variant=variant)

    def _tuned_between(self, checkpoint: Path, variant: str) -> tuple[Path, list[Spent]]:
        """The network before the last of STEPS equal steps, fine-tuned by the first recipe after each, and the cost."""
        bench = self.bench
        stages: list[Spent] = []
        rest = bench.options.cost - total(self._start(checkpoint).spent)
        teacher = bench.relative(bench.teacher()) if bench.has_teacher else 0.0
        for step in range(1, STEPS):
            file = bench.folder / f"step{step}.pt"
            budget = bench.base_operations() * bench.task.budget ** (step / STEPS)
            if not file.is_file():
                prune_by_torch_pruning(self._open(checkpoint, NOTHING), variant, budget, file)
            share = bench.relative(file)
            epochs = affordable_epochs(rest * STEPS_SHARE / (STEPS - 1), share, teacher)
            if not epochs:
                raise InputError(
                    f"the cost does not pay for an epoch after step {step} of {STEPS}: leave {variant} out"
                )
            folder = bench.folder / f"step{step}"
            checkpoint = bench.tune(file, epochs, bench.options.recipes[0], 1.0, folder, bench.image_size)
            stages.append(Spent(f"after step {step}", epochs, share, teacher))
        return checkpoint, stages
