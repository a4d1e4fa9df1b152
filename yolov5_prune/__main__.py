"""``python -m yolov5_prune train ...`` does what ``yolov5-train ...`` does, and in a checkout train.py."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "train": "scripts.train",
    "val": "scripts.val",
    "detect": "scripts.detect",
    "export": "scripts.export",
    "train-sparity": "prune_tools.train_sparity",
    "prune": "prune_tools.prune",
    "finetune": "prune_tools.finetune",
    "pipeline": "prune_tools.pipeline",
    "sweep": "prune_tools.sweep",
    "sensitivity": "prune_tools.sensitivity",
    "groups": "prune_tools.groups",
    "autosplit": "data.scripts.autosplit",
    "convert-labels": "data.scripts.convert_labels",
    "download-weights": "data.scripts.download_weights",
    "draw-mask-demo": "data.scripts.draw_mask_demo",
    "get-dataset": "data.scripts.get_dataset",
}


def main() -> None:
    """Run the command named by the first word of the command line with the words after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    known = f"one of {', '.join(COMMANDS)}"
    if name in ("", "-h", "--help"):
        print(f"usage: python -m yolov5_prune COMMAND [options]\n\nCOMMAND is {known}; each has --help.")
        return
    if name not in COMMANDS:
        sys.exit(f"error: {name!r} is not a command: expected python -m yolov5_prune and {known}")
    sys.argv = [f"yolov5-{name}", *sys.argv[2:]]
    import_module(f"yolov5_prune.{COMMANDS[name]}").cli()


if __name__ == "__main__":
    main()
