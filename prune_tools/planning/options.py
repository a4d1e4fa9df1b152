"""Options that decide which channels a pruning removes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prune_tools.planning.goals import Limits, Target, target_of
from utils.commands.options import CheckedOptions, as_list, option, settle
from utils.errors import InputError, short_repr

DEFAULT_PERCENT = 0.4
DEFAULT_ROUNDING = 8  # default channel multiple for budgets; convolution kernels are fastest at multiples of 8
RUNTIMES = ("torch", "onnxruntime", "openvino")  # of latency.RUNTIMES, which loads torch; the first is the default
TRIED = RUNTIMES[1:]  # runtimes in which a trial finds the default of --round-to
TRIAL_HELP = f"with {' or '.join(TRIED)} a trial on this machine finds the default of --round-to"
SCORE_IMAGES = 256
UNITS = ("channels", "levels", "blocks")
LEVEL_LOSS = 0.005
UNITS_HELP = (
    "what may be removed: channels; levels of the head that the objects of the training images do not need; blocks "
    "x + f(x), chosen on training images. "
)
LEVEL_LOSS_HELP = (
    "for --units levels: share of the objects that may belong to removed levels alone, and of mAP50-95 on training "
    "images that may be lost with them"
)
SCORE_NAMES = ("gamma", "gamma-norm", "taylor", "random")  # of scores.SCORES, which loads torch


def checked_units(units: Sequence[str] | str, level_loss: float) -> list[str]:
    """The units, each once, in the order of UNITS.

    Raises:
        InputError: an unknown unit, none, or a limit for levels that are not among them.
    """
    given = as_list(units)
    unknown = [unit for unit in given if unit not in UNITS]
    if unknown or not given:
        got = short_repr(unknown[0]) if unknown else "none"
        raise InputError(f"--units takes one or more of {', '.join(UNITS)}, got {got}")
    if level_loss != LEVEL_LOSS and "levels" not in given:
        raise InputError(f"--allow-level-loss {level_loss:g} only acts with --units levels: add that, or leave it out")
    return [unit for unit in UNITS if unit in given]


@dataclass(frozen=True)
class ChannelOptions(CheckedOptions):
    """Options that choose and rank channels, whatever the goal is."""

    group: ClassVar[str] = "choice of channels"

    scope: str = option(
        "",
        "seed: only layers outside shortcuts, default of --percent; all: coupled ones too, default of the rest",
        choices=["seed", "all"],
    )
    score: str = option(
        "gamma",
        "importance of a channel: |gamma|, |gamma| x norm of its readers, first-order loss, random",
        choices=SCORE_NAMES,
    )
    score_images: int = option(SCORE_IMAGES, "training images for --score taylor", at_least=1)
    min_channels: int = option(1, "least channels that every layer keeps", at_least=1)
    round_to: int | None = option(
        None,
        "round the channels that a layer keeps to multiples of this; default where the goal is given in parameters, "
        "operations or time: that of the sparse training, else what a trial in --runtime finds, else 8; without such a "
        "goal 1",
        type=int,
        at_least=1,
    )
    max_layer_ratio: float = option(1.0, "largest share of its channels that a layer may lose", above=0, at_most=1)
    skip: list[str] = option(
        [], "leave these layers whole: module paths such as model.9.cv1 or 'model.1?.*', wildcards allowed", nargs="+"
    )

    def __post_init__(self) -> None:
        """Refuse values that no plan can use, and fill in the defaults that depend on the goal."""
        super().__post_init__()
        if self.score_images != SCORE_IMAGES and self.score != "taylor":
            raise InputError(f"--score-images {self.score_images} only acts with --score taylor: leave it out")
        settle(self, skip=as_list(self.skip), scope=self.scope or self.default_scope())
        if self.round_to is None:
            settle(self, round_to=self.given_rounding())

    def default_scope(self) -> str:
        """The scope where none is given."""
        return "all"

    def default_rounding(self) -> int:
        """The multiple of channels where none is given."""
        return 1

    def given_rounding(self) -> int | None:
        """The multiple where none is given, None where weights or a trial decide it (see ``prune_tools.rounding``)."""
        return self.default_rounding()

    def limits(self) -> Limits:
        """The limits of every group."""
        return Limits(self.min_channels, self.round_to or self.default_rounding(), self.max_layer_ratio)


@dataclass(frozen=True)
class PlanOptions(ChannelOptions):
    """Options that say how much to remove. Exactly one of ``percent`` and the targets counts."""

    percent: float | None = option(
        None,
        f"share of the prunable channels to remove, in [0, 1); {DEFAULT_PERCENT} if no target is given",
        type=float,
        at_least=0,
        below=1,
    )
    target_params: str = option("", "parameters that remain: absolute such as 0.9M, or a ratio such as 0.5")
    target_flops: str = option("", "operations that remain, at 640 pixels as YOLOv5 prints them: 2.1G, or a ratio")
    target_latency: str = option("", "time per image of --imgsz on this machine that remains: 12ms, or a ratio")
    runtime: str = option(
        RUNTIMES[0],
        f"where times are measured, that of --target-latency too; {TRIAL_HELP}",
        choices=RUNTIMES,
    )
    units: list[str] = option(
        ["channels"],
        UNITS_HELP + "Without channels these stay whole, for a sparse training to come",
        nargs="+",
        choices=UNITS,
        handed_on=False,
    )
    allow_level_loss: float = option(LEVEL_LOSS, LEVEL_LOSS_HELP, at_least=0, at_most=1, handed_on=False)

    def __post_init__(self) -> None:
        """Refuse goals that contradict each other, and fill in the default goal."""
        target = self.target()
        super().__post_init__()
        settle(self, units=checked_units(self.units, self.allow_level_loss))
        if "blocks" in self.units and (target is None or target.quantity == "latency"):
            raise InputError(
                "--units blocks chooses between blocks and channels within a budget: give --target-flops or "
                "--target-params"
            )
        if self.percent is not None and "channels" not in self.units:
            raise InputError(f"--percent {self.percent:g} counts channels: add them to --units, or leave it out")
        if self.percent is not None and target is not None:
            raise InputError(f"--percent and {target.flag} contradict each other: give one of them")
        if target is None:
            settle(self, percent=DEFAULT_PERCENT if self.percent is None else self.percent)

    def default_scope(self) -> str:
        """The original tools' scope for their own --percent, coupled channels too for targets."""
        return "seed" if self.target() is None else "all"

    def default_rounding(self) -> int:
        """A multiple that kernels like for targets."""
        return 1 if self.target() is None else DEFAULT_ROUNDING

    def given_rounding(self) -> int | None:
        """The step of a percentage; that of a target depends on the weights."""
        return 1 if self.target() is None else None

    def target(self) -> Target | None:
        """The target, None when a percentage counts. Raises InputError for one that is not a valid amount."""
        return target_of(self, ("params", "flops", "latency"))
