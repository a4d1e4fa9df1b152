"""Assignment of labels to the anchors and cells of a detection head, for the loss.

A label belongs to every anchor whose sides differ from its own by less than the factor ``anchor_t``, in the cell of its
centre and in up to two neighbours that the centre is nearest to. Rows are ordered by neighbour (centre, left, up,
right, down), then by anchor, then by label.

The rows come in one of two forms. Either they are just the matches: this is the least work, but their number depends on
the values, so that the host has to wait for the GPU. Or they are all 5 * anchors * labels candidates with a mask: their
shapes are known in advance, so that a CUDA graph can record them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

# Offsets, in cells, subtracted from a label's centre to find the candidate cells: own, left, up, right, down
_NEIGHBOUR_OFFSETS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))
LEAST_LABELS = 64  # rows of ``pad_labels`` at least
NO_IMAGE = -1.0  # image index of padding rows


class LayerTargets(NamedTuple):
    """Targets of one layer of the head: K rows, one for each (label, anchor, cell); lengths in grid cells."""

    image: torch.Tensor  # (K,) index of the image in the batch
    anchor: torch.Tensor  # (K,) index of the anchor in the layer
    row: torch.Tensor  # (K,) cell row
    column: torch.Tensor  # (K,) cell column
    classes: torch.Tensor  # (K,)
    boxes: torch.Tensor  # (K, 4) centre relative to the cell, then width and height
    anchors: torch.Tensor  # (K, 2) width and height of the matched anchor
    valid: torch.Tensor | None = None  # (K,) mask of the rows that match; None: all do

    def positions(self, logits: torch.Tensor) -> torch.Tensor:
        """Index of each row's cell in a map (B, na, H, W, ...) whose first four dimensions are flattened: (K,).

        Rows that do not match get positions that differ from one another: the gradient of many rows at one position is
        added up one by one.
        """
        _, anchor_count, height, width = logits.shape[:4]
        positions = ((self.image * anchor_count + self.anchor) * height + self.row) * width + self.column
        if self.valid is None:
            return positions
        cells = logits.shape[0] * anchor_count * height * width
        return torch.where(self.valid, positions, torch.arange(len(positions), device=logits.device) % cells)

    def matching(self) -> int | torch.Tensor:
        """Number of rows that match; a tensor where the host does not know it."""
        return len(self.image) if self.valid is None else self.valid.sum()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of ``values`` (K,) or (K, C) over the rows that match; 0 if there are none of a masked set."""
        if self.valid is None:
            return values.mean()
        per_row = values if values.ndim == 1 else values.mean(1)
        return torch.where(self.valid, per_row, 0.0).sum() / self.valid.sum().clamp(min=1)


@functools.lru_cache(maxsize=64)
def constant(values: tuple, device: torch.device) -> torch.Tensor:
    """A read-only tensor of ``values``, made once per device: each copy to a GPU would make the host wait."""
    return torch.tensor(values, device=device)


def padded_count(count: int) -> int:
    """Rows that ``pad_labels`` makes of ``count`` labels: a power of two, so that few different shapes occur."""
    return max(LEAST_LABELS, 1 << (count - 1).bit_length() if count else 0)


def pad_labels(labels: torch.Tensor, device: torch.device, out: torch.Tensor | None = None) -> torch.Tensor:
    """Copy ``labels`` (n, 6) to ``device``, with padding rows up to ``padded_count(n)``.

    Args:
        labels: rows of image index, class, x, y, w, h; in pinned memory, so that the copy is asynchronous.
        out: (``padded_count(n)``, 6), written to instead of a new tensor.
    """
    if out is None:
        out = torch.empty(padded_count(len(labels)), 6, device=device)
    out.fill_(NO_IMAGE)
    out[: len(labels)].copy_(labels, non_blocking=True)
    return out


def assign(
    heads: Sequence[torch.Tensor], labels: torch.Tensor, anchors: torch.Tensor, anchor_t: float, masked: bool
) -> list[LayerTargets]:
    """Match labels to anchors and cells, layer by layer.

    Args:
        heads: maps (B, na, H, W, ...), of which the shapes are read.
        labels: (n, 6) rows of image index, class, x, y, w, h, normalised to the image; rows with a negative image
            index are padding.
        anchors: (nl, na, 2) in grid cells.
        anchor_t: largest ratio of a label's sides to those of its anchors.
        masked: return all candidates with a mask, instead of only the matches.
    """
    layer = _candidates if masked else _matches
    offsets = constant(_NEIGHBOUR_OFFSETS, labels.device)
    return [
        layer(labels, own, offsets, constant(tuple(head.shape[3:1:-1]), labels.device), anchor_t)
        for head, own in zip(heads, anchors.to(labels), strict=True)
    ]


def _fits(labels: torch.Tensor, sizes: torch.Tensor, anchors: torch.Tensor, anchor_t: float) -> torch.Tensor:
    """Labels with sizes (n, 2) and anchors (na, 2) in grid cells -> mask (na, n) of the pairs whose sides are alike."""
    ratio = sizes / anchors[:, None]  # (na, n, 2)
    return (torch.maximum(ratio, ratio.reciprocal()).amax(2) < anchor_t) & (labels[:, 0] >= 0)


def _offered(centre: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
    """Centres (n, 2) on a grid of ``extent`` (W, H) -> mask (5, n): own cell, left, up, right, down."""
    beyond = extent - centre  # distance to the right and lower border
    low = (centre % 1 < 0.5) & (centre > 1)  # (n, 2)
    high = (beyond % 1 < 0.5) & (beyond > 1)
    return torch.cat((torch.ones_like(low[:, :1]), low, high), 1).T


def _cells(centre: torch.Tensor, offsets: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
    """Column and row (..., 2) of the cells at ``centre - offsets``.

    A centre on the right or lower border falls off the grid: its cell is clamped, its offset taken from there.
    """
    return (centre - offsets).long().clamp(min=torch.zeros_like(extent), max=extent - 1)


def _matches(
    labels: torch.Tensor, anchors: torch.Tensor, offsets: torch.Tensor, extent: torch.Tensor, anchor_t: float
) -> LayerTargets:
    sizes = labels[:, 4:6] * extent
    anchor, label = _fits(labels, sizes, anchors, anchor_t).nonzero(as_tuple=True)
    centre = labels[label, 2:4] * extent
    neighbour, match = _offered(centre, extent).nonzero(as_tuple=True)
    centre, anchor, label = centre[match], anchor[match], label[match]
    cell = _cells(centre, offsets[neighbour], extent)
    image, classes = labels[label, :2].long().unbind(1)
    boxes = torch.cat((centre - cell, sizes[label]), 1)
    return LayerTargets(image, anchor, cell[:, 1], cell[:, 0], classes, boxes, anchors[anchor])


def _candidates(
    labels: torch.Tensor, anchors: torch.Tensor, offsets: torch.Tensor, extent: torch.Tensor, anchor_t: float
) -> LayerTargets:
    count, anchor_count = len(labels), len(anchors)
    shape = len(offsets), anchor_count, count  # of all rows
    sizes, centre = labels[:, 4:6] * extent, labels[:, 2:4] * extent  # (n, 2)
    fits = _fits(labels, sizes, anchors, anchor_t)  # (na, n)
    valid = (_offered(centre, extent)[:, None] & fits).reshape(-1)  # (5, na, n) -> (K,)
    cell = _cells(centre, offsets[:, None], extent)  # (5, n, 2)
    boxes = torch.cat((centre - cell, sizes.expand(shape[0], -1, -1)), 2)  # (5, n, 4)
    boxes = boxes[:, None].expand(*shape, 4).reshape(-1, 4)
    column, row = cell[:, None].expand(*shape, 2).reshape(-1, 2).unbind(1)
    image, classes = labels[:, :2].long().clamp(min=0).expand(*shape[:2], count, 2).reshape(-1, 2).unbind(1)
    anchor = torch.arange(anchor_count, device=labels.device)[:, None].expand(shape).reshape(-1)
    boxes = torch.where(valid[:, None], boxes, 1.0)  # boxes without area would have NaN gradients
    return LayerTargets(image, anchor, row, column, classes, boxes, anchors[anchor], valid)
