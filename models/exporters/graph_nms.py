"""Non-maximum suppression inside an ONNX graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.exporters.graph import ExportModel
from models.exporters.options import NmsSettings
from utils.geometry.nms import suppress_overlaps


class _Suppress(torch.autograd.Function):
    """The ONNX operator NonMaxSuppression, and its computation in torch."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, limit: int, iou_thres: float, conf_thres: float) -> Tensor:
        """(B, N, 4) corners, (B, C, N) scores -> (S, 3) selected (image, class, box)."""
        selected = [torch.zeros(0, 3, dtype=torch.long)]
        for image in range(scores.shape[0]):
            for category in range(scores.shape[1]):
                over = (scores[image, category] > conf_thres).nonzero()[:, 0]
                kept = over[suppress_overlaps(boxes[image, over], scores[image, category, over], iou_thres, limit)]
                first = kept.new_tensor([image, category]).expand(len(kept), 2)
                selected.append(torch.cat((first, kept[:, None]), dim=1).cpu())
        return torch.cat(selected).to(boxes.device)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limit: int, iou_thres: float, conf_thres: float) -> Any:
        """The operator's node, for torch's exporter."""
        limits = [
            g.op("Constant", value_t=torch.tensor([value]))
            for value in (limit, torch.tensor(iou_thres), torch.tensor(conf_thres))
        ]
        return g.op("NonMaxSuppression", boxes, scores, *limits)


class WithNms(nn.Module):
    """A detector followed by the suppression of detect.py: a box counts for its best class.

    The output is (B, topk_all, 6): x1, y1, x2, y2 in pixels of the network's input, score, class index, by descending
    score; unused rows are zeros.
    """

    def __init__(self, model: ExportModel, settings: NmsSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, topk_all, 6)."""
        settings = self.settings
        # Added rows of zeros are never selected, and make N at least topk_all
        predictions = functional.pad(self.model.forward(images), (0, 0, 0, settings.topk_all))  # (B, N, 5 + nc)
        objectness = predictions[..., 4:5]  # (B, N, 1)
        classes = predictions[..., 5:]  # (B, N, nc)
        centre = predictions[..., :2]
        half_size = predictions[..., 2:4] / 2
        boxes = torch.cat((centre - half_size, centre + half_size), dim=2)  # (B, N, 4)
        best, category = (objectness * classes).max(dim=2, keepdim=True)  # (B, N, 1) each
        best = torch.where(objectness > settings.conf_thres, best, torch.zeros_like(best))
        if settings.agnostic:
            scores = best  # (B, N, 1)
        else:  # (B, N, nc)
            scores = torch.where(category == torch.arange(classes.shape[2], device=boxes.device), best, 0.0)
        selected = _Suppress.apply(
            boxes, scores.transpose(1, 2), settings.topk_per_class, settings.iou_thres, settings.conf_thres
        )  # (S, 3): image, class, box
        one_each = torch.ones_like(selected[:, 0]).to(best)
        kept = torch.zeros_like(best[..., 0]).index_put((selected[:, 0], selected[:, 2]), one_each)  # (B, N) 0 or 1
        score, order = (best[..., 0] * kept).topk(settings.topk_all, dim=1)  # (B, topk_all) each
        rows = torch.cat((boxes, best, category.to(boxes)), dim=2)  # (B, N, 6)
        rows = rows.gather(1, order[..., None].expand(-1, -1, 6))  # (B, topk_all, 6)
        return rows * (score > 0).to(rows)[..., None]
