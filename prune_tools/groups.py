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
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.channels.groups import SCOPES, describe, find_groups, left_whole, select_groups
from utils.commands.cli import run_command
from utils.commands.options import argument_parser


def main() -> None:
    """Print the groups of a configuration or a checkpoint."""
    parser = argument_parser("Show which channels of a model can be pruned together.")
    parser.add_argument("--cfg", default="", help="model YAML")
    parser.add_argument("--weights", default="", help="checkpoint, instead of --cfg")
    parser.add_argument("--scope", default="all", choices=SCOPES, help="what counts as prunable")
    options = parser.parse_args()
    if bool(options.cfg) == bool(options.weights):
        parser.error("give either --cfg or --weights")
    from models.yolo import DetectionModel
    from utils.checks import check_file

    if options.weights:
        from prune_tools.opening import load_model

        model = load_model(options.weights)[0]
    else:
        model = DetectionModel(check_file(options.cfg, (".yaml", ".yml")))
    groups = find_groups(model)
    free = sum(group.size for group in groups if not group.exclusion(options.scope))
    total = sum(group.size for group in groups if group.norms)
    print(describe(groups, options.scope))
    select_groups(groups, options.scope)  # that nothing can be pruned is an error, when it is plain why
    whole = left_whole(groups, options.scope)
    print(f"Left whole:\n{whole}" if whole else "Nothing but the image and the head's outputs is left whole")
    print(f"{len(groups)} groups; {free} of {total} normalised channels can be pruned in scope {options.scope}")


if __name__ == "__main__":
    run_command(main)
