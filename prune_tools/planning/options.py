"""From command line options to a plan: scope, protected layers, scores, and what is to be reached."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.commands.options import MOST, as_list, check_numbers, option
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters, scale_gains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.yolo import DetectionModel
    from prune_tools.channels.groups import ChannelGroup
    from prune_tools.channels.tracing import Trace
    from prune_tools.planning.plan import Limits, Plan
    from prune_tools.planning.scores import Scores
    from prune_tools.planning.targets import Target

DEFAULT_PERCENT = 0.4
DEFAULT_ROUNDING = 8  # channels, for budgets: what kernels like
SCORE_IMAGES = 256
SMALL_GAMMA = 0.05  # |gamma| from which on a channel's output is no longer about constant
NOTABLE_SHARE = 0.05  # of the channels that go; more of them above SMALL_GAMMA are worth a warning


@dataclass
class ChannelOptions:
    """Which channels may go and in which order, whatever is to be reached."""

    scope: str = option(
        "", "seed: only layers outside shortcuts, default of --percent; all: coupled ones too, default of the rest",
        choices=["seed", "all"],
    )  # fmt: skip
    score: str = option(
        "gamma", "importance of a channel: |gamma|, |gamma| x norm of its readers, first-order loss, random",
        choices=["gamma", "gamma-norm", "taylor", "random"],
    )  # fmt: skip
    score_images: int = option(SCORE_IMAGES, "training images for --score taylor", at_least=1)
    min_channels: int = option(1, "least channels that every layer keeps", at_least=1)
    round_to: int | None = option(
        None, "round the channels that a layer keeps to multiples of this; default: 8, what kernels like, for what is "
        "given in parameters, operations or time, else 1", type=int, at_least=1,
    )  # fmt: skip
    max_layer_ratio: float = option(1.0, "largest share of its channels that a layer may lose", at_least=0, at_most=1)
    skip: list[str] = option(
        [], "leave these layers whole: module paths such as model.9.cv1 or 'model.1?.*', wildcards allowed", nargs="+"
    )

    def check_channels(self) -> None:
        """Refuse values that no plan can use."""
        if self.score_images != SCORE_IMAGES and self.score != "taylor":
            raise InputError(f"--score-images {self.score_images} only acts with --score taylor: leave it out")
        self.skip = as_list(self.skip)
        self.round_to = 1 if self.round_to is None else self.round_to
        self.limits()

    def limits(self) -> Limits:
        """The limits of every group. Raises InputError for impossible ones."""
        from prune_tools.planning.plan import Limits

        assert self.round_to is not None
        return Limits(self.min_channels, self.round_to, self.max_layer_ratio)


@dataclass
class PlanOptions(ChannelOptions):
    """What to remove. Exactly one of ``percent`` and the targets counts."""

    percent: float | None = option(
        None,
        f"share of the prunable channels to remove, in [0, 1); {DEFAULT_PERCENT} if no target is given",
        type=float,
        at_least=-MOST,
    )
    target_params: str = option("", "parameters that remain: absolute such as 0.9M, or a ratio such as 0.5")
    target_flops: str = option("", "operations that remain, at 640 pixels as YOLOv5 prints them: 2.1G, or a ratio")
    target_latency: str = option("", "time per image of --imgsz on this machine that remains: 12ms, or a ratio")
    runtime: str = option("torch", "where --target-latency is measured", choices=["torch", "onnxruntime", "openvino"])

    def __post_init__(self) -> None:
        """Refuse values that no plan can use, and settle the defaults that depend on others."""
        from prune_tools.planning.plan import check_percent

        check_numbers(self)
        target = self.target()
        if self.percent is not None and target is not None:
            raise InputError(f"--percent and {target.flag} contradict each other: give one of them")
        if target is None:
            self.percent = check_percent(DEFAULT_PERCENT if self.percent is None else self.percent)
        if self.runtime != "torch" and not self.target_latency:
            raise InputError(f"--runtime {self.runtime} only says where --target-latency is measured: give that, too")
        self.scope = self.scope or ("all" if self.percent is None else "seed")
        if self.round_to is None and target is not None:
            self.round_to = DEFAULT_ROUNDING
        self.check_channels()

    def target(self) -> Target | None:
        """The target, None when a percentage counts. Raises InputError for one that is not a valid amount."""
        from prune_tools.planning.targets import target_of

        return target_of(self, ("params", "flops", "latency"))


def score_groups(
    model: DetectionModel, trace: Trace, options: ChannelOptions, data: str, image_size: int
) -> tuple[list[ChannelGroup], Scores]:
    """The groups that take part in a pruning of ``model``, and their scores; logs what is left whole and why.

    Arguments and errors as in ``make_plan``.
    """
    from prune_tools.channels.groups import find_groups, left_whole, protect, select_groups
    from prune_tools.planning.scores import NEEDS_IMAGES, Material, score_channels

    if model.yaml.get("channels"):
        LOGGER.info("This model has been pruned before: shares and ratios count from what it has now")
    found = protect(find_groups(model, trace), model, options.skip)
    groups = select_groups(found, options.scope)
    channels = sum(group.size for group in groups)
    LOGGER.info(f"{channels} prunable channels in {len(groups)} layers, scope {options.scope}")
    whole = left_whole(found, options.scope)
    if whole:
        LOGGER.info(f"Left whole:\n{whole}")
    network = model
    batches: Any = ()
    if options.score in NEEDS_IMAGES:
        from prune_tools.repair.calibration import read_training_images
        from utils.checks import check_dataset

        network = with_hyperparameters(model, image_size)
        checked = check_dataset(data, splits=("train",))
        head: Any = model.model[-1]
        read = read_training_images(
            checked, options.score_images, image_size, int(max(model.stride)), single_cls=head.nc == 1
        )
        batches = ((images.float() / 255, labels) for images, labels, _ in read)
    return groups, score_channels(options.score, Material(network, batches), groups)


def make_plan(
    model: DetectionModel, trace: Trace, options: PlanOptions, data: str, image_size: int
) -> tuple[list[ChannelGroup], Plan]:
    """The groups that take part in a pruning of ``model``, and what stays of them; logs what there is to know.

    Args:
        model: the network before pruning, on the device where times and gradients are measured.
        trace: its trace.
        data: data set YAML, for scores that need training images.
        image_size: pixels, of these images and of those that are timed.

    Raises:
        InputError: nothing can be pruned, a target that cannot be reached, a pattern without a match.
    """
    from prune_tools.planning.plan import plan_by_percent

    groups, scores = score_groups(model, trace, options, data, image_size)
    target = options.target()
    if target is None:
        assert options.percent is not None
        plan = plan_by_percent(groups, scores, options.percent, options.limits())
    else:
        plan = _plan_for(target, model, trace, groups, scores, options, image_size)
    LOGGER.info(plan.summary())
    plan.warning = warning_of_large_gammas(model, groups, plan)
    if plan.warning:
        LOGGER.warning(f"WARNING: {plan.warning}")
    return groups, plan


def _plan_for(
    target: Target, model: DetectionModel, trace: Trace, groups: list[ChannelGroup], scores: Scores,
    options: PlanOptions, image_size: int,
) -> Plan:  # fmt: skip
    from prune_tools.planning.costs import CostModel
    from prune_tools.planning.targets import TargetPlanner

    planner = TargetPlanner(groups, scores, CostModel(model, trace, groups), options.limits())
    if target.quantity != "latency":
        return planner.plan(target)
    from prune_tools.planning.latency import check_runtime, prepare, time_calls
    from prune_tools.yolo_pruned import prune_model

    check_runtime(options.runtime)
    whole = prepare(model, image_size, options.runtime)

    def measure(plan: Plan) -> tuple[float, float]:
        narrow = deepcopy(model)
        prune_model(narrow, groups, plan)
        times = time_calls({"narrow": prepare(narrow, image_size, options.runtime), "whole": whole})
        return times["narrow"], times["whole"]

    return planner.plan(target, measure)


def with_hyperparameters(model: DetectionModel, image_size: int) -> DetectionModel:
    """A copy of ``model`` that has the gains of the loss: those of its training, else the default ones."""
    copy = deepcopy(model)
    if not getattr(copy, "hyp", None):
        hyp: Any = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
        head: Any = copy.model[-1]
        scale_gains(hyp, head.nl, head.nc, image_size, label_smoothing=0.0)
        copy.hyp = hyp
    return copy


def warning_of_large_gammas(model: DetectionModel, groups: Sequence[ChannelGroup], plan: Plan) -> str:
    """Return what there is to warn of when the gammas about to be cut are not small, or when there are none; else ''.

    What a channel with a small gamma adds is about constant and can be folded; what one with a large gamma adds is
    lost. A group counts with its largest gamma.
    """
    import torch

    from prune_tools.planning.scores import Material

    material = Material(model)
    cut = {group.name: material.gammas(group).amax(0)[plan.removed(group)] for group in groups}
    cut = {name: gammas for name, gammas in cut.items() if len(gammas)}
    if not cut:
        return "this plan removes nothing"
    values = torch.cat(list(cut.values()))
    share = float((values >= SMALL_GAMMA).float().mean())
    if share <= NOTABLE_SHARE:
        return ""
    layer = max(cut, key=lambda name: float(cut[name].max()))
    return (
        f"{share:.0%} of the {len(values)} channels about to be cut have a |gamma| of {SMALL_GAMMA:g} or more (median "
        f"{values.median():.3g}, largest {values.max():.3g} in {layer}): their removal changes what the model "
        "computes. Prune less, or train with the penalty first, or longer (prune_tools/train_sparity.py)"
    )
