"""Greedy non-maximum suppression of many images together, for GPUs.

torchvision's operator takes one image at a time, and the host waits for each. Here all images advance together, a block
of boxes at a time, and the host waits once a block. The rule and the arithmetic are those of ``nms.suppress_overlaps``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

BLOCK_BOXES = 256  # boxes of each image that are judged at a time
ROUNDS = 4  # of the greedy rule between two looks at whether it has settled
MOST_DETECTIONS = 1024  # per image; for more, the boxes kept so far would take too much memory
MOST_PAIRS = 2**25  # of boxes that are compared at a time

Overlaps = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def suppress_together(
    boxes: torch.Tensor, counts: Sequence[int], threshold: float, limit: int, overlaps: Overlaps
) -> list[torch.Tensor]:
    """Indices of the boxes that are kept, for each image, by falling score.

    Args:
        boxes: (n, 4) corners, image by image, within each by falling score.
        counts: boxes of each image.
        threshold: overlap above which the later box is dropped.
        limit: at most so many are kept of an image, up to MOST_DETECTIONS.
        overlaps: (..., N, 4) and (..., M, 4) corners -> (..., N, M), true where the IoU exceeds a threshold.
    """
    images = max(1, MOST_PAIRS // (BLOCK_BOXES * (BLOCK_BOXES + limit)))  # that are judged at a time
    kept: list[torch.Tensor] = []
    first = 0
    for start in range(0, len(counts), images):
        part = counts[start : start + images]
        own = boxes[first : first + sum(part)]
        kept += [index + first for index in _suppress_part(own, part, threshold, limit, overlaps)]
        first += sum(part)
    return kept


def _suppress_part(
    boxes: torch.Tensor, counts: Sequence[int], threshold: float, limit: int, overlaps: Overlaps
) -> list[torch.Tensor]:
    device, images = boxes.device, len(counts)
    if not sum(counts):
        return [torch.zeros(0, dtype=torch.long, device=device)] * images
    sizes = torch.tensor(counts, device=device)  # (B,)
    starts = sizes.cumsum(0) - sizes
    # One column more than the limit: what no longer fits goes there. Boxes of zeros overlap nothing.
    kept_boxes = boxes.new_zeros(images, limit + 1, 4)
    kept_index = torch.zeros(images, limit + 1, dtype=torch.long, device=device)
    kept_count = torch.zeros(images, dtype=torch.long, device=device)
    steps = torch.arange(BLOCK_BOXES, device=device)
    for block in range(0, max(counts), BLOCK_BOXES):
        inside = block + steps < sizes[:, None]  # (B, K)
        index = (starts[:, None] + block + steps).clamp(max=len(boxes) - 1)
        own = boxes[index]  # (B, K, 4)
        before = min(block, limit)  # no image has kept more so far
        free = inside & ~overlaps(kept_boxes[:, :before], own, threshold).any(1) if before else inside
        keep = _settle(overlaps(own, own, threshold), free)
        column = kept_count[:, None] + keep.cumsum(1) - 1
        column = torch.where(keep & (column < limit), column, limit)
        kept_index.scatter_(1, column, index)
        kept_boxes.scatter_(1, column[..., None].expand(-1, -1, 4), own)
        kept_count = (kept_count + keep.sum(1)).clamp(max=limit)
        if bool(((kept_count == limit) | (sizes <= block + BLOCK_BOXES)).all()):
            break
    return [index[:count] for index, count in zip(kept_index, kept_count.tolist(), strict=True)]


def _settle(overlapping: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """The greedy rule within blocks of K boxes by falling score: (B, K, K) overlaps, (B, K) mask -> (B, K) kept.

    A free box is kept when no kept box before it overlaps it. Applied to all boxes at once, this settles at least one
    more in each round, from the front; what a round does not change is the one solution.
    """
    conflicts = (overlapping & free[:, :, None] & free[:, None]).triu(1).to(torch.float16)  # from row to column
    keep = free
    while True:
        for _ in range(ROUNDS):
            settled, keep = keep, free & ~(keep[:, None].to(conflicts) @ conflicts)[:, 0].bool()
        if torch.equal(settled, keep):
            return keep
