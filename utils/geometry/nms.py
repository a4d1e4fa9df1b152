"""Non-maximum suppression: the raw output of a detector becomes a list of detections for each image.

There is no time limit, and the result does not depend on which of two implementations runs: torchvision's compiled
operator where it loads, else ``suppress_overlaps``, which applies the same rule in torch.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from utils.errors import InputError
from utils.geometry.batched_nms import MOST_DETECTIONS, suppress_together
from utils.geometry.boxes import xywh2xyxy
from utils.log import log_once

CLASS_OFFSET_PIXELS = 7680  # shift between boxes of different classes, so that they never overlap
MAX_CANDIDATES = 30_000  # highest-scored boxes of an image that enter the suppression
BLOCK_BOXES = 256  # boxes that the torch implementation compares with one another at a time
FIRST_BOXES = 8  # times the detections asked for: boxes that the compiled operator gets at first; then times 8 again
KEPT_BLOCK_BOXES = 4096  # kept boxes compared with a block at a time: limits memory

CompiledNMS = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def non_max_suppression(
    prediction: torch.Tensor | Sequence[torch.Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Iterable[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[torch.Tensor] = (),
    max_det: int = 300,
) -> list[torch.Tensor]:
    """Select the detections of each image.

    Args:
        prediction: (B, N, 5 + nc) rows of centre x, centre y, width, height (pixels of the network input), objectness,
            class probabilities; or a tuple or list whose first element is that tensor. It is not modified.
        conf_thres: objectness, and objectness times class probability, must exceed this.
        iou_thres: a box is dropped if its IoU with a better one of its class exceeds this.
        classes: keep only these class indices; None keeps all.
        agnostic: boxes of different classes suppress each other, too.
        multi_label: a box may give a detection for every class over the threshold, not only for the best one.
        labels: for each image, known boxes (M, 5) of class, centre x, centre y, width, height in pixels, which join
            the predictions with a confidence of 1.
        max_det: maximum number of detections per image.

    Returns:
        For each image a tensor (n, 6) of x1, y1, x2, y2, confidence, class, by falling confidence; (0, 6) if empty.

    Raises:
        InputError: a threshold is outside [0, 1], ``max_det`` is below 1, or the tensor has another shape.
    """
    if not isinstance(prediction, torch.Tensor):
        prediction = prediction[0]
    _check_arguments(prediction, conf_thres, iou_thres, max_det)
    rows, image = _rows(prediction, conf_thres, labels)  # (n, 5 + nc), (n,)
    candidates, image = _candidates(rows, image, conf_thres, multi_label)  # (m, 6), (m,)
    if classes is not None:
        kept_classes = torch.tensor(list(classes), dtype=torch.long, device=prediction.device)
        keep = torch.isin(candidates[:, 5].long(), kept_classes)  # (m,)
        candidates, image = candidates[keep], image[keep]
    counts = torch.bincount(image, minlength=len(prediction)).tolist()
    if candidates.is_cuda and len(counts) > 1 and max_det <= MOST_DETECTIONS:
        return _suppress_batch(candidates, image, counts, iou_thres, agnostic, max_det)
    return [_suppress(part, iou_thres, agnostic, max_det) for part in candidates.split(counts)]


def _check_arguments(prediction: torch.Tensor, conf_thres: float, iou_thres: float, max_det: int) -> None:
    for name, value in (("confidence", conf_thres), ("IoU", iou_thres)):
        if not 0 <= value <= 1:
            raise InputError(f"the {name} threshold must lie between 0 and 1, got {value}")
    if max_det < 1:
        raise InputError(f"the number of detections per image (max_det) must be at least 1, got {max_det}")
    if prediction.ndim != 3 or prediction.shape[2] < 6:
        shape = tuple(prediction.shape)
        raise InputError(f"NMS expects predictions of shape (images, boxes, 5 + classes), got {shape}")


def _label_rows(label: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Turn labels (M, 5) of class, x, y, w, h into prediction rows (M, 5 + nc) with a confidence of 1."""
    label = label.to(like)
    rows = like.new_zeros(len(label), like.shape[1])
    rows[:, :4] = label[:, 1:5]
    rows[:, 4] = 1
    rows.scatter_(1, label[:, :1].long() + 5, 1)
    return rows


def _rows(
    prediction: torch.Tensor, conf_thres: float, labels: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, 5 + nc) of all images with enough objectness, each image's labels after its own; their images (n,)."""
    over = prediction[..., 4] > conf_thres  # (B, N)
    rows, image = prediction[over], over.nonzero()[:, 0]
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()  # half precision cannot hold the shifted boxes
    if len(labels):
        known = torch.cat([_label_rows(label, rows) for label in labels])
        counts = torch.tensor([len(label) for label in labels], device=image.device)
        image_of_label = torch.arange(len(labels), device=image.device).repeat_interleave(counts)
        rows = torch.cat((rows, known))
        image = torch.cat((image, image_of_label))
        order = image.argsort(stable=True)
        rows, image = rows[order], image[order]
    return rows, image


def _candidates(
    rows: torch.Tensor, image: torch.Tensor, conf_thres: float, multi_label: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction rows (n, 5 + nc) -> (m, 6) of x1, y1, x2, y2, confidence, class over the threshold; their images (m,).

    The candidates of an image stay together, in no particular order.
    """
    corners = xywh2xyxy(rows[:, :4])  # (n, 4)
    scores = rows[:, 4:5] * rows[:, 5:]  # (n, nc)
    if multi_label and scores.shape[1] > 1:
        row, category = (scores > conf_thres).nonzero(as_tuple=True)
        confidence = scores[row, category]
    else:
        confidence, category = scores.max(1)
        row = (confidence > conf_thres).nonzero()[:, 0]
        confidence, category = confidence[row], category[row]
    return torch.cat((corners[row], confidence[:, None], category[:, None].to(corners)), 1), image[row]


def _shifted(candidates: torch.Tensor, agnostic: bool) -> torch.Tensor:
    """Corners (n, 4) of candidates (n, 6); unless ``agnostic``, those of different classes are moved far apart."""
    if agnostic:
        return candidates[:, :4]
    return candidates[:, :4] + candidates[:, 5:6] * CLASS_OFFSET_PIXELS


def _suppress_batch(
    candidates: torch.Tensor, image: torch.Tensor, counts: list[int], iou_thres: float, agnostic: bool, max_det: int
) -> list[torch.Tensor]:
    """Detections of each image, from candidates (n, 6) that come image by image; ``image`` (n,) is non-decreasing."""
    order = candidates[:, 4].argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]  # by image again, within each by falling confidence
    if max(counts) > MAX_CANDIDATES:
        order = torch.cat([part[:MAX_CANDIDATES] for part in order.split(counts)])
        counts = [min(count, MAX_CANDIDATES) for count in counts]
    candidates = candidates[order]
    threshold = _round_down(iou_thres, candidates.dtype)
    kept = suppress_together(_shifted(candidates, agnostic), counts, threshold, max_det, _overlaps)
    return [candidates[index] for index in kept]


def _suppress(candidates: torch.Tensor, iou_thres: float, agnostic: bool, max_det: int) -> torch.Tensor:
    """Detections (k, 6) of one image, from its candidates (n, 6)."""
    if not len(candidates):
        return candidates
    order = candidates[:, 4].argsort(descending=True, stable=True)[:MAX_CANDIDATES]
    candidates = candidates[order]
    corners, confidence = _shifted(candidates, agnostic), candidates[:, 4]
    compiled = _compiled_nms(candidates.device.type)
    if compiled is None:
        keep = suppress_overlaps(corners, confidence, iou_thres, max_det)
    else:
        keep = _first_kept(compiled, corners, confidence, iou_thres, max_det)
    return candidates[keep]


def _first_kept(
    nms: CompiledNMS, corners: torch.Tensor, confidence: torch.Tensor, iou_thres: float, limit: int
) -> torch.Tensor:
    """Indices (k,) of the first ``limit`` boxes that ``nms`` keeps of corners (n, 4) by falling confidence (n,).

    A box is judged by the better ones alone. So the worse ones need not be looked at while enough of the better ones
    are kept, as with a network that has hardly been trained, whose thousands of boxes suppress few others.
    """
    size = FIRST_BOXES * limit
    while True:
        keep = nms(corners[:size], confidence[:size], iou_thres)
        if len(keep) >= limit or size >= len(corners):
            return keep[:limit]
        size *= FIRST_BOXES


@cache
def _compiled_nms(device_type: str) -> CompiledNMS | None:
    """Return torchvision's operator if it works on this type of device, else None, which is logged once.

    It is tried out: a torchvision that was not built for this torch may load and fail only when called.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nms = _torchvision_nms()
            box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device_type)
            if nms(box, box[:, 2], 0.5).tolist() == [0]:
                return nms
            reason = "its result is wrong"
    except ModuleNotFoundError:
        log_once("NMS runs in plain torch: torchvision is not installed (same detections)", logging.INFO)
        return None
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
    log_once(f"NMS runs in plain torch: torchvision's operator does not work on {device_type} here ({reason})")
    return None


def _torchvision_nms() -> CompiledNMS:
    """Load torchvision's operator, from its library alone if possible: importing the whole package takes seconds."""
    package = find_spec("torchvision") if "torchvision" not in sys.modules else None
    if package is not None and package.origin is not None:
        with suppress(OSError, RuntimeError, AttributeError):  # the import below raises what is wrong
            for library in Path(package.origin).parent.glob("_C*"):
                torch.ops.load_library(str(library))
            return torch.ops.torchvision.nms
    from torchvision.ops import nms

    return nms


def suppress_overlaps(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, limit: int | None = None
) -> torch.Tensor:
    """Greedy non-maximum suppression in torch, with the rule of ``torchvision.ops.nms``.

    Boxes are visited by falling score, equal scores in the given order; a box is kept unless its IoU with a box kept
    earlier exceeds the threshold. Memory use does not depend on the number of boxes.

    Args:
        boxes: (N, 4) corners.
        scores: (N,).
        iou_threshold: overlap above which the lower-scored box is dropped.
        limit: stop when this many are kept; since boxes are kept by falling score, these are the best ones.

    Returns:
        Indices (K,) of the kept boxes, by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    threshold = _round_down(iou_threshold, boxes.dtype)
    kept = boxes[:0]  # (K, 4)
    kept_indices: list[torch.Tensor] = []
    count = 0
    for start in range(0, len(boxes), BLOCK_BOXES):
        # positions (n,) in score order of the boxes of this block that are still candidates
        position = torch.arange(start, min(start + BLOCK_BOXES, len(boxes)), device=boxes.device)
        for better in kept.split(KEPT_BLOCK_BOXES):
            position = position[~_overlaps(better, boxes[position], threshold).any(0)]
        position = position[_greedy(_overlaps(boxes[position], boxes[position], threshold))]
        kept = torch.cat((kept, boxes[position]))
        kept_indices.append(order[position])
        count += len(position)
        if limit is not None and count >= limit:
            break
    return torch.cat(kept_indices)[:limit] if kept_indices else order


def _round_down(threshold: float, dtype: torch.dtype) -> float:
    """Largest number of ``dtype`` that does not exceed ``threshold``.

    torchvision compares an IoU in single precision with a threshold in double precision. torch would round the
    threshold first, perhaps upwards, and then judge an IoU right at it differently.
    """
    if dtype != torch.float32:
        return threshold
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-math.inf)))


def _overlaps(first: torch.Tensor, second: torch.Tensor, threshold: float) -> torch.Tensor:
    """Compare corners (..., N, 4) with (..., M, 4) -> (..., N, M), true where the IoU exceeds the threshold.

    The order of operations is torchvision's, so the results agree to the last bit. Two boxes without area give 0 / 0,
    which exceeds nothing.
    """
    left, top, right, bottom = first[..., None].unbind(-2)  # (..., N, 1)
    left2, top2, right2, bottom2 = second.mT[..., None, :].unbind(-3)  # (..., 1, M)
    width = (torch.minimum(right, right2) - torch.maximum(left, left2)).clamp_(min=0)  # (..., N, M)
    shared = (torch.minimum(bottom, bottom2) - torch.maximum(top, top2)).clamp_(min=0).mul_(width)
    union = ((right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2)).sub_(shared)
    return shared.div_(union) > threshold


def _greedy(overlaps: torch.Tensor) -> torch.Tensor:
    """Solve the greedy rule for a block of n boxes in score order: (n, n) overlaps -> (n,) kept.

    Box j is kept if no kept box i < j overlaps it. Each round applies this to all boxes at once and settles at least
    one more box, from the front. When a round changes nothing, the solution is found, and it is unique.
    """
    conflicts = overlaps.triu(1).float()  # (n, n): 1 where the row's box would suppress the column's
    keep = torch.ones(len(conflicts), dtype=torch.bool, device=conflicts.device)  # (n,)
    while True:
        updated = keep.float() @ conflicts == 0
        if torch.equal(updated, keep):
            return keep
        keep = updated
