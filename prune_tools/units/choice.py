"""Choose head levels and residual blocks to remove, on training images and before the channels.

A level goes if the data do without it: training assigns at most ``--allow-level-loss`` of the objects to it alone, and
the mAP50-95 on training images falls by no larger share when it is silent. A block competes with the channels for the
budget: it goes if the network without it, re-fitted and then cut to the budget, has the lower loss on training images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

import val
from models.yolo import DetectionModel
from prune_tools.channels.groups import named_by
from prune_tools.channels.structure import Structure
from prune_tools.make_plan import plan_for, score_groups, with_hyperparameters
from prune_tools.opening import Inputs
from prune_tools.options import PruneOptions
from prune_tools.planning.costs import cost_of
from prune_tools.planning.goals import Target, readable
from prune_tools.pruning import prune
from prune_tools.repair.reconstruction import empty_recording, reconstruct
from prune_tools.report.pictures import spread
from prune_tools.training_images import Batch
from prune_tools.units.level_use import LevelUse
from prune_tools.units.removal import (
    Removal,
    compact,
    find_blocks,
    moved_paths,
    obstacle,
    remove_units,
    silence,
    without_units,
)
from utils.dataset.description import check_dataset
from utils.dataset.label_cache import load_labels
from utils.dataset.labels import find_images
from utils.log import LOGGER, warnings_only
from utils.loss import ComputeLoss

IMAGES = 128  # training images on which units are judged
LEAST_SAVING = 0.01  # of the operations; a level that saves less is not worth the objects
PATIENCE = 2  # blocks in a row that are worse than channels; then the others, which matter more, are not tried


@dataclass(frozen=True)
class Judgement:
    """mAP50-95 and loss of a network on training images."""

    map: float
    loss: float


class Judge:
    """Validates networks on training images, the same ones each time, which are read once."""

    def __init__(self, inputs: Inputs[PruneOptions], images: Sequence[str]) -> None:
        """Read ``images``."""
        self.inputs = inputs
        with TemporaryDirectory() as folder, warnings_only():
            chosen = Path(folder) / "images.txt"
            chosen.write_text("\n".join(images) + "\n", encoding="utf-8")
            self.batches = list(inputs.open_loader({**inputs.data, "val": str(chosen)}))

    def __call__(self, model: DetectionModel) -> Judgement:
        """Validate a copy of ``model``."""
        copy = with_hyperparameters(model, self.inputs.options.imgsz)
        loader: Any = self.batches
        with TemporaryDirectory() as folder, warnings_only():
            metrics, _, _ = val.run(
                self.inputs.data,
                model=copy,
                dataloader=loader,
                save_dir=Path(folder),
                plots=False,
                compute_loss=ComputeLoss(copy),
                **self.inputs.val_options(),
            )
        return Judgement(map=float(metrics[3]), loss=float(sum(metrics[4:7])))


@dataclass
class Chosen:
    """Result of a choice.

    Attributes:
        removal: the units to remove.
        model: the network without them.
        target: the budget of the network, counted from the whole one; None where there is none.
        skip: --skip for this network, whose rows may have other numbers.
        notes: a line for the report about each unit that was considered.
    """

    removal: Removal
    model: DetectionModel
    target: Target | None
    skip: list[str]
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Log a line and keep it for the report."""
        LOGGER.info(text)
        self.notes.append(text)


def choose_units(inputs: Inputs[PruneOptions]) -> Chosen:
    """The units of ``options.units`` to remove from the model of ``inputs``; nothing without levels and blocks.

    Raises:
        InputError: the data set has no training images, or a pattern of --skip fits no layer.
    """
    options, model = inputs.options, inputs.model
    chosen = Chosen(Removal(), model, options.target(), list(options.skip))
    if not {"levels", "blocks"} & set(options.units):
        return chosen
    chosen.target = _absolute(chosen.target, model)
    training = check_dataset(options.data, splits=("train",))["train"]
    judge = Judge(inputs, spread(find_images(training), IMAGES))
    protected = set().union(*(named_by(model, pattern) for pattern in options.skip)) if options.skip else set()
    if "levels" in options.units:
        hyp: Any = with_hyperparameters(model, options.imgsz).hyp
        table, _ = load_labels(training)
        _choose_levels(chosen, LevelUse.of(model, table, options.imgsz, hyp["anchor_t"]), judge, protected)
    if "blocks" in options.units:
        _choose_blocks(chosen, inputs, judge, protected)
    if chosen.removal and protected:
        paths = moved_paths(model, chosen.removal)
        chosen.skip = sorted(paths[path] for path in protected)
    return chosen


def _absolute(target: Target | None, model: DetectionModel) -> Target | None:
    """A target of parameters or operations as an amount below that of the network with all its units."""
    if target is None or target.quantity == "latency":
        return target
    return Target(target.quantity, target.budget(cost_of(target.quantity, model)), relative=False)


# -- levels ------------------------------------------------------------------------------------------------------------


def _choose_levels(chosen: Chosen, use: LevelUse, judge: Judge, protected: Collection[str]) -> None:
    """Add the levels to a choice that the data do without, the least used first; none if there are no objects."""
    model, allowed = chosen.model, judge.inputs.options.allow_level_loss
    head: Any = model.model[-1]
    chosen.note(f"Sizes of objects: {use.sizes()}")
    if not len(use.sides):
        return
    whole = judge(model)
    chosen.note(f"Objects that belong to each level: {use.shares([int(stride) for stride in head.stride])}")
    removed: list[int] = []
    for level in sorted(range(head.nl), key=lambda number: (use.lost([number]), -number)):
        removal = Removal(tuple(sorted([*removed, level])))
        lost = use.lost(removal.levels)
        name = f"The level of stride {int(head.stride[level])}"
        only = f"{lost:.2%} of the objects belong to {'it' if not removed else 'the removed levels'} alone"
        reason = _reason_to_keep(model, removal, protected) or (only if lost > allowed else "")
        if not reason:
            judged = judge(without_units(model, removal))
            accuracy = f"mAP50-95 on training images {whole.map:.3f} with all levels, {judged.map:.3f} without"
            if judged.map < (1 - allowed) * whole.map:
                reason = f"{only}, but {accuracy}"
        if reason:
            chosen.note(f"{name} stays: {reason}")
            continue
        removed.append(level)
        chosen.note(f"{name} is removed: {only}, {accuracy}")
    if removed:
        chosen.removal = Removal(tuple(sorted(removed)))
        chosen.model = remove_units(model, chosen.removal)


def _reason_to_keep(model: DetectionModel, removal: Removal, protected: Collection[str]) -> str:
    """Return why levels cannot go, whatever the data are; '' if they can."""
    problem = obstacle(model, removal)
    if problem:
        return problem
    before, after = cost_of("flops", model), cost_of("flops", without_units(model, removal))
    if before - after < LEAST_SAVING * len(removal.levels) * before:
        return f"without it the network has {readable('flops', after)} instead of {readable('flops', before)}"
    return _protection(model, removal, protected)


def _protection(model: DetectionModel, removal: Removal, protected: Collection[str]) -> str:
    remaining = moved_paths(model, removal) if protected else {}
    gone = sorted(path for path in protected if path not in remaining)
    return f"--skip protects {gone[0]}" if gone else ""


# -- blocks ------------------------------------------------------------------------------------------------------------


class Trials:
    """Networks without some blocks, re-fitted, and cut to the budget by channels where these are cut, too."""

    def __init__(self, chosen: Chosen, inputs: Inputs[PruneOptions], judge: Judge) -> None:
        """Keep what all trials have in common; the levels have been chosen."""
        self.options = replace(inputs.options, skip=[])
        self.levels, self.target, self.judge = chosen.removal.levels, chosen.target, judge
        self.whole = inputs.model
        self.batches: list[Batch] = inputs.repair_batches()
        self.recording = empty_recording(inputs.model, self.options.reconstruct)

    def without(self, blocks: Sequence[str]) -> DetectionModel:
        """The network without the levels and these blocks, its layers re-fitted unless that is switched off."""
        removal = Removal(self.levels, tuple(blocks))
        if not blocks or not self.options.reconstruct:
            return remove_units(self.whole, removal)
        narrow = silence(self.whole, removal)
        with_blocks = Structure.of(silence(self.whole, Removal(self.levels)))
        reconstruct(with_blocks, narrow, {}, self.batches, self.recording)
        return compact(narrow, removal)

    def loss(self, blocks: Sequence[str], skip: Sequence[str]) -> float:
        """The loss at the budget."""
        model = self.without(blocks)
        options = replace(self.options, skip=list(skip))
        structure, scores = score_groups(model, options, options.data, options.imgsz)
        plan = plan_for(self.target, structure, scores, options, options.imgsz, self.whole)
        cut = prune(structure, plan, options, self.batches) if plan.removes_any(structure.groups) else None
        return self.judge(cut.model if cut else model).loss


def _choose_blocks(chosen: Chosen, inputs: Inputs[PruneOptions], judge: Judge, protected: Collection[str]) -> None:
    """Add blocks to a choice while the network at the budget becomes better by it, the least needed ones first."""
    whole, levels = inputs.model, chosen.removal.levels
    trials = Trials(chosen, inputs, judge)

    def skip(blocks: Sequence[str]) -> list[str]:
        if not protected:
            return []
        paths = moved_paths(whole, Removal(levels, tuple(blocks)))
        return sorted(paths[path] for path in protected)

    with warnings_only():
        order = _by_need(chosen, whole, judge, protected)
        best = trials.loss([], skip([]))
    removed: list[str] = []
    failures = 0
    with tqdm(order, desc="Trying blocks", disable=None, leave=False) as progress:
        for path in progress:
            with warnings_only():
                loss = trials.loss([*removed, path], skip([*removed, path]))
            words = f"loss on training images at the budget {loss:.4f} without it, {best:.4f} with it"
            if loss < best:
                removed.append(path)
                best, failures = loss, 0
                chosen.note(f"The block {path} is removed: {words}")
                continue
            failures += 1
            chosen.note(f"The block {path} stays: {words}")
            if failures == PATIENCE:
                break
    if removed:
        chosen.removal = Removal(levels, tuple(sorted(removed)))
        chosen.model = trials.without(chosen.removal.blocks)


def _by_need(chosen: Chosen, whole: DetectionModel, judge: Judge, protected: Collection[str]) -> list[str]:
    """The blocks that may go, by what the loss rises without each one for what that saves."""
    assert chosen.target is not None
    quantity, levels = chosen.target.quantity, chosen.removal.levels
    silent = silence(whole, chosen.removal)
    loss, cost = judge(chosen.model).loss, cost_of(quantity, silent)
    present = moved_paths(whole, chosen.removal)
    rises = {}
    for path in find_blocks(whole):
        if path in present and not _protection(whole, Removal(levels, (path,)), protected):
            reduced = silence(whole, Removal(levels, (path,)))
            rises[path] = (judge(reduced).loss - loss) / (cost - cost_of(quantity, reduced))
    return sorted(rises, key=lambda path: rises[path])
