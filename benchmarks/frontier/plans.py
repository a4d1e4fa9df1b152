"""Choices of channels within a budget, each a function of the network and the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.frontier.costs import ROUNDING, SIZE
from models.yolo import DetectionModel
from prune_tools.channels.groups import ChannelGroup
from prune_tools.channels.structure import Structure
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Limits, Target
from prune_tools.planning.plan import Plan, keep_largest, plan_by_percent
from prune_tools.planning.scores import Material, Scores, gamma_scores, score_channels
from prune_tools.planning.targets import TargetPlanner
from utils.errors import InputError
from utils.model_info import gflops

MOST_PERCENT = 0.99  # of the channels, that a method without a planner for targets may remove
BISECTIONS = 14  # of a share of channels, to meet the number of operations

Planner = Callable[[DetectionModel, Target], tuple[Structure, Plan]]


def by_score(score: str, seed: int = 0) -> Planner:
    """Channels by a score of prune.py, which loses least of it for the operations; ``seed`` is of random ones."""

    def plan(model: DetectionModel, target: Target) -> tuple[Structure, Plan]:
        structure = Structure.of(model).select("all")
        scores = score_channels(score, Material(model, seed=seed), structure.groups)
        planner = TargetPlanner(structure.groups, scores, CostModel(structure), Limits(round_to=ROUNDING))
        return structure, planner.plan(target)

    return plan


def uniform(model: DetectionModel, target: Target) -> tuple[Structure, Plan]:
    """The same share of channels of every group, by the L1 norm of their kernels (Li et al., ICLR 2017)."""
    structure = Structure.of(model).select("all")
    scores, limits = kernel_norms(model, structure.groups), Limits(round_to=ROUNDING)

    def plan(removed: float) -> Plan:
        counts = {
            group.name: limits.nearest(group.size, round(group.size * (1 - removed))) for group in structure.groups
        }
        return Plan({name: keep_largest(scores[name], count) for name, count in counts.items()}, removed, limits=limits)

    return structure, plan(_least_removal(structure, plan, target))


def of_original_tools(model: DetectionModel, target: Target) -> tuple[Structure, Plan]:
    """The lowest gammas of all layers outside shortcuts, by one percentage, at any width."""
    structure = Structure.of(model).select("seed")
    scores = gamma_scores(model, structure.groups)

    def plan(percent: float) -> Plan:
        return plan_by_percent(structure.groups, scores, percent)

    return structure, plan(_least_removal(structure, plan, target))


def _least_removal(structure: Structure, plan: Callable[[float], Plan], target: Target) -> float:
    """The least removal that reaches the target; ``plan`` makes a plan of a removal."""
    costs = CostModel(structure)
    return lowest_that_fits(
        lambda removed: costs.of_plan(plan(removed))["flops"] / 1e9, target.value / 1e9, MOST_PERCENT
    )


def narrow_configuration(configuration: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The YAML with the largest ``width_multiple`` whose network is within the target, without a list of widths."""
    plain = {key: value for key, value in configuration.items() if key != "channels"}
    whole = plain["width_multiple"]

    def narrow(removed: float) -> dict[str, Any]:
        return {**plain, "width_multiple": whole * (1 - removed)}

    def cost(removed: float) -> float:
        return gflops(DetectionModel(narrow(removed)), SIZE) or 0.0

    return narrow(lowest_that_fits(cost, target.value / 1e9, MOST_PERCENT))


def narrow(model: DetectionModel, target: Target) -> tuple[Structure, Plan]:
    """As many channels of each layer as the narrow network has, by the L1 norm of their kernels."""
    modules_of_narrow: Any = dict(DetectionModel(narrow_configuration(model.yaml, target)).named_modules())
    structure = Structure.of(model).select("all")
    modules: Any = dict(model.named_modules())
    scores, kept = kernel_norms(model, structure.groups), {}
    for group in structure.groups:
        producer = group.producers[0].path
        if group.size != modules[producer].out_channels:
            raise InputError(f"{producer} makes several groups of channels: a slice of it is not a narrow layer")
        kept[group.name] = keep_largest(scores[group.name], modules_of_narrow[producer].out_channels)
    return structure, Plan(kept)


def kernel_norms(model: DetectionModel, groups: Sequence[ChannelGroup]) -> Scores:
    """The L1 norm of the kernels that make each channel, the sum over coupled layers; (C,) by name of the group."""
    modules: Any = dict(model.named_modules())
    scores: Scores = {}
    for group in groups:
        norms = torch.zeros(group.size)
        for member in group.of_role("output"):
            weight = modules[member.path].weight.detach().float().cpu()  # (outputs, inputs, height, width)
            norms += weight.abs().flatten(1).sum(1)[torch.as_tensor(member.indices)]  # (outputs,) -> (C,)
        scores[group.name] = norms
    return scores


def lowest_that_fits(cost: Callable[[float], float], budget: float, highest: float) -> float:
    """The lowest removal in (0, ``highest``) after which ``cost`` of it is at most ``budget``.

    Raises:
        InputError: ``highest`` costs more.
    """
    if cost(highest) > budget:
        raise InputError(
            f"removing {highest:.0%} of the channels by this method leaves {cost(highest):.3g} GFLOPs, more than the "
            f"budget of {budget:.3g}"
        )
    low, high = 0.0, highest
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if cost(middle) <= budget:
            high = middle
        else:
            low = middle
    return high
