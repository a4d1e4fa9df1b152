"""The figures of an epoch, and their names in results.csv and TensorBoard."""

from __future__ import annotations

from typing import NamedTuple

RESULT_COLUMNS = (
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",  # biases
    "x/lr1",  # weights with decay
    "x/lr2",  # norm weights
)


class EpochResult(NamedTuple):
    """The figures that ``on_fit_epoch_end`` passes on, in the order of v6.2's list of floats and of RESULT_COLUMNS.

    The validation figures are those of the last validation, zeros before the first.
    """

    box_loss: float
    obj_loss: float
    cls_loss: float
    precision: float
    recall: float
    map50: float
    map50_95: float
    val_box_loss: float
    val_obj_loss: float
    val_cls_loss: float
    lr_biases: float
    lr_weights: float
    lr_norms: float
