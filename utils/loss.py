"""The training loss of YOLOv5's detection head: box regression (CIoU), objectness and class terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from utils.distributed import average, ranks
from utils.metrics import bbox_iou
from utils.training.assignment import LayerTargets, assign


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the (positive, negative) class targets for label smoothing ``eps``: .1 -> (.95, .05)."""
    return 1.0 - eps / 2, eps / 2


MOST_VALUES = 2**25  # logits at a layer's candidates; beyond that, only the matches are computed


def _layer_weights(layer_count: int) -> list[float]:
    """Weight of the objectness term of each layer, from the finest grid to the coarsest."""
    weights = [4.0, 1.0, 0.4] if layer_count == 3 else [4.0, 1.0, 0.25, 0.06, 0.02]
    return (weights + [weights[-1]] * layer_count)[:layer_count]


def _take_rows(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows (K, 5 + nc) of a map (B, na, H, W, 5 + nc) at flat ``positions`` (K,), with a reproducible gradient.

    Positions can repeat, so the gradient is a sum, and its order matters in floating point. On CPUs index_select has a
    fixed order and indexing has not; on GPUs it is the other way round.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    return flat[positions] if flat.is_cuda else flat.index_select(0, positions)


class FocalLoss(nn.Module):
    """Down-weights well-predicted elements (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

    Wraps a ``BCEWithLogitsLoss``; its own ``reduction`` is applied after the weighting.
    """

    def __init__(self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25):
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = loss_fcn.reduction
        self.register_buffer("pos_weight", loss_fcn.pos_weight, persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``logits`` and ``target`` have one shape; the result is a scalar unless the reduction is 'none'."""
        loss = self.elementwise(logits, target)
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def elementwise(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of every element, without reduction."""
        probability = logits.sigmoid()
        error = torch.lerp(probability, 1 - probability, target)  # 1 - p_t
        class_weight = (1 - self.alpha) + (2 * self.alpha - 1) * target
        pos_weight = self.get_buffer("pos_weight")
        loss = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight, reduction="none")
        return loss * class_weight * error.pow(self.gamma)


def _elementwise(criterion: nn.Module, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The unreduced loss of ``criterion``, a BCEWithLogitsLoss or a FocalLoss around one."""
    if isinstance(criterion, FocalLoss):
        return criterion.elementwise(logits, target)
    weight: Any = criterion.pos_weight
    return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")


class ComputeLoss:
    """Loss of a batch: ``ComputeLoss(model)(predictions, targets) -> (total, items)``.

    Reads ``model.hyp`` (``box obj cls cls_pw obj_pw fl_gamma anchor_t``, optional ``label_smoothing``) and the head's
    ``na nc nl anchors stride``. With ``autobalance`` the layers' objectness weights follow their losses.

    Attributes:
        masked: use shapes that do not depend on the values of the targets, so that the host never waits for the GPU
            and a CUDA graph can record the loss; the default on GPUs. Only the rounding of sums differs.
    """

    sort_obj_iou = False  # True: a cell claimed several times takes the largest overlap instead of the last one

    def __init__(self, model: nn.Module, autobalance: bool = False):
        network: Any = getattr(model, "module", model)  # inside DataParallel or DistributedDataParallel
        self.hyp: dict[str, Any] = network.hyp
        head = network.model[-1]
        self.na, self.nc, self.nl = int(head.na), int(head.nc), int(head.nl)
        self.anchors: torch.Tensor = head.anchors  # (nl, na, 2) in grid cells; the live buffer
        self.device = next(network.parameters()).device
        self.masked = self.device.type == "cuda"

        self.cp, self.cn = smooth_BCE(eps=self.hyp.get("label_smoothing", 0.0))
        self.BCEcls = self._criterion(self.hyp["cls_pw"])
        self.BCEobj = self._criterion(self.hyp["obj_pw"])
        self.balance = _layer_weights(self.nl)
        self.gr = 1.0
        self.autobalance = autobalance
        self.ssi = [int(stride) for stride in head.stride].index(16) if autobalance else 0

    @property
    def recordable(self) -> bool:
        """True if a CUDA graph can record the computation: the same operations for all values, all on the device."""
        return self.masked and not self.autobalance

    def _criterion(self, positive_weight: float) -> nn.Module:
        criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([positive_weight], device=self.device))
        gamma = self.hyp.get("fl_gamma", 0.0)
        return FocalLoss(criterion, gamma) if gamma > 0 else criterion

    def __call__(
        self, p: list[torch.Tensor], targets: torch.Tensor, images: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss times the batch size, shape (1,), and the detached items [box, obj, cls], shape (3,).

        ``p[i]``: (B, na, H_i, W_i, 5 + nc) raw logits. ``targets``: (n, 6) rows of image index, class, x, y, w, h
        normalised to the image, and rows that are none, as ``assignment.pad_labels`` adds them. A layer without matches
        contributes its objectness only. ``images`` are those of a training batch, for losses that wrap this one.
        """
        box_term = torch.zeros(1, device=self.device)
        class_term = torch.zeros(1, device=self.device)
        object_terms = []
        layers = self.assign(p, targets)
        for logits, matched, share in zip(p, layers, self._shares(layers), strict=True):
            objectness = torch.zeros(logits.shape[:4], device=logits.device)
            if len(matched.image):
                positions = matched.positions(logits)  # (K,)
                rows = _take_rows(logits, positions).float()  # (K, 5 + nc); half precision would blur the overlap
                overlap = bbox_iou(self.decode(rows, matched.anchors), matched.boxes, CIoU=True).squeeze(1)  # (K,)
                box_term = box_term + matched.mean(1.0 - overlap) * share
                objectness = self._objectness(logits, matched, overlap.detach().clamp(min=0))
                if self.nc > 1:
                    target = torch.full_like(rows[:, 5:], self.cn)  # (K, nc)
                    target.scatter_(1, matched.classes[:, None], self.cp)
                    class_term = class_term + self._class_loss(rows[:, 5:], target, matched) * share
            object_terms.append(self.BCEobj(logits[..., 4].float(), objectness))
        object_term = torch.stack([t * weight for t, weight in zip(object_terms, self.balance, strict=True)]).sum(0)
        if self.autobalance:
            self._rebalance(object_terms)
        gains = [(box_term, "box"), (object_term.view(1), "obj"), (class_term, "cls")]
        weighted = torch.cat([term * self.hyp[gain] for term, gain in gains])
        return weighted.sum(0, keepdim=True) * len(p[0]), weighted.detach()

    def _shares(self, layers: list[LayerTargets]) -> list[float] | torch.Tensor:
        """Weight of this rank's means over its matches, layer by layer.

        In data-parallel training a rank with more matches gets more weight, so that the mean over the ranks is that
        over all matches, as one process would compute it. The ranks communicate in training steps only.
        """
        if not torch.is_grad_enabled() or ranks()[1] == 1:
            return [1.0] * len(layers)
        own = torch.stack([torch.as_tensor(matched.matching(), device=self.device) for matched in layers]).float()
        return own / average(own.clone()).clamp(min=1e-9)

    def _rebalance(self, object_terms: list[torch.Tensor]) -> None:
        """Let each layer's weight follow the inverse of its loss; the layer of stride 16 keeps the weight 1."""
        moved = [0.9999 * old + 0.0001 / term.item() for old, term in zip(self.balance, object_terms, strict=True)]
        self.balance = [weight / moved[self.ssi] for weight in moved]

    @staticmethod
    def decode(rows: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Logits (..., 5 + nc) -> boxes (..., 4), centre relative to the cell and size, in grid cells."""
        unit = 2 * rows[..., :4].sigmoid()
        return torch.cat((unit[..., :2] - 0.5, unit[..., 2:].square() * anchors), -1)

    def _class_loss(self, logits: torch.Tensor, target: torch.Tensor, matched: LayerTargets) -> torch.Tensor:
        """Mean over the rows that match and over the classes, of logits and targets (K, nc)."""
        if matched.valid is None:
            return self.BCEcls(logits, target)
        return matched.mean(_elementwise(self.BCEcls, logits, target))

    def _objectness(self, logits: torch.Tensor, matched: LayerTargets, overlap: torch.Tensor) -> torch.Tensor:
        """The objectness targets (B, na, H, W): the overlap (K,) in the cells of its rows, else 0.

        In a cell claimed twice the later row counts. All rows of a cell write the same value, that of the last of
        them, so the result does not depend on the order in which a device performs the writes.
        """
        shape = logits.shape[:4]
        spare = shape.numel()  # index of an extra cell, for rows that do not match
        positions = matched.positions(logits)  # (K,)
        if matched.valid is not None:
            positions = torch.where(matched.valid, positions, spare)
        value = (1.0 - self.gr) + self.gr * overlap
        objectness = torch.zeros(spare + 1, device=logits.device)
        if self.sort_obj_iou:
            objectness.scatter_reduce_(0, positions, value, "amax")
        else:
            order = torch.arange(len(positions), device=positions.device)
            last = torch.zeros_like(objectness, dtype=torch.long).scatter_reduce_(0, positions, order, "amax")
            objectness.scatter_(0, positions, value[last[positions]])
        return objectness[:-1].view(shape)

    def assign(self, p: list[torch.Tensor], targets: torch.Tensor) -> list[LayerTargets]:
        """Match targets to anchors and cells, layer by layer; see ``assignment.assign``."""
        values = max(self.na, 1) * 5 * len(targets) * p[0].shape[-1]
        return assign(p, targets, self.anchors, self.hyp["anchor_t"], self.masked and values <= MOST_VALUES)

    def build_targets(self, p: list[torch.Tensor], targets: torch.Tensor) -> tuple[list, list, list, list]:
        """The matches as four lists over layers: classes, boxes, (image, anchor, row, column), anchors."""
        layers = assign(p, targets, self.anchors, self.hyp["anchor_t"], masked=False)
        indices = [tuple(layer[:4]) for layer in layers]
        return [t.classes for t in layers], [t.boxes for t in layers], indices, [t.anchors for t in layers]
