"""mAP of resampled images, and intervals of differences by a paired bootstrap over images and seeds.

A resample gives each image a weight: how often it was drawn. The precision-recall curve of a class is a staircase that
changes at correct detections only, so AP needs nothing but these: with weights w, correct detection k (by falling
confidence) has recall ``sum of w of the first k correct ones / sum of w of the labels`` and precision ``the same sum /
sum of w of all detections down to it``. With weights of 1, the result is that of ``utils.metrics.ap_per_class``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.frontier.matches import THRESHOLDS, Matches

RESAMPLES = 1000
ROWS = 64  # resamples that are computed together
GRID = np.linspace(0, 1, 101)  # recalls at which COCO samples a curve
TINY = 1e-16  # avoids 0 / 0, as in utils.metrics


def draw_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Number of times that each image is drawn in each resample: (R, I), each row sums to I."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.int32)


def mean_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """mAP50 and mAP50-95 of weighted images, (R, 2).

    The mean is over the classes of which a resample has labels.

    Args:
        matches: of I images.
        weights: (R, I), how often each image counts.
    """
    order = np.argsort(-matches.confidence, kind="stable")
    totals = np.zeros((len(weights), 2))
    classes = np.zeros(len(weights))  # that have labels, in each resample
    for class_index in np.unique(matches.label_class):
        of_class = order[matches.predicted[order] == class_index]  # (n,)
        labels = np.bincount(matches.label_image[matches.label_class == class_index], minlength=len(matches.images))
        label_count = weights @ labels  # (R,)
        ap = average_precision(matches.image[of_class], matches.hits[of_class], weights, label_count)  # (R, T)
        has_labels = label_count > 0
        totals[has_labels] += np.stack((ap[:, 0], ap.mean(1)), 1)[has_labels]
        classes += has_labels
    return totals / np.maximum(classes, 1)[:, None]


def average_precision(image: np.ndarray, hits: np.ndarray, weights: np.ndarray, label_count: np.ndarray) -> np.ndarray:
    """AP of one class at every threshold, (R, T).

    Args:
        image: (n,) image of each detection of the class, by falling confidence.
        hits: (n,) their bits of thresholds.
        weights: (R, I), how often each image counts.
        label_count: (R,), labels of the class, each as often as its image.
    """
    result = np.zeros((len(weights), THRESHOLDS))
    if not len(image):
        return result
    for start in range(0, len(weights), ROWS):
        rows = slice(start, start + ROWS)
        of_detections = weights[rows][:, image]  # (r, n)
        counts = of_detections.cumsum(1, dtype=np.int32)  # (r, n), detections down to each one
        for threshold in range(THRESHOLDS):
            correct = np.flatnonzero(hits >> threshold & 1)  # (K,)
            hit_counts = of_detections[:, correct].cumsum(1, dtype=np.int32)  # (r, K), correct ones down to each
            result[rows, threshold] = _area(hit_counts, counts[:, correct], counts[:, -1], label_count[rows])
    return result


def _area(
    hit_counts: np.ndarray, counts: np.ndarray, all_detections: np.ndarray, label_count: np.ndarray
) -> np.ndarray:
    """Areas (r,) under staircases, sampled at GRID.

    Args:
        hit_counts, counts: (r, K) correct detections, and all detections, down to each correct one.
        all_detections, label_count: (r,).
    """
    rows, steps = hit_counts.shape
    if not steps:
        return np.zeros(rows)
    recall = hit_counts / (label_count[:, None] + TINY)  # (r, K)
    precision = hit_counts / np.maximum(counts, 1)  # (r, K)
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # the highest at this recall or more
    # The first step beyond each point of the grid, in all rows at once: row i is moved by 2 i
    offset = 2.0 * np.arange(rows)[:, None]
    beyond = np.searchsorted((recall + offset).ravel(), (GRID + offset).ravel(), side="right").reshape(rows, -1)
    step = np.clip(beyond - steps * np.arange(rows)[:, None], 0, steps)  # (r, 101); K: beyond the last one
    padded = np.concatenate((envelope, np.zeros((rows, 1))), 1)  # (r, K + 1)
    curve = np.take_along_axis(padded, step, 1)  # (r, 101)
    # Behind the last step the curve falls in a straight line to precision 0 at recall 1
    last = recall[:, -1:]  # (r, 1)
    end = (hit_counts[:, -1] / np.maximum(all_detections, 1))[:, None]  # (r, 1), precision of all detections
    tail = end * (1 - GRID) / np.maximum(1 - last, TINY)  # (r, 101)
    curve = np.where(step == steps, np.where(last < 1, tail, 0.0), curve)
    return (curve[:, 1:] + curve[:, :-1]).sum(1) / 2 / (len(GRID) - 1)


@dataclass(frozen=True)
class Difference:
    """A mean difference and its interval of 95 %."""

    mean: float
    low: float
    high: float

    @property
    def is_certain(self) -> bool:
        """Tell whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], mean: float, seed: int = 0) -> Difference:
    """The interval of ``mean``, the difference ours - theirs, from resampled figures.

    Each resample draws images, the same for both methods and all seeds, and seeds, the same for both methods.

    Args:
        ours, theirs: (R,) for each seed, both for the same seeds and drawn by the same weights.
        mean: the difference of the figures themselves.
        seed: decides which seeds are drawn.
    """
    gaps = np.stack(ours) - np.stack(theirs)  # (S, R)
    seeds, resamples = gaps.shape
    drawn = np.random.default_rng(seed).integers(0, seeds, (seeds, resamples))  # (S, R)
    means = np.take_along_axis(gaps, drawn, 0).mean(0)  # (R,)
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(mean, float(low), float(high))
