"""One pass of validation over a loader: inference, NMS, matching, and the files of each image."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.callbacks import Callbacks
from utils.detection.outputs import Incomplete, UniqueStems, one_result
from utils.device import time_sync
from utils.drawing.background import Draw
from utils.geometry.boxes import as_array
from utils.geometry.nms import non_max_suppression
from utils.metrics import ConfusionMatrix
from utils.storage.files import fitting_name
from utils.training.batch_step import prepare_images
from utils.validation.coco_json import CocoPredictions
from utils.validation.scores import Scores, native_boxes, save_labels

PICTURES = 3  # batches drawn as val_batch<i>_{labels,pred}.jpg
MAX_SUBPLOTS = 16  # images of a batch that are drawn


class Evaluation:
    """Takes the batches of a loader one by one.

    Attributes:
        scores: the matched predictions. confusion: filled when plots are drawn. predictions: for --save-json. loss: sum
            over the batches of the three losses. seconds: of pre-process, inference and NMS. label_files: written ones.
        incomplete: images whose label file could not be written.
    """

    def __init__(
        self, model: Any, options: Any, data: Mapping[str, Any], names: dict[int, str], folder: Path,
        draw: Draw | None, callbacks: Callbacks, compute_loss: Any,
    ) -> None:  # fmt: skip
        """``model`` maps (B, 3, H, W) in 0..1 to predictions (and raw heads); ``draw`` gets the pictures, None: none.

        The rest is as in ``val.run``.
        """
        self.model, self.options, self.names, self.folder, self.draw = model, options, names, folder, draw
        self.callbacks, self.compute_loss = callbacks, compute_loss
        own = next(model.parameters(), None)  # an export has none, and says where it computes
        self.device = model.device if own is None else own.device
        self.scores = Scores(names, torch.linspace(0.5, 0.95, 10).numpy())
        self.confusion = ConfusionMatrix(nc=len(names))
        self.predictions = CocoPredictions(data)
        self.loss = torch.zeros(3, device=self.device)
        self.seconds = [0.0, 0.0, 0.0]
        self.label_files = 0
        self.incomplete: Incomplete = {}
        self._stem = UniqueStems()

    def batch(self, number: int, batch: tuple) -> None:
        """Evaluate one batch (images uint8, targets, paths, shapes)."""
        pixels, targets, paths, shapes = batch
        options, times = self.options, [time_sync()]
        images, labels = self._to_device(pixels), labels_by_image(targets, pixels.shape)
        times.append(time_sync())
        predictions, heads = self._infer(images)
        times.append(time_sync())
        if self.compute_loss is not None:
            self.loss += self.compute_loss([head.float() for head in heads], targets.to(self.device))[1]
        nms_start = time_sync()
        found = non_max_suppression(
            predictions, options.conf_thres, options.iou_thres, multi_label=True, agnostic=options.single_cls,
            labels=[torch.from_numpy(rows) for rows in labels] if options.save_hybrid else (), max_det=options.max_det,
        )  # fmt: skip
        finish = time_sync()
        spans = (times[1] - times[0], times[2] - times[1], finish - nms_start)
        self.seconds = [total + span for total, span in zip(self.seconds, spans, strict=True)]
        ends = np.cumsum([len(rows) for rows in found])
        detections = np.split(as_array(torch.cat(found)), ends[:-1])  # one copy from the device
        for index, rows in enumerate(detections):
            self._image(rows, labels[index], Path(paths[index]), shapes[index], images[index])
        if self.draw is not None and number < PICTURES:
            self._draw(number, pixels[:MAX_SUBPLOTS].numpy(), targets, paths, detections)

    def _to_device(self, images: torch.Tensor) -> torch.Tensor:
        images = prepare_images(images, self.device)
        return images.half() if self.options.half else images

    def _infer(self, images: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if self.compute_loss is not None:
            output = self.model(images)
            return output[0], output[1]
        keywords = {"augment": True} if self.options.augment else {}
        return self.model(images, **keywords)[0], None

    def _image(self, found: np.ndarray, labels: np.ndarray, path: Path, shapes: tuple, image: torch.Tensor) -> None:
        """Match, count and write what was found in one image (3, H, W)."""
        if self.options.single_cls:
            found[:, 5] = 0
        native, native_labels = native_boxes(found, labels, shapes, (image.shape[1], image.shape[2]))
        self.scores.add(native, native_labels)
        if self.draw is not None:
            self.confusion.process_batch(native, native_labels)
        if self.options.save_txt and len(native):
            folder = self.folder / "labels"
            with one_result(path, folder, self.incomplete):
                file = folder / fitting_name(folder, self._stem(path), ".txt")
                save_labels(native, shapes[0], file, self.options.save_conf)
                self.label_files += 1
        if self.options.save_json:
            self.predictions.add(path, native)
        if len(found) and self.callbacks.get_registered_actions("on_val_image_end"):
            tensors = (torch.from_numpy(rows).to(self.device) for rows in (found, native))
            self.callbacks.run("on_val_image_end", *tensors, path, self.names, image)

    def _draw(
        self, number: int, pixels: np.ndarray, targets: torch.Tensor, paths: Any, detections: list[np.ndarray]
    ) -> None:
        from utils.plots import output_to_target, plot_images

        assert self.draw is not None
        shown = [*paths[: len(pixels)]]
        for kind, rows in (("labels", targets.numpy()), ("pred", output_to_target(detections[: len(pixels)]))):
            file = self.folder / f"val_batch{number}_{kind}.jpg"
            self.draw(file, partial(plot_images, pixels, rows, shown, file, self.names))


def labels_by_image(targets: torch.Tensor, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Targets (T, 6: image index, class, normalised xywh) of images (B, 3, H, W) -> B arrays (M, 5), xywh in pixels."""
    rows = targets.numpy() * np.array([1, 1, *(shape[3], shape[2]) * 2], dtype=np.float32)
    return [rows[rows[:, 0] == index, 1:] for index in range(shape[0])]
