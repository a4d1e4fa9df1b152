"""Constant folding: a removed channel with gamma 0 still emitted act(beta); fold that constant into its readers.

Away from the zero-padded border, a reader received the sum of its taps times the constant of each removed channel. That
sum is moved into the reader's batch-norm mean or its bias. Constants are followed through activations, concatenation,
upsampling, pooling, additions and depthwise convolutions. Except at the border, the result equals the full model with
the removed gammas set to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from prune_tools.channels.structure import Structure
from prune_tools.channels.tracing import Step
from prune_tools.planning.plan import Plan


@dataclass
class Folding:
    """Result of a folding.

    Attributes:
        changed: number of norms and biases that changed.
        largest: the largest absolute change.
        left_out: operations at which a constant had to be dropped.
    """

    changed: int = 0
    largest: float = 0.0
    left_out: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for the log."""
        text = f"Constants of removed channels folded into {self.changed} layers, largest shift {self.largest:.3g}"
        return text + (f"; not followed: {', '.join(self.left_out)}" if self.left_out else "")


class _Folder:
    """Carries one value per channel through the steps of a trace.

    For a removed channel it is the constant that the channel emits. For a kept one it is the amount by which the pruned
    network's map is too low, until a norm or a bias makes up for it.

    Attributes:
        removed: (C,) bool for each tensor of the trace, True for removed channels.
        values: (C,) float64 by number of the tensor; all other tensors have zeros.
    """

    def __init__(self, full: nn.Module, pruned: nn.Module, removed: list[Tensor]) -> None:
        self.full = dict(full.named_modules())
        self.narrow = dict(pruned.named_modules())
        self.removed = removed
        self.values: dict[int, Tensor] = {}
        self.result = Folding()

    def value(self, tensor: int) -> Tensor:
        """The values of tensor number ``tensor``."""
        return self.values.get(tensor, torch.zeros(len(self.removed[tensor]), dtype=torch.double))

    def step(self, step: Step) -> None:
        """Compute the values of the step's output, and correct the narrow module where it can take them up."""
        inputs = [self.value(number) for number in step.inputs]
        if step.kind == "convolution":
            self.values[step.output] = self._convolution(step, inputs[0])
        elif step.kind == "norm":
            self.values[step.output] = self._norm(step, inputs[0])
        elif step.kind == "linear":
            if step.apply is not None:
                self.values[step.output] = step.apply(inputs)
        else:
            for number, value in zip(step.inputs, inputs, strict=True):  # nothing behind this step can make up for them
                self._note_loss(step.name, value[~self.removed[number]])
            if step.apply is not None:  # an activation
                self.values[step.output] = torch.where(self.removed[step.output], step.apply(inputs), 0.0)

    def _note_loss(self, name: str, values: Tensor) -> None:
        """Note that values which are not zero are dropped at an operation."""
        if bool((values != 0).any()):
            self.result.left_out.append(name)

    def _convolution(self, step: Step, value: Tensor) -> Tensor:
        """Values (C_out,) from those of the inputs (C_in,); a narrow module with a bias takes up those of kept ones."""
        module = self.full[step.name]
        removed = self.removed[step.output]  # (C_out,)
        if isinstance(module, nn.ConvTranspose2d) and max(module.stride) > 1 and max(module.kernel_size) > 1:
            self._note_loss(step.name, value)  # here a constant map becomes a periodic one
            return torch.zeros(len(removed), dtype=torch.double)
        convolve = conv_transpose2d if isinstance(module, nn.ConvTranspose2d) else conv2d
        taps = module.weight.detach().cpu().double().sum((2, 3), keepdim=True)  # each kernel as one 1 x 1 tap
        shift = convolve(value.view(1, -1, 1, 1), taps, groups=module.groups).flatten()  # (C_out,)
        if module.bias is None:
            return shift
        self._add(self.narrow[step.name].bias, shift[~removed])
        return torch.where(removed, shift + module.bias.detach().cpu().double(), 0.0)

    def _norm(self, step: Step, value: Tensor) -> Tensor:
        """Values behind a norm (C,): beta of removed channels; the narrow mean takes up the values of kept ones."""
        removed, full = self.removed[step.output], self.full[step.name]
        if full.running_mean is not None:  # without statistics, it subtracts each batch's mean and the shift with it
            self._add(self.narrow[step.name].running_mean, -value[~removed])
        return torch.where(removed, 0.0 if full.bias is None else full.bias.detach().cpu().double(), 0.0)

    def _add(self, target: Tensor, shift: Tensor) -> None:
        """Add ``shift`` (K,) to a parameter or buffer of the narrow module."""
        if not (shift != 0).any():
            return
        with torch.no_grad():
            target += shift.to(target)
        self.result.changed += 1
        self.result.largest = max(self.result.largest, float(shift.abs().max()))


def removed_channels(structure: Structure, plan: Plan) -> list[Tensor]:
    """The channels that a plan removes, (C,) bool for each tensor of the trace."""
    identities = [group.identities[plan.removed(group)] for group in structure.groups]
    removed = np.concatenate([np.arange(0), *identities])
    return [torch.from_numpy(np.isin(channels, removed)) for channels in structure.trace.tensors]


def fold_constants(structure: Structure, pruned: nn.Module, plan: Plan) -> Folding:
    """Fold act(beta) of the removed channels into the norms and biases of ``pruned``, in place.

    Args:
        structure: of the model before surgery, with its own gammas and betas.
        pruned: the model narrowed by ``plan``.
        plan: what is kept of the structure's groups.

    Returns:
        The changes, and the operations at which a constant had to be dropped.
    """
    folder = _Folder(structure.model, pruned, removed_channels(structure, plan))
    for step in structure.trace.steps:
        folder.step(step)
    return folder.result
