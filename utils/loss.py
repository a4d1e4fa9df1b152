"""The training loss of YOLOv5's detection head: box regression (CIoU), objectness and class terms."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from utils.distributed import average, ranks
from utils.metrics import bbox_iou

# What is subtracted from a target's centre, in cells, to find the cell that is offered it: own, left, up, right, down.
_NEIGHBOUR_OFFSETS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))


class LayerTargets(NamedTuple):
    """What one layer of the head shall predict: K rows, one for each (target, anchor, cell); lengths in grid cells."""

    image: torch.Tensor  # (K,) index of the image in the batch
    anchor: torch.Tensor  # (K,) index of the anchor in the layer
    row: torch.Tensor  # (K,) cell row
    column: torch.Tensor  # (K,) cell column
    classes: torch.Tensor  # (K,)
    boxes: torch.Tensor  # (K, 4) centre relative to the cell, then width and height
    anchors: torch.Tensor  # (K, 2) width and height of the matched anchor

    def places(self, logits: torch.Tensor) -> torch.Tensor:
        """Where the rows lie in a map (B, na, H, W, ...), its first four dimensions flattened: (K,)."""
        _, anchor_count, height, width = logits.shape[:4]
        return ((self.image * anchor_count + self.anchor) * height + self.row) * width + self.column


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the (positive, negative) class targets for label smoothing ``eps``: .1 -> (.95, .05)."""
    return 1.0 - eps / 2, eps / 2


@functools.lru_cache(maxsize=64)
def _constant(values: tuple, device: torch.device) -> torch.Tensor:
    """A tensor of ``values``, not to be written to; made once for a device: each copy to a GPU would wait for it."""
    return torch.tensor(values, device=device)


def _layer_weights(layer_count: int) -> list[float]:
    """Weight of the objectness term of each layer, from the finest grid to the coarsest."""
    weights = [4.0, 1.0, 0.4] if layer_count == 3 else [4.0, 1.0, 0.25, 0.06, 0.02]
    return (weights + [weights[-1]] * layer_count)[:layer_count]


def _take_rows(logits: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows (K, 5 + nc) of a map (B, na, H, W, 5 + nc) at flat ``places``, with a gradient that can be repeated.

    Places occur twice, so the gradient adds up, and in floating point the order counts. It is fixed for index_select on
    CPUs, where that of indexing depends on the threads; on GPUs it is the other way round.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    return flat[places] if flat.is_cuda else flat.index_select(0, places)


class FocalLoss(nn.Module):
    """Down-weight what is already predicted well (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

    Wraps a ``BCEWithLogitsLoss``; its own ``reduction`` is applied after the weighting.
    """

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha
        self.reduction = loss_fcn.reduction
        self.register_buffer("pos_weight", loss_fcn.pos_weight, persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``logits`` and ``target`` have one shape; the result is a scalar unless the reduction is 'none'."""
        probability = logits.sigmoid()
        error = torch.lerp(probability, 1 - probability, target)  # 1 - p_t
        class_weight = (1 - self.alpha) + (2 * self.alpha - 1) * target
        pos_weight = self.get_buffer("pos_weight")
        loss = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction="none")
        loss = loss * class_weight * error.pow(self.gamma)
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()


class ComputeLoss:
    """Loss of a batch: ``ComputeLoss(model)(predictions, targets) -> (total, items)``.

    Reads ``model.hyp`` (``box obj cls cls_pw obj_pw fl_gamma anchor_t``, optional ``label_smoothing``) and the head's
    ``na nc nl anchors stride``. With ``autobalance`` the layers' objectness weights follow their losses.
    """

    sort_obj_iou = False  # True: a cell claimed several times takes the largest overlap instead of the last one

    def __init__(self, model: nn.Module, autobalance: bool = False):
        network: Any = getattr(model, "module", model)  # inside DataParallel or DistributedDataParallel
        self.hyp: dict[str, Any] = network.hyp
        head = network.model[-1]
        self.na, self.nc, self.nl = int(head.na), int(head.nc), int(head.nl)
        self.anchors: torch.Tensor = head.anchors  # (nl, na, 2) in grid cells; the live buffer
        self.device = next(network.parameters()).device

        self.cp, self.cn = smooth_BCE(eps=self.hyp.get("label_smoothing", 0.0))
        self.BCEcls = self._criterion(self.hyp["cls_pw"])
        self.BCEobj = self._criterion(self.hyp["obj_pw"])
        self.balance = _layer_weights(self.nl)
        self.gr = 1.0
        self.autobalance = autobalance
        self.ssi = [int(stride) for stride in head.stride].index(16) if autobalance else 0

    def _criterion(self, positive_weight: float) -> nn.Module:
        criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([positive_weight], device=self.device))
        gamma = self.hyp.get("fl_gamma", 0.0)
        return FocalLoss(criterion, gamma) if gamma > 0 else criterion

    def __call__(self, p: list[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss times the batch size, shape (1,), and the detached items [box, obj, cls], shape (3,).

        ``p[i]``: (B, na, H_i, W_i, 5 + nc) raw logits. ``targets``: (n, 6) rows of image index, class, x, y, w, h
        normalised to the image. A layer without matches contributes its objectness only.
        """
        box_term, class_term = (torch.zeros(1, device=self.device) for _ in range(2))
        object_terms = []
        layers = self.assign(p, targets)
        shares = self._shares(layers)
        for logits, matched, share in zip(p, layers, shares, strict=True):
            objectness = torch.zeros(logits.shape[:4], device=logits.device)
            if len(matched.image):
                places = matched.places(logits)
                rows = _take_rows(logits, places).float()  # half precision would blur the overlap
                overlap = bbox_iou(self.decode(rows, matched.anchors), matched.boxes, CIoU=True).squeeze(1)
                box_term = box_term + (1.0 - overlap).mean() * share
                self._mark_objects(objectness.view(-1), places, overlap.detach().clamp(min=0))
                if self.nc > 1:
                    wanted = torch.full_like(rows[:, 5:], self.cn)
                    wanted.scatter_(1, matched.classes[:, None], self.cp)
                    class_term = class_term + self.BCEcls(rows[:, 5:], wanted) * share
            object_terms.append(self.BCEobj(logits[..., 4].float(), objectness))
        object_term = torch.stack([t * weight for t, weight in zip(object_terms, self.balance, strict=True)]).sum(0)
        if self.autobalance:
            self._rebalance(object_terms)
        gains = [(box_term, "box"), (object_term.view(1), "obj"), (class_term, "cls")]
        weighted = torch.cat([term * self.hyp[gain] for term, gain in gains])
        return weighted.sum(0, keepdim=True) * len(p[0]), weighted.detach()

    def _shares(self, layers: list[LayerTargets]) -> list[float] | torch.Tensor:
        """By how much this rank's means over its matches count, layer by layer.

        In data-parallel training a rank with more matches counts for more, so that the mean over the ranks is that over
        all matches, as one process would compute it. Only training steps, in which all ranks take part, ask the others.
        """
        if not torch.is_grad_enabled() or ranks()[1] == 1:
            return [1.0] * len(layers)
        own = torch.tensor([float(len(matched.image)) for matched in layers], device=self.device)
        return own / average(own.clone()).clamp(min=1e-9)

    def _rebalance(self, object_terms: list[torch.Tensor]) -> None:
        """Let each layer's weight follow the inverse of its loss; the layer of stride 16 keeps the weight 1."""
        moved = [0.9999 * old + 0.0001 / term.item() for old, term in zip(self.balance, object_terms, strict=True)]
        self.balance = [weight / moved[self.ssi] for weight in moved]

    @staticmethod
    def decode(rows: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Logits (K, 5 + nc) -> boxes (K, 4), centre relative to the cell and size, in grid cells."""
        unit = 2 * rows[:, :4].sigmoid()
        return torch.cat((unit[:, :2] - 0.5, unit[:, 2:].square() * anchors), 1)

    def _mark_objects(self, objectness: torch.Tensor, places: torch.Tensor, overlap: torch.Tensor) -> None:
        """Write the overlap (K,) to its places in the flat target map; in a cell claimed twice the later row counts.

        Rows that share a cell write one value, that of the last of them, so the outcome does not depend on the order in
        which a device performs the writes.
        """
        value = (1.0 - self.gr) + self.gr * overlap
        if self.sort_obj_iou:
            objectness.scatter_reduce_(0, places, value, "amax")
            return
        order = torch.arange(len(places), device=places.device)
        last = torch.zeros_like(objectness, dtype=torch.long).scatter_reduce_(0, places, order, "amax")
        objectness[places] = value[last[places]]

    def assign(self, p: list[torch.Tensor], targets: torch.Tensor) -> list[LayerTargets]:
        """Match targets to anchors and cells, layer by layer.

        A target belongs to every anchor whose sides differ from its own by less than the factor ``anchor_t``, in the
        cell of its centre and in up to two neighbours that the centre is nearest to. Rows are ordered by neighbour
        (centre, left, up, right, down), then by anchor.
        """
        offsets = _constant(_NEIGHBOUR_OFFSETS, targets.device)
        return [
            self._assign_layer(targets, anchors, offsets, tuple(logits.shape[2:4]))
            for logits, anchors in zip(p, self.anchors.to(targets), strict=True)
        ]

    def _assign_layer(
        self, targets: torch.Tensor, anchors: torch.Tensor, offsets: torch.Tensor, grid_shape: tuple[int, ...]
    ) -> LayerTargets:
        extent = _constant(grid_shape[::-1], targets.device)  # (W, H)
        ratio = targets[:, 4:6] * extent / anchors[:, None]  # (na, n, 2)
        fits = torch.maximum(ratio, ratio.reciprocal()).amax(2) < self.hyp["anchor_t"]
        anchor, target = fits.nonzero(as_tuple=True)

        centre = targets[target, 2:4] * extent
        beyond = extent - centre  # distance to the right and lower border
        low, high = (((side % 1 < 0.5) & (side > 1)).T for side in (centre, beyond))
        wanted = torch.cat((torch.ones_like(low[:1]), low, high))  # (5, number of matches)
        neighbour, match = wanted.nonzero(as_tuple=True)

        centre, anchor, target = centre[match], anchor[match], target[match]
        # A centre on the right or lower border falls off the grid: its cell is clamped, its offset taken from there.
        cell = (centre - offsets[neighbour]).long().clamp(min=extent.new_zeros(2), max=extent - 1)
        image, classes = targets[target, :2].long().unbind(1)
        boxes = torch.cat((centre - cell, targets[target, 4:6] * extent), 1)
        return LayerTargets(image, anchor, cell[:, 1], cell[:, 0], classes, boxes, anchors[anchor])

    def build_targets(self, p: list[torch.Tensor], targets: torch.Tensor) -> tuple[list, list, list, list]:
        """The rows of ``assign`` as four lists over layers: classes, boxes, (image, anchor, row, column), anchors."""
        layers = self.assign(p, targets)
        indices = [tuple(layer[:4]) for layer in layers]
        return [t.classes for t in layers], [t.boxes for t in layers], indices, [t.anchors for t in layers]
