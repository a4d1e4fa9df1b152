"""Greedy non-maximum suppression of many images together, for GPUs.

torchvision's operator takes one image at a time, and the host waits for each. Here all images advance together, one
block of boxes at a time, and the host waits once per block. Rule and arithmetic are those of ``nms.suppress_overlaps``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

BLOCK_BOXES = 256  # boxes of each image that are judged at a time
ROUNDS = 4  # rounds of the greedy rule between two checks whether it has settled
MOST_DETECTIONS = 1024  # per image; with more, the kept boxes would take too much memory
MOST_PAIRS = 2**25  # pairs of boxes that are compared at a time

Overlaps = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def suppress_together(
    boxes: torch.Tensor, counts: Sequence[int], threshold: float, limit: int, overlaps: Overlaps
) -> list[torch.Tensor]:
    """Return for each image the indices of the boxes that are kept, by falling score.

    Args:
        boxes: (n, 4) corners, image by image, within each by falling score.
        counts: number of boxes of each image.
        threshold: IoU above which the later box is dropped.
        limit: maximum number of kept boxes per image, up to MOST_DETECTIONS.
        overlaps: (..., N, 4) and (..., M, 4) corners -> (..., N, M), true where the IoU exceeds a threshold.
    """
    images = max(1, MOST_PAIRS // (BLOCK_BOXES * (BLOCK_BOXES + limit)))  # judged at a time
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
    """Do the same for so few images (B) that they can be judged together."""
    device, images = boxes.device, len(counts)
    if not sum(counts):
        return [torch.zeros(0, dtype=torch.long, device=device)] * images
    sizes = torch.tensor(counts, device=device)  # (B,)
    starts = sizes.cumsum(0) - sizes
    # The column after the limit takes what no longer fits. Boxes of zeros overlap nothing.
    kept_boxes = boxes.new_zeros(images, limit + 1, 4)  # (B, L + 1, 4)
    kept_index = torch.zeros(images, limit + 1, dtype=torch.long, device=device)  # (B, L + 1)
    kept_count = torch.zeros(images, dtype=torch.long, device=device)  # (B,)
    steps = torch.arange(BLOCK_BOXES, device=device)  # (K,)
    for block in range(0, max(counts), BLOCK_BOXES):
        inside = block + steps < sizes[:, None]  # (B, K)
        index = (starts[:, None] + block + steps).clamp(max=len(boxes) - 1)  # (B, K)
        own = boxes[index]  # (B, K, 4)
        before = min(block, limit)  # no image has kept more so far
        free = inside  # (B, K): not suppressed by an earlier block
        if before:
            free = inside & ~overlaps(kept_boxes[:, :before], own, threshold).any(1)
        keep = _settle(overlaps(own, own, threshold), free)  # (B, K)
        column = kept_count[:, None] + keep.cumsum(1) - 1  # (B, K): where each kept box goes
        column = torch.where(keep & (column < limit), column, limit)
        kept_index.scatter_(1, column, index)
        kept_boxes.scatter_(1, column[..., None].expand(-1, -1, 4), own)
        kept_count = (kept_count + keep.sum(1)).clamp(max=limit)
        if bool(((kept_count == limit) | (sizes <= block + BLOCK_BOXES)).all()):
            break
    return [index[:count] for index, count in zip(kept_index, kept_count.tolist(), strict=True)]


def _settle(overlapping: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Solve the greedy rule within blocks of K boxes by falling score: (B, K, K) overlaps, (B, K) mask -> (B, K) kept.

    A free box is kept if no kept box before it overlaps it. Each round applies this to all boxes at once and settles at
    least one more, from the front. When a round changes nothing, the solution is found, and it is unique.
    """
    # (B, K, K): 1 where the row's box would suppress the column's
    conflicts = (overlapping & free[:, :, None] & free[:, None]).triu(1).to(torch.float16)
    keep = free
    while True:
        for _ in range(ROUNDS):
            settled, keep = keep, free & ~(keep[:, None].to(conflicts) @ conflicts)[:, 0].bool()
        if torch.equal(settled, keep):
            return keep
