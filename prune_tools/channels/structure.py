"""A network together with its trace and channel groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from models.yolo import DetectionModel
from prune_tools.channels.groups import ChannelGroup, find_groups, protect, select_groups
from prune_tools.channels.tracing import Trace, trace_model


@dataclass(frozen=True)
class Structure:
    """A network and what tracing it has shown.

    Attributes:
        model: the network; nothing that takes a structure changes it.
        trace: its trace.
        groups: its channel groups; of a ``select``-ed structure, those that may be pruned.
    """

    model: DetectionModel
    trace: Trace
    groups: Sequence[ChannelGroup]

    @classmethod
    def of(cls, model: DetectionModel) -> Structure:
        """Trace ``model`` and find all its groups."""
        trace = trace_model(model)
        return cls(model, trace, find_groups(model, trace))

    def protect(self, patterns: Iterable[str]) -> Structure:
        """The structure, in which layers named by patterns have to stay whole; see ``groups.protect``."""
        return replace(self, groups=protect(self.groups, self.model, patterns))

    def select(self, scope: str = "seed") -> Structure:
        """The structure with those groups only that may be pruned in ``scope``; see ``groups.select_groups``."""
        return replace(self, groups=select_groups(self.groups, scope))
