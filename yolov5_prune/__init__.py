"""YOLOv5 training, pruning and export from Python: see docs/PYTHON.md.

import yolov5_prune

trained = yolov5_prune.train(data="mask.yaml", weights="yolov5n.pt", imgsz=320, epochs=100)
pruned = yolov5_prune.prune(trained.best, data="mask.yaml", imgsz=320, percent=0.4)
"""

from __future__ import annotations

from yolov5_prune.tree import connect

connect()

from yolov5_prune.library import *  # noqa: F403 - the names of its __all__
from yolov5_prune.library import __all__ as __all__
