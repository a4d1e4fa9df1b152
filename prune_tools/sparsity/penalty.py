"""The penalty of sparse training (Network Slimming, Liu et al., ICCV 2017), as a plug-in of the training loop.

``l1`` adds ``sr * sign(gamma)`` to gamma's gradient for every batch that an optimizer step applies, after unscaling and
clipping; ``prox`` takes the same amount off |gamma| after the step and stops at exactly zero; ``polarize`` pushes only
the channels that the loss needs least (polarize.py). So neither the loss scale of mixed precision nor clipping nor
gradient accumulation changes the penalty's strength.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prune_tools.channels.structure import Structure
from prune_tools.channels.tracing import trace_model
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Target, readable
from prune_tools.sparsity.gammas import ChannelGammas
from prune_tools.sparsity.options import AUTO
from prune_tools.sparsity.polarize import ByBudget, ByShare, Chooser, Polarizer
from prune_tools.sparsity.rates import DEADLINE, LARGEST_CHANGE, NEARLY_ZERO, Course, decayed, mobility, remaining_path
from utils.callbacks import Plugin
from utils.distributed import from_first, plain_norms
from utils.log import LOGGER
from utils.training.results import EpochResult
from utils.training.resume_checks import Judge
from utils.training.state import TrainingState

HIGHEST_RATE = 0.1  # --sr that is proposed; a run that needs more needs more epochs
FIRST_JUDGEMENT = 0.1  # share of the run; earlier projections are too uncertain for a warning
ROUNDING = 0.002  # tolerance of shares: whole channels, and channels that half precision moves over the limit


@dataclass(frozen=True)
class PenaltySettings:
    """Settings of the penalty.

    Attributes:
        penalty: 'l1', 'prox' or 'polarize'.
        sr: rate on gamma per batch, or 'auto'.
        sr_beta: rate on beta, always as L1. The original tools use ten times ``sr``: it moves the constants that
            removed channels would emit to zero, but also shrinks the offsets of the channels that stay.
        scope: which channels, see groups.ChannelGroup.exclusion.
        skip: patterns of layers to leave alone, see groups.protect.
        target_share: share of small gammas to reach by the end.
        target: for 'polarize', instead of the share: the cost of the network without the small channels.
        round_to: with a target, the number of channels that each layer keeps is a multiple of this.
        max_map_loss: the automatic rate and ``polarize`` pause while mAP50 is more than this below that of the start
            or of the best epoch; see SparsityPenalty.allowed_loss.
        reversible: with 'polarize', chosen channels may return until the last choice.
    """

    penalty: str = "l1"
    sr: float | str = 0.0005
    sr_beta: float = 0.0
    scope: str = "seed"
    skip: tuple[str, ...] = ()
    target_share: float = 0.4
    target: Target | None = None
    round_to: int = 1
    max_map_loss: float = 0.03
    reversible: bool = False


class SparsityPenalty(Plugin):
    """Applies the penalty, reports on it, and grades the epochs so that best.pt is a sparse one.

    Attributes:
        rate: of the present epoch; with the published schedule, that of the first.
        best_map: highest mAP50 so far, that of the start weights included.
        verdict: 'low' or 'high' if the fixed rate has been warned of, else ''.
        share: of small gammas in the averaged model, after the latest epoch.
        share_of_best: the same of best.pt, if it has missed the goal, else None.
        gammas, average: the channels of the model and of the moving average, from ``on_training_ready`` on.
        course: how the gammas move, from ``on_training_ready`` on.
    """

    name = "sparsity"

    def __init__(self, settings: PenaltySettings, start_map50: Callable[[], float] | None = None) -> None:
        """Keep the settings; the channels are found when training is ready.

        ``start_map50`` measures the start weights, when a new run begins.
        """
        self.settings = settings
        self.start_map50 = start_map50
        self.active = settings.sr != 0
        self.automatic = settings.sr == AUTO and settings.penalty != "polarize"
        self.rate = 0.0
        self.best_map = 0.0
        self.verdict = ""
        self.polarizer: Polarizer | None = None
        self.resumed = False
        self.skipped = False  # the optimizer step under way does nothing
        self.share_of_best: float | None = None
        self.share = 0.0
        self.gammas: ChannelGammas
        self.average: ChannelGammas
        self.course: Course

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def on_training_ready(self, state: TrainingState) -> None:
        """Find the channels of the model, and set the first rate."""
        settings = self.settings
        self.best_map = 0.0
        self.verdict = ""
        self.resumed = False
        plain = plain_norms(copy.deepcopy(state.model))  # --sync-bn replaces the batch norms that define channels
        self.gammas = ChannelGammas(plain, settings.scope, settings.skip).twin(state.model)
        self.average = self.gammas.twin(state.ema.ema)
        if state.loggers is not None:
            state.loggers.norms = self.gammas.norms
        start = self.gammas.magnitudes()
        self.course = Course(start, start)
        self.rate = 0.0 if isinstance(settings.sr, str) else settings.sr
        if settings.penalty == "polarize" and self.active:
            self.polarizer = Polarizer(
                self.gammas, self._chooser(plain), state.epochs, len(state.loader), settings.reversible
            )
        if self.automatic:
            path, push = remaining_path(state, 0, max(round(DEADLINE * state.epochs), 1), schedule=False)
            self.rate = self.course.needed(settings.target_share, path, push)

    def on_train_start(self) -> None:
        """Measure the start of a new run."""
        if self.start_map50 is not None and not self.resumed:
            self.best_map = from_first(self.start_map50() if self.state.run.is_main else 0.0)
        LOGGER.info(f"Sparse training: {self.gammas.count} channels of {len(self.gammas.norms)} layers, {self._how()}")

    def on_before_optimizer_step(self, state: TrainingState) -> None:
        """Add the penalty to the gradients, unless its rate is 0 or the step will be skipped."""
        self.skipped = state.skips_step()
        if self.skipped:
            return
        batches = state.pending_batches
        rate = self._rate_now()
        if self.polarizer is not None:
            self.polarizer.observe()
        elif rate:
            self.course.step(rate, mobility(state.optimizer), batches)
            if self.settings.penalty == "l1":
                self.gammas.add_subgradient(rate * batches)
        if self.settings.sr_beta:
            self._penalize_offsets(self.settings.sr_beta * batches)

    def optimizer_step(self, state: TrainingState) -> None:
        """Shrink the gammas that the optimizer has just moved; a step that loss scaling skips does not count."""
        if self.skipped or not self.active or self.settings.penalty == "l1":
            return
        if self.polarizer is not None:
            self.polarizer.step(state.pending_batches)
        elif self._rate_now():
            self.gammas.shrink(self._rate_now() * state.pending_batches * mobility(state.optimizer))

    @torch.no_grad()
    def on_train_epoch_end(self, epoch: int) -> None:
        """Copy exact zeros to the averaged model, grade the epoch, and log the progress."""
        now = self.gammas.magnitudes()
        self.course.measure(now)
        if self.active and self.settings.penalty != "l1":
            self.average.clear(now == 0)  # an average of values that were not all zero never becomes zero by itself
        averaged = self.average.magnitudes()
        self.share = float((averaged < NEARLY_ZERO).float().mean())
        if self.active:
            self.state.grade = self._grade(averaged)
        LOGGER.info(self._progress(epoch, averaged))
        if self.active and self.polarizer is None and not self.automatic:
            self._judge(epoch)
        self._record(epoch)

    def on_fit_epoch_end(self, vals: EpochResult, epoch: int, best_fitness: float, fi: float) -> None:
        """Set the automatic rate of the next epoch; pause the penalty while mAP50 is too low."""
        self.best_map = max(self.best_map, vals.map50)
        allowed = self.allowed_loss(epoch)
        held = vals.map50 < self.best_map - allowed
        if self.polarizer is not None:
            self.polarizer.held = held
        elif self.automatic and epoch + 1 < self.state.epochs:
            self._adapt(epoch, held)
        if held and (self.automatic or self.polarizer is not None):
            LOGGER.info(
                f"mAP50 {vals.map50:.3f} is more than {allowed:.2g} below {self.best_map:.3f}: "
                "the penalty pauses until it has recovered"
            )

    def allowed_loss(self, epoch: int) -> float:
        """The distance of mAP50 below the best that is allowed after ``epoch``: up to twice ``max_map_loss`` at first.

        The accuracy that a high learning rate costs comes back when the rate falls.
        """
        return self.settings.max_map_loss * (1 + self.state.run.learning_rate_factor(epoch))

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Sequence[float]) -> None:
        """Log what best.pt is; warn, with remedies, if it has missed the goal."""
        if not self.active:
            return
        goal, reached = self.settings.target_share, self.state.best.grade
        if self.polarizer is not None:
            goal = float(self.polarizer.chosen.float().mean())
            reached *= goal
        if reached > goal - ROUNDING:
            LOGGER.info(f"best.pt is the best of the epochs in which {goal:.0%} of the prunable channels are small")
            return
        self.share_of_best = reached
        remedies = "train longer"
        if self.polarizer is not None:
            remedies += " or with a larger --max-map-loss"
        else:
            remedies += ", with a larger --max-map-loss" if self.automatic else ", with a higher --sr"
            remedies += " or with --penalty polarize, which needs fewer epochs"
        LOGGER.warning(
            f"WARNING: no epoch has reached {goal:.0%} small gammas; best.pt is the sparsest, with {reached:.1%}: "
            f"prune no more than that, or {remedies}"
        )

    # -- the goal ------------------------------------------------------------------------------------------------------

    def _chooser(self, model: Any) -> Chooser:
        """The rule by which 'polarize' chooses channels of ``model``."""
        settings = self.settings
        if settings.target is None:
            return ByShare(self.gammas.layer, settings.target_share, settings.reversible)
        costs = CostModel(Structure(model, trace_model(model), self.gammas.groups))
        return ByBudget(self.gammas.groups, costs, settings.target, settings.round_to, settings.reversible)

    def _grade(self, averaged: torch.Tensor) -> float:
        """Grade the averaged model with these magnitudes: its progress towards the goal, in [0, 1]."""
        if self.polarizer is None:
            return min(self.share, self.settings.target_share)
        small = (averaged[self.polarizer.chosen] < NEARLY_ZERO).float()
        return self.polarizer.done * float(small.mean()) if len(small) else 0.0

    # -- the rate ------------------------------------------------------------------------------------------------------

    @property
    def _decays(self) -> bool:
        """Tell whether the rate follows the published schedule."""
        return self.settings.penalty == "l1" and not self.automatic

    def _rate_now(self) -> float:
        return decayed(self.rate, self.state.epoch, self.state.epochs) if self._decays else self.rate

    def _penalize_offsets(self, rate: float) -> None:
        biases = [norm.bias for norm in self.gammas.norms.values() if norm.bias.grad is not None]
        gradients: list[torch.Tensor] = [bias.grad for bias in biases if bias.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sign([bias.detach() for bias in biases]), alpha=rate)

    def _adapt(self, epoch: int, held: bool) -> None:
        """Set the rate that brings the target share to zero by the deadline, changed by at most LARGEST_CHANGE."""
        state = self.state
        deadline = round(DEADLINE * state.epochs)
        last = deadline if epoch + 1 < deadline else state.epochs
        path, push = remaining_path(state, epoch + 1, last, schedule=False)
        needed = self.course.needed(self.settings.target_share, path, push)
        lowest = self.rate / LARGEST_CHANGE
        highest = lowest if held else self.rate * LARGEST_CHANGE
        self.rate = min(max(needed, lowest), highest)

    # -- reports -------------------------------------------------------------------------------------------------------

    def _how(self) -> str:
        """The penalty in words."""
        settings = self.settings
        if not self.active:
            return f"sr 0, sr-beta {settings.sr_beta:g}"
        goal = f"goal {settings.target_share:.0%} of them below {NEARLY_ZERO:g}"
        chooser = None if self.polarizer is None else self.polarizer.choose
        if isinstance(chooser, ByBudget):
            goal = f"goal {readable(chooser.quantity, chooser.final)} without those at zero"
        rate = "rate set automatically" if settings.sr == AUTO else f"sr {self.rate:g}"
        return f"{settings.penalty}, {rate}, sr-beta {settings.sr_beta:g}, {goal}"

    def _projected(self, epoch: int) -> float:
        """Share of channels that will be small at the end if the gammas continue to move as they do."""
        path, push = remaining_path(self.state, epoch + 1, self.state.epochs, self._decays)
        return float((self.course.final(path, push * self.rate) < NEARLY_ZERO).float().mean())

    def _progress(self, epoch: int, averaged: torch.Tensor) -> str:
        text = f"{self.share:.1%} of {self.gammas.count} prunable channels are below {NEARLY_ZERO:g}"
        if self.polarizer is not None:
            text += f" ({float(self.polarizer.chosen.float().mean()):.1%} chosen)"
        elif self.active:
            text += f" (on course for {self._projected(epoch):.0%}), sr {self._rate_now():.3g}"
        return text + f", median {averaged.median():.3g}"

    def _judge(self, epoch: int) -> None:
        """Warn, once per verdict, if a fixed rate will clearly miss the target share."""
        state, goal = self.state, self.settings.target_share
        if epoch + 1 < max(FIRST_JUDGEMENT * state.epochs, 2):
            return
        projected = self._projected(epoch)
        verdict = ""
        if projected < goal / 2:
            verdict = "low"
        elif projected > (1 + goal) / 2:
            verdict = "high"
        if verdict and verdict != self.verdict:
            path, push = remaining_path(state, 0, state.epochs, self._decays)
            better = self.course.needed(goal, path, push, origin=self.course.start)
            remedy = f"about --sr {better:.2g} would do, or let --sr auto find it"
            if better > HIGHEST_RATE:
                remedy = "no usable rate gets there in so few batches: train longer, or with --penalty polarize"
            LOGGER.warning(
                f"--sr {self.rate:g} is too {verdict} for {state.epochs} epochs of {len(state.loader)} batches: about "
                f"{projected:.0%} of the prunable channels will end below {NEARLY_ZERO:g}, and the goal is {goal:.0%}; "
                f"{remedy}"
            )
        self.verdict = verdict

    def _record(self, epoch: int) -> None:
        """Record the share of small gammas, and the magnitudes layer by layer."""
        loggers = self.state.loggers
        if loggers is None:
            return
        loggers.scalars({f"bn_weights/share_below_{NEARLY_ZERO:g}": self.share}, epoch)
        for name, norm in self.gammas.norms.items():
            loggers.histogram(f"bn_weights/{name}", norm.weight.detach().abs().float().cpu().numpy(), epoch)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Rate, best mAP50, verdict, course and polarizer."""
        record = {"rate": self.rate, "best_map": self.best_map, "verdict": self.verdict, "course": vars(self.course)}
        if self.polarizer is not None:
            record["polarizer"] = self.polarizer.state_dict()
        return record

    def load_state_dict(self, record: Any) -> None:
        """Continue where ``state_dict`` was taken. Raises InputError for a damaged record."""
        own = {**self.state_dict(), "course": {**vars(self.course), "force": self.course.start}}
        Judge("last.pt").alike("plugins: sparsity", record, own, optional=("force",))
        self.resumed = True
        self.rate = record["rate"]
        self.best_map = record["best_map"]
        self.verdict = record["verdict"]
        device = self.gammas.layer.device
        course: dict[str, Any] = {
            key: value.to(device) if torch.is_tensor(value) else value for key, value in record["course"].items()
        }
        self.course = Course(**course)
        if self.polarizer is not None:
            self.polarizer.load_state_dict(record["polarizer"])
