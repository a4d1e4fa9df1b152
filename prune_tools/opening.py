"""Open and check the inputs of the commands that prune: checkpoint, data set and images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from models.checkpoints.soundness import check_channels, check_runs, check_unfused
from models.description import describe_file
from models.loading import deployed, load_checkpoint
from models.module_settings import differences
from models.yolo import DetectionModel
from prune_tools.options import DEFAULT_CFG, PruningOptions
from prune_tools.training_images import Batch, repair_images
from utils.checks import check_file, check_img_size
from utils.commands.next_steps import handed_on
from utils.commands.options import build
from utils.dataset.classes import SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.dataset.description import check_dataset
from utils.dataset.label_cache import check_labels
from utils.device import device_line, select_device
from utils.distributed import plain_norms
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER, warnings_only
from utils.model_info import grid_size
from utils.storage.files import WORK, read_yaml_mapping
from utils.training_record import recorded_fields, training_record, with_record
from utils.validation.inputs import make_loader
from utils.validation.options import ValOptions

AnyOptions = TypeVar("AnyOptions", bound=PruningOptions)


def newest_sparse_run(folder: Path) -> Path:
    """best.pt of the newest sparse training below ``folder``. Raises MissingFileError if there is none."""
    candidates = []
    for file in folder.glob("*/weights/best.pt"):
        record = file.parents[1] / "opt.yaml"
        try:
            if record.is_file() and read_yaml_mapping(record).get("sr") is not None:
                candidates.append(file)
        except InputError as error:
            LOGGER.warning(f"{file} is passed over: {error}")
    if not candidates:
        raise MissingFileError(
            f"no sparse training below {folder}: run prune_tools/train_sparity.py, or name a checkpoint with --weights"
        )
    return max(candidates, key=lambda file: file.stat().st_mtime)


def check_architecture(model: DetectionModel, cfg: str, checkpoint: str) -> None:
    """Raise InputError unless ``model`` is what ``cfg`` describes, apart from the class count and pruned widths."""
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
    expected, actual = _shapes(plain), _shapes(model)
    different = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{start}: {name} is {expected.get(name, 'absent')} in the configuration and "
            f"{actual.get(name, 'absent')} in the checkpoint; "
            "leave --cfg out to use the checkpoint's own"
        )
    for difference in differences(model, plain):
        words = difference.words("in the checkpoint", "in the configuration")
        raise InputError(f"{start}: {words}; leave --cfg out to use the checkpoint's own")


def _shapes(model: DetectionModel) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and buffers but the anchors, by name."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if "anchor" not in name}


def uses_one_class(model: DetectionModel, data: dict[str, Any], options: PruningOptions) -> bool:
    """Tell whether all classes count as one: --single-cls, or a model that was trained with it.

    Raises:
        InputError: they do not, and checkpoint and data set have different classes.
    """
    own = class_names(model)
    if options.single_cls:
        return True
    if is_single_class(own, data["nc"]):
        LOGGER.info(SINGLE_CLASS_NOTE.format(options.weights[0]))
        return True
    ours, theirs = [str(name) for name in own], list(data["names"].values())
    unnamed = ours == [str(index) for index in range(len(ours))]
    if len(ours) != len(theirs) or not (unnamed or ours == theirs):

        def shown(names: list[str]) -> str:
            return f"{len(names)} classes ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"

        raise InputError(
            f"{options.weights[0]} was trained on {shown(ours)} but {options.data} has {shown(theirs)}: "
            "prune with the data set of the training"
        )
    return False


@dataclass(frozen=True)
class Inputs(Generic[AnyOptions]):
    """The inputs of a pruning, opened and checked.

    Attributes:
        options: as given, with what was resolved filled in: path of the weights, image size, single_cls.
        model: the network before pruning, fp32, in evaluation mode, on its device.
        checkpoint: the file that it comes from.
        data: the checked data set.
    """

    options: AnyOptions
    model: DetectionModel
    checkpoint: dict[str, Any]
    data: dict[str, Any]

    def recorded(self) -> tuple[str, ...]:
        """The options that a command which opens the same checkpoint, or what was pruned from it, need not be given."""
        return recorded_fields(training_record(self.checkpoint, self.options.weights[0]), self.options)

    def val_options(self) -> dict[str, Any]:
        """The options of a validation, for ``val.run`` and ``open_loader``: those that both commands have."""
        shared = handed_on(self.options, ValOptions)
        return {name: value for name, value in shared.items() if name not in ("data", "device", "workers")}

    def open_loader(self, data: dict[str, Any] | None = None) -> Any:
        """The loader of the validation images, of ``data`` instead of the data set where it is given."""
        options = build(ValOptions, workers=self.options.workers, **self.val_options())
        device = next(self.model.parameters()).device
        return make_loader(options, data or self.data, self.options.imgsz, grid_size(self.model), device=device)

    def repair_batches(self) -> list[Batch]:
        """The training images that the repairs look at; none if there are no such repairs."""
        options = self.options
        count = max(options.reconstruct, options.recalibrate)
        stride = grid_size(self.model)
        return repair_images(self.data, count, options.imgsz, stride, options.single_cls) if count else []


def open_inputs(options: AnyOptions) -> Inputs[AnyOptions]:
    """Open and check model and data set. Raises InputError for what does not fit."""
    file = options.weights[0]
    if not file:
        file = str(newest_sparse_run(WORK / "runs/train"))
        LOGGER.info(f"Pruning the newest sparse training, {file}")
    device = select_device(options.device, options.batch_size)
    LOGGER.info(device_line(device))
    if options.half and device.type == "cpu":
        raise InputError("--half needs a GPU: CPUs compute FP16 slowly or not at all, leave it out")
    repair = options.reconstruct or options.recalibrate  # both look at training images
    splits = ("train", "val") if repair else ("val",)
    options = replace(options, weights=[check_file(file, (".pt", ".safetensors"))])
    model, checkpoint = load_model(options.weights[0])
    options = with_record(options, training_record(checkpoint, options.weights[0]), splits)
    data = check_dataset(options.data, splits)
    if options.cfg not in ("", DEFAULT_CFG):
        check_architecture(model, options.cfg, options.weights[0])
    options = replace(options, single_cls=uses_one_class(model, data, options))
    if not options.single_cls:
        with warnings_only():
            check_labels(data["val"], data["names"])
    options = replace(options, imgsz=check_img_size(options.imgsz, grid_size(model)))
    return Inputs(options, model.to(device), checkpoint, data)


def load_model(path: str | Path) -> tuple[DetectionModel, dict[str, Any]]:
    """The detection model of a checkpoint (its EMA if it has one), fp32 in evaluation mode, and the whole checkpoint.

    Its ``yaml`` describes it as it is (see ``models.description``).

    Raises:
        InputError: the file is missing or is not a checkpoint of a detection model; the model is fused, takes other
            images than RGB, has weights that are not finite, or no configuration describes it.
    """
    checkpoint = load_checkpoint(path)
    model = deployed(checkpoint)
    check_channels(model, path)
    check_unfused(model, path)
    plain_norms(model)
    model.yaml = describe_file(model.float().eval(), path)
    check_runs(model, path)
    return model, checkpoint


def load_architecture(cfg: str) -> DetectionModel:
    """The network that a model YAML describes, with random weights."""
    return DetectionModel(check_file(cfg, (".yaml", ".yml")))
