"""Parameters and operations of a network at given widths of its groups, without building it.

A convolution costs (inputs x outputs), a norm or an upsampling (channels), each times a constant; a width is a fixed
number of channels plus those that its groups keep. So the cost of the whole network is a polynomial of second degree in
the groups' channel counts. It is exact, and evaluating it takes microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from prune_tools.channels.structure import Structure
from prune_tools.channels.tracing import CONVOLUTIONS, Step, is_depthwise
from prune_tools.planning.plan import Plan
from utils.model_info import blank_image, count_operations, count_parameters, gflops, grid_size

IMAGE_SIZE = 640  # pixels; the size for which YOLOv5 prints GFLOPs
QUANTITIES = ("params", "flops")


def cost_of(quantity: str, model: nn.Module) -> float:
    """Parameters ('params') or operations ('flops') of a network, counted as ``CostModel`` counts them."""
    return float(count_parameters(model)) if quantity == "params" else 1e9 * (gflops(model, IMAGE_SIZE) or 0.0)


@dataclass
class Polynomial:
    """``constant + linear . n + sum over p of factors[p] * inputs[p] * outputs[p]`` for channel counts n (G,).

    Each of the P products belongs to a convolution; its two widths are ``fixed + shares @ n``.

    Attributes:
        linear: (G,).
        factors: (P,).
        fixed: (2, P), channels of inputs and outputs that are in no group.
        shares: (2, P, G), number of times that each channel of a group occurs in inputs and outputs.
    """

    constant: float
    linear: np.ndarray
    factors: np.ndarray
    fixed: np.ndarray
    shares: np.ndarray

    def value(self, counts: np.ndarray) -> float:
        """The cost when group g keeps ``counts[g]`` channels."""
        inputs, outputs = self.fixed + self.shares @ counts  # (P,) each
        return float(self.constant + counts @ self.linear + self.factors @ (inputs * outputs))

    def slope(self, counts: np.ndarray) -> np.ndarray:
        """The cost of one more channel of each group (G,), to first order, at these counts."""
        inputs, outputs = self.fixed + self.shares @ counts  # (P,) each
        by_inputs = (self.factors * outputs) @ self.shares[0]  # (G,)
        by_outputs = (self.factors * inputs) @ self.shares[1]  # (G,)
        return self.linear + by_inputs + by_outputs


@dataclass(frozen=True)
class Width:
    """Channels of one tensor: ``fixed`` ones in no group, and how often each channel of a group occurs (G,)."""

    fixed: int
    shares: np.ndarray


class CostModel:
    """Parameters ('params') and operations ('flops', for one IMAGE_SIZE x IMAGE_SIZE image) of a network's plans.

    Operations are counted by the rules of ``utils.model_info``, as YOLOv5 prints them: two for each multiply-add.
    """

    def __init__(self, structure: Structure) -> None:
        """Measure the network; its groups are those that plans may prune, everything else counts as fixed."""
        model = structure.model
        self.groups = list(structure.groups)
        self.sizes = np.array([group.size for group in self.groups])  # (G,)
        self._trace = structure.trace
        self._modules = dict(model.named_modules())
        self._owner = {  # identity of a channel -> index of its group
            identity: index for index, group in enumerate(self.groups) for identity in group.identities.tolist()
        }
        side = grid_size(model)
        sample = blank_image(model, side)
        scale = 2 * (IMAGE_SIZE / side) ** 2
        operations = {path: count * scale for path, count in count_operations(model, sample).items()}
        parameters = {path: float(self._own_parameters(path)) for path in self._modules}
        self._polynomials = {
            "params": self._polynomial(parameters, float(count_parameters(model)), with_bias=True),
            "flops": self._polynomial(operations, sum(operations.values()), with_bias=False),
        }

    def __call__(self, quantity: str, counts: np.ndarray) -> float:
        """The cost when group g keeps ``counts[g]`` channels."""
        return self._polynomials[quantity].value(counts)

    def slope(self, quantity: str, counts: np.ndarray) -> np.ndarray:
        """The cost of one channel of each group (G,) at these counts."""
        return self._polynomials[quantity].slope(counts)

    def of_plan(self, plan: Plan) -> dict[str, float]:
        """Both costs of the network that ``plan`` leaves."""
        counts = np.array([len(plan.kept.get(group.name, range(group.size))) for group in self.groups])
        return {quantity: self(quantity, counts) for quantity in QUANTITIES}

    def _own_parameters(self, path: str) -> int:
        return sum(parameter.numel() for parameter in self._modules[path].parameters(recurse=False))

    def _width(self, tensor: int) -> Width:
        """The channels of tensor number ``tensor``."""
        shares = np.zeros(len(self.groups))
        fixed = 0
        for identity in self._trace.tensors[tensor].tolist():
            group = self._owner.get(identity)
            if group is None:
                fixed += 1
            else:
                shares[group] += 1 / self.sizes[group]
        return Width(fixed, shares.round(9))  # whole numbers again: 1 for each time that the group is read

    def _measured_steps(self, costs: Mapping[str, float]) -> dict[str, Step]:
        """The first step of each module that costs something; one that runs again has fixed widths."""
        steps: dict[str, Step] = {}
        for step in self._trace.steps:
            if step.module_path in costs and step.kind in ("convolution", "norm", "linear"):
                steps.setdefault(step.module_path, step)
        return steps

    def _polynomial(self, costs: Mapping[str, float], total: float, with_bias: bool) -> Polynomial:
        """The polynomial of one quantity: ``costs`` by module, the rest of ``total`` being constant."""
        constant = total
        linear = np.zeros(len(self.groups))
        factors, fixed, shares = [], [], []
        for path, step in self._measured_steps(costs).items():
            module, cost = self._modules[path], costs[path]
            outputs = self._width(step.output)
            output_count = len(self._trace.tensors[step.output])
            if not isinstance(module, CONVOLUTIONS) or is_depthwise(module):
                # cost / outputs for each channel; that of the fixed ones stays in the constant
                linear += outputs.shares * cost / output_count
                constant -= cost * (1 - outputs.fixed / output_count)
                continue
            # cost = bias_per_channel * outputs + factor * inputs * outputs
            bias = output_count if with_bias and module.bias is not None else 0
            linear += outputs.shares * bias / output_count
            inputs = self._width(step.inputs[0])
            input_count = len(self._trace.tensors[step.inputs[0]])
            factors.append((cost - bias) / (output_count * input_count))
            fixed.append((inputs.fixed, outputs.fixed))
            shares.append((inputs.shares, outputs.shares))
            constant -= cost - bias * outputs.fixed / output_count
        return Polynomial(
            constant,
            linear,
            np.array(factors),  # (P,)
            np.array(fixed).T.reshape(2, -1),  # (P, 2) -> (2, P)
            np.array(shares).transpose(1, 0, 2),  # (P, 2, G) -> (2, P, G)
        )
