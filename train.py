#!/usr/bin/env python3
"""Train a YOLOv5 detector.

    python train.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320 --batch-size 64 --epochs 200
    python train.py --data data/mask.yaml --weights '' --cfg models/yolov5n_mask.yaml
    python train.py --resume runs/train/exp/weights/last.pt
    torchrun --nproc_per_node 4 train.py --data data/coco.yaml --weights yolov5s.pt --batch-size 64

A pruned checkpoint (pruned_model.pt) is trained like any other: its widths are part of its configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import val
from utils.commands.cli import run_training_command
from utils.commands.next_steps import following
from utils.commands.options import build
from utils.detection.options import DetectOptions
from utils.log import log_as_command
from utils.training.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Collection

    from utils.callbacks import Callbacks
    from utils.training.interfaces import Results
    from utils.training.resume import Resumption
    from utils.training.trainer import NextSteps


def main(
    options: TrainOptions, callbacks: Callbacks | None = None, next_steps: NextSteps | None = None,
    resumption: Resumption | None = None,
) -> Results | None:  # fmt: skip
    """Train with ``options``; returns the results of the best checkpoint, or None when a callback stopped the run.

    --evolve trains once for each generation and returns the results of the best one. ``next_steps`` and ``resumption``
    are those of ``utils.training.trainer.train``.
    """
    from models import transfer
    from utils.training.trainer import train

    return train(options, transfer, val.run, next_steps or steps_after_training, callbacks, resumption)


def steps_after_training(best: str, options: TrainOptions, recorded: Collection[str] = ()) -> list[str]:
    """Sparse training, the first step towards a smaller model, validation and detection; arguments as NextSteps."""
    return [
        following("prune_tools/train_sparity.py", TrainOptions, options, recorded=recorded, weights=best),
        following("val.py", val.ValOptions, options, recorded=recorded, weights=best),
        following("detect.py", DetectOptions, options, recorded=recorded, weights=best),
    ]


def run(callbacks: Callbacks | None = None, **keywords: Any) -> TrainOptions:
    """Train from Python, ``train.run(data='mask.yaml', epochs=3)``: the command line's flags as keywords."""
    log_as_command()
    options = build(TrainOptions, **keywords)
    main(options, callbacks)
    return options


def cli() -> None:
    """Run the command with the words of the command line."""
    run_training_command(main, TrainOptions, "Train a YOLOv5 detector.")


if __name__ == "__main__":
    cli()
