"""A data set with labels: each item is one training or validation image, ready for the network."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from utils.augmentations import draw_colours, draw_warp, letterbox, mixup, recolour, warp_labels, warp_limits
from utils.boxes import xywhn2xyxy, xyxy2xywhn
from utils.errors import InputError, short_repr
from utils.image_cache import CACHES, ImageStore, cache_in_memory, cache_on_disk, content_hash
from utils.images import read_image
from utils.label_cache import load_labels
from utils.labels import img2label_paths
from utils.mosaic import draw_mosaic
from utils.tiles import Scene, Tile

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]
Item = tuple[torch.Tensor, torch.Tensor, str, Shapes | None]
SplitPath = str | Path | Sequence[str | Path]

EDGE_PIXELS = 1e-3  # boxes end this far before the right and lower edge of the image
REDUCTIONS = (8, 4, 2)  # what a JPEG can be divided by while it is decoded


class LoadImagesAndLabels(Dataset):
    """Images of a split with their labels, prepared for the network.

    An item is: image (3, H, W) uint8 RGB; labels (n, 6) float32: 0 (place for the index in the batch), class, and the
    box as centre and size, fractions of the item's image; path; and None for a mosaic, else ((h0, w0) of the file,
    ((scale y, scale x), (padding x, padding y) in pixels)), which maps boxes back.

    Args:
        path: folder, list file, or several of them (see ``utils.labels.find_images``).
        img_size: side of the square, or the longer side of rectangles, in pixels.
        batch_size: images of one rectangular batch.
        augment: apply the augmentations of ``hyp``; images then must have labels.
        hyp: hyperparameters by name; what is absent counts as 0.
        rect: batches of images with like aspect, in rectangles instead of squares; no mosaics.
        image_weights: items are taken from ``indices``, refilled by the training for each epoch; excludes ``rect``.
        cache_images: True or 'ram' keeps the resized images in memory, 'disk' in a file beside the label cache; 'auto'
            keeps them in memory where they fit comfortably; False or 'none' reads them anew each time.
        single_cls: treat all classes as one.
        stride: rectangle sides are multiples of it, pixels. pad: added to rectangles, in strides.
        prefix: text before each message.

    Attributes:
        im_files, label_files: paths. labels: of each image (n, 5) float32. segments: for each image an empty list, or
        for each label its polygon (P, 2) as fractions, or None. shapes: (N, 2) width and height. batch: batch of each
        image. batch_shapes: (batches, 2) height and width (only with ``rect``).

    Raises:
        MissingFileError: a path does not exist. InputError: no usable image, or no labels to train with.
    """

    def __init__(
        self,
        path: SplitPath,
        img_size: int = 640,
        batch_size: int = 16,
        augment: bool = False,
        hyp: Mapping[str, float] | None = None,
        rect: bool = False,
        image_weights: bool = False,
        cache_images: bool | str | None = False,
        single_cls: bool = False,
        stride: int = 32,
        pad: float = 0.0,
        prefix: str = "",
    ) -> None:
        if cache_images not in (None, False, True, *CACHES):
            raise InputError(
                f"image cache {short_repr(cache_images)} is not supported, expected one of {', '.join(CACHES)}"
            )
        self.path, self.img_size, self.stride = path, img_size, stride
        self.augment, self.image_weights = augment, image_weights
        self.hyp: Mapping[str, float] = hyp or {}
        self.rect = rect and not image_weights
        self.mosaic = augment and not self.rect
        self.version = 0  # rises when items change, so that those prepared ahead are thrown away
        self._mosaic_closed = torch.zeros((), dtype=torch.bool).share_memory_()  # loader processes see it, too
        self.mosaic_border = (-img_size // 2, -img_size // 2)

        table, cache_file = load_labels(path, prefix)
        self.im_files, self.labels, self.segments = table.images, table.labels, table.segments
        self.label_files = img2label_paths(self.im_files)
        self.shapes = table.sizes.astype(np.int64)
        self.n = len(self.im_files)
        self.indices: Sequence[int] = range(self.n)
        self.batch = np.arange(self.n) // batch_size
        if augment and not table.counts["found"]:
            raise InputError(
                f"no labels to train with: none of the {self.n} images of {path} has a label file; "
                f"expected, for example, {self.label_files[0]}"
            )
        if single_cls:
            self.labels.rows[:, 0] = 0
        if self.rect:
            self._sort_by_aspect()
            self.batch_shapes = rectangle_shapes(self.shapes, self.batch, img_size, stride, pad)
        self.images = self._cache_images("ram" if cache_images is True else cache_images or "none", cache_file, prefix)

    def _sort_by_aspect(self) -> None:
        aspects = self.shapes[:, 1] / self.shapes[:, 0]
        # numpy sorts equal doubles in an order that depends on the processor; its long doubles always as v6.2 did
        order = aspects.astype(np.longdouble).argsort()
        self.shapes = self.shapes[order]
        self.label_files = [self.label_files[index] for index in order]
        for name in ("im_files", "labels", "segments"):
            setattr(self, name, getattr(self, name).reordered(order))

    def __len__(self) -> int:
        return self.n

    def close_mosaic(self) -> bool:
        """Give single images from now on, in running loader processes as well; whether that changes anything."""
        changes = self.mosaic and not self._mosaic_closed and self.hyp.get("mosaic", 0.0) > 0
        self._mosaic_closed.fill_(True)
        self.version += bool(changes)
        return bool(changes)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Prepare the item ``index``, or (index, seed): the seed then decides all random numbers of the item."""
        if isinstance(index, tuple):
            index, seed = index
            random.seed(seed)
            np.random.seed(seed)
        index = self.indices[index]
        shapes: Shapes | None = None
        blended: tuple[Scene, np.ndarray] | None = None
        if self.mosaic and not self._mosaic_closed and random.random() < self.hyp.get("mosaic", 0.0):
            scene, labels = draw_mosaic(self, index)
            if random.random() < self.hyp.get("mixup", 0.0):
                blended = draw_mosaic(self, random.randint(0, self.n - 1))
        else:
            scene, labels, shapes = self._single(index)
        upside_down, mirrored = (
            self.augment and random.random() < self.hyp.get(name, 0.0) for name in ("flipud", "fliplr")
        )
        image = scene.render(upside_down, mirrored)
        if blended is not None:
            image, labels = mixup(image, labels, blended[0].render(upside_down, mirrored), blended[1])
        if self.augment:
            colours = draw_colours(*(self.hyp.get(name, 0.0) for name in ("hsv_h", "hsv_s", "hsv_v")))
            image = image if colours is None else recolour(image, colours)
        height, width = image.shape[:2]
        targets = torch.zeros((len(labels), 6))
        if len(labels):
            labels[:, 1:5] = xyxy2xywhn(labels[:, 1:5], w=width, h=height, clip=True, eps=EDGE_PIXELS)
            labels[:, 1] = 1 - labels[:, 1] if mirrored else labels[:, 1]
            labels[:, 2] = 1 - labels[:, 2] if upside_down else labels[:, 2]
            targets[:, 1:] = torch.from_numpy(labels)
        return _rgb_tensor(image), targets, self.im_files[index], shapes

    def _single(self, index: int) -> tuple[Scene, np.ndarray, Shapes]:
        """One image in its rectangle or square, not mixed; rows (n, 5) with corners in pixels; and its shapes."""
        image, (full_height, full_width), (height, width) = self.load_image(index)
        target = self.batch_shapes[self.batch[index]] if self.rect else self.img_size
        image, (scale_x, scale_y), padding = letterbox(image, target, auto=False, scaleup=self.augment)
        shapes = (full_height, full_width), ((height / full_height, width / full_width), padding)
        labels = self.labels[index].copy()
        labels[:, 1:] = xywhn2xyxy(labels[:, 1:], scale_x * width, scale_y * height, *padding)
        size, matrix = image.shape[:2], np.eye(3)
        if self.augment:
            matrix, zoom = draw_warp(size, size, **warp_limits(self.hyp))
            labels = warp_labels(labels, (), matrix, zoom, size)
        return Scene([Tile(image)], size, matrix, size), labels, shapes

    def draw_by_weight(self, class_weights: np.ndarray, chance: random.Random) -> None:
        """Draw new ``indices``, with repetition, by the weights (nc,) of the classes of each image's labels."""
        counts = [np.bincount(rows[:, 0].astype(int), minlength=len(class_weights)) for rows in self.labels]
        self.indices = chance.choices(range(self.n), weights=(np.stack(counts) @ class_weights).tolist(), k=self.n)

    def _cache_images(self, kind: str, label_cache: Path, prefix: str) -> ImageStore | None:
        """Keep the resized images in memory or on disk, see the class; None where they are not kept."""
        if kind == "none":
            return None
        sizes = np.array([resized_shape(width, height, self.img_size) for width, height in self.shapes.tolist()])
        if kind != "disk":
            return cache_in_memory(self._read_resized, sizes, prefix, wanted=kind == "ram")
        use = "training" if self.augment else "validation"  # they resize in different ways
        place = label_cache.with_name(f"{label_cache.stem}.{self.img_size}.{use}.images")
        options = f"{self.img_size} {use} {cv2.__version__}"
        digest = content_hash(self.im_files, options, prefix)
        return cache_on_disk(self._read_resized, sizes, place, digest, prefix)

    def load_image(self, index: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Read image ``index``, its longer side resized to ``img_size``.

        Returns:
            BGR (h, w, 3), not to be written to; (h0, w0) of the file; (h, w).
        """
        image = self._read_resized(index) if self.images is None else self.images[index]
        full_width, full_height = self.shapes[index].tolist()
        return image, (full_height, full_width), (image.shape[0], image.shape[1])

    def _read_resized(self, index: int) -> np.ndarray:
        image = read_image(self.im_files[index], self._reduction(index))
        full_width, full_height = self.shapes[index].tolist()
        size = resized_shape(full_width, full_height, self.img_size)
        if size != (image.shape[1], image.shape[0]):
            enlarges = self.img_size > max(full_height, full_width)
            method = cv2.INTER_LINEAR if self.augment or enlarges else cv2.INTER_AREA
            image = cv2.resize(image, size, interpolation=method)
        return image

    def _reduction(self, index: int) -> int:
        """Training decodes a large JPEG at a fraction of its size that is still enough; validation stays exact."""
        if not self.augment or not self.im_files[index].lower().endswith((".jpg", ".jpeg")):
            return 1
        longer_side = int(self.shapes[index].max())
        return next((factor for factor in REDUCTIONS if longer_side >= factor * self.img_size), 1)


def resized_shape(width: int, height: int, longer_side: int) -> tuple[int, int]:
    """(width, height) of an image after resizing its longer side to ``longer_side``, pixels; decimals are cut off."""
    scale = longer_side / max(width, height)
    if scale == 1:
        return width, height
    return max(int(width * scale), 1), max(int(height * scale), 1)


def rectangle_shapes(shapes: np.ndarray, batch: np.ndarray, img_size: int, stride: int, pad: float) -> np.ndarray:
    """Smallest rectangles for batches of images sorted by aspect -> (batches, 2) int, height and width in pixels.

    Args:
        shapes: (N, 2) width and height. batch: (N,) batch of each image, ascending. img_size: the longer side, before
            ``pad`` strides are added; sides are rounded up to multiples of ``stride``.
    """
    aspects = shapes[:, 1] / shapes[:, 0]
    sides = []
    for number in range(batch[-1] + 1):
        members = aspects[batch == number]
        lowest, highest = members.min(), members.max()
        if highest < 1:
            sides.append((highest, 1.0))
        elif lowest > 1:
            sides.append((1.0, 1 / lowest))
        else:
            sides.append((1.0, 1.0))
    return np.ceil(np.array(sides) * img_size / stride + pad).astype(int) * stride


def _rgb_tensor(image: np.ndarray) -> torch.Tensor:
    """BGR (H, W, 3), or (H, W, 4) whose fourth channel means nothing -> RGB (3, H, W), contiguous."""
    planes = np.empty((image.shape[2], *image.shape[:2]), np.uint8)
    cv2.split(image, [planes[2], planes[1], planes[0], *planes[3:]])
    return torch.from_numpy(planes[:3])
