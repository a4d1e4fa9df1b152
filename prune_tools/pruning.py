"""What the commands that prune share: their options, what they open, and one pruning step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.classes import SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.config import LARGEST_IMAGE, as_list, build, option
from utils.errors import InputError, MissingFileError
from utils.files import ROOT, read_yaml_mapping
from utils.log import LOGGER, warnings_only
from utils.next_steps import handed_on

if TYPE_CHECKING:
    import torch

    from models.yolo import DetectionModel
    from prune_tools.calibration import Batch
    from prune_tools.groups import ChannelGroup
    from prune_tools.plan import Plan
    from prune_tools.reconstruction import Recording
    from prune_tools.tracing import Trace
    from prune_tools.yolo_pruned import Cut

CHECKED_IMAGES = 4  # on which surgery is checked: what is wrong is wrong on each of them
DEFAULT_CFG = str(ROOT / "models/yolov5n_mask.yaml")


@dataclass
class PruningOptions:
    """Options of every command that prunes: what it opens, how it repairs, how it measures, where it writes."""

    data: str = option(str(ROOT / "data/mask.yaml"), "data set YAML, the one of the training")
    cfg: str = option(DEFAULT_CFG, "model YAML to check the checkpoint against; the default and '' accept any")
    weights: list[str] = option(
        [""], "checkpoint of the sparse run; default: the newest below runs/train", nargs="+", handed_on=False
    )
    fold: bool = option(True, "fold the constants that removed channels emitted into their readers")
    reconstruct: int = option(
        192, "training images on which the layers are re-fitted to the unpruned model; 0 = off", at_least=0
    )
    recalibrate: int = option(0, "training images on which batch norm is estimated anew; 0 = off", at_least=0)
    batch_size: int = option(64, "images per batch", at_least=1)
    imgsz: int = option(
        320, "image size in pixels, longer side", "--img", "--img-size", at_least=1, at_most=LARGEST_IMAGE
    )
    conf_thres: float = option(0.001, "least confidence; mAP needs 0.001", at_least=0, at_most=1)
    iou_thres: float = option(0.6, "NMS threshold", at_least=0, at_most=1)
    max_det: int = option(300, "most detections per image", at_least=1)
    single_cls: bool = option(False, "treat all classes as one; found out by itself for a model trained with it")
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(0, "most data loading processes", at_least=0)
    project: str = option(str(ROOT / "runs/val"), "folder of the runs", handed_on=False)
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken", handed_on=False)
    exist_ok: bool = option(False, "write into the run folder even if it exists", handed_on=False)
    half: bool = option(False, "validate in FP16 (on a GPU)")
    dnn: bool = option(False, "OpenCV DNN for ONNX files: not possible here, stops with a message")

    def check_inputs(self) -> None:
        """Refuse values that no run can use, by name."""
        self.weights = as_list(self.weights)
        if len(self.weights) > 1:
            raise InputError(
                f"--weights names {len(self.weights)} files, but one model is pruned at a time: give one checkpoint"
            )
        if self.dnn:
            raise InputError(
                "--dnn runs ONNX files through OpenCV, but pruning works on PyTorch checkpoints: leave it out"
            )


def newest_sparse_run(folder: Path) -> Path:
    """best.pt, of an epoch that has become sparse, of the newest sparse training below ``folder``.

    Raises MissingFileError if there is none.
    """
    found = []
    for file in folder.glob("*/weights/best.pt"):
        record = file.parents[1] / "opt.yaml"
        try:
            if record.is_file() and read_yaml_mapping(record).get("sr") is not None:
                found.append(file)
        except InputError as error:
            LOGGER.warning(f"{file} is passed over: {error}")
    if not found:
        raise MissingFileError(
            f"no sparse training below {folder}: run prune_tools/train_sparity.py, or name a checkpoint with --weights"
        )
    return max(found, key=lambda file: file.stat().st_mtime)


def check_architecture(model: DetectionModel, cfg: str, checkpoint: str) -> None:
    """Raise InputError unless ``model`` is what ``cfg`` describes, apart from the class count and pruned widths."""
    from models.module_settings import differences
    from models.yolo import DetectionModel
    from utils.checks import check_file

    described = read_yaml_mapping(check_file(cfg, (".yaml", ".yml")))
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
    for difference in differences(model, plain):
        words = difference.words("in the checkpoint", "in the configuration")
        raise InputError(f"{start}: {words}; leave --cfg out to use the checkpoint's own")


def check_classes(model: DetectionModel, data: dict[str, Any], options: PruningOptions) -> None:
    """Raise InputError unless checkpoint and data set have the same classes; sets --single-cls for such a model."""
    own = class_names(model)
    if is_single_class(own, data["nc"]) and not options.single_cls:
        options.single_cls = True
        LOGGER.info(SINGLE_CLASS_NOTE.format(options.weights[0]))
    if options.single_cls:
        return
    ours, theirs = [str(name) for name in own], list(data["names"].values())
    unnamed = ours == [str(index) for index in range(len(ours))]
    if len(ours) != len(theirs) or not (unnamed or ours == theirs):

        def shown(names: list[str]) -> str:
            return f"{len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"

        raise InputError(
            f"{options.weights[0]} was trained on {shown(ours)} but {options.data} has {shown(theirs)}: "
            "prune with the data set of the training"
        )


def open_inputs(options: PruningOptions) -> tuple[DetectionModel, dict[str, Any], dict[str, Any]]:
    """The model on its device, the checkpoint, and the checked data set. Raises InputError for what does not fit."""
    from prune_tools.yolo_pruned import load_model
    from utils.checks import check_dataset, check_file, check_img_size
    from utils.device import select_device
    from utils.label_cache import check_labels

    if not options.weights[0]:
        options.weights = [str(newest_sparse_run(ROOT / "runs/train"))]
        LOGGER.info(f"Pruning the newest sparse training, {options.weights[0]}")
    device = select_device(options.device, options.batch_size)
    if options.half and device.type == "cpu":
        raise InputError("--half needs a GPU: CPUs compute FP16 slowly or not at all, leave it out")
    repair = options.reconstruct or options.recalibrate  # both look at training images
    data = check_dataset(options.data, splits=("train", "val") if repair else ("val",))
    options.weights = [check_file(options.weights[0], (".pt", ".safetensors"))]
    model, checkpoint = load_model(options.weights[0])
    if options.cfg not in ("", DEFAULT_CFG):
        check_architecture(model, options.cfg, options.weights[0])
    check_classes(model, data, options)
    if not options.single_cls:
        with warnings_only():
            check_labels(data["val"], data["names"])
    options.imgsz = check_img_size(options.imgsz, max(int(max(model.stride)), 32))
    return model.to(device), checkpoint, data


def val_options(options: PruningOptions) -> dict[str, Any]:
    """The options of a validation, for ``val.run`` and ``open_loader``: those that both commands have."""
    import val

    shared = handed_on(options, val.ValOptions)
    return {name: value for name, value in shared.items() if name not in ("data", "device", "workers")}


def open_loader(options: PruningOptions, data: dict[str, Any], model: DetectionModel) -> Any:
    """The loader of the validation images; ``options.imgsz`` has been checked."""
    import val

    chosen = build(val.ValOptions, workers=options.workers, **val_options(options))
    device = next(model.parameters()).device
    return val.make_loader(chosen, data, options.imgsz, max(int(max(model.stride)), 32), device=device)


def repair_batches(options: PruningOptions, data: dict[str, Any], model: DetectionModel) -> list[Batch]:
    """The training images that the repairs look at; none if there are no such repairs."""
    from prune_tools.calibration import repair_images

    count = max(options.reconstruct, options.recalibrate)
    return repair_images(data, count, options.imgsz, int(max(model.stride)), options.single_cls) if count else []


@dataclass
class Pruning:
    """One pruning from plan to repaired network; ``full`` stays as it was.

    Attributes:
        full: the network before.
        trace: its trace.
        groups: those that take part.
        plan: what stays of them.
        cuts: what surgery has kept of each module.
        notes: what the repairs say of themselves.
    """

    full: DetectionModel
    trace: Trace
    groups: list[ChannelGroup]
    plan: Plan
    cuts: dict[str, Cut] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def removes_any(self) -> bool:
        """Tell whether the plan removes anything."""
        return any(len(self.plan.removed(group)) for group in self.groups)

    def narrow(self) -> DetectionModel:
        """The narrowed network."""
        from prune_tools.yolo_pruned import prune_model

        pruned = deepcopy(self.full)
        self.cuts = prune_model(pruned, self.groups, self.plan)
        return pruned

    def cut(self, images: torch.Tensor) -> tuple[DetectionModel, DetectionModel]:
        """The narrowed and the masked full-width network, checked against each other on the first of ``images``."""
        from prune_tools.yolo_pruned import check_surgery, mask_model

        images = images[:CHECKED_IMAGES]
        masked, pruned = mask_model(self.full, self.groups, self.plan), self.narrow()
        absolute, relative = check_surgery(pruned, masked, images)
        self._note(
            f"Surgery checked on {len(images)} real images: the pruned model equals the masked full-width model, "
            f"largest difference {absolute:.3g} ({relative:.1e} of the largest output)"
        )
        return pruned, masked

    def repair(
        self,
        pruned: DetectionModel,
        options: PruningOptions,
        batches: Sequence[Batch],
        recording: Recording | None = None,
    ) -> None:
        """Give accuracy back without training, in place: fold constants, re-fit the layers, estimate batch norm.

        ``batches`` are those of ``repair_batches``; ``recording`` is as in ``reconstruct``.
        """
        from prune_tools.calibration import BATCH_SIZE, recalibrate
        from prune_tools.folding import fold_constants
        from prune_tools.reconstruction import reconstruct

        if options.fold:
            self._note(fold_constants(self.full, pruned, self.trace, self.groups, self.plan).summary())
        if options.reconstruct:
            chosen = batches[: math.ceil(options.reconstruct / BATCH_SIZE)]
            result = reconstruct(self.full, pruned, self.trace, self.cuts, chosen, recording=recording)
            self._note(result.summary())
        if options.recalibrate:
            chosen = batches[: math.ceil(options.recalibrate / BATCH_SIZE)]
            recalibrate(pruned, chosen)
            self.notes.append(f"Batch norm estimated anew on {sum(len(batch.images) for batch in chosen)} images")

    def _note(self, text: str) -> None:
        LOGGER.info(text)
        self.notes.append(text)
