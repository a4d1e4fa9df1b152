"""The functions of ``yolov5_prune``: each does what a command does, and returns what came of it.

The keywords are the flags of the command, with underscores. An unknown one, or a value that cannot be used, raises
``InputError``; its message is the line that the command would print. Progress is logged as by the command, unless the
caller has set up logging (``utils.log.log_as_command``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import detect as detect_script
import export as export_script
import train as train_script
import val as val_script
from prune_tools import finetune as finetune_script
from prune_tools import pipeline as pipeline_script
from prune_tools import prune as prune_script
from prune_tools import train_sparity as train_sparity_script
from prune_tools.sparsity.options import SparseOptions
from prune_tools.tuning.options import FinetuneOptions
from utils.callbacks import Callbacks, Plugin
from utils.commands.options import build
from utils.errors import InputError
from utils.log import LOGGER, log_as_command
from utils.training.options import TrainOptions
from utils.version import __version__

if TYPE_CHECKING:
    from models.autoshape import AutoShape
    from utils.training.state import TrainingState

__all__ = [
    "Callbacks",
    "DetectionResult",
    "InputError",
    "ModelFigures",
    "PipelineResult",
    "Plugin",
    "PruningResult",
    "TrainingResult",
    "ValidationResult",
    "__version__",
    "detect",
    "export",
    "finetune",
    "load",
    "pipeline",
    "prune",
    "train",
    "train_sparity",
    "val",
]


# -- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingResult:
    """A training that has ended.

    Attributes:
        folder: the run folder, with results.csv, opt.yaml and pictures.
        finished: False if a callback stopped the training before its last epoch; ``resume=last`` continues it.
        precision, recall, map50, map50_95: of the best epoch, in 0..1; 0 if the training has not finished.
        losses: validation losses of the best epoch: box, objectness, class.
    """

    folder: Path
    finished: bool
    precision: float
    recall: float
    map50: float
    map50_95: float
    losses: tuple[float, float, float]

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch; there is none with ``nosave`` or ``evolve``."""
        return self.folder / "weights/best.pt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch; there is none with ``nosave`` or ``evolve``."""
        return self.folder / "weights/last.pt"


class _FolderOfRun(Plugin):
    """Remembers the folder of a run."""

    name = "yolov5_prune.folder"
    folder = Path()

    def on_training_ready(self, state: TrainingState) -> None:
        self.folder = state.folder


def train(callbacks: Callbacks | None = None, **flags: Any) -> TrainingResult:
    """Train a detector, as train.py: ``train(data='mask.yaml', weights='yolov5n.pt', epochs=100)``.

    Args:
        callbacks: plug-ins and actions at the hooks of the training.
        flags: those of train.py.
    """
    return _train(train_script.main, TrainOptions, callbacks, flags)


def train_sparity(callbacks: Callbacks | None = None, **flags: Any) -> TrainingResult:
    """Train sparsely, as prune_tools/train_sparity.py; arguments as for ``train``."""
    return _train(train_sparity_script.main, SparseOptions, callbacks, flags)


def finetune(callbacks: Callbacks | None = None, **flags: Any) -> TrainingResult:
    """Fine-tune a pruned model, as prune_tools/finetune.py; arguments as for ``train``."""
    return _train(finetune_script.main, FinetuneOptions, callbacks, flags)


def _train(
    main: Callable[[Any, Callbacks], Sequence[float] | None],
    options_class: type[TrainOptions],
    callbacks: Callbacks | None,
    flags: dict[str, Any],
) -> TrainingResult:
    log_as_command()
    options = build(options_class, **flags)
    callbacks = callbacks or Callbacks()
    run = _FolderOfRun()
    with callbacks.added(run):
        results = main(options, callbacks)
    precision, recall, map50, map50_95, box, objectness, class_loss = results or (0.0,) * 7
    losses = (box, objectness, class_loss)
    return TrainingResult(run.folder, results is not None, precision, recall, map50, map50_95, losses)


# -- validation and detection ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValidationResult:
    """The accuracy of a model.

    Attributes:
        precision, recall, map50, map50_95: means over the classes, in 0..1.
        map50_95_by_class: by the index of the class.
        milliseconds: per image: pre-processing, inference, non-maximum suppression.
        shortcomings: in words, which files could not be written; '' if all were.
    """

    precision: float
    recall: float
    map50: float
    map50_95: float
    map50_95_by_class: tuple[float, ...]
    milliseconds: tuple[float, float, float]
    shortcomings: str


def val(data: str | Path, weights: str | Path | list[str], **flags: Any) -> ValidationResult:
    """Validate a model, as val.py: ``val('mask.yaml', 'best.pt', imgsz=320)``.

    Args:
        data: data set YAML.
        weights: a checkpoint or an export; of several, the ensemble.
        flags: the other flags of val.py, and the keywords of ``val.validate``.
    """
    log_as_command()
    (means, by_class, times), shortcomings = val_script.validate(data, weights, **flags)
    if shortcomings:
        LOGGER.warning(shortcomings)
    precision, recall, map50, map50_95 = map(float, means[:4])
    before, inference, after = map(float, times)
    classes = tuple(map(float, by_class))
    return ValidationResult(precision, recall, map50, map50_95, classes, (before, inference, after), shortcomings)


@dataclass(frozen=True)
class DetectionResult:
    """Detections that have been written.

    Attributes:
        folder: the run folder, with the pictures and, with ``save_txt``, labels/.
        shortcomings: in words, which files could not be read or written; '' if all could.
    """

    folder: Path
    shortcomings: str


def detect(weights: str | Path | list[str], source: str | Path, **flags: Any) -> DetectionResult:
    """Detect and write, as detect.py: ``detect('best.pt', 'photos/', save_txt=True)``. For numbers see ``load``.

    Args:
        weights: a checkpoint or an export.
        source: file, folder, pattern, camera or address.
        flags: the other flags of detect.py.
    """
    log_as_command()
    options = build(detect_script.DetectOptions, weights=weights, source=str(source), **flags)
    folder, shortcomings = detect_script.detect(options)
    if shortcomings:
        LOGGER.warning(shortcomings)
    return DetectionResult(folder, shortcomings)


def load(weights: str | Path, device: str = "", verbose: bool = True) -> AutoShape:
    """Open a checkpoint or an export as torch.hub does: ``load('best.pt')(picture).xyxy[0]``.

    The model takes pictures as paths, addresses, PIL images or arrays, one or a list, and returns ``Detections``.

    Args:
        weights: the file or folder; the name of a released model fetches it.
        device: 'cpu', '0', 'mps'; '': a GPU if there is one.
        verbose: log what is done.
    """
    from models.hub_models import open_model

    log_as_command()
    return open_model(weights, verbose=verbose, device=device)  # type: ignore[return-value]


def export(weights: str | Path | list[str], **flags: Any) -> list[Path]:
    """Export a model, as export.py: ``export('best.pt', include=['onnx'], imgsz=[320])``.

    Returns:
        The written files and folders.
    """
    return export_script.run(weights=weights, **flags)


# -- pruning -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFigures:
    """Accuracy and cost of one model. What was not measured is None.

    Attributes:
        step: what made the model, such as 'before' and 'pruned'.
        precision, recall, map50, map50_95: on the validation images, in 0..1.
        parameters: their number.
        gflops: thousands of millions of operations for an image of 640 x 640 pixels.
        milliseconds: median time for one image.
        weights: the checkpoint.
    """

    step: str
    precision: float | None
    recall: float | None
    map50: float | None
    map50_95: float | None
    parameters: int
    gflops: float
    milliseconds: float | None
    weights: Path


def _figures(folder: Path) -> tuple[ModelFigures, ...]:
    """The models in the report of a run."""
    rows = json.loads((folder / "report.json").read_text(encoding="utf-8"))["steps"]
    models = []
    for row in rows:
        row |= {"map50_95": row["map"], "weights": Path(row["weights"])}
        models.append(ModelFigures(**{field.name: row[field.name] for field in fields(ModelFigures)}))
    return tuple(models)


@dataclass(frozen=True)
class PruningResult:
    """A pruned model.

    Attributes:
        folder: the run folder, with report.html, report.json and report.txt.
        before, after: the figures of both models; accuracy and time are None with ``noval``.
    """

    folder: Path
    before: ModelFigures
    after: ModelFigures

    @property
    def pruned(self) -> Path:
        """The checkpoint of the narrow model."""
        return self.folder / "pruned_model.pt"

    @property
    def configuration(self) -> Path:
        """The YAML of the narrow model."""
        return self.folder / "pruned_model.yaml"


def prune(weights: str | Path | list[str] = "", **flags: Any) -> PruningResult:
    """Prune a model, as prune_tools/prune.py: ``prune(trained.best, data='mask.yaml', percent=0.4)``.

    Args:
        weights: the checkpoint; '': that of the newest sparse training.
        flags: the other flags of prune.py.
    """
    folder = prune_script.run(weights=weights, **flags)
    before, after = _figures(folder)
    return PruningResult(folder, before, after)


@dataclass(frozen=True)
class PipelineResult:
    """All models of a pipeline.

    Attributes:
        folder: the run folder, with table.txt, table.csv and report.html.
        models: the figures of each, in the order of the steps; the last one is the fine-tuned model.
    """

    folder: Path
    models: tuple[ModelFigures, ...]


def pipeline(**flags: Any) -> PipelineResult:
    """Train, sparsify, prune and fine-tune, as prune_tools/pipeline.py, whose flags these are."""
    folder = pipeline_script.run(**flags)
    return PipelineResult(folder, _figures(folder))
