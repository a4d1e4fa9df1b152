"""Checkpoints, and a function that exports them once for all tests of exports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import export
from models.yolo import DetectionModel
from prune_tools.channels.groups import find_groups, select_groups
from prune_tools.units.removal import Removal, remove_units
from prune_tools.yolo_pruned import prune_model
from tests.colour_detector import save_colour_detector, save_pruned_colour_detector
from tests.exports.helpers import SIZE, needs
from tests.pruning_networks import random_plan, thin
from utils.checkpoint import save_checkpoint


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random images every time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def stock(tmp_path_factory) -> Path:
    """The checkpoint of the detector that finds discs and squares by their colours."""
    return save_colour_detector(tmp_path_factory.mktemp("stock") / "stock.pt")


@pytest.fixture(scope="session")
def pruned(tmp_path_factory) -> Path:
    """The checkpoint of a pruned detector of random widths."""
    return save_narrow(thin("yolov5n"), tmp_path_factory.mktemp("pruned") / "pruned.pt")


@pytest.fixture(scope="session")
def reduced(tmp_path_factory) -> Path:
    """The same without its coarsest level and two blocks, one of which was the only one of its row."""
    model = remove_units(thin("yolov5n"), Removal((2,), ("model.2.m.0", "model.6.m.1")))
    return save_narrow(model, tmp_path_factory.mktemp("reduced") / "reduced.pt")


def save_narrow(model: DetectionModel, path: Path) -> Path:
    """Save ``model`` for two classes, cut to random widths; returns ``path``."""
    groups = select_groups(find_groups(model), "all")
    prune_model(model, groups, random_plan(groups))
    model.names = ["disc", "square"]
    save_checkpoint({"epoch": -1, "model": model.float(), "ema": None, "optimizer": None}, path)
    return path


@pytest.fixture(scope="session")
def pruned_colours(tmp_path_factory) -> Path:
    """The checkpoint of the detector by colours, pruned."""
    return save_pruned_colour_detector(tmp_path_factory.mktemp("pruned_colours") / "pruned_colours.pt")


@pytest.fixture(scope="session")
def exported(tmp_path_factory, tiny_dataset, stock, pruned, reduced, pruned_colours):
    """A function (checkpoint, format, flags) -> the exported file; the same export is made once."""
    made: dict[tuple, Path] = {}
    checkpoints = {"stock": stock, "pruned": pruned, "reduced": reduced, "pruned_colours": pruned_colours}

    def make(which: str, argument: str, **flags) -> Path:
        key = (which, argument, *sorted(flags.items()))
        if key not in made:
            needs(argument)
            folder = tmp_path_factory.mktemp(f"{which}-{argument}")
            weights = folder / f"{which}.pt"
            weights.symlink_to(checkpoints[which])
            options = {"imgsz": SIZE if which in ("pruned", "reduced") else 128, "data": str(tiny_dataset)} | flags
            (made[key],) = export.run(weights=str(weights), include=[argument], **options)
            assert sorted(path.name for path in folder.iterdir()) == sorted([weights.name, made[key].name])
        return made[key]

    return make
