"""Knowledge distillation: the unpruned model's outputs as soft targets, as a plug-in of the training loop.

Labels mark the few cells that hold an object; the teacher gives, for every cell and anchor, the probability of an
object, its box and its class, also for objects that nobody labelled. The narrow student learns from both. Boxes and
classes are weighted by the teacher's objectness, so that its output in empty cells, where it was never trained, is not
taught (Mehta and Ozturk, Object Detection at 200 Frames Per Second, 2018). Both networks see the same augmented images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from models.loading import attempt_load
from utils.callbacks import Plugin
from utils.checkpoint import de_parallel
from utils.dataset.classes import class_names
from utils.errors import InputError
from utils.log import LOGGER
from utils.loss import ComputeLoss
from utils.metrics import bbox_iou
from utils.training.assignment import constant
from utils.training.state import TrainingState

LEAST_OBJECTNESS = 0.01  # boxes and classes of less likely cells are not compared: their weight would be negligible
ANCHOR_TOLERANCE = 1e-2  # cells; half precision in files rounds anchors by less


def soft_cross_entropy(logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Binary Kullback-Leibler divergence of each pair of logits, same shape: 0 where they agree, else positive."""
    target = teacher_logits.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return cross_entropy - functional.binary_cross_entropy_with_logits(teacher_logits, target, reduction="none")


def output_distance(
    student: list[torch.Tensor], teacher: list[torch.Tensor], loss: ComputeLoss
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distance of the student's head from the teacher's: box, objectness and class term, scalars before their gains.

    Args:
        student: raw logits of each level, (B, na, H, W, 5 + nc).
        teacher: the same of the teacher.
        loss: the labels' loss, for its anchors and its weights of the levels.

    Returns:
        1 - CIoU of the boxes and the divergence of the classes, both averaged with the teacher's objectness as weight,
        and the divergence of the objectness, averaged over a level's cells and summed over the levels by their weights.
    """
    box = objectness = classes = student[0].new_zeros((), dtype=torch.float)
    for level, (own, target) in enumerate(zip(student, teacher, strict=True)):
        divergence = soft_cross_entropy(own[..., 4].float(), target[..., 4].float())  # (B, na, H, W)
        objectness = objectness + divergence.mean() * loss.balance[level]
        weight = target[..., 4].float().sigmoid()  # (B, na, H, W)
        likely = weight > LEAST_OBJECTNESS
        anchors = loss.anchors[level].to(weight)[:, None, None].expand(*weight.shape, 2)  # (B, na, H, W, 2)
        if loss.masked:  # all cells: the number of likely ones must not decide what is launched
            weight = torch.where(likely, weight, 0.0)
        else:  # K cells
            own, target, weight, anchors = own[likely], target[likely], weight[likely], anchors[likely]
        share = weight / weight.sum().clamp(min=LEAST_OBJECTNESS)  # (K,) or (B, na, H, W); 0 if nothing is likely
        own = own.float()  # (..., 5 + nc); half precision would blur the overlap
        target = target.float()
        overlap = bbox_iou(loss.decode(own, anchors), loss.decode(target, anchors), CIoU=True).squeeze(-1)
        box = box + ((1 - overlap) * share).sum()
        if loss.nc > 1:
            divergence = soft_cross_entropy(own[..., 5:], target[..., 5:]).mean(-1)
            classes = classes + (divergence * share).sum()
    return box, objectness, classes


class Distillation(Plugin):
    """Adds the distance between student and teacher to the loss of every training batch.

    Args:
        teacher: checkpoint of the unpruned model. Its head has the classes of the student, and all levels of the
            student with their anchors; further levels teach nothing.
        gain: weight of the distance, next to the labels' loss; its three terms have the gains of that loss.
    """

    name = "distillation"

    def __init__(self, teacher: str | Path, gain: float = 1.0) -> None:
        """Read the teacher, so that a bad file stops a run before anything is written."""
        self.path = teacher
        self.gain = gain
        self.teacher = attempt_load(teacher).requires_grad_(False)
        self.label_loss: Any = None  # the run's own, from on_training_ready on
        self.levels: list[int] = []  # of the teacher, one for each of the student's
        self._sums = torch.zeros(3)  # of the distances in an epoch
        self._batches = 0

    def on_training_ready(self, state: TrainingState) -> None:
        """Compare the teacher with the student, and wrap the run's loss.

        Raises:
            InputError: the teacher's classes are not those of the student, or it lacks a level or its anchors.
        """
        self.label_loss = state.compute_loss
        self.teacher.to(state.device, memory_format=torch.channels_last)
        self.levels = matching_levels(self.teacher, de_parallel(state.model), self.path)
        self.teacher.model[-1].training = True  # the head alone: it then returns raw logits and decodes nothing
        self._sums = self._sums.to(state.device)
        state.compute_loss = self
        LOGGER.info(f"Distillation: the outputs of {self.path} are soft targets, gain {self.gain:g}")

    @property
    def recordable(self) -> bool:
        """True if a CUDA graph can hold the computation; see ``ComputeLoss.recordable``."""
        return bool(getattr(self.label_loss, "recordable", False))

    def on_train_epoch_start(self) -> None:
        """Begin a new mean."""
        self._sums.zero_()
        self._batches = 0

    def on_train_batch_start(self) -> None:
        """Count the batch: a replayed CUDA graph calls nothing here."""
        self._batches += 1

    def on_train_epoch_end(self, epoch: int) -> None:
        """Log the mean distance of the epoch."""
        means = (self._sums / max(self._batches, 1)).tolist()
        LOGGER.info("Distance to the teacher: box {:.4g}, objectness {:.4g}, class {:.4g}".format(*means))
        if self.state.loggers is not None:
            tags = ("distillation/box", "distillation/obj", "distillation/cls")
            self.state.loggers.scalars(dict(zip(tags, means, strict=True)), epoch)

    def __call__(
        self, p: list[torch.Tensor], targets: torch.Tensor, images: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The labels' loss and its items, as ``ComputeLoss``; with a training batch's images, plus the distance."""
        loss, items = self.label_loss(p, targets)
        if images is None:  # validation
            return loss, items
        with torch.no_grad():
            heads = self.teacher(images)
        target = [heads[level] for level in self.levels]
        hyp = self.state.hyp
        terms = torch.stack(output_distance(p, target, self.label_loss))  # (3,)
        terms = terms * constant((hyp["box"], hyp["obj"], hyp["cls"]), terms.device)
        self._sums += terms.detach()
        return loss + self.gain * terms.sum() * len(p[0]), items


def matching_levels(teacher: Any, student: Any, path: str | Path) -> list[int]:
    """The level of the teacher's head that has the stride of each level of the student's.

    Raises:
        InputError: the two have different classes, or the teacher lacks a stride or has other anchors there.
    """
    if class_names(teacher) != class_names(student):
        raise InputError(
            f"--teacher {path} has the classes {class_names(teacher)}, the model to train {class_names(student)}: "
            "take the model that this one was pruned from"
        )
    theirs, ours = _strides(teacher), _strides(student)
    if ours != theirs and (not set(ours) <= set(theirs) or len(set(theirs)) < len(theirs)):
        raise InputError(
            f"--teacher {path} has levels of the strides {theirs}, the model to train {ours}, and each level needs one "
            "of its own stride as its teacher: take the model that this one was pruned from"
        )
    levels = list(range(len(ours))) if ours == theirs else [theirs.index(stride) for stride in ours]
    anchors = student.model[-1].anchors.float().cpu()  # (nl, na, 2)
    expected = teacher.model[-1].anchors.float().cpu()[levels]  # (nl, na, 2)
    if anchors.shape != expected.shape or (anchors - expected).abs().max() > ANCHOR_TOLERANCE:
        raise InputError(
            f"--teacher {path} has other anchors than the model to train: take the model that this one was pruned "
            "from, and --noautoanchor if the anchors were changed at the start of this run"
        )
    return levels


def _strides(model: Any) -> list[int]:
    return [int(stride) for stride in model.model[-1].stride]
