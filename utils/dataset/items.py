"""A data set with labels; each item is a training or validation image, ready for the network."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from utils.augmentations import draw_colours, draw_warp, letterbox, mixup, recolour, warp_labels, warp_limits
from utils.dataset.image_cache import CACHES, ImageStore, cache_in_memory, cache_on_disk, content_hash
from utils.dataset.images import read_image
from utils.dataset.label_cache import forget_images, load_labels
from utils.dataset.labels import img2label_paths
from utils.dataset.mosaic import draw_mosaic
from utils.dataset.unreadable import LeftOut, UnreadableError
from utils.errors import InputError, is_of_one_file, short_repr
from utils.geometry.boxes import xywhn2xyxy, xyxy2xywhn
from utils.geometry.tiles import Scene, Tile
from utils.log import LOGGER, log_once

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]
Item = tuple[torch.Tensor, torch.Tensor, str, Shapes | None]
SplitPath = str | Path | Sequence[str | Path]

EDGE_PIXELS = 1e-3  # boxes end at least this far from the right and lower edge of the image
REDUCTIONS = (8, 4, 2)  # factors by which a JPEG can be reduced while it is decoded


class UnlabelledError(InputError):
    """None of the images to train with has a label file.

    Attributes:
        images: their paths.
    """

    def __init__(self, message: str, images: Sequence[str]) -> None:
        super().__init__(message)
        self.images = images


class LoadImagesAndLabels(Dataset):
    """Images of a split with their labels, prepared for the network.

    An item consists of
        the image (3, H, W), uint8 RGB;
        its labels (n, 6) float32: 0 (for the index in the batch), class, centre x, centre y, width, height, as
            fractions of the item's image;
        its path;
        None for a mosaic, else ((h0, w0) of the file, ((scale y, scale x), (padding x, padding y) in pixels)), which
            maps boxes back to the file.

    An image that was readable at the scan and is not any more is logged once and left out: training takes the next one
    in its place, with the same random numbers; otherwise its item raises UnreadableError, and lists of items
    (``__getitems__``) omit it.

    Args:
        path: folder, list file, or several of them (see ``utils.dataset.image_files.find_images``).
        img_size: side of the square, or the longer side of rectangles, in pixels.
        batch_size: images of one rectangular batch.
        augment: apply the augmentations of ``hyp``; there must be labels.
        hyp: hyperparameters by name; missing ones count as 0.
        rect: batches of images with a similar aspect ratio, in rectangles instead of squares; no mosaics.
        image_weights: items are taken from ``indices``, redrawn by the training for each epoch; excludes ``rect``.
        cache_images: True or 'ram' keeps the resized images in memory, 'disk' in a file next to the label cache; 'auto'
            keeps them in memory if they fit comfortably; False or 'none' reads them from their files each time.
        single_cls: treat all classes as one.
        stride: sides of rectangles are multiples of it, in pixels.
        pad: added to rectangles, in strides.
        prefix: text before each message.

    Attributes:
        im_files, label_files: paths.
        label_file_count: number of label files that exist.
        labels: for each image (n, 5) float32: class, centre x, centre y, width, height, as fractions of the image.
        segments: for each image an empty list, or for each label its polygon (P, 2) as fractions, or None.
        shapes: (N, 2) width and height in pixels.
        batch: (N,) batch of each image. batch_shapes: (batches, 2) height and width in pixels (only with ``rect``).
        own_augmentation: changes each warped image and its labels, see ``own_augmentation.OwnAugmentation``; or None.

    Raises:
        MissingFileError: a path does not exist.
        InputError: no image is usable. UnlabelledError: there are no labels to train with.
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
        self.version = 0  # rises when items change, so that those prepared in advance are discarded
        self._mosaic_closed = torch.zeros((), dtype=torch.bool).share_memory_()  # visible to loader processes, too
        self.mosaic_border = (-img_size // 2, -img_size // 2)

        table, cache_file = load_labels(path, prefix)
        self.im_files, self.labels, self.segments = table.images, table.labels, table.segments
        self.label_files = img2label_paths(self.im_files)
        self.shapes = table.sizes.astype(np.int64)
        self.n = len(self.im_files)
        self.label_file_count = table.counts["found"]
        if augment and not self.label_file_count:
            raise UnlabelledError(
                f"no labels to train with: none of the {self.n} images of {path} has a label file; "
                f"expected, for example, {self.label_files[0]}",
                self.im_files,
            )
        if single_cls:
            self.labels.rows[:, 0] = 0
        if self.rect:
            aspects = self.shapes[:, 1] / self.shapes[:, 0]
            # NumPy's order of equal doubles depends on the processor; that of long doubles is always v6.2's
            self._reorder(aspects.astype(np.longdouble).argsort())
        self._prefix, self._label_cache = prefix, cache_file
        self.images: ImageStore | None = None
        self._cache_images("ram" if cache_images is True else cache_images or "none")
        self.indices: Sequence[int] = range(self.n)
        self.batch = np.arange(self.n) // batch_size
        if self.rect:
            self.batch_shapes = rectangle_shapes(self.shapes, self.batch, img_size, stride, pad)
        self.left_out = LeftOut(self.n)
        self.own_augmentation: Callable[[np.ndarray, np.ndarray, str], tuple[np.ndarray, np.ndarray]] | None = None

    def _reorder(self, order: np.ndarray) -> None:
        """Keep only the images with these indices, in this order."""
        self.n = len(order)
        self.shapes = self.shapes[order]
        self.label_files = [self.label_files[index] for index in order]
        for name in ("im_files", "labels", "segments"):
            setattr(self, name, getattr(self, name).reordered(order))

    def __len__(self) -> int:
        return self.n

    def close_mosaic(self) -> bool:
        """Stop making mosaics, in running loader processes as well; returns whether that changes anything."""
        changes = self.mosaic and not self._mosaic_closed and self.hyp.get("mosaic", 0.0) > 0
        self._mosaic_closed.fill_(True)
        self.version += bool(changes)
        return bool(changes)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Prepare item ``index``, or (index, seed): then the seed determines all random numbers of the item.

        Raises UnreadableError if the image cannot be read; in training, InputError if none can.
        """
        while True:
            try:
                return self._item(index)
            except UnreadableError:
                if not self.augment:
                    raise  # in training it is now known to be unreadable, and the next attempt takes another

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[Item]:
        """Prepare the items of a batch, without those that cannot be read."""
        items = []
        for index in indices:
            try:
                items.append(self[index])
            except UnreadableError:
                continue
        return items

    def _usable(self, number: int) -> int:
        """Return ``number``, or in training the next image if that one is left out. Raises InputError if all are."""
        if not self.augment:
            return number
        kept = self.left_out.first_kept(number)
        if kept is None:
            raise InputError(f"{self._prefix}none of the {self.n} images of {self.path} can be read any more")
        return kept

    def _item(self, index: int | tuple[int, int]) -> Item:
        if isinstance(index, tuple):
            index, seed = index
            random.seed(seed)
            np.random.seed(seed)
        asked = self.indices[index]
        number = self._usable(asked)
        shapes: Shapes | None = None
        second: tuple[Scene, np.ndarray] | None = None  # to be blended with the first
        if self.mosaic and not self._mosaic_closed and self._draws("mosaic"):
            scene, labels = draw_mosaic(self, number, self._usable)
            if self._draws("mixup"):
                second = draw_mosaic(self, self._usable(random.randint(0, self.n - 1)), self._usable)
        else:
            scene, labels, shapes = self._single(number, self.batch[asked])  # its shape is that of the batch
        upside_down = self.augment and self._draws("flipud")
        mirrored = self.augment and self._draws("fliplr")
        image = scene.render(upside_down, mirrored)  # (H, W, 3 or 4) BGR
        if second is not None:
            image, labels = mixup(image, labels, second[0].render(upside_down, mirrored), second[1])
        height, width = image.shape[:2]
        if len(labels):
            labels[:, 1:5] = xyxy2xywhn(labels[:, 1:5], w=width, h=height, clip=True, eps=EDGE_PIXELS)
            if mirrored:
                labels[:, 1] = 1 - labels[:, 1]
            if upside_down:
                labels[:, 2] = 1 - labels[:, 2]
        if self.own_augmentation is not None:
            image, labels = self.own_augmentation(image, labels, self.im_files[number])
        if self.augment:
            hyp = self.hyp
            colours = draw_colours(hyp.get("hsv_h", 0.0), hyp.get("hsv_s", 0.0), hyp.get("hsv_v", 0.0))
            if colours is not None:
                image = recolour(image, colours)
        targets = torch.zeros((len(labels), 6))
        targets[:, 1:] = torch.from_numpy(labels)
        return _rgb_tensor(image), targets, self.im_files[number], shapes

    def _draws(self, name: str) -> bool:
        """Draw whether an augmentation is applied, whose probability is the hyperparameter ``name``."""
        return random.random() < self.hyp.get(name, 0.0)

    def _single(self, index: int, batch: int) -> tuple[Scene, np.ndarray, Shapes]:
        """Fit one image into the rectangle of its batch, or a square.

        Returns:
            The scene; rows (n, 5): class, x1, y1, x2, y2 in its pixels; and the shapes that map boxes back.
        """
        image, (full_height, full_width), (height, width) = self.load_image(index)
        target = self.batch_shapes[batch] if self.rect else self.img_size
        image, (scale_x, scale_y), padding = letterbox(image, target, auto=False, scaleup=self.augment)
        shapes = (full_height, full_width), ((height / full_height, width / full_width), padding)
        labels = self.labels[index].copy()
        labels[:, 1:] = xywhn2xyxy(labels[:, 1:], scale_x * width, scale_y * height, *padding)
        size = image.shape[:2]
        matrix = np.eye(3)
        if self.augment:
            matrix, zoom = draw_warp(size, size, warp_limits(self.hyp))
            labels = warp_labels(labels, (), matrix, zoom, size)
        return Scene([Tile(image)], size, matrix, size), labels, shapes

    def draw_by_weight(self, class_weights: np.ndarray, chance: random.Random) -> None:
        """Draw new ``indices``, with repetition; an image's weight is the sum of its labels' class weights (nc,)."""
        counts = [np.bincount(rows[:, 0].astype(int), minlength=len(class_weights)) for rows in self.labels]
        self.indices = chance.choices(range(self.n), weights=(np.stack(counts) @ class_weights).tolist(), k=self.n)

    def _cache_images(self, cache: str) -> None:
        """Keep the resized images in memory or on disk, see the class; those that cannot be read are left out."""
        while cache != "none":
            sizes = np.array([resized_shape(width, height, self.img_size) for width, height in self.shapes.tolist()])
            try:
                if cache != "disk":
                    self.images = cache_in_memory(self._read_resized, sizes, self._prefix, required=cache == "ram")
                else:
                    self.images = self._cache_on_disk(sizes)
                return
            except UnreadableError as error:
                self._drop(error.reasons)

    def _cache_on_disk(self, sizes: np.ndarray) -> ImageStore:
        use = "training" if self.augment else "validation"  # which resize in different ways
        file = self._label_cache.with_name(f"{self._label_cache.stem}.{self.img_size}.{use}.images")
        options = f"{self.img_size} {use} {cv2.__version__}"
        digest = content_hash(self.im_files, options, self._prefix)
        return cache_on_disk(self._read_resized, sizes, file, digest, self._prefix)

    def _drop(self, reasons: Mapping[int, str]) -> None:
        """Remove these images, from the label cache as well. Raises InputError if none is left."""
        for reason in reasons.values():
            LOGGER.warning(f"{self._prefix}WARNING: ignoring {reason}")
        forget_images(self._label_cache, [self.im_files[number] for number in reasons])
        self._reorder(np.array([number for number in range(self.n) if number not in reasons], np.int64))
        if not self.n:
            raise InputError(f"none of the images of {self.path} can be read; {next(iter(reasons.values()))}")

    def settle(self) -> None:
        """Update the label cache with the images left out since the last call; only this process writes it."""
        forget_images(self._label_cache, [self.im_files[number] for number in self.left_out.fresh()])

    def load_image(self, index: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Read image ``index``, its longer side resized to ``img_size``.

        Returns:
            BGR (h, w, 3), which must not be written to; (h0, w0) of the file; (h, w).

        Raises:
            UnreadableError: it cannot be read, now or earlier.
        """
        if index in self.left_out:
            raise UnreadableError({index: f"{self.im_files[index]} is left out"})
        image = self._kept_image(index)
        if image is None:
            try:
                image = self._read_resized(index)
            except InputError as error:
                if not is_of_one_file(error):
                    raise
                self.left_out.add(index, str(error), self._prefix)
                raise UnreadableError({index: str(error)}) from error
        full_width, full_height = self.shapes[index].tolist()
        return image, (full_height, full_width), (image.shape[0], image.shape[1])

    def _kept_image(self, index: int) -> np.ndarray | None:
        """Return the image from the cache, if there is one; a cache file that has changed is not used any more."""
        if self.images is None:
            return None
        try:
            return self.images[index]
        except InputError as error:
            log_once(f"{self._prefix}WARNING: {error}: from now on the images are read from their files")
            self.images = None
            return None

    def _read_resized(self, index: int) -> np.ndarray:
        """Read image ``index`` from its file and resize it: BGR (h, w, 3)."""
        reduction = self._reduction(index)
        image = read_image(self.im_files[index], reduction)
        full_width, full_height = self.shapes[index].tolist()
        height, width = image.shape[:2]
        if abs(width * reduction - full_width) >= reduction or abs(height * reduction - full_height) >= reduction:
            raise InputError(f"{self.im_files[index]} has changed since the scan ({full_width}x{full_height} pixels)")
        size = resized_shape(full_width, full_height, self.img_size)
        if size != (image.shape[1], image.shape[0]):
            enlarges = self.img_size > max(full_height, full_width)
            method = cv2.INTER_LINEAR if self.augment or enlarges else cv2.INTER_AREA
            image = cv2.resize(image, size, interpolation=method)
        return image

    def _reduction(self, index: int) -> int:
        """Factor by which to reduce a large JPEG while decoding it; validation stays exact and never reduces."""
        if not self.augment or not self.im_files[index].lower().endswith((".jpg", ".jpeg")):
            return 1
        longer_side = int(self.shapes[index].max())
        return next((factor for factor in REDUCTIONS if longer_side >= factor * self.img_size), 1)


def resized_shape(width: int, height: int, longer_side: int) -> tuple[int, int]:
    """(width, height) in pixels of an image after resizing its longer side to ``longer_side``, rounded down."""
    scale = longer_side / max(width, height)
    if scale == 1:
        return width, height
    return max(int(width * scale), 1), max(int(height * scale), 1)


def rectangle_shapes(shapes: np.ndarray, batch: np.ndarray, img_size: int, stride: int, pad: float) -> np.ndarray:
    """Smallest rectangles for batches of images sorted by aspect ratio -> (batches, 2) int, height and width in pixels.

    Args:
        shapes: (N, 2) width and height.
        batch: (N,) batch of each image, ascending.
        img_size: longer side, before ``pad`` strides are added.
        stride: sides are rounded up to multiples of it.
        pad: in strides.
    """
    aspects = shapes[:, 1] / shapes[:, 0]  # (N,) height / width
    sides = []  # (height, width) of each batch, as fractions of img_size
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
    """BGR (H, W, 3), or (H, W, 4) with a meaningless fourth channel -> RGB (3, H, W), contiguous."""
    planes = np.empty((image.shape[2], *image.shape[:2]), np.uint8)
    cv2.split(image, [planes[2], planes[1], planes[0], *planes[3:]])
    return torch.from_numpy(planes[:3])
