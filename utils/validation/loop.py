"""One pass of validation over a loader: inference, NMS, matching, the files of each image, and the report."""

from __future__ import annotations

import copy
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from utils.commands.interrupts import obeying
from utils.dataset.labels import save_labels
from utils.device import prepare_images, time_sync
from utils.drawing.background import BackgroundDrawing, Draw
from utils.drawing.pictures import output_to_target, plot_images
from utils.geometry.boxes import as_array
from utils.geometry.nms import non_max_suppression
from utils.log import LOGGER, colorstr, tqdm_is_quiet
from utils.metrics import ConfusionMatrix
from utils.storage.files import fitting_name
from utils.storage.results import Incomplete, UniqueStems, one_result
from utils.validation.coco_json import (
    COCO_ANNOTATIONS,
    GROUND_TRUTH,
    CocoPredictions,
    CocoTruth,
    score_by_annotations,
)
from utils.validation.inputs import Inputs
from utils.validation.scores import Metrics, Scores, native_boxes

HEADER = ("Class", "Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")
SHORT_TABLE = 50  # classes from which on only --verbose prints a row for each
PICTURES = 3  # batches drawn as val_batch<i>_{labels,pred}.jpg
MAX_SUBPLOTS = 16  # images of a batch that are drawn

# (P, R, mAP50, mAP50-95, box, objectness, class loss), mAP50-95 by class, (pre-process, inference, NMS) ms per image
Results = tuple[tuple[float, ...], np.ndarray, tuple[float, ...]]


def evaluate(inputs: Inputs, folder: Path) -> tuple[Results, str]:
    """Run the loader through the model and report; files go into ``folder``. Returns what ``val.validate`` does."""
    options, given = inputs.options, inputs.given
    training = given.compute_loss is not None
    if not training or options.verbose or not tqdm_is_quiet():  # in a log, a training's last table alone has a heading
        LOGGER.info("%20s" + "%11s" * 6, *HEADER)
    was_training = inputs.model.training
    inputs.model.eval()
    with torch.no_grad(), BackgroundDrawing() as draw:
        evaluation = Evaluation(inputs, folder, draw if given.plots else None)
        given.callbacks.run("on_val_start")
        bar = tqdm(inputs.loader, disable=None, leave=False, bar_format="{l_bar}{bar:10}{r_bar}")
        for number, batch in enumerate(obeying(bar)):
            given.callbacks.run("on_val_batch_start")
            evaluation.batch(number, batch)
            given.callbacks.run("on_val_batch_end")
        metrics = evaluation.scores.compute(given.plots, folder, draw)
        class_count = len(inputs.names)
        per_class = options.verbose or (class_count < SHORT_TABLE and not training)
        metrics.log(inputs.names, per_class=class_count > 1 and per_class)
        if given.plots:
            evaluation.confusion.plot(save_dir=folder, names=list(inputs.names.values()), draw=draw)
            draw.finish()
            given.callbacks.run("on_val_end")
    inputs.model.train(was_training)
    return report(evaluation, metrics)


def report(evaluation: Evaluation, metrics: Metrics) -> tuple[Results, str]:
    """Log the times and where the files are; returns the results, and in words what could not be written."""
    inputs, options, folder = evaluation.inputs, evaluation.inputs.options, evaluation.folder
    training = inputs.given.compute_loss is not None
    milliseconds = tuple(1e3 * seconds / max(metrics.images, 1) for seconds in evaluation.seconds)
    precision, recall, map50, map50_95 = metrics.mean()
    if not training:
        shape = (options.batch_size, 3, inputs.image_size, inputs.image_size)
        line = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape " + str(shape)
        LOGGER.info(line, *milliseconds)
    if options.save_json:
        map50_95, map50 = save_predictions(evaluation) or (map50_95, map50)
    if not training and (inputs.given.plots or options.save_txt or options.save_json):
        labels = f", {evaluation.label_files} label files in {folder / 'labels'}" if options.save_txt else ""
        LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}{labels}")
    missing = len(evaluation.incomplete)
    shortcomings = f"{missing} label file(s) could not be written: they are named above" if missing else ""
    losses = (evaluation.loss / max(len(inputs.loader), 1)).tolist()
    means = precision, recall, map50, map50_95, *losses
    return (means, metrics.ap_by_class(len(inputs.names)), milliseconds), shortcomings


def save_predictions(evaluation: Evaluation) -> tuple[float, float] | None:
    """Write <weights>_predictions.json, and ground_truth.json where COCO's own file is missing, and log COCO's table.

    Returns:
        mAP50-95 and mAP50 by COCO's tool and COCO's own file, as in v6.2; None: our own count.
    """
    inputs, folder = evaluation.inputs, evaluation.folder
    file = folder / f"{Path(inputs.options.weights[0]).stem}_predictions.json"
    if not evaluation.predictions.write(file):
        return None
    annotations = Path(inputs.data["path"]) / COCO_ANNOTATIONS
    if inputs.options.split == "val" and annotations.is_file():
        LOGGER.info(f"Predictions saved to {file}")
        return score_by_annotations(evaluation.predictions, annotations)
    evaluation.truth.write(folder / GROUND_TRUTH)
    LOGGER.info(f"Predictions saved to {file}, the labels to {folder / GROUND_TRUTH}")
    evaluation.truth.score(evaluation.predictions)
    return None


class Evaluation:
    """Takes the batches of a loader one by one.

    Attributes:
        scores: predictions matched with labels. confusion: filled when plots are drawn.
        predictions, truth: for --save-json.
        loss: (3,) sums over the batches of box, objectness and class loss.
        seconds: sums of pre-processing, inference and NMS.
        label_files: number of label files written. incomplete: images whose label file could not be written.
    """

    def __init__(self, inputs: Inputs, folder: Path, draw: Draw | None) -> None:
        """Files go into ``folder``; ``draw`` gets the pictures, None for none."""
        self.inputs, self.folder, self.draw = inputs, folder, draw
        self.model = inputs.model
        parameter = next(self.model.parameters(), None)  # an export has none, and states its device
        self.device = self.model.device if parameter is None else parameter.device
        # Within a training nobody sees the times, so the host does not wait for the device to take them
        self._clock = time_sync if inputs.given.compute_loss is None else time.perf_counter
        self.half = inputs.options.half
        if self.half and parameter is not None and parameter.dtype != torch.half:
            self.model = copy.deepcopy(self.model).half()  # the caller's weights are not rounded
        self.scores = Scores(inputs.names, torch.linspace(0.5, 0.95, 10).numpy())
        self.confusion = ConfusionMatrix(nc=len(inputs.names))
        self.predictions = CocoPredictions(inputs.data)
        self.truth = CocoTruth(inputs.data, inputs.names)
        self.loss = torch.zeros(3, device=self.device)
        self.seconds = [0.0, 0.0, 0.0]
        self.label_files = 0
        self.incomplete: Incomplete = {}
        self._stem = UniqueStems()

    def batch(self, number: int, batch: tuple) -> None:
        """Evaluate one batch: images (B, 3, H, W) uint8, targets (T, 6), B paths, B shapes."""
        pixels, targets, paths, shapes = batch
        options, compute_loss = self.inputs.options, self.inputs.given.compute_loss
        start = self._clock()
        images = prepare_images(pixels, self.device)  # (B, 3, H, W) in 0..1
        if self.half:
            images = images.half()
        labels = labels_by_image(targets, pixels.shape)  # B times (M, 5)
        prepared = self._clock()
        predictions, heads = self._infer(images)  # (B, boxes, 5 + classes)
        inferred = self._clock()
        if compute_loss is not None:
            self.loss += compute_loss([head.float() for head in heads], targets.to(self.device))[1]
        nms_start = self._clock()
        by_image = non_max_suppression(
            predictions,
            options.conf_thres,
            options.iou_thres,
            multi_label=True,
            agnostic=self.inputs.single_cls,
            labels=[torch.from_numpy(rows) for rows in labels] if options.save_hybrid else (),
            max_det=options.max_det,
        )  # B times (N, 6)
        finish = self._clock()
        self.seconds[0] += prepared - start
        self.seconds[1] += inferred - prepared
        self.seconds[2] += finish - nms_start
        ends = np.cumsum([len(rows) for rows in by_image])
        detections = np.split(as_array(torch.cat(by_image)), ends[:-1])  # one copy from the device
        for index, rows in enumerate(detections):
            self._image(rows, labels[index], Path(paths[index]), shapes[index], images[index])
        if self.draw is not None and number < PICTURES:
            self._draw(number, batch, detections[:MAX_SUBPLOTS])

    def _infer(self, images: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Predictions (B, boxes, 5 + classes), and the raw heads if there is a loss to compute."""
        if self.inputs.given.compute_loss is not None:
            predictions, heads = self.model(images)[:2]
            return predictions, heads
        keywords = {"augment": True} if self.inputs.options.augment else {}
        return self.model(images, **keywords)[0], None

    def _image(
        self, detections: np.ndarray, labels: np.ndarray, path: Path, shapes: tuple, image: torch.Tensor
    ) -> None:
        """Match, count and write the detections (N, 6) of one image (3, H, W) with labels (M, 5)."""
        options, callbacks = self.inputs.options, self.inputs.given.callbacks
        if self.inputs.single_cls:
            detections[:, 5] = 0
        native, native_labels = native_boxes(detections, labels, shapes, (image.shape[1], image.shape[2]))
        self.scores.add(native, native_labels)
        if self.draw is not None:
            self.confusion.process_batch(native, native_labels)
        if options.save_txt and len(native):
            folder = self.folder / "labels"
            with one_result(path, folder, self.incomplete):
                file = folder / fitting_name(folder, self._stem(path), ".txt")
                save_labels(native, shapes[0], file, options.save_conf)
                self.label_files += 1
        if options.save_json:
            self.predictions.add(path, native)
            self.truth.add(path, native_labels, shapes[0])
        if len(detections) and callbacks.get_registered_actions("on_val_image_end"):
            predn = torch.from_numpy(native).to(self.device)
            pred = torch.from_numpy(detections).to(self.device)
            callbacks.run("on_val_image_end", pred, predn, path, self.inputs.names, image)

    def _draw(self, number: int, batch: tuple, detections: list[np.ndarray]) -> None:
        """Draw the first images of a batch, once with their labels and once with their detections."""
        assert self.draw is not None
        pixels, targets, paths, _ = batch
        images = pixels[:MAX_SUBPLOTS].numpy()
        shown = list(paths[:MAX_SUBPLOTS])
        for name, rows in (("labels", targets.numpy()), ("pred", output_to_target(detections))):
            file = self.folder / f"val_batch{number}_{name}.jpg"
            self.draw(file, partial(plot_images, images, rows, shown, file, self.inputs.names))


def labels_by_image(targets: torch.Tensor, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Targets (T, 6: image index, class, normalised xywh) of images (B, 3, H, W) -> B arrays (M, 5), xywh in pixels."""
    height, width = shape[2:]
    rows = targets.numpy() * np.array([1, 1, width, height, width, height], dtype=np.float32)
    return [rows[rows[:, 0] == index, 1:] for index in range(shape[0])]
