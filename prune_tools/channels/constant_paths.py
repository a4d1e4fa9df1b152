"""Where a constant that a convolution adds can be taken off again: in the means of the norms behind it.

A norm usually takes the output of one convolution; behind a concatenation or an addition (BottleneckCSP) it takes those
of several.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from prune_tools.channels.tracing import Step, Trace


class ConstantPaths:
    """Follows constants from the outputs of convolutions through linear steps, which keep them, to norms."""

    def __init__(self, trace: Trace) -> None:
        """Note what makes each tensor of ``trace`` and what reads it."""
        self._widths = [len(channels) for channels in trace.tensors]
        self._maker = {step.output: step for step in trace.steps}
        self._readers: dict[int, list[Step]] = defaultdict(list)
        for step in trace.steps:
            for number in step.inputs:
                self._readers[number].append(step)
        self._outputs = {step.name: step.output for step in trace.steps if step.kind == "convolution"}

    def norms(self, convolution: str) -> list[Step]:
        """The norms that the output of a convolution, named by its path, reaches."""
        return [step for step in self._ends(self._outputs[convolution]) if step.kind == "norm"]

    def have_place(self, convolution: str) -> bool:
        """Tell whether the output reaches norms and nothing else: then they can take off what it adds."""
        ends = self._ends(self._outputs[convolution])
        return bool(ends) and all(step.kind == "norm" for step in ends)

    def at(self, norm: Step, constants: Mapping[str, Tensor]) -> Tensor:
        """Return what arrives at a norm (C,) of the constants (C,) that convolutions add; 0 for those not named."""
        return self._value(norm.inputs[0], constants)

    def _ends(self, number: int) -> list[Step]:
        ends = []
        for step in self._readers[number]:
            follow = step.kind == "linear" and step.apply is not None
            ends += self._ends(step.output) if follow else [step]
        return ends

    def _value(self, number: int, constants: Mapping[str, Tensor]) -> Tensor:
        step, nothing = self._maker.get(number), torch.zeros(self._widths[number], dtype=torch.double)
        if step is None or number < 0:
            return nothing
        if step.kind == "convolution":
            return constants.get(step.name, nothing)
        if step.kind == "linear" and step.apply is not None:
            return step.apply([self._value(source, constants) for source in step.inputs])
        return nothing
