"""The inputs of the commands that prune: checkpoint, data set and images, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.checkpoints.soundness import check_runs
from models.description import describe_file
from models.loading import deployed, load_checkpoint
from models.prerequisites import check_channels, check_unfused
from models.yolo import DetectionModel
from prune_tools.options import DEFAULT_CFG, PruningOptions
from utils.commands.next_steps import handed_on
from utils.commands.options import build
from utils.dataset.classes import SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.distributed import plain_norms
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER, warnings_only
from utils.model_info import grid_size
from utils.storage.files import ROOT, read_yaml_mapping
from utils.validation.inputs import make_loader
from utils.validation.options import ValOptions

if TYPE_CHECKING:
    from models.yolo import DetectionModel
    from prune_tools.repair.calibration import Batch


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
    from prune_tools.opening import load_model
    from utils.checks import check_dataset, check_file, check_img_size
    from utils.dataset.label_cache import check_labels
    from utils.device import device_line, select_device

    if not options.weights[0]:
        options.weights = [str(newest_sparse_run(ROOT / "runs/train"))]
        LOGGER.info(f"Pruning the newest sparse training, {options.weights[0]}")
    device = select_device(options.device, options.batch_size)
    LOGGER.info(device_line(device))
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
    options.imgsz = check_img_size(options.imgsz, grid_size(model))
    return model.to(device), checkpoint, data


def val_options(options: PruningOptions) -> dict[str, Any]:
    """The options of a validation, for ``val.run`` and ``open_loader``: those that both commands have."""
    shared = handed_on(options, ValOptions)
    return {name: value for name, value in shared.items() if name not in ("data", "device", "workers")}


def open_loader(options: PruningOptions, data: dict[str, Any], model: DetectionModel) -> Any:
    """The loader of the validation images; ``options.imgsz`` has been checked."""
    chosen = build(ValOptions, workers=options.workers, **val_options(options))
    device = next(model.parameters()).device
    return make_loader(chosen, data, options.imgsz, grid_size(model), device=device)


def repair_batches(options: PruningOptions, data: dict[str, Any], model: DetectionModel) -> list[Batch]:
    """The training images that the repairs look at; none if there are no such repairs."""
    from prune_tools.repair.calibration import repair_images

    count = max(options.reconstruct, options.recalibrate)
    return repair_images(data, count, options.imgsz, int(max(model.stride)), options.single_cls) if count else []


def load_model(path: str | Path) -> tuple[DetectionModel, dict[str, Any]]:
    """The detection model of a checkpoint (its EMA if it has one), fp32 in evaluation mode, and the whole checkpoint.

    Its ``yaml`` describes it as it is (see ``models.description``).

    Raises:
        InputError: no such file, no checkpoint, not a detection model, or one with weights that are not finite, that
            is fused, that takes other images than RGB, or that no configuration describes.
    """
    checkpoint = load_checkpoint(path)
    model = deployed(checkpoint)
    check_channels(model, path)
    check_unfused(model, path)
    plain_norms(model)
    model.yaml = describe_file(model.float().eval(), path)
    check_runs(model, path)
    return model, checkpoint
