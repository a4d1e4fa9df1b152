"""Goals of a pruning: a share of the channels or a budget, and the limits that every layer keeps.

Nothing here needs torch or numpy, so options can be checked before either is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.errors import InputError, short_repr

UNITS: dict[str, dict[str, float]] = {
    "params": {"": 1, "k": 1e3, "m": 1e6, "g": 1e9},
    "flops": {"m": 1e6, "g": 1e9, "t": 1e12},
    "latency": {"": 1, "ms": 1, "s": 1e3},
}
EXAMPLES = {"params": "0.9M", "flops": "2.1G", "latency": "12ms"}


@dataclass(frozen=True)
class Limits:
    """Limits on the number of channels that every group keeps.

    Attributes:
        min_channels: a group keeps at least this many channels; a smaller group stays whole.
        round_to: a group that is pruned keeps a multiple of this; kernels work on blocks of 8, 16 or 32 channels.
        max_layer_ratio: a group loses at most this share of its channels.
    """

    min_channels: int = 1
    round_to: int = 1
    max_layer_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Refuse limits that no plan can keep; options are checked before they get here."""
        if self.min_channels < 1 or self.round_to < 1 or not 0 < self.max_layer_ratio <= 1:
            raise ValueError(f"expected min_channels and round_to >= 1 and max_layer_ratio in (0, 1], got {self}")

    def allowed(self, size: int) -> list[int]:
        """The numbers of channels that a group of ``size`` may keep, ascending; the last one is ``size``."""
        share = math.ceil(size * (1 - self.max_layer_ratio) - 1e-9)
        least = max(min(self.min_channels, size), share, 1)
        first = math.ceil(least / self.round_to) * self.round_to
        return [*range(first, size, self.round_to), size]

    def nearest(self, size: int, count: int) -> int:
        """The allowed number nearest to ``count``; of two, the larger."""
        return min(reversed(self.allowed(size)), key=lambda number: abs(number - count))


@dataclass(frozen=True)
class Target:
    """At most ``value`` of ``quantity`` ('params', 'flops', 'latency'): absolute, or a share of the present cost."""

    quantity: str
    value: float
    relative: bool

    def __str__(self) -> str:
        """The text that ``parse_target`` reads, exact to one parameter, operation or microsecond."""
        if self.relative:
            return repr(self.value)
        return f"{self.value:.3f}ms" if self.quantity == "latency" else f"{self.value / 1e6:.6f}M"

    @property
    def flag(self) -> str:
        """The name of the option that sets it."""
        return f"--target-{self.quantity}"

    def amount(self, present: float) -> float:
        """The absolute amount for a network that costs ``present``."""
        return self.value * present if self.relative else self.value

    def budget(self, present: float) -> float:
        """The ``amount``. Raises InputError if the network costs no more than that."""
        budget = self.amount(present)
        if budget >= present:
            raise InputError(
                f"{self.flag} {readable(self.quantity, budget)} is no less than what the model has already, "
                f"{readable(self.quantity, present)}: give less, or a ratio such as 0.5"
            )
        return budget


def readable(quantity: str, cost: float) -> str:
    """``0.893 M parameters``, ``2.41 GFLOPs`` or ``12.3 ms``."""
    if quantity == "params":
        return f"{cost / 1e6:.3g} M parameters"
    return f"{cost / 1e9:.3g} GFLOPs" if quantity == "flops" else f"{cost:.3g} ms"


def parse_target(quantity: str, text: str) -> Target:
    """Read ``0.9M``, ``2.1G``, ``12ms`` (absolute) or ``0.5`` (a ratio). Raises InputError."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", str(text).lower())
    problem = InputError(
        f"--target-{quantity} {short_repr(text)} is not a valid amount: expected one such as {EXAMPLES[quantity]}, or "
        "the ratio that remains, above 0 and below 1, such as 0.5"
    )
    if match is None:
        raise problem
    value, unit = float(match[1]), match[2]
    if not unit and 0 < value < 1:
        return Target(quantity, value, relative=True)
    if unit not in UNITS[quantity] or value <= 0:
        raise problem
    return Target(quantity, value * UNITS[quantity][unit], relative=False)


def target_of(options: Any, quantities: Sequence[str]) -> Target | None:
    """The one target among the options ``target_<quantity>``, None if none is given.

    Raises:
        InputError: several are given, or one that is not a valid amount.
    """
    given = [name for name in quantities if getattr(options, f"target_{name}")]
    if len(given) > 1:
        flags = " and ".join(f"--target-{name}" for name in given)
        raise InputError(f"{flags} contradict each other: give one of them")
    return parse_target(given[0], getattr(options, f"target_{given[0]}")) if given else None


def check_percent(percent: float) -> float:
    """Return ``percent`` if it lies in [0, 1), else raise InputError."""
    if not 0 <= percent < 1:
        raise InputError(
            f"--percent is the share of channels to remove, expected a number in [0, 1), got {percent}: try 0.4"
        )
    return percent
