"""Functions of YOLOv5 before v6.2 and after it that scripts written for those versions import.

``utils.general``, ``utils.plots``, ``utils.torch_utils`` and ``utils.augmentations`` offer them under the paths of
those versions. Nothing in this project uses them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ContextDecorator
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.commands.packages import is_installed, require
from utils.device import time_sync
from utils.drawing.annotator import Annotator, colors, crop_box
from utils.geometry.boxes import scale_coords
from utils.log import LOGGER

CLASSIFIER_SIDE = 224  # pixels
CLASSIFIER_GAIN = 1.3  # crops for a classifier are larger than the box by this factor, and then by the padding
CLASSIFIER_PADDING = 30  # pixels
SPECIAL = "|@#!¡·$€%&()=?¿^*;:,¨\u00b4><+"  # characters that v6.2 keeps out of file names
RARELY = 0.01  # probability of each of the transformations of Albumentations


# -- drawing -----------------------------------------------------------------------------------------------------------


def plot_one_box(
    x: Sequence[float] | Tensor,
    img: NDArray,
    color: Sequence[int] | None = None,
    label: str | None = None,
    line_thickness: int | None = None,
) -> None:
    """Draw a box x1, y1, x2, y2 in pixels with its label into ``img`` (H, W, 3) uint8, in place (v3 to v5.0).

    Without ``color`` one is drawn at random, as then.
    """
    shade = [random.randint(0, 255) for _ in range(3)] if color is None else [int(value) for value in color]
    drawn = Annotator(img, line_width=line_thickness, example=label or "")
    drawn.box_label([float(value) for value in x], label or "", (shade[0], shade[1], shade[2]))
    if drawn.im is not img:  # it was not contiguous: the drawing went into a copy
        img[...] = drawn.im


def color_list() -> list[tuple[int, int, int]]:
    """The colours of classes as RGB, from 0 to 255 (v4, v5.0)."""
    return list(colors.palette)


# -- a classifier after the detector -----------------------------------------------------------------------------------


def load_classifier(name: str = "resnet101", n: int = 2) -> nn.Module:
    """Return torchvision's classifier ``name`` with its released weights and a last layer of zeros for ``n`` classes.

    torchvision fetches the weights. The network must end in a layer called ``fc``, as ResNets do.
    """
    model: Any = require("torchvision", f"load_classifier({name!r})").models.get_model(name, weights="DEFAULT")
    model.fc = nn.Linear(model.fc.in_features, n)
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    return model


def apply_classifier(x: list[Tensor], model: nn.Module, img: Tensor, im0: NDArray | Sequence[NDArray]) -> list[Tensor]:
    """Keep the detections whose class a second network confirms.

    Args:
        x: for each image (N, 6) x1, y1, x2, y2 in pixels of the letterboxed image, confidence, class. Unlike v6.2 the
            rows are not changed.
        model: classifier (N, 3, 224, 224) RGB in 0..1 -> (N, classes).
        img: (B, 3, h, w), the letterboxed images.
        im0: the original image (H, W, 3) BGR, or a list of them.

    Returns:
        For each image the rows that are kept.
    """
    natives = [im0] if isinstance(im0, np.ndarray) else im0
    confirmed = []
    for detections, native in zip(x, natives, strict=False):
        if detections is None or not len(detections):
            confirmed.append(detections)
            continue
        corners = scale_coords(img.shape[2:], detections[:, :4].clone(), native.shape)  # (N, 4)
        crops = [
            _classifier_input(crop_box(native, box, CLASSIFIER_GAIN, CLASSIFIER_PADDING, square=True))
            for box in corners.tolist()
        ]
        batch = torch.from_numpy(np.stack(crops)).to(detections.device)  # (N, 3, 224, 224)
        classes = model(batch).argmax(1)  # (N,)
        confirmed.append(detections[detections[:, 5].long() == classes])
    return confirmed


def _classifier_input(crop: NDArray) -> NDArray:
    """A crop (h, w, 3) BGR -> (3, 224, 224) RGB float32 in 0..1."""
    resized = cv2.resize(crop, (CLASSIFIER_SIDE, CLASSIFIER_SIDE))
    return resized[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255


# -- texts -------------------------------------------------------------------------------------------------------------


def clean_str(s: str) -> str:
    """``s`` with an underscore in the place of each character that is special in addresses and patterns."""
    return "".join("_" if letter in SPECIAL else letter for letter in s)


def is_ascii(s: object = "") -> bool:
    """Tell whether the text of an object, such as a list of class names, is plain ASCII."""
    return str(s).isascii()


# -- training ----------------------------------------------------------------------------------------------------------


def is_parallel(model: nn.Module) -> bool:
    """Tell whether a model is wrapped for several GPUs (v6.1)."""
    return isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))


class Albumentations:
    """v6.2's rare blur, grey and contrast of training images: ``images, labels = Albumentations()(image, labels)``.

    Images are (H, W, 3) uint8, labels (N, 5) class, centre x, centre y, width, height as fractions. Without the package
    albumentations, images and labels stay as they are, as in v6.2. Training here does not use it.
    """

    def __init__(self) -> None:
        """Build the transformations if the package is installed."""
        self.transform: Any = None
        if not is_installed("albumentations"):
            LOGGER.info("albumentations is not installed: its augmentations are left out (pip install albumentations)")
            return
        package = require("albumentations", "Albumentations()")
        chosen = [package.Blur, package.MedianBlur, package.ToGray, package.CLAHE]
        boxes = package.BboxParams(format="yolo", label_fields=["class_labels"])
        self.transform = package.Compose([make(p=RARELY) for make in chosen], bbox_params=boxes)

    def __call__(self, im: NDArray, labels: NDArray, p: float = 1.0) -> tuple[NDArray, NDArray]:
        """Transform an image and its labels with probability ``p``."""
        if self.transform is None or random.random() >= p:
            return im, labels
        changed = self.transform(image=im, bboxes=labels[:, 1:], class_labels=labels[:, 0])
        rows = [[index, *box] for index, box in zip(changed["class_labels"], changed["bboxes"], strict=True)]
        return changed["image"], np.array(rows, labels.dtype).reshape(-1, 5)


# -- time --------------------------------------------------------------------------------------------------------------


class Profile(ContextDecorator):
    """Seconds spent in a block (v7.0): ``with Profile() as timer: ...``, then ``timer.dt``; ``timer.t`` adds them up.

    The GPU is waited for if there is one.
    """

    def __init__(self, t: float = 0.0) -> None:
        """Start the sum at ``t`` seconds."""
        self.t, self.dt, self._start = t, 0.0, 0.0

    def __enter__(self) -> Profile:
        """Start the clock."""
        self._start = self.time()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        self.dt = self.time() - self._start
        self.t += self.dt

    def time(self) -> float:
        """Return the time in seconds after all work of the GPU."""
        return time_sync() if torch.cuda.is_available() else time.time()
