"""Constant folding: what removed channels still emitted goes on to be there.

A removed channel whose gamma is about zero still emitted the constant act(beta). Its readers
received, away from the zero-padded border, the sum of their taps times that constant; it is moved into the reader's
batch-norm mean or its bias. The constants are followed through activations, concatenation, upsampling, pooling,
additions and depthwise convolutions, so the result equals the full model with the removed gammas set to zero, but for
the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

from prune_tools.channels.groups import ChannelGroup
from prune_tools.channels.tracing import Step, Trace
from prune_tools.planning.plan import Plan


@dataclass
class Folding:
    """What was folded: number of norms and biases changed, largest shift, and where a constant could not be kept."""

    changed: int = 0
    largest: float = 0.0
    left_out: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for the log."""
        text = f"Constants of removed channels folded into {self.changed} layers, largest shift {self.largest:.3g}"
        return text + (f"; not followed: {', '.join(self.left_out)}" if self.left_out else "")


class _Folder:
    """Carries one value per channel through the steps of a trace.

    For a removed channel it is the constant that it emits; for one that stays, what the pruned network's map lacks
    in comparison with the full one, until a norm or a bias makes up for it.
    """

    def __init__(self, full: nn.Module, pruned: nn.Module, gone: list[torch.Tensor]) -> None:
        self.full, self.narrow = dict(full.named_modules()), dict(pruned.named_modules())
        self.gone = gone
        self.values: dict[int, torch.Tensor] = {}
        self.result = Folding()

    def value(self, number: int) -> torch.Tensor:
        """The values of tensor ``number``, zeros at first."""
        return self.values.get(number, torch.zeros(len(self.gone[number]), dtype=torch.double))

    def step(self, step: Step) -> None:
        """Do one step of the trace."""
        inputs = [self.value(number) for number in step.inputs]
        if step.kind == "convolution":
            value = self._convolution(step, inputs[0])
        elif step.kind == "norm":
            value = self._norm(step, inputs[0])
        else:
            if step.kind != "linear":  # here a missing shift can no longer be made up for
                for number, entry in zip(step.inputs, inputs, strict=True):
                    self._give_up(step.name, entry, ~self.gone[number])
            if step.apply is None:
                return
            value = step.apply(inputs)
            if step.kind == "activation":
                value = torch.where(self.gone[step.output], value, 0.0)
        self.values[step.output] = value

    def _give_up(self, name: str, value: torch.Tensor, where: torch.Tensor) -> None:
        if bool((value[where] != 0).any()):
            self.result.left_out.append(name)

    def _convolution(self, step: Step, value: torch.Tensor) -> torch.Tensor:
        module = self.full[step.name]
        gone = self.gone[step.output]
        weight = module.weight.detach().cpu().double()
        bias = (
            torch.zeros(len(gone), dtype=torch.double) if module.bias is None else module.bias.detach().cpu().double()
        )
        if isinstance(module, nn.ConvTranspose2d) and max(module.stride) > 1 and max(module.kernel_size) > 1:
            self._give_up(step.name, value, torch.ones_like(value, dtype=torch.bool))
            return torch.zeros(len(gone), dtype=torch.double)  # a constant map does not stay constant here
        convolve = conv_transpose2d if isinstance(module, nn.ConvTranspose2d) else conv2d
        shift = convolve(value.view(1, -1, 1, 1), weight.sum((2, 3), keepdim=True), groups=module.groups).flatten()
        if module.bias is None:
            return shift
        self._add(self.narrow[step.name].bias, shift, ~gone)
        return torch.where(gone, shift + bias, 0.0)

    def _norm(self, step: Step, value: torch.Tensor) -> torch.Tensor:
        gone, full = self.gone[step.output], self.full[step.name]
        if (
            full.running_mean is not None
        ):  # without statistics it takes off the mean of each batch, with what is missing
            self._add(self.narrow[step.name].running_mean, -value, ~gone)
        return torch.where(gone, 0.0 if full.bias is None else full.bias.detach().cpu().double(), 0.0)

    def _add(self, target: torch.Tensor, shift: torch.Tensor, stays: torch.Tensor) -> None:
        """Add the shift of the channels that stay to a parameter or buffer of the narrow module."""
        shift = shift[stays]
        if not len(shift) or not (shift != 0).any():
            return
        with torch.no_grad():
            target += shift.to(target)
        self.result.changed += 1
        self.result.largest = max(self.result.largest, float(shift.abs().max()))


def removed_channels(trace: Trace, groups: Sequence[ChannelGroup], plan: Plan) -> list[torch.Tensor]:
    """For each tensor of ``trace``, which of its channels the plan removes (bool)."""
    touches = {(touch.path, touch.role): touch.channels for touch in trace.touches}
    gone: set[int] = set()
    for group in groups:
        member = group.members[0]
        removed = plan.removed(group).numpy()
        gone.update(trace.root(int(channel)) for channel in touches[member.path, member.role][member.indices[removed]])
    return [
        torch.tensor([trace.root(int(channel)) in gone for channel in channels], dtype=torch.bool)
        for channels in trace.tensors
    ]


def fold_constants(
    full: nn.Module, pruned: nn.Module, trace: Trace, groups: Sequence[ChannelGroup], plan: Plan
) -> Folding:
    """Fold act(beta) of the removed channels into the norms and biases of ``pruned``, in place.

    Args:
        full: the model before surgery, with its own gammas and betas.
        pruned: the narrowed model.
        trace: the trace of ``full`` that ``groups`` come from.

    Returns:
        What was changed, and the layers at which a constant had to be dropped.
    """
    folder = _Folder(full, pruned, removed_channels(trace, groups, plan))
    for step in trace.steps:
        folder.step(step)
    return folder.result
