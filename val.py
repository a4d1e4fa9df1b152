#!/usr/bin/env python3
"""Validate a YOLOv5 detector: precision, recall, mAP.

python val.py --weights runs/train/exp/weights/best.pt --data data/mask.yaml --imgsz 320
python val.py --task study --weights yolov5n.pt yolov5s.pt       # accuracy and speed over image sizes
"""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.commands.cli import run_command, show_arguments
from utils.commands.options import LARGEST_IMAGE, as_list, build, check_numbers, option, parse
from utils.dataset.classes import SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.errors import InputError, OtherClassesError
from utils.log import LOGGER, colorstr
from utils.storage.files import ROOT, make_folder
from utils.storage.folder_lock import claimed_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from utils.callbacks import Callbacks

HEADER = ("Class", "Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")
SPLITS = ("train", "val", "test")
AP_THRESHOLDS = 0.001, 0.6  # least confidence and NMS threshold with which mAP is comparable
SPEED_THRESHOLDS = 0.25, 0.45  # those of detection
IMAGE_SIZE = 640  # pixels


def _defaults_of_tasks(threshold: int) -> str:
    return f"default: {AP_THRESHOLDS[threshold]}; with --task speed {SPEED_THRESHOLDS[threshold]}"


@dataclass
class ValOptions:
    """Options of val.py."""

    data: str = option(str(ROOT / "data/coco128.yaml"), "data set YAML")
    allow_download_scripts: bool = option(
        False, "run the script that the data set YAML has for getting missing data", handed_on=False
    )
    weights: list[str] = option(
        [str(ROOT / "yolov5s.pt")],
        "checkpoint or export; several checkpoints make an ensemble",
        nargs="+",
        handed_on=False,
    )
    batch_size: int = option(32, "images per batch", at_least=1)
    imgsz: Any = option(
        None,
        f"image size in pixels, longer side (default: {IMAGE_SIZE}); an export has its own",
        "--img",
        "--img-size",
        type=int,
        at_least=1,
        at_most=LARGEST_IMAGE,
    )
    conf_thres: Any = option(None, f"least confidence ({_defaults_of_tasks(0)})", type=float, at_least=0, at_most=1)
    iou_thres: Any = option(None, f"NMS threshold ({_defaults_of_tasks(1)})", type=float, at_least=0, at_most=1)
    max_det: int = option(300, "most detections per image", at_least=1)
    task: str = option(
        "val", "a split; or time, or accuracy and time over image sizes", choices=[*SPLITS, "speed", "study"]
    )
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(8, "most data loading processes", at_least=0)
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "augmented inference: three sizes, flipped")
    verbose: bool = option(False, "always print a row per class")
    save_txt: bool = option(False, "write the predictions as label files")
    save_hybrid: bool = option(False, "write labels and predictions, joined by NMS, as label files")
    save_conf: bool = option(False, "with --save-txt or --save-hybrid: append the confidence to each line")
    save_json: bool = option(False, "write the predictions in COCO's format and score them; always for coco.yaml")
    project: str = option(str(ROOT / "runs/val"), "folder of the runs", handed_on=False)
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken", handed_on=False)
    exist_ok: bool = option(False, "write into the run folder even if it exists", handed_on=False)
    half: bool = option(False, "compute in FP16 (on a GPU)")
    dnn: bool = option(False, "run an ONNX file with OpenCV")

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        check_numbers(self)
        self.weights = as_list(self.weights)
        if self.task == "study" and (self.imgsz or self.save_txt or self.save_hybrid or self.save_json):
            raise InputError("--task study goes through its own image sizes and writes its own files: leave out "
                             "--imgsz, --save-txt, --save-hybrid and --save-json")  # fmt: skip
        defaults = SPEED_THRESHOLDS if self.task == "speed" else AP_THRESHOLDS
        self.conf_thres = defaults[0] if self.conf_thres is None else self.conf_thres
        self.iou_thres = defaults[1] if self.iou_thres is None else self.iou_thres
        self.save_json |= self.task in SPLITS and self.data.endswith("coco.yaml")
        self.save_txt |= self.save_hybrid
        if self.save_conf and not self.save_txt:
            raise InputError("--save-conf only acts on label files: add --save-txt")

    @property
    def split(self) -> str:
        """The split of the data set that is read."""
        return self.task if self.task in SPLITS else "val"


def process_batch(detections: torch.Tensor, labels: torch.Tensor, iouv: torch.Tensor) -> torch.Tensor:
    """Return which detections are true positives at which IoU threshold; see utils.metrics.match_predictions.

    Args:
        detections: (N, 6) x1, y1, x2, y2, confidence, class in NMS order, native pixels.
        labels: (M, 5) class, x1, y1, x2, y2, native pixels.
        iouv: (T,) IoU thresholds.

    Returns:
        bool (N, T).
    """
    import torch

    from utils.metrics import match_predictions

    return torch.from_numpy(match_predictions(detections, labels, iouv)).to(detections.device)


def make_loader(
    options: ValOptions, data: dict[str, Any], image_size: int, stride: int, square: bool = False,
    device: torch.device | None = None,
) -> Any:  # fmt: skip
    """The validation loader: rectangular batches, or square ones; half a stride of padding, none to measure speed."""
    from utils.dataloaders import create_dataloader

    loader, _ = create_dataloader(
        data[options.split], image_size, options.batch_size, stride, single_cls=options.single_cls,
        pad=0.0 if options.task == "speed" else 0.5, rect=not square, workers=options.workers,
        prefix=colorstr(f"{options.split}: "), device=device, names=data["names"],
    )  # fmt: skip
    return loader


def open_model(options: ValOptions, data: dict[str, Any]) -> tuple[Any, dict[int, str]]:
    """The model of ``options.weights`` and its class names. Raises OtherClassesError when the data set has others."""
    import torch

    from models.backends import DetectMultiBackend
    from utils.device import select_device

    device = select_device(options.device, options.batch_size)
    weights = options.weights[0] if len(options.weights) == 1 else options.weights
    model = DetectMultiBackend(weights, device=device, data=data, fp16=options.half, dnn=options.dnn)
    model.check_request(options.conf_thres, options.iou_thres, augment=options.augment)
    if not options.single_cls and is_single_class(class_names(model), data["nc"]):
        options.single_cls = True
        LOGGER.info(SINGLE_CLASS_NOTE.format(weights))
    if not options.single_cls and len(model.names) != data["nc"]:
        raise OtherClassesError(
            f"{weights} knows {len(model.names)} classes but {options.data} has {data['nc']}: "
            "validate with the data set that the model was trained on"
        )
    model.to(memory_format=torch.channels_last)
    return model, model.names


def square_side(size: Sequence[int], weights: str | list[str]) -> int:
    """The side of (height, width) in pixels. Raises InputError unless they are equal: validation knows no others."""
    if len(set(size)) > 1:
        raise InputError(
            f"{weights} takes images of {size[0]}x{size[1]} pixels, and validation has square ones: export with one "
            "--imgsz, or with --dynamic"
        )
    return size[0]


def run(
    data: str | dict[str, Any], weights: str | list[str] = "", **keywords: Any
) -> tuple[tuple[float, ...], Any, tuple[float, ...]]:
    """``validate``, with its arguments, for its results alone: a file that could not be written costs a warning."""
    results, shortcomings = validate(data, weights, **keywords)
    if shortcomings:
        LOGGER.warning(shortcomings)
    return results


def validate(
    data: str | dict[str, Any], weights: str | list[str] = "", *, model: Any = None, dataloader: Any = None,
    save_dir: str | Path = "", plots: bool = True, callbacks: Callbacks | None = None, compute_loss: Any = None,
    **keywords: Any,
) -> tuple[tuple[tuple[float, ...], Any, tuple[float, ...]], str]:  # fmt: skip
    """Validate ``weights``, or a ``model`` in memory, on a split of ``data``.

    Args:
        data: data set YAML or a checked data set mapping.
        weights: checkpoint(s); not needed with ``model``.
        model: a network in memory; it comes back in the training mode that it had.
        dataloader: use this loader instead of making one (training does).
        save_dir: folder for files; default: a new run folder.
        plots: draw curves, confusion matrix and example batches.
        callbacks: v6.2's ``on_val_*`` hooks.
        compute_loss: returns (total, items) of the raw heads; adds the three loss means to the results.
        keywords: the other fields of ValOptions.

    Returns:
        The results: ((P, R, mAP50, mAP50-95, box, objectness, class loss), mAP50-95 by class, (pre, inference, NMS) ms
        per image); and in words what could not be written ('': nothing).
    """
    import torch

    from utils.callbacks import Callbacks
    from utils.checks import check_dataset, check_img_size

    name = data if isinstance(data, str) else str(data.get("path", ""))
    options = build(ValOptions, data=str(name), **({"weights": weights} if weights else {}), **keywords)
    if options.task == "study":
        raise InputError("task 'study' is many runs, and this is one: call val.study(ValOptions(task='study', ...))")
    if isinstance(data, dict) and dataloader is not None:
        checked = data
    else:
        checked = check_dataset(data, splits=(options.split,), allow_scripts=options.allow_download_scripts)
    owns_model = model is None
    if owns_model:
        model, names = open_model(options, checked)
    else:
        names = checked["names"]
    stride = max(int(torch.as_tensor(model.stride).max()), 32)
    if not getattr(model, "pt", True):
        options.imgsz = square_side(model.image_size(options.imgsz), weights)
    options.imgsz = check_img_size(options.imgsz or IMAGE_SIZE, stride)
    if options.conf_thres > AP_THRESHOLDS[0] and options.task in SPLITS:
        LOGGER.warning(f"confidence threshold {options.conf_thres:g}: mAP is comparable with {AP_THRESHOLDS[0]} only")
    if options.save_hybrid:
        LOGGER.warning("the true labels join the predictions: the figures below say nothing about the model")
    square = getattr(model, "fixed_size", None) is not None
    if square and not dataloader:
        LOGGER.info(f"{weights} takes one image size: images are padded to squares, where files of any size and "
                    "checkpoints get rectangles; mAP may differ in the third decimal")  # fmt: skip
    if dataloader is None:
        device = model.device if owns_model else next(model.parameters(), torch.zeros(0)).device
        dataloader = make_loader(options, checked, options.imgsz, stride, square, device)
    if owns_model:
        model.warmup((options.batch_size, 3, options.imgsz, options.imgsz))
    if options.single_cls:
        names = {0: "item"}
    callbacks = callbacks or Callbacks()
    with results_folder(options, save_dir, plots) as folder:
        return evaluate(model, options, checked, names, dataloader, folder, plots, callbacks, compute_loss)


@contextmanager
def results_folder(options: ValOptions, save_dir: str | Path, plots: bool) -> Iterator[Path]:
    """The folder for what is written: ``save_dir``, or a new one of this run; it is created if anything is written."""
    place = Path(save_dir or Path(options.project) / options.name)
    writes = plots or options.save_txt or options.save_json
    with claimed_folder(place, options.exist_ok) if writes and not save_dir else nullcontext(place) as folder:
        if writes:
            make_folder(folder / "labels" if options.save_txt else folder)
        yield folder


def evaluate(
    model: Any, options: ValOptions, data: dict[str, Any], names: dict[int, str], loader: Any, folder: Path,
    plots: bool, callbacks: Callbacks, compute_loss: Any,
) -> tuple[tuple[tuple[float, ...], Any, tuple[float, ...]], str]:  # fmt: skip
    """Run the loader through the model and report; arguments and result as in ``validate``."""
    import torch
    from tqdm import tqdm

    from utils.commands.interrupts import obeying
    from utils.drawing.background import BackgroundDrawing
    from utils.training.engine import tqdm_is_quiet
    from utils.validation.loop import Evaluation

    training = compute_loss is not None
    was_training = model.training
    caller = model.eval()
    if options.half and next(model.parameters(), torch.zeros(0).half()).dtype != torch.half:
        model = copy.deepcopy(model).half()  # the caller's weights are not rounded
    header = "%20s" + "%11s" * 6
    if not training or not tqdm_is_quiet():
        LOGGER.info(header, *HEADER)
    with torch.no_grad(), BackgroundDrawing() as draw:
        drawing = draw if plots else None
        evaluation = Evaluation(model, options, data, names, folder, drawing, callbacks, compute_loss)
        callbacks.run("on_val_start")
        bar = tqdm(loader, disable=None, leave=False, bar_format="{l_bar}{bar:10}{r_bar}")
        for number, batch in enumerate(obeying(bar)):
            callbacks.run("on_val_batch_start")
            evaluation.batch(number, batch)
            callbacks.run("on_val_batch_end")
        metrics = evaluation.scores.compute(plots, folder, draw)
        metrics.log(names, per_class=len(names) > 1 and (options.verbose or (len(names) < 50 and not training)))
        if plots:
            evaluation.confusion.plot(save_dir=folder, names=list(names.values()), draw=draw)
            draw.finish()
            callbacks.run("on_val_end")
    milliseconds = tuple(1e3 * seconds / max(metrics.images, 1) for seconds in evaluation.seconds)
    caller.train(was_training)
    precision, recall, map50, map50_95 = metrics.mean()
    if not training:
        shape = (options.batch_size, 3, options.imgsz, options.imgsz)
        line = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape " + str(shape)
        LOGGER.info(line, *milliseconds)
    if options.save_json:
        map50_95, map50 = save_predictions(evaluation, options, data) or (map50_95, map50)
    if not training and (plots or options.save_txt or options.save_json):
        labels = f", {evaluation.label_files} label files in {folder / 'labels'}" if options.save_txt else ""
        LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}{labels}")
    missing = len(evaluation.incomplete)
    shortcomings = f"{missing} label file(s) could not be written: they are named above" if missing else ""
    losses = (evaluation.loss / max(len(loader), 1)).tolist()
    means = precision, recall, map50, map50_95, *losses
    return (means, metrics.ap_by_class(len(names)), milliseconds), shortcomings


def save_predictions(evaluation: Any, options: ValOptions, data: dict[str, Any]) -> tuple[float, float] | None:
    """Write <weights>_predictions.json; mAP50-95 and mAP50 by pycocotools, or None where it could not score."""
    from utils.validation.coco_json import COCO_ANNOTATIONS, score_by_pycocotools

    file = evaluation.folder / f"{Path(options.weights[0]).stem}_predictions.json"
    if not evaluation.predictions.write(file):
        return None
    LOGGER.info(f"Predictions saved to {file}")
    if options.split != "val":
        LOGGER.info(f"not scored by pycocotools: {COCO_ANNOTATIONS} is about the val split")
        return None
    return score_by_pycocotools(file, Path(data["path"]) / COCO_ANNOTATIONS, evaluation.predictions.image_ids)


def study(options: ValOptions) -> Path:
    """Validate each checkpoint at every image size; writes the figures and study.png, returns the run folder."""
    with claimed_folder(Path(options.project) / options.name, options.exist_ok) as folder:
        return _study_into(folder, options)


def _study_into(folder: Path, options: ValOptions) -> Path:
    from utils.validation.study import SIZES, plot_studies, study_file, write_study, zip_studies

    shared = vars(options) | {"task": "val"}
    data = shared.pop("data")
    files = []
    for weights in shared.pop("weights"):
        files.append(study_file(folder, data, weights))
        rows = []
        for size in SIZES:
            LOGGER.info(f"\n{weights} at {size} pixels:")
            results, _, milliseconds = run(data, weights, plots=False, save_dir=folder, **(shared | {"imgsz": size}))
            rows.append((*results, *milliseconds))
            write_study(files[-1], rows)  # after each size: what is measured is kept
    zip_studies(files, folder / "study.zip")
    plot_studies(files, folder / "study.png", SIZES)
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}")
    return folder


def main(options: ValOptions) -> None:
    """The command: validate and log; raises InputError, at the end, if a result could not be written."""
    from utils.drawing.background import start_ahead

    if options.task in SPLITS:
        start_ahead()  # before torch is loaded
    from utils.device import device_line, select_device

    show_arguments("val", options)
    device = select_device(options.device, options.batch_size)
    LOGGER.info(device_line(device))
    if options.task in ("speed", "study"):
        checkpoints = all(file.endswith((".pt", ".safetensors")) for file in options.weights)  # exports are as they are
        options.half |= device.type == "cuda" and checkpoints
        LOGGER.info(f"{options.task}: computing in {'FP16' if options.half else 'FP32, as CPUs have no fast FP16'}")
    if options.task == "study":
        study(options)
        return
    keywords = dict(vars(options))
    data, weights = keywords.pop("data"), keywords.pop("weights")
    if options.task == "speed":  # several are compared, not joined
        outcomes = [validate(data, file, plots=False, **keywords) for file in weights]
    else:
        outcomes = [validate(data, weights, **keywords)]
    for _, shortcomings in outcomes:
        if shortcomings:
            raise InputError(shortcomings)


if __name__ == "__main__":
    run_command(lambda: main(parse(ValOptions, "Validate a YOLOv5 detector.")))
