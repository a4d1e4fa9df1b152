"""Make a plan from options: select the groups, score their channels, reach the goal."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch

from models.yolo import DetectionModel
from prune_tools.channels.groups import left_whole
from prune_tools.channels.structure import Structure
from prune_tools.planning import latency
from prune_tools.planning.costs import CostModel, cost_of
from prune_tools.planning.goals import Target, readable
from prune_tools.planning.options import ChannelOptions, PlanOptions
from prune_tools.planning.plan import Plan, keep_all, plan_by_percent
from prune_tools.planning.scores import NEEDS_IMAGES, Material, Scores, score_channels
from prune_tools.planning.targets import TargetPlanner
from prune_tools.training_images import read_training_images
from prune_tools.yolo_pruned import prune_model
from utils.dataset.description import check_dataset
from utils.log import LOGGER
from utils.model_info import grid_size
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters, scaled_hyperparameters

SMALL_GAMMA = 0.05  # |gamma| below which a channel's output is nearly constant
NOTABLE_SHARE = 0.05  # share of the removed channels above SMALL_GAMMA that is worth a warning


def score_groups(
    model: DetectionModel, options: ChannelOptions, data: str, image_size: int
) -> tuple[Structure, Scores]:
    """The groups of ``model`` that may be pruned, and the scores of their channels; logs what is left whole and why.

    Arguments and errors as in ``make_plan``.
    """
    if model.yaml.get("channels"):
        LOGGER.info("This model has been pruned before: shares and ratios count from its present size")
    everything = Structure.of(model).protect(options.skip)
    structure = everything.select(options.scope)
    channels = sum(group.size for group in structure.groups)
    LOGGER.info(f"{channels} prunable channels in {len(structure.groups)} layers, scope {options.scope}")
    whole = left_whole(everything.groups, options.scope)
    if whole:
        LOGGER.info(f"Left whole:\n{whole}")
    material = Material(model)
    if options.score in NEEDS_IMAGES:
        batches = _training_batches(model, options.score_images, data, image_size)
        material = Material(with_hyperparameters(model, image_size), batches)
    return structure, score_channels(options.score, material, structure.groups)


def _training_batches(
    model: DetectionModel, count: int, data: str, image_size: int
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Images (B, 3, H, W) in 0..1 and labels (T, 6) of about ``count`` training images."""
    checked = check_dataset(data, splits=("train",))
    head: Any = model.model[-1]
    stride = grid_size(model)
    other_classes = checked["nc"] != head.nc  # allowed with --single-cls, and then all objects are of class 0
    for images, labels, _ in read_training_images(checked, count, image_size, stride, single_cls=other_classes):
        yield images.float() / 255, labels


def make_plan(
    model: DetectionModel,
    options: PlanOptions,
    data: str,
    image_size: int,
    target: Target | None = None,
    whole: DetectionModel | None = None,
) -> tuple[Structure, Plan]:
    """The groups of ``model`` that may be pruned, and the channels of them to keep; logs a summary.

    Args:
        model: the network before pruning, on the device where times and gradients are measured.
        options: scope, score, limits and goal.
        data: data set YAML, for scores that need training images.
        image_size: pixels, of these images and of those that are timed.
        target: instead of that of ``options``.
        whole: the network with all its units, from which a ratio of time counts; None: ``model``.

    Raises:
        InputError: nothing can be pruned, a target that cannot be reached, a pattern without a match.
    """
    structure, scores = score_groups(model, options, data, image_size)
    plan = plan_for(target or options.target(), structure, scores, options, image_size, whole)
    LOGGER.info(plan.summary())
    if whole is None or plan.removes_any(structure.groups):
        plan.warning = warning_of_large_gammas(structure, plan)
    if plan.warning:
        LOGGER.warning(f"WARNING: {plan.warning}")
    return structure, plan


def plan_for(
    target: Target | None,
    structure: Structure,
    scores: Scores,
    options: PlanOptions,
    image_size: int,
    whole: DetectionModel | None = None,
) -> Plan:
    """The channels to keep for a target, or for the percentage of ``options``; other arguments as in ``make_plan``."""
    if target is None:
        assert options.percent is not None
        return plan_by_percent(structure.groups, scores, options.percent, options.limits())
    planner = TargetPlanner(structure.groups, scores, CostModel(structure), options.limits())
    if target.quantity != "latency":
        present = cost_of(target.quantity, structure.model)
        if whole is not None and not target.relative and present <= target.value:
            amounts = f"{readable(target.quantity, present)} of at most {readable(target.quantity, target.value)}"
            return keep_all(structure.groups, f"Target met by larger units alone, {amounts}: no channel is removed")
        return planner.plan(target)
    latency.check_runtime(options.runtime)
    timed_whole = latency.prepare(whole or structure.model, image_size, options.runtime)

    def measure(plan: Plan) -> tuple[float, float]:
        narrow = deepcopy(structure.model)
        prune_model(narrow, structure.groups, plan)
        calls = {"narrow": latency.prepare(narrow, image_size, options.runtime), "whole": timed_whole}
        times = latency.time_calls(calls)
        return times["narrow"], times["whole"]

    return planner.plan(target, measure)


def with_hyperparameters(model: DetectionModel, image_size: int) -> DetectionModel:
    """A copy of ``model`` that has the gains of the loss: those of its training, else the default ones."""
    copy = deepcopy(model)
    if not getattr(copy, "hyp", None):
        unscaled = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
        head: Any = copy.model[-1]
        hyp: Any = scaled_hyperparameters(unscaled, head.nl, head.nc, image_size, label_smoothing=0.0)
        copy.hyp = hyp
    return copy


def warning_of_large_gammas(structure: Structure, plan: Plan) -> str:
    """Warning text if the plan removes channels with large gammas, or none at all; else ''.

    The output of a channel with a small gamma is nearly constant and can be folded; that of one with a large gamma is
    lost. Coupled channels count with their largest gamma.
    """
    material = Material(structure.model)
    removed_gammas = {}  # by group, (R,)
    for group in structure.groups:
        gammas = material.gammas(group).amax(0)[plan.removed(group)]  # (N, C) -> (C,) -> (R,)
        if len(gammas):
            removed_gammas[group.name] = gammas
    if not removed_gammas:
        return "this plan removes nothing"
    values = torch.cat(list(removed_gammas.values()))
    share = float((values >= SMALL_GAMMA).float().mean())
    if share <= NOTABLE_SHARE:
        return ""
    layer = max(removed_gammas, key=lambda name: float(removed_gammas[name].max()))
    return (
        f"{share:.0%} of the {len(values)} channels about to be cut have a |gamma| of {SMALL_GAMMA:g} or more (median "
        f"{values.median():.3g}, largest {values.max():.3g} in {layer}): their removal changes what the model "
        "computes. Prune less, or train with the penalty first, or longer (prune_tools/train_sparity.py)"
    )
