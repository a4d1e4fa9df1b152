#!/usr/bin/env python3
"""Channel groups: which channels of a network can be removed, and what has to be narrowed together with them.

    python prune_tools/groups.py --cfg models/yolov5n.yaml

Example: the group ``model.1.conv`` of YOLOv5n has 32 channels. Removing channel 5 removes row 5 of the convolution
``model.1.conv``, entry 5 of the norm ``model.1.bn``, and column 5 of the convolutions ``model.2.cv1.conv`` and
``model.2.cv2.conv`` that read it. In ``x + f(x)`` the producers of both sides belong to one group; in SPPF a channel is
read at four places of the same convolution.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.channels import SCOPES
from utils.commands.cli import run_command
from utils.commands.options import CheckedOptions, option, parse
from utils.errors import InputError


@dataclass(frozen=True)
class GroupsOptions(CheckedOptions):
    """Options of groups.py."""

    cfg: str = option("", "model YAML")
    weights: str = option("", "checkpoint, instead of --cfg")
    scope: str = option("all", "what counts as prunable", choices=SCOPES)

    def __post_init__(self) -> None:
        """Refuse two models, or none."""
        super().__post_init__()
        if bool(self.cfg) == bool(self.weights):
            raise InputError("give either --cfg or --weights")


def main(options: GroupsOptions) -> None:
    """Print the groups of a configuration or a checkpoint."""
    from prune_tools.channels.groups import describe, left_whole, select_groups
    from prune_tools.channels.structure import Structure
    from prune_tools.opening import load_architecture, load_model

    model = load_model(options.weights)[0] if options.weights else load_architecture(options.cfg)
    groups = Structure.of(model).groups
    free = sum(group.size for group in groups if not group.exclusion(options.scope))
    total = sum(group.size for group in groups if group.norms)
    print(describe(groups, options.scope))
    select_groups(groups, options.scope)  # raises an error if nothing can be pruned for an obvious reason
    whole = left_whole(groups, options.scope)
    print(f"Left whole:\n{whole}" if whole else "Every normalised channel can be pruned")
    print(f"{len(groups)} groups; {free} of {total} normalised channels can be pruned in scope {options.scope}")


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(GroupsOptions, "Show which channels of a model can be pruned together.")))


if __name__ == "__main__":
    cli()
