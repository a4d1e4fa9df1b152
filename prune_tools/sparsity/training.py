"""The work of train_sparity.py: the penalty's plug-in, the training, and what to run next."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache, partial
from typing import Any

import train
from prune_tools import rounding
from prune_tools.options import PruneOptions
from prune_tools.planning.options import DEFAULT_ROUNDING
from prune_tools.sparsity.options import AUTO, MAX_MAP_LOSS, POLARIZE, TARGET_SHARE, SparseOptions
from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty
from prune_tools.tuning.keep_start import start_map50
from prune_tools.tuning.schedule import plugins_of, start_or_resume
from utils.callbacks import Callbacks
from utils.commands.next_steps import again, following
from utils.log import LOGGER
from utils.training.interfaces import Results

BETA_RATE = 10  # the original tools' penalty on beta, in units of --sr
LEAST_SHARE = 0.01  # of small gammas: with fewer of them there is nothing to prune
HYP_OF_RECIPE = {"recipe": "", "hyp": "", "optimizer": ""}  # another penalty comes with another schedule
PUBLISHED_FLAGS = {"st": None, "penalty": "", "sr": None, "sr_beta": None}  # without them the default is used
PRUNE = "prune_tools/prune.py"


def train_sparsely(options: SparseOptions, callbacks: Callbacks) -> Results | None:
    """Train with the penalty; returns what train.main returns."""
    if not options.resume:
        LOGGER.info(options.summary())
        options = rounding.of_sparse_training(options)
    asked = None if options.resume else options
    options, resumption = start_or_resume(options)
    penalty = make_penalty(options) if options.st else None
    plugins = [*filter(None, [penalty]), *plugins_of(options)]
    steps = partial(steps_after_sparsity, penalty=penalty, asked=asked)
    with callbacks.added(*plugins):
        return train.main(options, callbacks, next_steps=steps, resumption=resumption)


def make_penalty(options: SparseOptions) -> SparsityPenalty:
    """The plug-in for these options; an automatic rate has the start weights measured first."""
    rate = options.sr
    assert rate is not None
    default_beta = BETA_RATE * rate if options.penalty == "l1" and not isinstance(rate, str) else 0.0
    settings = PenaltySettings(
        penalty=options.penalty,
        sr=rate,
        sr_beta=default_beta if options.sr_beta is None else options.sr_beta,
        scope=options.scope,
        skip=tuple(options.skip),
        target_share=options.target_share or TARGET_SHARE,
        target=options.target(),
        round_to=options.round_to or DEFAULT_ROUNDING,
        max_map_loss=MAX_MAP_LOSS if options.max_map_loss is None else options.max_map_loss,
        reversible=options.reversible,
    )
    return SparsityPenalty(settings, cache(partial(start_map50, options)) if rate == AUTO else None)


def steps_after_sparsity(
    best: str, options: SparseOptions, recorded: Collection[str] = (), *, penalty: SparsityPenalty | None,
    asked: SparseOptions | None = None,
) -> list[str]:  # fmt: skip
    """The pruning that the training was for; if too few gammas are small, a better training and a smaller cut.

    The first three arguments are those of ``utils.training.trainer.NextSteps``; ``penalty`` has seen the training to
    its end, and is None with --no-st; ``asked`` are the options of the command line.
    """
    goals = ("target_flops", "target_params", "round_to")  # same_pruning gives those that count
    prune = partial(following, PRUNE, PruneOptions, options, recorded=(*recorded, *goals), weights=best)
    if penalty is None or penalty.share_of_best is None:
        return [prune(**options.same_pruning())]
    changes: dict[str, Any] = {"epochs": 2 * options.epochs}
    if options.penalty != POLARIZE and options.weights:
        changes = PUBLISHED_FLAGS | HYP_OF_RECIPE
        if options.target_share == TARGET_SHARE:
            changes |= {"target_share": None, "scope": "", "round_to": None}
    better = again(asked or options, resume=False, **changes)
    share = math.floor(penalty.share_of_best * 1000) / 1000
    if share < LEAST_SHARE:
        return [better]
    return [better, prune(percent=share, **options.same_channels())]
