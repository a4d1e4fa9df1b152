#!/usr/bin/env python3
"""Validate a YOLOv5 detector: precision, recall, mAP.

python val.py --weights runs/train/exp/weights/best.pt                # with the data set and image size of its training
python val.py --task study --weights yolov5n.pt yolov5s.pt       # accuracy and speed over image sizes
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.exporters.options import ExportOptions
from utils.callbacks import Callbacks
from utils.commands.cli import run_command, show_arguments
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, parse
from utils.detection.options import DetectOptions
from utils.drawing.background import start_ahead
from utils.errors import InputError
from utils.log import LOGGER, log_as_command
from utils.validation.options import SPLITS, ValOptions

if TYPE_CHECKING:
    import torch

    from utils.validation.loop import Results


def process_batch(detections: torch.Tensor, labels: torch.Tensor, iouv: torch.Tensor) -> torch.Tensor:
    """Return which detections are true positives at which IoU threshold; see utils.metrics.match_predictions.

    Args:
        detections: (N, 6) x1, y1, x2, y2, confidence, class in NMS order, native pixels.
        labels: (M, 5) class, x1, y1, x2, y2, native pixels.
        iouv: (T,) IoU thresholds.

    Returns:
        bool (N, T).
    """
    from utils.metrics import match_predictions

    return detections.new_tensor(match_predictions(detections, labels, iouv)).bool()


def run(data: str | Path | dict[str, Any] = "", weights: str | Path | list[str] = "", **keywords: Any) -> Results:
    """As ``validate``, but return the results alone: a file that could not be written is only warned of."""
    log_as_command()
    results, shortcomings = validate(data, weights, **keywords)
    if shortcomings:
        LOGGER.warning(shortcomings)
    return results


def validate(
    data: str | Path | dict[str, Any] = "",
    weights: str | Path | list[str] = "",
    *,
    model: Any = None,
    dataloader: Any = None,
    save_dir: str | Path = "",
    plots: bool = True,
    callbacks: Callbacks | None = None,
    compute_loss: Any = None,
    **keywords: Any,
) -> tuple[Results, str]:
    """Validate ``weights``, or a ``model`` in memory, on a split of ``data``.

    Args:
        data: data set YAML or a checked data set mapping; '' takes that of the training of ``weights``.
        weights: checkpoint(s); not needed with ``model``.
        model: a network in memory; its training mode is restored afterwards.
        dataloader: use this loader instead of making one (training does).
        save_dir: folder for files; default: a new run folder.
        plots: draw curves, confusion matrix and example batches.
        callbacks: v6.2's ``on_val_*`` hooks.
        compute_loss: returns (total, items) of the raw heads; the means of the three items are part of the results.
        keywords: the other fields of ValOptions.

    Returns:
        The results: ((P, R, mAP50, mAP50-95, box, objectness, class loss), mAP50-95 by class, milliseconds per image of
        pre-processing, inference and NMS); and in words what could not be written ('': nothing).

    Raises:
        InputError: an option, the data set or the weights cannot be used, or they do not go together.
    """
    from models.backends import DetectMultiBackend
    from utils.validation import inputs, loop

    name = data.get("path", "") if isinstance(data, dict) else data
    options = build(ValOptions, data=str(name), **({"weights": weights} if weights else {}), **keywords)
    if options.task == "study":
        raise InputError("task 'study' consists of many runs: call val.study(ValOptions(task='study', ...))")
    given = inputs.Given(model, dataloader, save_dir, plots, callbacks or Callbacks(), compute_loss)
    opened = inputs.open_inputs(options, data, given, DetectMultiBackend)
    with inputs.results_folder(opened.options, given) as folder:
        return loop.evaluate(opened, folder)


def study(options: ValOptions) -> Path:
    """Validate each checkpoint at every image size; write the figures and study.png, and return the run folder."""
    from models.loading import read_record
    from utils.validation.study import run_study

    return run_study(options, run, read_record(options.weights[0]))


def main(options: ValOptions) -> None:
    """Run the command: validate and log. Raises InputError, at the end, if a result could not be written."""
    if options.task in SPLITS:
        start_ahead()  # before torch is loaded
    from utils.device import device_line, select_device

    show_arguments("val", options)
    device = select_device(options.device, options.batch_size)
    LOGGER.info(device_line(device))
    if options.task in ("speed", "study"):
        checkpoints = all(file.endswith((".pt", ".safetensors")) for file in options.weights)  # exports are as they are
        options = replace(options, half=options.half or (device.type == "cuda" and checkpoints))
        LOGGER.info(f"{options.task}: computing in {'FP16' if options.half else 'FP32, as CPUs have no fast FP16'}")
    if options.task == "study":
        study(options)
        return
    keywords = vars(options).copy()
    data, weights = keywords.pop("data"), keywords.pop("weights")
    if options.task == "speed":  # several are compared, not joined
        outcomes = [validate(data, file, plots=False, **keywords) for file in weights]
    else:
        outcomes = [validate(data, weights, **keywords)]
    log_next(*next_steps(options))
    for _, shortcomings in outcomes:
        if shortcomings:
            raise InputError(shortcomings)


def next_steps(options: ValOptions) -> list[str]:
    """The commands that use the validated weights: export of a checkpoint, and detection."""
    given: dict[str, Any] = {"imgsz": [options.imgsz]} if options.imgsz else {}
    data = {"data": options.data} if options.data else {}
    steps = []
    if len(options.weights) == 1 and options.weights[0].endswith(".pt"):
        words = {"weights": options.weights, "include": ["onnx"], **data, **given}
        steps.append(following("export.py", ExportOptions, None, **words))
    if options.device:
        given["device"] = options.device
    return [*steps, following("detect.py", DetectOptions, None, weights=options.weights, **given)]


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(ValOptions, "Validate a YOLOv5 detector.")))


if __name__ == "__main__":
    cli()
