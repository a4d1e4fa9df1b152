#!/usr/bin/env python3
"""Sparse training: train.py with a penalty on the batch-norm gammas of every prunable layer.

    python prune_tools/train_sparity.py --st --sr 0.0005 --weights runs/train/exp/weights/best.pt \\
        --cfg models/yolov5n_mask.yaml --data data/mask.yaml --batch-size 64 --epochs 100 --imgsz 320
    python prune_tools/train_sparity.py --penalty polarize --target-flops 0.5 --round-to 8 \\
        --weights runs/train/exp/weights/best.pt --data data/mask.yaml --imgsz 320

best.pt is the best among the epochs that have reached --target-share, or the sparsest epoch if none has.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from prune_tools.channels import SCOPES
from prune_tools.options import PruneOptions
from prune_tools.planning.goals import target_of
from prune_tools.planning.options import DEFAULT_ROUNDING
from prune_tools.tuning.recipes import PUBLISHED, RECIPES, RecipeOptions, with_recipe
from utils.commands.cli import run_training_command
from utils.commands.next_steps import again, following
from utils.commands.options import as_list, build, option
from utils.errors import InputError

if TYPE_CHECKING:
    from prune_tools.sparsity.penalty import SparsityPenalty

BETA_RATE = 10  # the original tools' penalty on beta, in units of --sr
TARGET_SHARE = 0.4
MAX_MAP_LOSS = 0.03  # of mAP50, where --max-map-loss is not given
PENALTIES = ("l1", "prox", "polarize")
AUTO = "auto"
SPARSE = "short"  # recipe of polarize
LEAST_SHARE = 0.01  # of small gammas: with fewer of them there is nothing to prune
HYP_OF_RECIPE = {"recipe": "", "hyp": "", "optimizer": ""}  # another penalty comes with another schedule


def rate(text: str) -> float | str:
    """A rate from the command line: a number, or 'auto'."""
    return text if text == AUTO else float(text)


@dataclass
class SparseOptions(RecipeOptions):
    """Options of train.py, of recipe and teacher, and those of the penalty."""

    script: ClassVar[str] = "prune_tools/train_sparity.py"

    epochs: int = option(100, "number of epochs", handed_on=False, at_least=1)
    recipe: str = option(
        "", f"schedule; default: {SPARSE} with polarize, {PUBLISHED} with other penalties or a --hyp of your own",
        choices=list(RECIPES), handed_on=False,
    )  # fmt: skip
    st: bool = option(True, "apply the penalty; --no-st trains as train.py does")
    penalty: str = option(
        "l1",
        "l1: all gammas, by their gradient, decaying, as published; prox: all gammas, to exactly zero; "
        "polarize: only the channels that the loss needs least, to exactly zero",
        choices=PENALTIES,
    )
    sr: Any = option(
        None,
        "penalty rate per batch on gamma, or auto: found out so that --target-share is reached; "
        "default: 0.0005, with polarize auto",
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
        f"wanted share of nearly zero gammas at the end, in (0, 1); default: {TARGET_SHARE}",
        type=float,
        at_least=0,
        at_most=1,
    )
    target_params: str = option("", "with polarize, instead of --target-share: parameters left, 0.9M, or a ratio")
    target_flops: str = option(
        "", "with polarize, instead of --target-share: operations left (640 pixels), 2.1G or 0.5"
    )
    round_to: int | None = option(
        None,
        "with these targets: round each layer's remaining channels to multiples of this; default: 8",
        type=int,
        at_least=1,
    )
    max_map_loss: float | None = option(
        None,
        "with auto: hold back while mAP50 is further than this below the start's (twice at first); default: 0.03",
        type=float,
        at_least=0,
        at_most=1,
    )

    def __post_init__(self) -> None:
        """Refuse impossible rates, beside what train.py refuses, and fill in what depends on the penalty."""
        super().__post_init__()
        self.scope = self.scope or self._default_scope()
        self.skip = as_list(self.skip)
        if self.penalty not in PENALTIES or self.scope not in SCOPES:
            raise InputError(
                f"--penalty must be one of {', '.join(PENALTIES)} and --scope one of {', '.join(SCOPES)}, "
                f"got {self.penalty} and {self.scope}"
            )
        if self.sr is None:
            self.sr = AUTO if self.penalty == "polarize" else 0.0005
        target = self.target()
        if self.target_share is not None and target:
            raise InputError(f"--target-share and {target.flag} contradict each other: give one of them")
        if self.target_share is None and not target:
            self.target_share = TARGET_SHARE
        if self.target_share is not None and not 0 < self.target_share < 1:
            raise InputError(f"--target-share must lie in (0, 1), got {self.target_share}")
        if self.max_map_loss is not None and not 0 <= self.max_map_loss <= 1:
            raise InputError(f"--max-map-loss must lie in [0, 1], got {self.max_map_loss}")
        if self.max_map_loss is not None and self.sr != AUTO:
            raise InputError("--max-map-loss needs a rate that can give way: add --sr auto, or leave it out")
        if self.penalty == "polarize" and self.sr not in (AUTO, 0):
            raise InputError(
                f"--penalty polarize brings the chosen gammas to zero at its own pace, it takes no --sr {self.sr:g}: "
                "leave it out (--sr 0 switches the penalty off)"
            )
        if self.penalty != "polarize" and (target or self.round_to not in (None, 1)):
            raise InputError("--target-params, --target-flops and --round-to need --penalty polarize")
        if self.round_to is None:
            self.round_to = DEFAULT_ROUNDING if target else 1
        if self.round_to < 1 or (self.round_to > 1 and not target):
            raise InputError(
                f"--round-to {self.round_to}: expected 1 or more, beside --target-params or --target-flops"
            )
        if self.sr == AUTO and self.noval and self.st:
            raise InputError("--sr auto and --penalty polarize watch the mAP of every epoch: leave --noval out")

    def target(self) -> Any:
        """Return what should be left of the network, None where a share of the channels is the goal."""
        return target_of(self, ("params", "flops"))

    def same_pruning(self) -> dict[str, Any]:
        """The options of prune.py that remove just what this training has brought to zero."""
        chosen: dict[str, Any] = {"scope": self.scope} if self.scope != self._default_scope() else {}
        chosen |= {"skip": self.skip} if self.skip else {}
        if not self.target():
            return {"percent": self.target_share} | chosen
        name = "target_params" if self.target_params else "target_flops"
        rounding = {} if self.round_to == DEFAULT_ROUNDING else {"round_to": self.round_to}
        return {name: getattr(self, name)} | rounding | chosen

    def default_recipe(self) -> str:
        """The published penalties come with the published schedule."""
        return SPARSE if self.penalty == "polarize" else PUBLISHED

    def _default_scope(self) -> str:
        """The scope of this training and of the pruning after it when none is given."""
        return "all" if self.target() else "seed"


def make_penalty(options: SparseOptions) -> Any:
    """The callbacks for these options; an automatic rate has the start weights measured first."""
    from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty
    from prune_tools.tuning.keep_start import start_map50

    published = options.penalty == "l1" and options.sr != AUTO
    default_beta = BETA_RATE * options.sr if published else 0.0
    settings = PenaltySettings(
        penalty=options.penalty,
        sr=options.sr,
        sr_beta=default_beta if options.sr_beta is None else options.sr_beta,
        scope=options.scope,
        skip=tuple(options.skip),
        target_share=options.target_share or TARGET_SHARE,
        target=options.target(),
        round_to=options.round_to or 1,
        max_map_loss=MAX_MAP_LOSS if options.max_map_loss is None else options.max_map_loss,
    )
    return SparsityPenalty(settings, cache(partial(start_map50, options)) if options.sr == AUTO else None)


def steps_after_sparsity(best: str, options: SparseOptions, penalty: SparsityPenalty | None) -> list[str]:
    """The pruning that the training was for; where the gammas fell short, a better training, or a smaller cut.

    ``penalty`` has seen the training to its end; None without --st.
    """
    script, small = "prune_tools/prune.py", None if penalty is None else penalty.share_of_best
    if small is None:
        return [following(script, PruneOptions, options, weights=best, **options.same_pruning())]
    changes: dict[str, Any] = {"epochs": 2 * options.epochs}
    if options.penalty != "polarize" and options.weights:
        changes = {"penalty": "polarize", "sr": None, "sr_beta": None, "teacher": options.weights, **HYP_OF_RECIPE}
    better = again(options, resume=False, **changes)
    share = math.floor(small * 1000) / 1000
    if share < LEAST_SHARE:
        return [better]
    chosen = {name: value for name, value in options.same_pruning().items() if name in ("scope", "skip")}
    return [better, following(script, PruneOptions, options, weights=best, percent=share, **chosen)]


def main(options: SparseOptions) -> Any:
    """Train with the penalty; returns what train.main returns."""
    from prune_tools.tuning.schedule import plugins_of
    from utils.callbacks import Callbacks

    callbacks = Callbacks()
    resumption = None
    if options.resume and not options.evolve:
        from utils.training.resume import resume_options

        resumption = resume_options(options)
        options = resumption.options  # penalty, recipe and teacher are those of the interrupted run
    else:
        options = with_recipe(options)
    penalty = make_penalty(options) if options.st else None
    if penalty is not None:
        callbacks.add(penalty)
    for plugin in plugins_of(options):
        callbacks.add(plugin)
    steps = partial(steps_after_sparsity, penalty=penalty)
    return train.main(options, callbacks, next_steps=steps, resumption=resumption)


def run(**keywords: Any) -> SparseOptions:
    """Sparse training from Python, the flags as keywords."""
    options = build(SparseOptions, **keywords)
    main(options)
    return options


if __name__ == "__main__":
    run_training_command(main, SparseOptions, "Sparse training with a penalty on batch-norm gammas.")
