"""Augmentation of your own with Albumentations 2: pip install "albumentations==2.0.8"

python train.py --data mask.yaml --weights yolov5n.pt --augment examples/augment_albumentations.py:augment

The first four transforms are those that YOLOv5 v6.2 applies by itself where the package is installed.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks the network for a newer version

import albumentations
import cv2
import numpy as np

TRANSFORM = albumentations.Compose(
    [
        albumentations.Blur(p=0.01),
        albumentations.MedianBlur(p=0.01),
        albumentations.ToGray(p=0.01),
        albumentations.CLAHE(p=0.01),
        albumentations.Affine(scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), fill=114, p=0.2),  # moves boxes, too
    ],
    bbox_params=albumentations.BboxParams(format="yolo", label_fields=["classes"], clip=True, min_visibility=0.1),
)


def augment(image, labels, rng):
    """(H, W, 3) uint8 BGR; labels (N, 5): class, centre x, centre y, width, height as fractions -> the same, changed.

    ``rng`` is seeded for this image. Albumentations has generators of its own: without a seed no run would repeat.
    """
    TRANSFORM.set_random_seed(int(rng.integers(2**32)))
    rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # which ToGray and CLAHE expect
    changed = TRANSFORM(image=rgb, bboxes=labels[:, 1:], classes=labels[:, 0])
    boxes = np.asarray(changed["bboxes"], np.float32).reshape(-1, 4)
    classes = np.asarray(changed["classes"], np.float32).reshape(-1, 1)
    return cv2.cvtColor(changed["image"], cv2.COLOR_RGB2BGR), np.hstack((classes, boxes))
