#!/usr/bin/env python3
"""Train, sparsify, prune and fine-tune in one command, and compare the models.

    python prune_tools/pipeline.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320

Run the same command again after an interruption: finished steps are kept, an interrupted training is resumed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.pipeline_options import PipelineOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import build, parse
from utils.log import log_as_command


def main(options: PipelineOptions) -> Path:
    """Run the steps, write table.txt, .csv and .png, pictures and the report; returns the run folder."""
    from prune_tools.pipeline_run import pipeline_run

    show_arguments("pipeline", options)
    return pipeline_run(options)


def run(**keywords: Any) -> Path:
    """Run the pipeline from Python, the flags as keywords; returns the run folder."""
    log_as_command()
    return main(build(PipelineOptions, **keywords))


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(PipelineOptions, "Train, sparsify, prune and fine-tune a YOLOv5 detector.")))


if __name__ == "__main__":
    cli()
