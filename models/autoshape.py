"""AutoShape, the model returned by ``torch.hub.load``: pictures of any kind in, detections in their pixels out."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.backends import DetectMultiBackend
from models.detections import Detections
from utils.augmentations import letterbox
from utils.dataset.images import read_image
from utils.device import time_sync
from utils.downloads import download, is_url, url_name
from utils.errors import InputError, short_repr
from utils.geometry.boxes import scale_coords
from utils.geometry.nms import non_max_suppression
from utils.log import LOGGER
from utils.storage.results import UniqueStems

__all__ = ["AutoShape", "Detections"]

DEFAULT_SIZE = 640  # pixels
CARRIED = ("yaml", "nc", "hyp", "names", "stride")  # attributes of the model that the wrapper has, too


class AutoShape(nn.Module):
    """A detector that takes pictures of any kind: it reads, letterboxes and batches them, and applies NMS.

    Attributes:
        conf: minimum confidence.
        iou: IoU threshold of NMS.
        agnostic: let boxes of different classes suppress each other.
        multi_label: allow several classes for one box.
        classes: keep only these class indices; None for all.
        max_det: maximum number of detections per picture.
        amp: compute in mixed precision (on a GPU).
        model: the wrapped DetectMultiBackend or DetectionModel; its names and stride are attributes here, too.
    """

    conf: float = 0.25
    iou: float = 0.45
    agnostic: bool = False
    multi_label: bool = False
    classes: list[int] | None = None
    max_det: int = 1000
    amp: bool = False

    names: Any
    stride: Any

    def __init__(self, model: nn.Module, verbose: bool = True) -> None:
        """Wrap ``model`` and put it into eval mode; ``verbose`` logs that."""
        super().__init__()
        if verbose:
            LOGGER.info("Adding AutoShape: the model takes files, addresses, PIL images, arrays, and lists of these")
        for name in CARRIED:
            if name in vars(model):
                setattr(self, name, getattr(model, name))
        self.model = model.eval()
        for module in model.modules():
            if type(module).__name__ == "Detect":
                module.inplace = False  # type: ignore[assignment]  # the result does not share memory with the maps

    @torch.no_grad()
    def forward(
        self, imgs: Any, size: int | Sequence[int] | None = None, augment: bool = False, profile: bool = False
    ) -> Any:
        """Detect in one picture or in several.

        Args:
            imgs: a path, an http(s) address, a PIL image or an array, or a list of these. Arrays are RGB, (H, W, 3) or
                (3, H, W), or grey (H, W), with values from 0 to 255. A tensor (B, 3, H, W) in 0..1 is passed to the
                model unchanged.
            size: longer side that pictures are scaled to, or (height, width) to fit into, in pixels; default: 640, or
                the size that an export takes.
            augment: test-time augmentation.
            profile: log the time of each layer.

        Returns:
            Detections; for a tensor, the output of the model.

        Raises:
            InputError: a picture is not one of these, or none of the files can be read. If only some cannot be read,
                they are logged and have no detections, and Detections.unreadable says why.
        """
        if isinstance(imgs, Tensor):
            return self._infer(imgs, augment, profile)
        if isinstance(self.model, DetectMultiBackend):
            self.model.check_request(self.conf, self.iou, augment, agnostic=self.agnostic)
        times = [time_sync()]
        pictures, files, unreadable = read_pictures(imgs)
        shape = self._network_shape([picture.shape[:2] for picture in pictures], size)
        batch = np.stack([letterbox(picture, shape, auto=False)[0] for picture in pictures])  # (B, H, W, 3)
        tensor = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))  # (B, 3, H, W)
        tensor = tensor.to(self._parameter.device).type_as(self._parameter) / 255
        times.append(time_sync())
        output = self._infer(tensor, augment, profile)
        times.append(time_sync())
        detections = non_max_suppression(
            output,
            self.conf,
            self.iou,
            classes=self.classes,
            agnostic=self.agnostic,
            multi_label=self.multi_label,
            max_det=self.max_det,
        )  # B times (N, 6)
        for boxes, picture in zip(detections, pictures, strict=True):
            scale_coords(shape, boxes[:, :4], picture.shape[:2])
        for index in unreadable:
            detections[index] = detections[index][:0]
        times.append(time_sync())
        return Detections(pictures, detections, files, times, self.names, tuple(tensor.shape), unreadable)

    @property
    def _parameter(self) -> Tensor:
        """A tensor with the model's device and precision."""
        return next(self.model.parameters(), torch.zeros(1))

    def _infer(self, tensor: Tensor, augment: bool, profile: bool) -> Any:
        """Return the model's output for images (B, 3, H, W) in 0..1."""
        parameter, model = self._parameter, self.model
        options = {"augment": augment}
        if profile:
            if augment or not getattr(model, "pt", True):
                raise InputError("profile=True times the layers of a PyTorch model without augment=True")
            if isinstance(model, DetectMultiBackend):
                model = model.model
            options["profile"] = True
        with torch.autocast(parameter.device.type, enabled=self.amp and parameter.device.type != "cpu"):
            return model(tensor.to(parameter.device).type_as(parameter), **options)

    def _network_shape(self, shapes: Sequence[tuple[int, int]], size: int | Sequence[int] | None) -> tuple[int, int]:
        """Smallest (height, width) that all pictures of these (height, width) fit into once scaled to ``size``."""
        if isinstance(self.model, DetectMultiBackend) and self.model.fixed_size:
            height, width = self.model.image_size(size)
            return height, width
        if size is None:
            size = self.model.image_size(None) if isinstance(self.model, DetectMultiBackend) else DEFAULT_SIZE
        asked = (size, size) if isinstance(size, int) else tuple(size)
        if len(asked) != 2 or min(asked) < 1:
            raise InputError(f"size must be a number of pixels or (height, width), got {short_repr(size)}")
        stride = max(int(torch.as_tensor(getattr(self, "stride", 32)).max()), 32)
        longest = max(asked)
        tallest = max(shape[0] * longest / max(shape) for shape in shapes)
        widest = max(shape[1] * longest / max(shape) for shape in shapes)
        return math.ceil(tallest / stride) * stride, math.ceil(widest / stride) * stride


def read_pictures(source: Any) -> tuple[list[np.ndarray], list[str], dict[int, str]]:
    """Read one picture or a list of them.

    Returns:
        RGB arrays (H, W, 3) uint8; for each a unique file name ending in .jpg; and {index: why the file cannot be
        read}, where a black picture takes its place.

    Raises:
        InputError: a picture is of another type, or none can be read.
    """
    items = list(source) if isinstance(source, (list, tuple)) else [source]
    if not items:
        raise InputError("no pictures given: the list is empty")
    stem = UniqueStems()
    pictures: list[np.ndarray | None] = []
    files: list[str] = []
    unreadable: dict[int, str] = {}
    for index, item in enumerate(items):
        name = str(getattr(item, "filename", "") or f"image{index}")
        if isinstance(item, (str, Path)):
            name = url_name(str(item)) if is_url(item) else str(item)
            try:
                pictures.append(_read_file(str(item)))
            except InputError as error:
                pictures.append(None)
                unreadable[index] = str(error)
        else:
            pictures.append(_array(item, index))
        files.append(f"{stem(Path(name))}.jpg")
    present = [picture for picture in pictures if picture is not None]
    if not present:
        more = f" (nor can the {len(items) - 1} others)" if len(items) > 1 else ""
        raise InputError(unreadable[0] + more)
    for index, problem in unreadable.items():
        LOGGER.warning(f"picture {index} is left out: {problem}")
    blank = np.zeros_like(present[0])
    return [blank if picture is None else picture for picture in pictures], files, unreadable


def _array(item: Any, index: int) -> np.ndarray:
    """Convert an array or a PIL image to RGB (H, W, 3) uint8; ``index`` is for messages."""
    if isinstance(item, np.ndarray):
        return _rgb_array(item, index)
    if not (hasattr(item, "convert") and hasattr(item, "getexif")):  # recognises PIL images without importing PIL
        raise InputError(
            f"picture {index} is of type {type(item).__name__}: expected a path, an http(s) address, a PIL image "
            "or a NumPy array"
        )
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(item).convert("RGB"))


def _read_file(source: str) -> np.ndarray:
    """Read a path or an address as RGB (H, W, 3) uint8."""
    if not is_url(source):
        return np.ascontiguousarray(read_image(Path(source).expanduser())[:, :, ::-1])
    with tempfile.TemporaryDirectory() as folder:
        file = download(source, Path(folder) / url_name(source), progress=False)
        return np.ascontiguousarray(read_image(file)[:, :, ::-1])


def _rgb_array(array: np.ndarray, index: int) -> np.ndarray:
    """Convert an array as described in ``AutoShape.forward`` to (H, W, 3) uint8; further channels are dropped."""
    if array.ndim == 3 and array.shape[0] < 5:  # channels first
        array = array.transpose(1, 2, 0)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim != 3 or array.shape[2] < 3 or not array.size:
        raise InputError(f"picture {index} has the shape {array.shape}: expected (H, W, 3), (3, H, W) or (H, W)")
    if array.dtype != np.uint8:
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255) or (array.dtype.kind == "f" and 0 < high <= 1):
            raise InputError(
                f"picture {index} has values from {low:g} to {high:g} ({array.dtype}): expected 0 to 255, as uint8"
            )
        array = array.round().astype(np.uint8)
    return np.ascontiguousarray(array[:, :, :3])
