"""YOLOv5 v6.2's names for what now lives in other modules, for other people's code; nothing here imports it."""

from __future__ import annotations

from utils.checkpoint import de_parallel, intersect_dicts
from utils.device import select_device, time_sync
from utils.model_info import fuse_conv_and_bn
from utils.model_info import log_info as model_info
from utils.training.optim import EarlyStopping, ModelEMA, smart_optimizer

__all__ = [
    "EarlyStopping",
    "ModelEMA",
    "de_parallel",
    "fuse_conv_and_bn",
    "intersect_dicts",
    "model_info",
    "select_device",
    "smart_optimizer",
    "time_sync",
]
