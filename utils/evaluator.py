"""One pass of validation over a loader: inference, NMS, matching, and the files of each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.callbacks import Callbacks
from utils.coco_json import CocoPredictions
from utils.device import time_sync
from utils.engine import prepare_images
from utils.evaluation import Scores, native_boxes, save_labels
from utils.metrics import ConfusionMatrix
from utils.nms import non_max_suppression
from utils.result_files import UniqueStems

PICTURES = 3  # batches drawn as val_batch<i>_{labels,pred}.jpg


class Evaluation:
    """Takes the batches of a loader one by one.

    Attributes:
        scores: the matched predictions. confusion: filled when plots are drawn. predictions: for --save-json. loss: sum
            over the batches of the three losses. seconds: of pre-process, inference and NMS. label_files: written ones.
    """

    def __init__(
        self, model: Any, options: Any, data: Mapping[str, Any], names: dict[int, str], folder: Path, plots: bool,
        callbacks: Callbacks, compute_loss: Any,
    ) -> None:  # fmt: skip
        """``model`` maps (B, 3, H, W) in 0..1 to predictions (and raw heads); the rest is as in ``val.run``."""
        self.model, self.options, self.names, self.folder, self.plots = model, options, names, folder, plots
        self.callbacks, self.compute_loss = callbacks, compute_loss
        own = next(model.parameters(), None)  # an export has none, and says where it computes
        self.device = model.device if own is None else own.device
        self.scores = Scores(names, torch.linspace(0.5, 0.95, 10, device=self.device))
        self.confusion = ConfusionMatrix(nc=len(names))
        self.predictions = CocoPredictions(data)
        self.loss = torch.zeros(3, device=self.device)
        self.seconds = [0.0, 0.0, 0.0]
        self.label_files = 0
        self._stem = UniqueStems()

    def batch(self, number: int, batch: tuple) -> None:
        """Evaluate one batch (images uint8, targets, paths, shapes)."""
        images, targets, paths, shapes = batch
        options, times = self.options, [time_sync()]
        images, targets = self._to_device(images), targets.to(self.device)
        times.append(time_sync())
        predictions, heads = self._infer(images)
        times.append(time_sync())
        if self.compute_loss is not None:
            self.loss += self.compute_loss([head.float() for head in heads], targets)[1]
        height, width = images.shape[2:]
        targets[:, 2:] *= targets.new_tensor([width, height, width, height])
        labels = [targets[targets[:, 0] == index, 1:] for index in range(len(images))]
        nms_start = time_sync()
        detections = non_max_suppression(
            predictions, options.conf_thres, options.iou_thres, multi_label=True, agnostic=options.single_cls,
            labels=labels if options.save_hybrid else (), max_det=options.max_det,
        )  # fmt: skip
        finish = time_sync()
        spans = (times[1] - times[0], times[2] - times[1], finish - nms_start)
        self.seconds = [total + span for total, span in zip(self.seconds, spans, strict=True)]
        for index, found in enumerate(detections):
            self._image(found, labels[index], Path(paths[index]), shapes[index], images[index])
        if self.plots and number < PICTURES:
            self._draw(number, images, targets, paths, detections)

    def _to_device(self, images: torch.Tensor) -> torch.Tensor:
        images = prepare_images(images, self.device)
        return images.half() if self.options.half else images

    def _infer(self, images: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if self.compute_loss is not None:
            output = self.model(images)
            return output[0], output[1]
        keywords = {"augment": True} if self.options.augment else {}
        return self.model(images, **keywords)[0], None

    def _image(self, found: torch.Tensor, labels: torch.Tensor, path: Path, shapes: tuple, image: torch.Tensor) -> None:
        """Match, count and write what was found in one image (3, H, W)."""
        if self.options.single_cls:
            found[:, 5] = 0
        native, native_labels = native_boxes(found, labels, shapes, (image.shape[1], image.shape[2]))
        self.scores.add(native, native_labels)
        if self.plots:
            self.confusion.process_batch(native, native_labels)
        if self.options.save_txt and len(native):
            file = self.folder / "labels" / f"{self._stem(path)}.txt"
            save_labels(native, shapes[0], file, self.options.save_conf)
            self.label_files += 1
        if self.options.save_json:
            self.predictions.add(path, native)
        if len(found):
            self.callbacks.run("on_val_image_end", found, native, path, self.names, image)

    def _draw(self, number: int, images: torch.Tensor, targets: torch.Tensor, paths: Any, detections: list) -> None:
        from utils.plots import output_to_target, plot_images

        plot_images(images, targets, paths, self.folder / f"val_batch{number}_labels.jpg", self.names)
        predicted = output_to_target(detections)
        plot_images(images, predicted, paths, self.folder / f"val_batch{number}_pred.jpg", self.names)
