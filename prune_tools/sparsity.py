"""The sparsity penalty of Network Slimming (Liu et al., ICCV 2017), as callbacks of the ordinary training loop.

The loss of each batch gains ``sr * sum |gamma|`` over the prunable batch norms: before each optimizer step ``sr *
sign(gamma)`` is added to gamma's gradient for every batch that the step applies, after unscaling and clipping, so that
neither the loss scale of AMP nor the clipping nor gradient accumulation changes its strength.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prune_tools.groups import prunable_norms
from utils.errors import InputError
from utils.log import LOGGER

if TYPE_CHECKING:
    from utils.callbacks import Callbacks
    from utils.engine import TrainingState

NEARLY_ZERO = 1e-2  # gammas below this are reported as ready to go
FINAL_SHARE = 0.1  # the rate on gamma decays linearly towards this share of its start


class SparsityPenalty:
    """L1 penalty on the gammas (rate ``sr``, decaying to a tenth) and on the betas (rate ``sr_beta``, constant).

    Args:
        sr: added per batch to each prunable gamma's gradient, times its sign.
        sr_beta: the same for beta; the original tools use ten times ``sr``. It moves the constants that removed
            channels would leave behind to zero, but shrinks the offsets of those that stay as well.
    """

    def __init__(self, sr: float, sr_beta: float) -> None:
        """Keep the rates; the norms are found when training is ready."""
        self.sr, self.sr_beta = sr, sr_beta
        self.norms: dict[str, torch.nn.BatchNorm2d] = {}
        self.state: TrainingState

    def register(self, callbacks: Callbacks) -> None:
        """Hang the penalty and its histograms on the hooks of a run."""
        callbacks.register_action("on_training_ready", name="sparsity", callback=self.on_training_ready)
        callbacks.register_action("on_before_optimizer_step", name="sparsity", callback=self.on_before_optimizer_step)
        callbacks.register_action("on_train_epoch_end", name="sparsity", callback=self.on_train_epoch_end)

    def on_training_ready(self, state: TrainingState) -> None:
        """Find the prunable norms of the model about to be trained."""
        self.state = state
        names = prunable_norms(state.ema.ema)  # in the model itself --sync-bn may have replaced the layers
        self.norms = {name: state.model.get_submodule(name) for name in names}  # type: ignore[misc]
        if not self.norms:
            raise InputError("this model has no prunable batch norm, so sparse training has nothing to act on")
        channels = sum(norm.num_features for norm in self.norms.values())
        LOGGER.info(
            f"Sparse training: {channels} gammas of {len(self.norms)} layers, sr {self.sr:g}, sr-beta {self.sr_beta:g}"
        )

    def on_before_optimizer_step(self, state: TrainingState) -> None:
        """Add the penalty's gradient to the true gradients; rate 0 leaves them untouched."""
        decayed = self.sr * (1 - (1 - FINAL_SHARE) * state.epoch / state.epochs)
        norms, batches = list(self.norms.values()), state.pending_batches
        self._penalize([norm.weight for norm in norms], decayed * batches)
        self._penalize([norm.bias for norm in norms], self.sr_beta * batches)

    @staticmethod
    @torch.no_grad()
    def _penalize(parameters: list[torch.nn.Parameter], rate: float) -> None:
        trained: list[torch.Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if rate and trained:
            torch._foreach_add_(gradients, torch._foreach_sign(trained), alpha=rate)

    @torch.no_grad()
    def on_train_epoch_end(self, epoch: int) -> None:
        """Log how many gammas are nearly zero, and write the histograms to TensorBoard."""
        gammas = {name: norm.weight.detach().abs().float().cpu() for name, norm in self.norms.items()}
        merged = torch.cat(list(gammas.values()))
        share = float((merged < NEARLY_ZERO).float().mean())
        LOGGER.info(f"{share:.1%} of {len(merged)} gammas are below {NEARLY_ZERO:g}, median {merged.median():.3g}")
        writer = self.state.writer
        if writer is None:
            return
        writer.add_histogram("bn_weights/hist", merged.numpy(), epoch, bins="doane")
        writer.add_scalar("bn_weights/share_below_0.01", share, epoch)
        for name, values in gammas.items():
            writer.add_histogram(f"bn_weights/{name}", values.numpy(), epoch, bins="doane")
