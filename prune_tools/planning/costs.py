"""What a network costs at given widths of its groups: parameters and operations, without building the network.

A convolution costs (inputs x outputs), a norm or an upsampling (channels), each times a constant; a width is a fixed
number of channels plus those that its groups keep. So the whole network's cost is a polynomial of second degree in the
groups' counts, exact, and a plan's cost takes microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from prune_tools.channels.groups import ChannelGroup
from prune_tools.channels.tracing import CONVOLUTIONS, Step, Trace, is_depthwise
from prune_tools.planning.plan import Plan
from utils.model_info import blank_image, count_operations, count_parameters, grid_size

IMAGE_SIZE = 640  # pixels; the size for which YOLOv5 prints GFLOPs
QUANTITIES = ("params", "flops")


@dataclass
class Polynomial:
    """``constant + counts . linear + sum_i factors[i] * first_i * second_i``, widths being ``fixed + shares . counts``.

    Attributes:
        linear: (groups,).
        factors: (products,).
        fixed: (2, products), channels of the two widths that are in no group.
        shares: (2, products, groups), how often each channel of a group occurs in the two widths.
    """

    constant: float
    linear: np.ndarray
    factors: np.ndarray
    fixed: np.ndarray
    shares: np.ndarray

    def value(self, counts: np.ndarray) -> float:
        """The cost when group g keeps ``counts[g]`` channels."""
        first, second = self.fixed + self.shares @ counts
        return float(self.constant + counts @ self.linear + self.factors @ (first * second))

    def slope(self, counts: np.ndarray) -> np.ndarray:
        """Return what one more channel of each group costs (groups,), to first order, all other counts unchanged."""
        first, second = self.fixed + self.shares @ counts
        return self.linear + (self.factors * second) @ self.shares[0] + (self.factors * first) @ self.shares[1]


class CostModel:
    """Parameters ('params') and operations ('flops', for one IMAGE_SIZE x IMAGE_SIZE image) of a network's plans.

    Operations are counted by the rules of ``utils.model_info``, as YOLOv5 prints them: two for each multiply-add.
    """

    def __init__(self, model: nn.Module, trace: Trace, groups: Sequence[ChannelGroup]) -> None:
        """Take the network apart; ``groups`` are those that plans may prune, everything else counts as fixed."""
        self.groups = list(groups)
        self.sizes = np.array([group.size for group in groups])
        self._modules = dict(model.named_modules())
        self._owner = self._owners(trace)
        side = grid_size(model)
        sample = blank_image(model, side)
        scale = 2 * (IMAGE_SIZE / side) ** 2
        operations = {path: count * scale for path, count in count_operations(model, sample).items()}
        parameters = {path: float(self._own_parameters(path)) for path in self._modules}
        self._polynomials = {
            "params": self._polynomial(trace, parameters, float(count_parameters(model)), with_bias=True),
            "flops": self._polynomial(trace, operations, sum(operations.values()), with_bias=False),
        }

    def __call__(self, quantity: str, counts: np.ndarray) -> float:
        """The cost when group g keeps ``counts[g]`` channels."""
        return self._polynomials[quantity].value(counts)

    def slope(self, quantity: str, counts: np.ndarray) -> np.ndarray:
        """Return what one channel of each group costs at these counts."""
        return self._polynomials[quantity].slope(counts)

    def of_plan(self, plan: Plan) -> dict[str, float]:
        """Both costs of the network that ``plan`` leaves."""
        counts = np.array([len(plan.kept.get(group.name, range(group.size))) for group in self.groups])
        return {quantity: self(quantity, counts) for quantity in QUANTITIES}

    def _owners(self, trace: Trace) -> dict[int, int]:
        """Class of channels -> index of the group that it belongs to."""
        touches = {(touch.path, touch.role): touch.channels for touch in trace.touches}
        owners = {}
        for index, group in enumerate(self.groups):
            member = group.members[0]
            for channel in touches[member.path, member.role][member.indices]:
                owners[trace.root(int(channel))] = index
        return owners

    def _own_parameters(self, path: str) -> int:
        return sum(parameter.numel() for parameter in self._modules[path].parameters(recurse=False))

    def _width(self, trace: Trace, tensor: int) -> tuple[int, np.ndarray]:
        """Channels of a tensor that are fixed, and how often those of each group occur in it."""
        shares = np.zeros(len(self.groups))
        fixed = 0
        for channel in trace.tensors[tensor]:
            owner = self._owner.get(trace.root(int(channel)))
            if owner is None:
                fixed += 1
            else:
                shares[owner] += 1 / self.sizes[owner]
        return fixed, shares.round(9)

    def _polynomial(self, trace: Trace, costs: Mapping[str, float], total: float, with_bias: bool) -> Polynomial:
        """The polynomial of one quantity: ``costs`` by module, the rest of ``total`` being constant."""
        linear = np.zeros(len(self.groups))
        factors, fixed, shares = [], [], []
        steps: dict[str, Step] = {}
        for step in trace.steps:
            if step.place in costs and step.kind in ("convolution", "norm", "linear"):
                steps.setdefault(step.place, step)  # one that runs again has fixed widths
        for path, step in steps.items():
            module, cost = self._modules[path], costs[path]
            outputs = self._width(trace, step.output)
            count = len(trace.tensors[step.output])
            if not isinstance(module, CONVOLUTIONS) or is_depthwise(module):
                linear += outputs[1] * cost / count
                total -= cost * (1 - outputs[0] / count)
                continue
            bias = count if with_bias and module.bias is not None else 0
            linear += outputs[1] * bias / count
            inputs = self._width(trace, step.inputs[0])
            pairs = count * len(trace.tensors[step.inputs[0]])
            factors.append((cost - bias) / pairs)
            fixed.append((inputs[0], outputs[0]))
            shares.append((inputs[1], outputs[1]))
            total -= cost - bias * outputs[0] / count
        return Polynomial(
            total, linear, np.array(factors), np.array(fixed).T.reshape(2, -1), np.array(shares).transpose(1, 0, 2)
        )


def readable(quantity: str, cost: float) -> str:
    """``0.893 M parameters``, ``2.41 GFLOPs`` or ``12.3 ms``."""
    number, unit = {
        "params": (cost / 1e6, "M parameters"),
        "flops": (cost / 1e9, "GFLOPs"),
        "latency": (cost, "ms"),
    }[quantity]
    return f"{number:.3g} {unit}"
