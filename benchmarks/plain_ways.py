"""The plain ways that benchmarks compare with: the same results as the fast ways, computed step by step.

Images: a mosaic is laid out on a canvas of twice the side, and the canvas is warped; colours are changed in the result,
which is then mirrored. Random numbers are drawn in the same order as by ``LoadImagesAndLabels``.

Training: contiguous memory, SGD and moving average parameter by parameter.

Validation: contiguous memory, freed memory returned to the system, NMS image by image, matching threshold by threshold,
pictures drawn by the same process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike

from benchmarks.material import plain_memory
from utils.augmentations import GREY, letterbox, mixup, random_perspective, warp_limits
from utils.dataset.items import EDGE_PIXELS, Item, LoadImagesAndLabels, Shapes
from utils.dataset.mosaic import copy_paste
from utils.drawing import charts
from utils.drawing.background import BackgroundDrawing
from utils.geometry.boxes import box_iou, xywhn2xyxy, xyxy2xywhn
from utils.geometry.nms import non_max_suppression
from utils.geometry.segments import xyn2xy
from utils.training.state import TrainingState


class TwoStepImages(LoadImagesAndLabels):
    """Data set with the same items, made the plain way; only for training (``augment``) on square images."""

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Return an item as ``LoadImagesAndLabels`` does."""
        if isinstance(index, tuple):
            index, seed = index
            random.seed(seed)
            np.random.seed(seed)
        index = self.indices[index]
        shapes: Shapes | None = None
        if random.random() < self.hyp.get("mosaic", 0.0):
            image, labels = self._mosaic(index)
            if random.random() < self.hyp.get("mixup", 0.0):
                image, labels = mixup(image, labels, *self._mosaic(random.randint(0, self.n - 1)))
        else:
            image, full, (height, width) = self.load_image(index)
            image, (scale_x, scale_y), padding = letterbox(image, self.img_size, auto=False)
            shapes = full, ((height / full[0], width / full[1]), padding)
            labels = self.labels[index].copy()
            labels[:, 1:] = xywhn2xyxy(labels[:, 1:], scale_x * width, scale_y * height, *padding)
            image, labels = random_perspective(image.copy(), labels, **warp_limits(self.hyp))

        height, width = image.shape[:2]
        if len(labels):
            labels[:, 1:5] = xyxy2xywhn(labels[:, 1:5], w=width, h=height, clip=True, eps=EDGE_PIXELS)
        change_colours(image, [self.hyp.get(name, 0.0) for name in ("hsv_h", "hsv_s", "hsv_v")])
        if random.random() < self.hyp.get("flipud", 0.0):
            image = cv2.flip(image, 0)
            labels[:, 2] = 1 - labels[:, 2]
        if random.random() < self.hyp.get("fliplr", 0.0):
            image = cv2.flip(image, 1)
            labels[:, 1] = 1 - labels[:, 1]
        targets = torch.zeros((len(labels), 6))
        targets[:, 1:] = torch.from_numpy(labels)
        pixels = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
        return torch.from_numpy(pixels), targets, self.im_files[index], shapes

    def _mosaic(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a mosaic of image ``index`` and three others (H, W, 3) BGR, and labels (N, 5) in its pixels."""
        side = self.img_size
        border_y, border_x = self.mosaic_border
        centre_y = int(random.uniform(-border_y, 2 * side + border_y))
        centre_x = int(random.uniform(-border_x, 2 * side + border_x))
        numbers = [index, *random.choices(self.indices, k=3)]
        random.shuffle(numbers)
        canvas = np.full((2 * side, 2 * side, 3), GREY[0], np.uint8)
        tile_labels, segments = [], []
        for tile, number in enumerate(numbers):
            image, _, (height, width) = self.load_image(number)
            left, top = place_tile(canvas, image, tile, centre_x, centre_y)
            rows = self.labels[number].copy()
            rows[:, 1:] = xywhn2xyxy(rows[:, 1:], width, height, left, top).clip(0, 2 * side)
            tile_labels.append(rows)
            for polygon in self.segments[number] or [None] * len(rows):
                if polygon is not None:
                    polygon = xyn2xy(polygon, width, height, left, top).clip(0, 2 * side)
                segments.append(polygon)
        amount = self.hyp.get("copy_paste", 0.0)
        canvas, labels, segments = copy_paste(canvas, np.concatenate(tile_labels), segments, amount)
        return random_perspective(canvas, labels, segments, border=self.mosaic_border, **warp_limits(self.hyp))


def place_tile(canvas: np.ndarray, image: np.ndarray, tile: int, centre_x: int, centre_y: int) -> tuple[int, int]:
    """Copy image ``tile`` (0 to 3) onto a canvas so that it touches the centre; return its top left corner (x, y)."""
    height, width = image.shape[:2]
    left = centre_x if tile % 2 else centre_x - width
    top = centre_y if tile >= 2 else centre_y - height
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    return left, top


def change_colours(image: np.ndarray, gains: list[float]) -> None:
    """Scale hue, saturation and value of a BGR image in place by random factors."""
    if not any(gains):
        return
    tables = np.arange(256) * (1 + np.random.uniform(-1, 1, 3) * gains)[:, None]
    tables[0] %= 180
    tables = tables.clip(0, 255).astype(np.uint8)
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))  # one by one: much faster than a table of three columns
    planes = [cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)]
    cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR, dst=image)


def make_plain(state: TrainingState) -> None:
    """Make the model's memory contiguous and let the optimizer update parameter by parameter."""
    state.model.to(memory_format=torch.contiguous_format)
    for module in state.model.modules():
        if isinstance(module, torch.nn.SiLU):
            module.inplace = True
    for group in state.optimizer.param_groups:
        group["fused"], group["foreach"] = False, False


def plain_images(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as floats in 0..1, in contiguous memory."""
    return images.float() / 255


def plain_optimizer_step(state: TrainingState) -> None:
    """Clip gradients, step, and update the moving average, parameter by parameter."""
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 10.0, foreach=False)
    state.optimizer.step()
    state.optimizer.zero_grad()
    average = state.ema
    average.updates += 1
    decay = average.decay(average.updates)
    current = state.model.state_dict()
    for name, value in average.ema.state_dict().items():
        if value.is_floating_point():
            value *= decay
            value += (1 - decay) * current[name].detach()


def plain_matching(detections: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Match as ``utils.metrics.match_predictions``, threshold by threshold: in torch, pairs reduced in NumPy.

    Args:
        detections: (N, 6) corners, confidence, class. labels: (M, 5) class, corners. thresholds: (T,) of the IoU.

    Returns:
        (N, T) bool: the detection is correct at the threshold.
    """
    detections = torch.as_tensor(np.asarray(detections))
    labels = torch.as_tensor(np.asarray(labels))
    thresholds = torch.as_tensor(np.asarray(thresholds))
    correct = torch.zeros(len(detections), len(thresholds), dtype=torch.bool)
    if not len(detections) or not len(labels):
        return correct.numpy()
    overlap = box_iou(labels[:, 1:], detections[:, :4])  # (M, N)
    same_class = labels[:, :1] == detections[:, 5]  # (M, N)
    for column, threshold in enumerate(thresholds):
        label, detection = torch.where((overlap >= threshold) & same_class)
        if not len(label):
            continue
        pairs = torch.stack((label, detection), 1).numpy()  # (P, 2)
        if len(pairs) > 1:
            pairs = pairs[overlap[label, detection].numpy().argsort(kind="stable")[::-1]]
            for side in (1, 0):  # each detection's best label, then each label's first detection
                pairs = pairs[np.unique(pairs[:, side], return_index=True)[1]]
        correct[pairs[:, 1], column] = True
    return correct.numpy()


@contextmanager
def plain_validation() -> Iterator[None]:
    """Make validations inside this context take the plain way."""

    def image_by_image(prediction: torch.Tensor, *arguments: Any, **keywords: Any) -> list[torch.Tensor]:
        return [non_max_suppression(image[None], *arguments, **keywords)[0] for image in prediction]

    def contiguous(images: torch.Tensor, device: torch.device) -> torch.Tensor:
        return images.to(device).float() / 255

    with (
        plain_memory(),
        mock.patch("utils.validation.loop.non_max_suppression", image_by_image),
        mock.patch("utils.validation.loop.prepare_images", contiguous),
        mock.patch("utils.validation.scores.match_predictions", plain_matching),
        mock.patch("utils.validation.loop.BackgroundDrawing", lambda: BackgroundDrawing(0)),
        mock.patch.object(charts, "PNG_COMPRESSION", 6),
        mock.patch.object(torch, "channels_last", torch.contiguous_format),  # what val.py asks of the model
    ):
        yield
