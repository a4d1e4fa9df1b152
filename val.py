#!/usr/bin/env python3
"""Validate a YOLOv5 detector: precision, recall, mAP.

python val.py --weights runs/train/exp/weights/best.pt --data data/mask.yaml --imgsz 320
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import run_command, show_arguments
from utils.config import build, check_thresholds, option, parse
from utils.errors import InputError
from utils.files import ROOT, increment_path, make_folder
from utils.log import LOGGER, colorstr

if TYPE_CHECKING:
    import torch

    from utils.callbacks import Callbacks

HEADER = ("Class", "Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")
PICTURES = 3  # batches drawn as val_batch<i>_{labels,pred}.jpg


@dataclass
class ValOptions:
    """Options of val.py."""

    data: str = option(str(ROOT / "data/coco128.yaml"), "data set YAML")
    weights: list[str] = option([str(ROOT / "yolov5s.pt")], "checkpoint; several make an ensemble", nargs="+")
    batch_size: int = option(32, "images per batch")
    imgsz: int = option(640, "image size in pixels, longer side", "--img", "--img-size")
    conf_thres: float = option(0.001, "least confidence; mAP needs 0.001")
    iou_thres: float = option(0.6, "NMS threshold")
    max_det: int = option(300, "most detections per image")
    task: str = option("val", "which split", choices=["train", "val", "test"])
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(8, "most data loading processes")
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "augmented inference: three sizes, flipped")
    verbose: bool = option(False, "always print a row per class")
    save_txt: bool = option(False, "write the predictions as label files")
    save_conf: bool = option(False, "with --save-txt: append the confidence to each line")
    project: str = option(str(ROOT / "runs/val"), "folder of the runs")
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken")
    exist_ok: bool = option(False, "write into the run folder even if it exists")
    half: bool = option(False, "compute in FP16 (on a GPU)")

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        self.weights = [
            str(file) for file in ([self.weights] if isinstance(self.weights, (str, Path)) else self.weights)
        ]
        check_thresholds(self.conf_thres, self.iou_thres)
        for name in ("batch_size", "imgsz", "max_det"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.save_conf and not self.save_txt:
            raise InputError("--save-conf only acts on label files: add --save-txt")


def process_batch(detections: torch.Tensor, labels: torch.Tensor, iouv: torch.Tensor) -> torch.Tensor:
    """Which detections are true positives at which IoU threshold; see utils.metrics.match_predictions.

    Args:
        detections: (N, 6) x1, y1, x2, y2, confidence, class in NMS order, native pixels.
        labels: (M, 5) class, x1, y1, x2, y2, native pixels.
        iouv: (T,) IoU thresholds.

    Returns:
        bool (N, T).
    """
    from utils.metrics import match_predictions

    return match_predictions(detections, labels, iouv)


class Evaluation:
    """One pass over a loader: inference, NMS, matching; ``run`` below wires it."""

    def __init__(self, model: Any, options: ValOptions, names: dict[int, str], folder: Path, plots: bool) -> None:
        """``model`` maps (B, 3, H, W) in 0..1 to predictions (and raw heads); files go into ``folder``."""
        import torch

        from utils.evaluation import Scores
        from utils.metrics import ConfusionMatrix

        self.model, self.options, self.names, self.folder, self.plots = model, options, names, folder, plots
        self.device = next(model.parameters()).device
        self.scores = Scores(names, torch.linspace(0.5, 0.95, 10, device=self.device))
        self.confusion = ConfusionMatrix(nc=len(names))
        self.loss = torch.zeros(3, device=self.device)
        self.seconds = [0.0, 0.0, 0.0]  # pre-process, inference, NMS

    def batch(self, number: int, batch: tuple, callbacks: Callbacks, compute_loss: Any) -> None:
        """Evaluate one batch (images uint8, targets, paths, shapes)."""
        from utils.device import time_sync
        from utils.nms import non_max_suppression

        images, targets, paths, shapes = batch
        options, times = self.options, [time_sync()]
        images, targets = self._to_device(images), targets.to(self.device)
        times.append(time_sync())
        predictions, heads = self._infer(images, with_heads=compute_loss is not None)
        times.append(time_sync())
        if compute_loss is not None:
            self.loss += compute_loss([head.float() for head in heads], targets)[1]
        height, width = images.shape[2:]
        targets[:, 2:] *= targets.new_tensor([width, height, width, height])
        loss_end = time_sync()
        detections = non_max_suppression(
            predictions, options.conf_thres, options.iou_thres, multi_label=True, agnostic=options.single_cls,
            max_det=options.max_det,
        )  # fmt: skip
        finish = time_sync()
        spans = (times[1] - times[0], times[2] - times[1], finish - loss_end)
        self.seconds = [total + span for total, span in zip(self.seconds, spans, strict=True)]
        for index, found in enumerate(detections):
            labels = targets[targets[:, 0] == index, 1:]
            self._image(found, labels, Path(paths[index]), shapes[index], (height, width), images[index], callbacks)
        if self.plots and number < PICTURES:
            self._draw(number, images, targets, paths, detections)

    def _to_device(self, images: torch.Tensor) -> torch.Tensor:
        from utils.engine import prepare_images

        images = prepare_images(images, self.device)
        return images.half() if self.options.half else images

    def _infer(self, images: torch.Tensor, with_heads: bool) -> tuple[torch.Tensor, Any]:
        if self.options.augment and not with_heads:
            return self.model(images, augment=True)[0], None
        output = self.model(images)
        return (output[0], output[1]) if with_heads else (output[0], None)

    def _image(
        self, found: torch.Tensor, labels: torch.Tensor, path: Path, shapes: tuple, size: tuple[int, int],
        image: torch.Tensor, callbacks: Callbacks,
    ) -> None:  # fmt: skip
        from utils.evaluation import native_boxes, save_labels

        if self.options.single_cls:
            found[:, 5] = 0
        native, native_labels = native_boxes(found, labels, shapes, size)
        self.scores.add(native, native_labels)
        if self.plots:
            self.confusion.process_batch(native, native_labels)
        if self.options.save_txt and len(native):
            file = self.folder / "labels" / f"{path.stem}.txt"
            save_labels(native, shapes[0], file, self.options.save_conf)
        if len(found):
            callbacks.run("on_val_image_end", found, native, path, self.names, image)

    def _draw(self, number: int, images: torch.Tensor, targets: torch.Tensor, paths: Any, detections: list) -> None:
        from utils.plots import output_to_target, plot_images

        plot_images(images, targets, paths, self.folder / f"val_batch{number}_labels.jpg", self.names)
        predicted = output_to_target(detections)
        plot_images(images, predicted, paths, self.folder / f"val_batch{number}_pred.jpg", self.names)


def make_loader(options: ValOptions, data: dict[str, Any], image_size: int, stride: int) -> Any:
    """The validation loader of ``data[options.task]``: rectangular batches, half a stride of padding."""
    from utils.dataloaders import create_dataloader

    loader, _ = create_dataloader(
        data[options.task], image_size, options.batch_size, stride, single_cls=options.single_cls, pad=0.5, rect=True,
        workers=options.workers, prefix=colorstr(f"{options.task}: "),
    )  # fmt: skip
    return loader


def open_model(options: ValOptions, data: dict[str, Any]) -> tuple[Any, dict[int, str]]:
    """The model of ``options.weights`` and its class names. Raises InputError when the data set has other classes."""
    from models.backends import DetectMultiBackend
    from utils.device import select_device

    device = select_device(options.device, options.batch_size)
    weights = options.weights[0] if len(options.weights) == 1 else options.weights
    model = DetectMultiBackend(weights, device=device, fp16=options.half)
    if not options.single_cls and len(model.names) != data["nc"]:
        raise InputError(
            f"{weights} knows {len(model.names)} classes but {options.data} has {data['nc']}: "
            "validate with the data set that the model was trained on"
        )
    return model, model.names


def run(
    data: str | dict[str, Any], weights: str | list[str] = "", *, model: Any = None, dataloader: Any = None,
    save_dir: str | Path = "", plots: bool = True, callbacks: Callbacks | None = None, compute_loss: Any = None,
    **keywords: Any,
) -> tuple[tuple[float, ...], Any, tuple[float, ...]]:  # fmt: skip
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
        ((P, R, mAP50, mAP50-95, box, objectness, class loss), mAP50-95 by class, (pre, inference, NMS) ms per image).
    """
    import torch

    from utils.callbacks import Callbacks
    from utils.checks import check_dataset, check_img_size

    name = data if isinstance(data, str) else str(data.get("path", ""))
    options = build(ValOptions, data=str(name), **({"weights": weights} if weights else {}), **keywords)
    callbacks = callbacks or Callbacks()
    training = compute_loss is not None
    checked = data if isinstance(data, dict) and dataloader is not None else check_dataset(data, splits=(options.task,))
    if model is None:
        model, names = open_model(options, checked)
    else:
        names = checked["names"]
    stride = max(int(torch.as_tensor(model.stride).max()), 32)
    options.imgsz = check_img_size(options.imgsz, stride)
    folder = Path(save_dir) if save_dir else increment_path(Path(options.project) / options.name, options.exist_ok)
    if not training or plots or options.save_txt:
        make_folder(folder / "labels" if options.save_txt else folder)
    loader = dataloader or make_loader(options, checked, options.imgsz, stride)
    if options.single_cls:
        names = {0: "item"}
    return evaluate(model, options, names, loader, folder, plots, callbacks, compute_loss)


def evaluate(
    model: Any, options: ValOptions, names: dict[int, str], loader: Any, folder: Path, plots: bool,
    callbacks: Callbacks, compute_loss: Any,
) -> tuple[tuple[float, ...], Any, tuple[float, ...]]:  # fmt: skip
    """Run the loader through the model and report; arguments and result as in ``run``."""
    import torch
    from tqdm import tqdm

    from utils.engine import tqdm_is_quiet

    training = compute_loss is not None
    was_training = model.training
    caller = model.eval()
    if options.half and next(model.parameters()).dtype != torch.half:
        model = copy.deepcopy(model).half()  # the caller's weights are not rounded
    evaluation = Evaluation(model, options, names, folder, plots)
    header = "%20s" + "%11s" * 6
    if not training or not tqdm_is_quiet():
        LOGGER.info(header, *HEADER)
    callbacks.run("on_val_start")
    with torch.no_grad():
        for number, batch in enumerate(tqdm(loader, disable=None, leave=False, bar_format="{l_bar}{bar:10}{r_bar}")):
            callbacks.run("on_val_batch_start")
            evaluation.batch(number, batch, callbacks, compute_loss)
            callbacks.run("on_val_batch_end")
    metrics = evaluation.scores.compute(plots, folder)
    metrics.log(names, per_class=len(names) > 1 and (options.verbose or (len(names) < 50 and not training)))
    milliseconds = tuple(1e3 * seconds / max(metrics.images, 1) for seconds in evaluation.seconds)
    if plots:
        evaluation.confusion.plot(save_dir=folder, names=list(names.values()))
        callbacks.run("on_val_end")
    if not training:
        shape = (options.batch_size, 3, options.imgsz, options.imgsz)
        line = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape " + str(shape)
        LOGGER.info(line, *milliseconds)
        LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}")
    caller.train(was_training)
    losses = (evaluation.loss / max(len(loader), 1)).tolist()
    return (*metrics.mean(), *losses), metrics.ap_by_class(len(names)), milliseconds


def main(options: ValOptions) -> None:
    """The command: validate and log."""
    from utils.device import device_line, select_device

    show_arguments("val", options)
    LOGGER.info(device_line(select_device(options.device, options.batch_size)))
    keywords = dict(vars(options))
    data, weights = keywords.pop("data"), keywords.pop("weights")
    run(data, weights, **keywords)


if __name__ == "__main__":
    run_command(lambda: main(parse(ValOptions, "Validate a YOLOv5 detector.")))
