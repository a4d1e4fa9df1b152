"""Find the batch norms whose running mean can absorb a constant added by a convolution.

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
    """Follows constants from the outputs of convolutions through linear steps, which preserve them, to norms."""

    def __init__(self, trace: Trace) -> None:
        """Index the steps of ``trace`` by the tensors that they make and read."""
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

    def end_in_norms(self, convolution: str) -> bool:
        """Tell whether the output reaches norms and nothing else, so that they can absorb all that is added to it."""
        ends = self._ends(self._outputs[convolution])
        return bool(ends) and all(step.kind == "norm" for step in ends)

    def at(self, norm: Step, constants: Mapping[str, Tensor]) -> Tensor:
        """The sum (C,) that arrives at a norm of the ``constants`` (C,) that convolutions add, by their paths."""
        return self._value(norm.inputs[0], constants)

    def _ends(self, tensor: int) -> list[Step]:
        """The steps behind all linear ones that tensor number ``tensor`` passes through."""
        ends = []
        for step in self._readers[tensor]:
            is_linear = step.kind == "linear" and step.apply is not None
            ends += self._ends(step.output) if is_linear else [step]
        return ends

    def _value(self, tensor: int, constants: Mapping[str, Tensor]) -> Tensor:
        """The constants in tensor number ``tensor``, (C,) float64."""
        step = self._maker.get(tensor)
        zeros = torch.zeros(self._widths[tensor], dtype=torch.double)
        if step is None or tensor < 0:
            return zeros
        if step.kind == "convolution":
            return constants.get(step.name, zeros)
        if step.kind == "linear" and step.apply is not None:
            return step.apply([self._value(source, constants) for source in step.inputs])
        return zeros
