"""Augmentation of your own with OpenCV alone: JPEG artefacts and motion blur, as cheap moving cameras have them.

python train.py --data mask.yaml --weights yolov5n.pt --augment examples/augment_opencv.py:augment
"""

import cv2
import numpy as np

JPEG_SHARE = 0.3  # of the images
JPEG_QUALITIES = 20, 70
BLUR_SHARE = 0.2
LONGEST_BLUR = 9  # pixels


def augment(image, labels, rng):
    """Called with each training image as it will be trained on, after mosaic, warp and flips.

    Args:
        image: (H, W, 3) uint8, BGR.
        labels: (N, 5) float32: class, centre x, centre y, width, height, as fractions of the image.
        rng: a NumPy generator that is seeded for this image, so that runs repeat.

    Returns:
        An image of the same size and type, and its labels.
    """
    if rng.random() < BLUR_SHARE:
        image = cv2.filter2D(image, -1, streak(int(rng.integers(3, LONGEST_BLUR + 1)), rng.uniform(0, 180)))
    if rng.random() < JPEG_SHARE:
        quality = int(rng.integers(*JPEG_QUALITIES, endpoint=True))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return image, labels


def streak(length, degrees):
    """A kernel (L, L) that smears every pixel along a line of ``length`` pixels; its sum is 1."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    middle = (length - 1) / 2
    turned = cv2.warpAffine(kernel, cv2.getRotationMatrix2D((middle, middle), degrees, 1), (length, length))
    return turned / turned.sum()
