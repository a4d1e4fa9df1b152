"""Options of train_sparity.py."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, ClassVar

from prune_tools.channels import SCOPES
from prune_tools.planning.goals import Target, target_of
from prune_tools.planning.options import DEFAULT_ROUNDING, RUNTIMES, TRIAL_HELP, TRIED
from prune_tools.tuning.options import RecipeOptions
from prune_tools.tuning.recipes import PUBLISHED, RECIPES
from utils.commands.options import OPEN, as_list, option, settle
from utils.errors import InputError, short_repr

TARGET_SHARE = 0.4  # of the channels, if no goal is given
MAX_MAP_LOSS = 0.03  # of mAP50, if --max-map-loss is not given
DEFAULT_RATE = 0.0005  # of l1 and prox
TARGET_FLOPS = "0.5"  # of polarize, if no goal is given
L1, PROX, POLARIZE = PENALTIES = ("l1", "prox", "polarize")
AUTO = "auto"
SPARSE = "short"  # recipe of polarize


def rate(text: str) -> float | str:
    """A rate from the command line: a number, or 'auto'."""
    return text if text == AUTO else float(text)


@dataclass(frozen=True)
class SparseOptions(RecipeOptions):
    """Options of train.py, of recipe and teacher, and those of the penalty."""

    script: ClassVar[str] = "prune_tools/train_sparity.py"
    group: ClassVar[str] = "sparse training"

    epochs: int = option(100, "number of epochs", handed_on=False, at_least=1)
    recipe: str = option(
        "", f"schedule; default: {SPARSE} with polarize, {PUBLISHED} with other penalties or a --hyp of your own",
        choices=list(RECIPES), handed_on=False,
    )  # fmt: skip
    st: bool = option(
        None,
        "apply the penalty, by default l1 as published; --no-st trains as train.py does",
        action=argparse.BooleanOptionalAction,
    )
    penalty: str = option(
        "",
        "l1: all gammas, by their gradient, decaying, as published; prox: all gammas, to exactly zero; "
        "polarize: only the channels that the loss needs least, to exactly zero; default: l1 with --st, --no-st, "
        "--sr or --sr-beta, else polarize",
        choices=PENALTIES,
    )
    teacher: str = option(
        "",
        "checkpoint whose outputs become soft targets, or none; default: with polarize --weights, else none",
        on_resume=OPEN,
        path=True,
        handed_on=False,
    )
    sr: float | str | None = option(
        None,
        "penalty rate per batch on gamma, or auto: found so that --target-share is reached; "
        f"default: {DEFAULT_RATE}, with polarize auto",
        type=rate,
        at_least=0,
        at_most=1000,
        also=(AUTO,),
    )
    sr_beta: float | None = option(
        None,
        "penalty rate on beta, 0 = off; default: 10 times --sr with l1 at a given rate, else 0",
        type=float,
        at_least=0,
        at_most=1000,
    )
    scope: str = option(
        "", "channels to act on: those of the original tools (seed, the default), or coupled ones too (default of the "
        "targets)", choices=SCOPES,
    )  # fmt: skip
    skip: list[str] = option([], "leave these layers alone, as --skip of prune.py does", nargs="+")
    target_share: float | None = option(
        None,
        f"share of nearly zero gammas to reach by the end, in (0, 1); default: {TARGET_SHARE} with l1 and prox",
        type=float,
        above=0,
        below=1,
    )
    target_params: str = option("", "with polarize, instead of --target-share: parameters left, 0.9M, or a ratio")
    target_flops: str = option(
        "", f"with polarize: operations left (640 pixels), 2.1G or a ratio; default: {TARGET_FLOPS}"
    )
    round_to: int | None = option(
        None,
        "with these targets: round each layer's remaining channels to multiples of this; default: what a trial "
        "in --runtime finds, else 8",
        type=int,
        at_least=1,
    )
    runtime: str = option(RUNTIMES[0], f"of the pruned model; {TRIAL_HELP}", choices=RUNTIMES)
    max_map_loss: float | None = option(
        None,
        "with --sr auto or polarize: pause the penalty while mAP50 is more than this below the starting mAP50 (twice "
        f"this at the initial learning rate); default: {MAX_MAP_LOSS}",
        type=float,
        at_least=0,
        at_most=1,
    )

    reversible: bool = option(
        False,
        "with polarize: until 60 % of the run chosen channels return if the loss comes to need them; for a start that "
        "has not been trained on these data yet",
    )

    def __post_init__(self) -> None:
        """Check the penalty, and fill in what depends on it."""
        self._settle_penalty()  # first: the check of --teacher-gain depends on it
        super().__post_init__()
        settle(self, scope=self.scope or self._default_scope(), skip=as_list(self.skip))
        if self.penalty not in PENALTIES or self.scope not in SCOPES:
            raise InputError(
                f"--penalty must be one of {', '.join(PENALTIES)} and --scope one of {', '.join(SCOPES)}, "
                f"got {self.penalty} and {self.scope}"
            )
        if self.sr is None:
            settle(self, sr=AUTO if self.penalty == POLARIZE else DEFAULT_RATE)
        if self.reversible and self.penalty != POLARIZE:
            raise InputError(f"--reversible is for --penalty polarize, not {self.penalty}: leave it out")
        self._settle_goal()
        self._check_rate()

    def _settle_penalty(self) -> None:
        """Choose the published penalty if its flags are given, else the one that costs least accuracy."""
        if self.st not in (None, True, False):
            raise InputError(f"--st is a switch: expected True or False, got {short_repr(self.st)}")
        published = self.st is not None or self.sr is not None or self.sr_beta is not None
        settle(self, penalty=self.penalty or (L1 if published else POLARIZE), st=self.st is not False)
        if self.penalty == POLARIZE and self.target() is None and self.target_share is None:
            settle(self, target_flops=TARGET_FLOPS)

    def _settle_goal(self) -> None:
        target = self.target()
        if target is None:
            settle(self, target_share=TARGET_SHARE if self.target_share is None else self.target_share)
        elif self.target_share is not None:
            raise InputError(f"--target-share and {target.flag} contradict each other: give one of them")
        if self.penalty != POLARIZE and (target or self.round_to not in (None, 1)):
            raise InputError(
                "--target-params, --target-flops and --round-to are for polarize: leave out --st, --sr and --sr-beta, "
                "or add --penalty polarize"
            )
        if self.round_to is None and not (target and self.runtime in TRIED):
            settle(self, round_to=DEFAULT_ROUNDING if target else 1)
        elif (self.round_to or 1) > 1 and not target:
            raise InputError(
                f"--round-to {self.round_to} only acts with --target-params or --target-flops: leave it out"
            )

    def _check_rate(self) -> None:
        if self.max_map_loss is not None and self.sr != AUTO:
            raise InputError("--max-map-loss needs a rate that can give way: add --sr auto, or leave it out")
        if self.penalty == POLARIZE and self.sr not in (AUTO, 0):
            raise InputError(
                f"--penalty polarize brings the chosen gammas to zero at its own pace, it takes no --sr {self.sr:g}: "
                "leave it out (--sr 0 switches the penalty off)"
            )
        if self.sr == AUTO and self.st and (self.noval or self.evolve):
            flag = "--evolve" if self.evolve else "--noval"
            raise InputError(
                f"{self.penalty} with an automatic rate watches the mAP of every epoch: leave {flag} out"
                + (", or add --st for l1 at a fixed rate" if self.penalty == POLARIZE else "")
            )

    def target(self) -> Target | None:
        """The goal as parameters or operations; None if it is a share of the channels."""
        return target_of(self, ("params", "flops"))

    def same_pruning(self) -> dict[str, Any]:
        """The options of prune.py that remove just what this training has brought to zero."""
        target = self.target()
        values: dict[str, Any] = {}
        if target is None:
            values["percent"] = self.target_share
        else:
            name = f"target_{target.quantity}"
            values[name] = getattr(self, name)
            if self.round_to != DEFAULT_ROUNDING:
                values["round_to"] = self.round_to
        return values | self.same_channels()

    def same_channels(self) -> dict[str, Any]:
        """The options of prune.py that select the channels of this training."""
        values: dict[str, Any] = {}
        if self.scope != self._default_scope():
            values["scope"] = self.scope
        if self.skip:
            values["skip"] = self.skip
        return values

    def default_teacher(self) -> str:
        """The start weights, with polarize."""
        return self.weights if self.st and self.penalty == POLARIZE else ""

    def summary(self) -> str:
        """The penalty and the goal in words, and the flags that choose another penalty."""
        if not self.st:
            return "Sparse training without a penalty, because of --no-st"
        if self.penalty != POLARIZE:
            goal = f"aims at {self.target_share:.0%} small gammas"
            published = ", as published: --st or --sr choose it" if self.penalty == L1 else ""
            return (
                f"Sparse training by {self.penalty} on all gammas at rate {self.sr}, which {goal}{published}; without "
                "these flags polarize is used, which costs less accuracy"
            )
        target = self.target()
        goal = f"{target.flag} {target}" if target else f"--target-share {self.target_share:g}"
        return (
            f"Sparse training by polarize to {goal}: only the channels that will be removed go to zero. It is the "
            "default because it costs the least accuracy; --st or --sr choose l1 as published"
        )

    def default_recipe(self) -> str:
        """The published penalties come with the published schedule."""
        return SPARSE if self.penalty == POLARIZE else PUBLISHED

    def _default_scope(self) -> str:
        """The scope of this training and of the pruning after it when none is given."""
        return "all" if self.target() else "seed"
