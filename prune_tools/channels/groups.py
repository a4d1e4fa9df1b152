"""Channel groups: which channels of a network can be removed, and what has to be narrowed together with them."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from prune_tools.channels import SCOPES
from prune_tools.channels.tracing import Trace, trace_model
from utils.errors import InputError, short_repr


@dataclass(frozen=True)
class Member:
    """One module of a group: position ``k`` of the group is the module's channel ``indices[k]``, (C,) int64.

    ``role``: 'output', 'norm', 'depthwise' or 'input' (see tracing.Touch). A module that reads the same channels
    several times, as SPPF's cv2 does, is a member once for each time.
    """

    path: str
    role: str
    indices: np.ndarray

    def __str__(self) -> str:
        """The path with its range of channels, such as ``model.9.cv2.conv[128:256]``."""
        start, count = int(self.indices[0]), len(self.indices)
        contiguous = (self.indices == np.arange(start, start + count)).all()
        return f"{self.path}[{start}:{start + count}]" if contiguous else f"{self.path}[{count} channels]"


@dataclass(frozen=True)
class ChannelGroup:
    """Channels with the same producers, norms and readers; each position can be removed or kept on its own.

    Attributes:
        name: path of the first producer; further groups of the same producer get ``#2``, ``#3``.
        identities: (C,) int64, the number that the channel of each position has in the trace.
        members: all modules that touch the channels, in execution order.
        reason: why the group has to stay whole; '' if it can be pruned.
        in_shortcut: a block that adds its input to its output produces or receives these channels.
    """

    name: str
    identities: np.ndarray
    members: tuple[Member, ...]
    reason: str = ""
    in_shortcut: bool = False

    @property
    def size(self) -> int:
        """Number of positions."""
        return len(self.identities)

    def of_role(self, *roles: str) -> list[Member]:
        """The members with one of these roles."""
        return [member for member in self.members if member.role in roles]

    @property
    def producers(self) -> list[Member]:
        """Convolutions whose rows these channels are (depthwise ones included)."""
        return self.of_role("output", "depthwise")

    @property
    def norms(self) -> list[Member]:
        """Norms that scale these channels."""
        return self.of_role("norm")

    @property
    def readers(self) -> list[Member]:
        """Convolutions that read these channels."""
        return self.of_role("input")

    @property
    def prunable(self) -> bool:
        """Tell whether single channels can be removed."""
        return not self.reason

    def exclusion(self, scope: str) -> str:
        """Return why the group stays whole in ``scope``; '' if it takes part.

        'seed' is the rule of the original tools: one convolution, one norm, and neither coupled by a shortcut nor
        inside a block with one. 'all' takes every group that can be pruned.
        """
        if self.reason or scope == "all":
            return self.reason
        if self.in_shortcut:
            return "it belongs to a shortcut (scope seed)"
        if len(self.producers) != 1 or len(self.norms) != 1:
            return f"{len(self.producers)} convolutions and {len(self.norms)} norms are coupled (scope seed)"
        return ""


def find_groups(model: nn.Module, trace: Trace | None = None) -> list[ChannelGroup]:
    """All channel groups of ``model`` in execution order, found by tracing it (or from a trace made before)."""
    trace = trace or trace_model(model)
    modules = dict(model.named_modules())
    shortcuts = tuple(path + "." for path, module in modules.items() if getattr(module, "add", False) is True)
    groups: list[ChannelGroup] = []
    names: Counter[str] = Counter()
    for identities, members in _identities_with_members(trace):
        first = int(identities[0])
        name = next((member.path for member in members if member.role != "input"), f"input of {members[0].path}")
        names[name] += 1
        name = name if names[name] == 1 else f"{name}#{names[name]}"
        reason = trace.reasons.get(first, "") or _unscaled(modules, members)
        outputs = [member.path for member in members if member.role == "output"]
        in_shortcut = first in trace.added or any(path.startswith(shortcuts) for path in outputs)
        groups.append(ChannelGroup(name, identities, members, reason, in_shortcut))
    return groups


def _identities_with_members(trace: Trace) -> Iterator[tuple[np.ndarray, tuple[Member, ...]]]:
    """Yield the identities of each group, (C,) int64, with its members.

    Identities belong together if the same modules touch them and they have the same reason and coupling.
    """
    touched: dict[int, list[tuple[int, int]]] = defaultdict(list)  # identity -> (number of the touch, index in it)
    for number, touch in enumerate(trace.touches):
        for index, identity in enumerate(touch.channels.tolist()):
            touched[identity].append((number, index))
    alike: dict[tuple, list[int]] = defaultdict(list)
    for identity, touches in touched.items():
        numbers = tuple(number for number, _ in touches)
        alike[numbers, trace.reasons.get(identity, ""), identity in trace.added].append(identity)
    for (numbers, _, _), identities in alike.items():
        members = []
        for position, number in enumerate(numbers):
            indices = [touched[identity][position][1] for identity in identities]
            members.append(Member(trace.touches[number].path, trace.touches[number].role, np.array(indices)))
        yield np.array(identities), tuple(members)


def _unscaled(modules: Mapping[str, Any], members: Iterable[Member]) -> str:
    """Return why no gamma tells how important the channels of ``members`` are; '' if one does."""
    norms = [modules[member.path] for member in members if member.role == "norm"]
    if not norms:
        return "no norm scales it"
    if any(norm.weight is None for norm in norms):
        return "its norm has no gammas"
    return "its norm has no running statistics" if any(norm.running_mean is None for norm in norms) else ""


def select_groups(groups: Iterable[ChannelGroup], scope: str = "seed") -> list[ChannelGroup]:
    """The groups that may be pruned in ``scope``. Raises InputError, with the reason, if there are none."""
    if scope not in SCOPES:
        raise InputError(f"unknown scope {short_repr(scope)}: expected one of {', '.join(SCOPES)}")
    groups = list(groups)
    selected = [group for group in groups if not group.exclusion(scope)]
    if not selected:
        if not any(group.norms for group in groups):
            raise InputError(
                "this model has no prunable layers because it has no batch norm (is it fused, or quantised?): "
                "give an unfused detection checkpoint"
            )
        reasons = sorted({group.exclusion(scope) for group in groups if group.norms})
        remedy = "protect fewer of them" if any("--skip" in reason for reason in reasons) else "try --scope all"
        raise InputError(f"no layer of this model may be pruned ({'; '.join(reasons[:3])}): {remedy}")
    return selected


def named_by(model: nn.Module, pattern: str) -> set[str]:
    """The paths of the modules that a pattern of --skip names: shell wildcards, with all that is below each match.

    Raises:
        InputError: a pattern that fits no module, naming close paths.
    """
    modules = [path for path, _ in model.named_modules() if path]
    matched = tuple(fnmatch.filter(modules, pattern))
    if not matched:
        close = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(close)}?" if close else "prune_tools/groups.py lists the layers"
        raise InputError(f"--skip {short_repr(pattern)} fits no layer of this model: {hint}")
    return set(matched) | {path for path in modules if path.startswith(tuple(f"{above}." for above in matched))}


def protect(groups: Iterable[ChannelGroup], model: nn.Module, patterns: Iterable[str]) -> list[ChannelGroup]:
    """The groups; those that a layer named by a pattern (see ``named_by``) makes or scales get a reason to stay whole.

    Raises:
        InputError: a pattern that fits no module of ``model``.
    """
    groups = list(groups)
    for pattern in patterns:
        protected = named_by(model, pattern)
        for index, group in enumerate(groups):
            paths = {member.path for member in group.members if member.role != "input"}
            if not group.reason and paths & protected:
                groups[index] = replace(group, reason=f"protected by --skip {pattern}")
    return groups


def describe(groups: Iterable[ChannelGroup], scope: str = "all") -> str:
    """The groups as readable text: channels, producers, norms, readers, whether shortcuts couple them, and why a group
    stays whole."""
    lines = []
    for group in groups:
        why = group.exclusion(scope)
        coupled = f", {len(group.producers)} layers go together" if len(group.producers) > 1 and not why else ""
        lines.append(f"{group.name}: {group.size} channels{coupled}" + (f", left whole: {why}" if why else ""))
        parts: Mapping[str, list[Member]] = {
            "made by": group.producers,
            "scaled by": group.norms,
            "read by": group.readers,
        }
        lines += [f"    {title:<9} {', '.join(map(str, members))}" for title, members in parts.items() if members]
    return "\n".join(lines)


def left_whole(groups: Iterable[ChannelGroup], scope: str) -> str:
    """One line for each reason why normalised channels stay in ``scope``, naming up to four groups; '' without any."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        if group.norms and group.exclusion(scope):
            reasons[group.exclusion(scope)].append(group.name)
    return "\n".join(
        f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}: {why}"
        for why, names in reasons.items()
    )
