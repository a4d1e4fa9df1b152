"""Training runs before their first epoch."""

from __future__ import annotations

from pathlib import Path

import torch

import val
from models import transfer
from utils.training.interfaces import Surroundings
from utils.training.options import TrainOptions
from utils.training.preparation import prepare
from utils.training.run_folder import RunFolder
from utils.training.trainer import Trainer


def prepared_trainer(options: TrainOptions, path: Path) -> Trainer:
    """The trainer of a run on the CPU, in the folder ``path``."""
    folder, around = RunFolder(path), Surroundings(transfer, val.run, torch.device("cpu"))
    return Trainer(prepare(options, folder, around, loggers=None), folder, around)
