"""Check whether the anchors fit the labels, and search for better ones by k-means and random mutation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from utils.log import LOGGER, colorstr

KEEP_RECALL = 0.98  # anchors that reach more than this share of the labels are kept
KMEANS_STEPS = 30
SEED_TRIALS = 4  # candidates for each next seed of k-means
MUTATION_SHARE = 0.9  # share of the numbers that one mutation changes
MUTATION_SPREAD = 0.1  # standard deviation of the change
MIN_SIDE = 2.0  # pixels: smaller labels are ignored, and no anchor gets smaller
SMALL_SIDE = 3.0  # pixels: smaller labels are warned of
MUTATION_SAMPLE = 50_000  # boxes to judge a mutation by; more would cost a second per generation and gain nothing


class LabelledSizes(Protocol):
    """A data set, as far as anchors need it.

    Attributes:
        shapes: (images, 2) width and height in pixels.
        labels: for each image (n, 5): class, normalised xywh.
    """

    @property
    def shapes(self) -> NDArray: ...

    @property
    def labels(self) -> Sequence[NDArray]: ...


class AnchorHead(Protocol):
    """A detection head, as far as anchors need it.

    Attributes:
        anchors: (layers, anchors, 2) width and height in units of the layer's stride.
        stride: tensor (layers,) in pixels.
    """

    anchors: torch.Tensor
    stride: Any


def check_anchor_order(detect: AnchorHead) -> None:
    """Flip the layers of a head's ``anchors`` if they get smaller while its ``stride`` rises, or vice versa."""
    area = detect.anchors.prod(-1).mean(-1).view(-1)  # (layers,)
    growth = area[-1] - area[0]
    stride_growth = detect.stride[-1] - detect.stride[0]
    if growth and growth.sign() != stride_growth.to(growth).sign():
        LOGGER.info(f"{colorstr('AutoAnchor: ')}reversing the order of the anchors to follow the strides")
        detect.anchors[:] = detect.anchors.flip(0)


def anchor_fit(anchors: NDArray, sizes: NDArray, thr: float) -> tuple[float, float]:
    """Share of boxes that some anchor matches within the factor ``thr``, and mean number of such anchors.

    v6.2 calls them BPR (best possible recall) and AAT (anchors above threshold). ``anchors`` (k, 2) and ``sizes``
    (n, 2) are width and height in pixels.
    """
    closeness = _closeness(torch.as_tensor(anchors), torch.as_tensor(sizes))  # (n, k)
    reached = closeness > 1 / thr  # (n, k)
    return reached.any(1).float().mean().item(), reached.sum(1).float().mean().item()


def check_anchors(
    dataset: LabelledSizes, model: Any, thr: float = 4.0, imgsz: int = 640, seed: int = 0, replace: bool = True
) -> None:
    """Replace the anchors of ``model``, in place, if too few labels of ``dataset`` are within a factor ``thr`` of any.

    The anchors are kept if their recall exceeds .98 or if the search finds none better. ``imgsz`` is the training size
    in pixels. Without ``replace`` the fit is only logged.
    """
    head: AnchorHead = getattr(model, "module", model).model[-1]
    prefix = colorstr("AutoAnchor: ")
    generator = np.random.default_rng(seed)
    sizes = _label_sizes(dataset, imgsz, generator.uniform(0.9, 1.1, size=(len(dataset.shapes), 1)))
    if not len(sizes):
        LOGGER.warning(f"{prefix}the data set has no labels: the anchors stay as they are")
        return
    stride = head.stride.to(head.anchors).view(-1, 1, 1)  # (layers, 1, 1)
    current = (head.anchors * stride).view(-1, 2).cpu().numpy()  # (k, 2) in pixels
    recall, matches = anchor_fit(current, sizes, thr)
    finding = f"{prefix}{matches:.2f} anchors/target, {recall:.3f} Best Possible Recall (BPR)"
    if recall > KEEP_RECALL:
        LOGGER.info(f"{finding}: the anchors fit this data set")
        return
    if not replace:
        LOGGER.warning(
            f"WARNING: {finding}: the anchors fit this data set poorly at {imgsz} pixels, but they stay, as the model "
            "was trained with them; use the --imgsz of that training, or train a new model with other anchors"
        )
        return
    LOGGER.info(f"{finding}: the anchors fit this data set poorly; searching for better ones...")
    anchors = kmean_anchors(dataset, n=len(current), img_size=imgsz, thr=thr, gen=1000, verbose=False, seed=seed)
    new_recall, _ = anchor_fit(anchors, sizes, thr)
    if new_recall <= recall:
        LOGGER.info(f"{prefix}the search found no better anchors (BPR {new_recall:.3f}): the original ones stay")
        return
    head.anchors[:] = torch.as_tensor(anchors).to(head.anchors).view_as(head.anchors) / stride
    check_anchor_order(head)
    LOGGER.info(
        f"{prefix}done, BPR rises from {recall:.3f} to {new_recall:.3f} (the new anchors are saved in the checkpoints)"
    )


def kmean_anchors(
    dataset: str | Path | LabelledSizes = "./data/coco128.yaml",
    n: int = 9,
    img_size: int = 640,
    thr: float = 4.0,
    gen: int = 1000,
    verbose: bool = True,
    seed: int = 0,
) -> NDArray:
    """Find anchors for a data set: k-means on its box sizes, then random mutations, kept if they fit better.

    Args:
        dataset: a data set, or the path of its YAML, whose training split is read.
        n: number of anchors.
        img_size: longer side of the images in pixels.
        thr: factor within which an anchor matches a box.
        gen: number of mutations.
        verbose: log the result of k-means as well.
        seed: equal seeds give equal anchors.

    Returns:
        (n, 2) width and height in pixels, from small to large.
    """
    data = _open_dataset(dataset) if isinstance(dataset, (str, Path)) else dataset
    prefix = colorstr("AutoAnchor: ")
    generator = np.random.default_rng(seed)
    sizes = _label_sizes(data, img_size)  # (labels, 2)
    small = int((sizes < SMALL_SIDE).any(1).sum())
    if small:
        LOGGER.warning(f"{prefix}{small} of {len(sizes)} labels are under {SMALL_SIDE:g} pixels wide or high")
    sizes = sizes[(sizes >= MIN_SIDE).any(1)]

    LOGGER.info(f"{prefix}k-means for {n} anchors on {len(sizes)} boxes...")
    anchors = _kmeans(sizes, n, generator)
    if anchors is None:
        LOGGER.warning(
            f"{prefix}{len(sizes)} boxes are too few, or too similar, for {n} clusters: starting from random anchors"
        )
        anchors = generator.uniform(size=(n, 2)) * img_size
        anchors.sort(axis=0)
    anchors = _by_area(np.maximum(anchors, MIN_SIDE))
    if len(sizes):
        if verbose:
            _report(anchors, sizes, thr, img_size)
        anchors = _by_area(_evolve(anchors, sizes, thr, gen, generator))
        _report(anchors, sizes, thr, img_size)
    return anchors


def _open_dataset(file: str | Path) -> LabelledSizes:
    from utils.dataset.description import check_dataset  # here, as networks need this module without data sets
    from utils.dataset.items import LoadImagesAndLabels

    return LoadImagesAndLabels(check_dataset(str(file))["train"], augment=True, rect=True)


def _label_sizes(dataset: LabelledSizes, image_size: int, factor: NDArray | float = 1.0) -> NDArray:
    """Width and height of all labels (n, 2) in pixels, images being ``image_size`` * ``factor`` long."""
    shapes = np.asarray(dataset.shapes, dtype=np.float64).reshape(-1, 2)  # (images, 2)
    pixels = image_size * shapes / shapes.max(1, keepdims=True) * factor
    sizes = [labels[:, 3:5] * scale for labels, scale in zip(dataset.labels, pixels, strict=True)]
    return np.concatenate([np.zeros((0, 2)), *sizes]).astype(np.float32)


def _by_area(anchors: NDArray) -> NDArray:
    """Sort anchors (k, 2) by area."""
    return anchors[np.argsort(anchors.prod(1), kind="stable")]


def _closeness(anchors: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Compare sizes (n, 2) with anchors (k, 2): the smaller of both ratios of sides, smaller by larger -> (n, k)."""
    ratio = sizes[:, None] / anchors.to(sizes)  # (n, k, 2)
    return torch.minimum(ratio, ratio.reciprocal()).amin(2)


def _kmeans(sizes: NDArray, count: int, generator: np.random.Generator) -> NDArray | None:
    """Lloyd's algorithm on sizes divided by their spread, with k-means++ seeds (Arthur & Vassilvitskii 2007).

    Each seed is the best of a few random candidates, so that two of them rarely share a cluster.
    Returns (count, 2), or None if there are fewer different sizes than clusters.
    """
    spread = sizes.std(0) if len(sizes) else np.ones(2)
    points = sizes.astype(np.float64) / np.where(spread > 0, spread, 1.0)  # (n, 2)
    if len(np.unique(points, axis=0)) < count:
        return None
    centres = points[generator.integers(len(points), size=1)]
    nearest = ((points - centres[0]) ** 2).sum(1)  # (n,) squared distance to the nearest centre
    while len(centres) < count:
        candidates = points[generator.choice(len(points), size=SEED_TRIALS, p=nearest / nearest.sum())]
        distances = [np.minimum(nearest, ((points - candidate) ** 2).sum(1)) for candidate in candidates]
        best = int(np.argmin([distance.sum() for distance in distances]))
        centres = np.vstack((centres, candidates[best]))
        nearest = distances[best]
    for _ in range(KMEANS_STEPS):
        member = torch.cdist(torch.from_numpy(points), torch.from_numpy(centres)).argmin(1).numpy()  # (n,)
        number = np.bincount(member, minlength=count)  # (count,)
        sums = np.stack([np.bincount(member, weights=axis, minlength=count) for axis in points.T], 1)  # (count, 2)
        centres = np.where(number[:, None] > 0, sums / np.maximum(number, 1)[:, None], centres)
    return centres * np.where(spread > 0, spread, 1.0)


def _evolve(anchors: NDArray, sizes: NDArray, thr: float, generations: int, generator: np.random.Generator) -> NDArray:
    """Mutate ``anchors`` (k, 2); a mutation is kept if it raises the mean closeness of the boxes within reach."""
    if len(sizes) > MUTATION_SAMPLE:
        sizes = sizes[generator.choice(len(sizes), MUTATION_SAMPLE, replace=False)]
    boxes = torch.from_numpy(sizes)

    def quality(candidate: NDArray) -> float:
        best = _closeness(torch.from_numpy(candidate), boxes).amax(1)  # (n,)
        return (best * (best > 1 / thr)).mean().item()

    best = anchors
    record = quality(anchors)
    for _ in range(generations):
        factors = np.ones_like(best)
        while (factors == 1).all():
            changed = generator.uniform(size=best.shape) < MUTATION_SHARE
            step = generator.uniform() * MUTATION_SPREAD * generator.standard_normal(best.shape)
            factors = np.clip(1 + changed * step, 0.3, 3.0)
        candidate = np.maximum(best * factors, MIN_SIDE)
        score = quality(candidate)
        if score > record:
            best, record = candidate, score
    return best


def _report(anchors: NDArray, sizes: NDArray, thr: float, image_size: int) -> None:
    """Log how well the anchors fit, and the anchors as they are written in a model YAML."""
    recall, matches = anchor_fit(anchors, sizes, thr)
    closeness = _closeness(torch.from_numpy(anchors), torch.from_numpy(sizes))
    within = closeness[closeness > 1 / thr]
    LOGGER.info(
        f"{colorstr('AutoAnchor: ')}thr={1 / thr:.2f}: {recall:.4f} best possible recall, {matches:.2f} anchors past "
        f"thr; n={len(anchors)}, img_size={image_size}, closeness all={closeness.mean():.3f}/"
        f"{closeness.amax(1).mean():.3f} mean/best, past thr={within.mean():.3f} mean: "
        + ", ".join(f"{round(width)},{round(height)}" for width, height in anchors.tolist())
    )
