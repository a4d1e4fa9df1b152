"""YOLOv5 training, pruning and export from Python: see docs/PYTHON.md.

import yolov5_prune

trained = yolov5_prune.train(data="mask.yaml", weights="yolov5n.pt", imgsz=320, epochs=100)
pruned = yolov5_prune.prune(trained.best, data="mask.yaml", imgsz=320, percent=0.4)
"""

from __future__ import annotations

from yolov5_prune.tree import connect

connect()

from yolov5_prune.library import (
    Callbacks,
    DetectionResult,
    InputError,
    ModelFigures,
    PipelineResult,
    Plugin,
    PruningResult,
    TrainingResult,
    ValidationResult,
    __version__,
    detect,
    export,
    finetune,
    load,
    pipeline,
    prune,
    train,
    train_sparity,
    val,
)

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
