#!/usr/bin/env python3
"""Prune a sparsely trained YOLOv5: remove the channels with the smallest batch-norm gammas.

    python prune_tools/prune.py --weights runs/train/exp4/weights/last.pt --percent 0.4 \\
        --cfg models/yolov5n_mask.yaml --data data/mask.yaml --batch-size 64 --imgsz 320
    python prune_tools/prune.py --weights runs/train/exp4/weights/last.pt --target-flops 2.1G --round-to 8 \\
        --data data/mask.yaml --imgsz 320

Writes pruned_model.pt, pruned_model.yaml, orign_model.pt (full width, removed channels zero) and report.txt.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.planning import PlanOptions, make_plan
from utils.cli import run_command, show_arguments
from utils.config import build, check_thresholds, option, parse
from utils.errors import InputError, MissingFileError
from utils.files import ROOT, atomic_path, increment_path, make_folder, read_yaml
from utils.log import LOGGER, colorstr

if TYPE_CHECKING:
    import torch

    from models.yolo import DetectionModel

DEFAULT_CFG = str(ROOT / "models/yolov5n_mask.yaml")
FLOPS_IMAGE_SIZE = 640  # pixels; as YOLOv5 prints its models
REPAIR_BATCH = 16  # images


@dataclass
class PruneOptions(PlanOptions):
    """Options of prune.py."""

    data: str = option(str(ROOT / "data/mask.yaml"), "data set YAML, the one of the training")
    cfg: str = option(DEFAULT_CFG, "model YAML to check the checkpoint against; the default and '' accept any")
    weights: list[str] = option([""], "checkpoint of the sparse run; default: the newest below runs/train", nargs="+")
    fold: bool = option(True, "fold the constants that removed channels emitted into their readers")
    reconstruct: int = option(192, "training images on which the layers are re-fitted to the unpruned model; 0 = off")
    recalibrate: int = option(0, "training images on which batch norm is estimated anew; 0 = off")
    batch_size: int = option(64, "images per batch")
    imgsz: int = option(320, "image size in pixels, longer side", "--img", "--img-size")
    conf_thres: float = option(0.001, "least confidence; mAP needs 0.001")
    iou_thres: float = option(0.6, "NMS threshold")
    max_det: int = option(300, "most detections per image")
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(0, "most data loading processes")
    project: str = option(str(ROOT / "runs/val"), "folder of the runs")
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken")
    exist_ok: bool = option(False, "write into the run folder even if it exists")
    half: bool = option(False, "validate in FP16 (on a GPU)")
    dnn: bool = option(False, "OpenCV DNN for ONNX files: not possible here, stops with a message")

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        super().__post_init__()
        self.weights = [
            str(file) for file in ([self.weights] if isinstance(self.weights, (str, Path)) else self.weights)
        ]
        check_thresholds(self.conf_thres, self.iou_thres)
        least = {"batch_size": 1, "imgsz": 1, "max_det": 1, "reconstruct": 0, "recalibrate": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"--{name.replace('_', '-')} must be at least {value}, got {getattr(self, name)}")
        if len(self.weights) > 1:
            raise InputError(
                f"--weights names {len(self.weights)} files, but one model is pruned at a time: give one checkpoint"
            )
        if self.dnn:
            raise InputError(
                "--dnn runs ONNX files through OpenCV, but pruning works on PyTorch checkpoints: leave it out"
            )


def newest_sparse_run(folder: Path) -> Path:
    """last.pt of the newest sparse training below ``folder``. Raises MissingFileError if there is none."""
    found = []
    for file in folder.glob("*/weights/last.pt"):
        record = file.parents[1] / "opt.yaml"
        if record.is_file() and (read_yaml(record) or {}).get("sr") is not None:
            found.append(file)
    if not found:
        raise MissingFileError(
            f"no sparse training below {folder}: run prune_tools/train_sparity.py, or name a checkpoint with --weights"
        )
    return max(found, key=lambda file: file.stat().st_mtime)


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep the tables of a network that is only looked at out of the log."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def check_architecture(model: DetectionModel, cfg: str, checkpoint: str) -> None:
    """Raise InputError unless ``model`` is what ``cfg`` describes, apart from the class count and pruned widths."""
    from models.yolo import DetectionModel
    from utils.checks import check_file

    described = read_yaml(check_file(cfg, (".yaml", ".yml")))
    if not isinstance(described, dict):
        raise InputError(f"{cfg} is no model configuration: expected a mapping with backbone and head")
    classes = model.yaml.get("nc")
    if described.get("nc") != classes:
        LOGGER.info(f"{cfg} has nc={described.get('nc')}, the checkpoint nc={classes}: the checkpoint counts")
    widths = {"channels": model.yaml["channels"]} if model.yaml.get("channels") else {}
    start = f"--cfg {cfg} is another architecture than {checkpoint}"
    try:
        with warnings_only():
            plain = DetectionModel({**described, "nc": classes, **widths}, ch=model.yaml.get("ch", 3))
    except InputError as error:
        raise InputError(f"{start} ({error})") from error
    expected, actual = (
        {name: tuple(value.shape) for name, value in network.state_dict().items() if "anchor" not in name}
        for network in (plain, model)
    )
    different = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    if different:
        ours, theirs = (shapes.get(different[0], "absent") for shapes in (actual, expected))
        raise InputError(
            f"{start}: {different[0]} is {theirs} in the configuration and {ours} in the checkpoint; "
            "leave --cfg out to use the checkpoint's own"
        )


def check_classes(model: DetectionModel, data: dict[str, Any], options: PruneOptions) -> None:
    """Raise InputError unless checkpoint and data set have the same classes."""
    own = model.names.values() if isinstance(model.names, dict) else model.names
    ours, theirs = [str(name) for name in own], list(data["names"].values())
    unnamed = ours == [str(index) for index in range(len(ours))]
    if len(ours) != len(theirs) or not (unnamed or ours == theirs):

        def shown(names: list[str]) -> str:
            return f"{len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"

        raise InputError(
            f"{options.weights[0]} was trained on {shown(ours)} but {options.data} has {shown(theirs)}: "
            "prune with the data set of the training"
        )


def open_inputs(options: PruneOptions) -> tuple[DetectionModel, dict[str, Any], dict[str, Any]]:
    """The model on its device, the checkpoint, and the checked data set. Raises InputError for what does not fit."""
    from prune_tools.yolo_pruned import load_model
    from utils.checks import check_dataset, check_file, check_img_size
    from utils.device import select_device

    if not options.weights[0]:
        options.weights = [str(newest_sparse_run(ROOT / "runs/train"))]
        LOGGER.info(f"Pruning the newest sparse training, {options.weights[0]}")
    device = select_device(options.device, options.batch_size)
    if options.half and device.type == "cpu":
        raise InputError("--half needs a GPU: CPUs compute FP16 slowly or not at all, leave it out")
    repair = options.reconstruct or options.recalibrate  # both look at training images
    data = check_dataset(options.data, splits=("train", "val") if repair else ("val",))
    options.weights = [check_file(options.weights[0], ".pt")]
    model, checkpoint = load_model(options.weights[0])
    if options.cfg not in ("", DEFAULT_CFG):
        check_architecture(model, options.cfg, options.weights[0])
    check_classes(model, data, options)
    options.imgsz = check_img_size(options.imgsz, max(int(max(model.stride)), 32))
    return model.to(device), checkpoint, data


class Pruning:
    """One pruning from scores to repaired network; ``full`` stays as it was."""

    def __init__(self, full: DetectionModel, options: PruneOptions) -> None:
        """Find the groups of ``full``, score their channels and plan what stays."""
        from prune_tools.tracing import trace_model

        self.full = full
        self.trace = trace_model(full)
        self.groups, self.plan = make_plan(full, self.trace, options, options.data, options.imgsz, options.batch_size)

    def cut(self, images: torch.Tensor) -> tuple[DetectionModel, DetectionModel]:
        """The narrowed and the masked full-width network, checked against each other on ``images``."""
        from prune_tools.yolo_pruned import check_surgery, mask_model, prune_model

        masked, pruned = mask_model(self.full, self.groups, self.plan), deepcopy(self.full)
        self.cuts = prune_model(pruned, self.groups, self.plan)
        absolute, relative = check_surgery(pruned, masked, images)
        LOGGER.info(
            f"Surgery checked on {len(images)} real images: the pruned model equals the masked full-width model, "
            f"largest difference {absolute:.3g} ({relative:.1e} of the largest output)"
        )
        return pruned, masked

    def repair(self, pruned: DetectionModel, options: PruneOptions, data: dict[str, Any]) -> None:
        """Give accuracy back without training, in place: fold constants, re-fit the layers, estimate batch norm."""
        from prune_tools.calibration import recalibrate, training_batches
        from prune_tools.folding import fold_constants
        from prune_tools.reconstruction import reconstruct

        if options.fold:
            LOGGER.info(fold_constants(self.full, pruned, self.trace, self.groups, self.plan).summary())
        count = max(options.reconstruct, options.recalibrate)
        if not count:
            return
        batches = training_batches(data, count, options.imgsz, REPAIR_BATCH, int(max(self.full.stride)))
        if options.reconstruct:
            chosen = batches[: math.ceil(options.reconstruct / REPAIR_BATCH)]
            LOGGER.info(reconstruct(self.full, pruned, self.trace, self.cuts, chosen).summary())
        if options.recalibrate:
            recalibrate(pruned, batches[: math.ceil(options.recalibrate / REPAIR_BATCH)])


def main(options: PruneOptions) -> Path:
    """Prune, check, repair, validate and save; returns the run folder."""
    import val
    from prune_tools.report import comparison_table, layer_table
    from prune_tools.yolo_pruned import save_pruned

    show_arguments("prune", options)
    model, checkpoint, data = open_inputs(options)
    pruning = Pruning(model, options)
    folder = make_folder(increment_path(Path(options.project) / options.name, options.exist_ok))
    shared = {
        name: getattr(options, name) for name in ("batch_size", "imgsz", "conf_thres", "iou_thres", "max_det", "half")
    }
    loader = val.make_loader(
        build(val.ValOptions, workers=options.workers, **shared), data, options.imgsz, max(int(max(model.stride)), 32)
    )
    images = next(iter(loader))[0].to(next(model.parameters()).device).float() / 255

    pruned, masked = pruning.cut(images)
    widths = layer_table(model, pruned)
    LOGGER.info(f"\n{widths}\n")
    pruning.repair(pruned, options, data)
    rows = []
    for title, network in (("before", model), ("pruned", pruned)):
        LOGGER.info(colorstr(f"Validating: {title}"))
        copy = deepcopy(network)  # validation in FP16 rounds the weights
        metrics, _, _ = val.run(data, model=copy, dataloader=loader, save_dir=folder, plots=False, **shared)
        rows.append((title, network, metrics))
    summary = comparison_table(rows, FLOPS_IMAGE_SIZE)
    LOGGER.info(f"\n{summary}\n")
    save_pruned(folder, pruned, masked, checkpoint)
    with atomic_path(folder / "report.txt") as draft:
        draft.write_text(f"{options.weights[0]}\n{pruning.plan.summary()}\n\n{widths}\n\n{summary}\n", encoding="utf-8")
    result = folder / "pruned_model.pt"
    files = "pruned_model.pt, pruned_model.yaml, orign_model.pt, report.txt"
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}: {files}")
    LOGGER.info(
        f"Next: python prune_tools/finetune.py --weights {result} --data {options.data} --imgsz {options.imgsz}"
    )
    return folder


def run(**keywords: Any) -> Path:
    """Prune from Python, the flags as keywords; returns the run folder."""
    return main(build(PruneOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(PruneOptions, "Prune a sparsely trained YOLOv5 by its batch-norm gammas.")))
