#!/usr/bin/env python3
"""The detection model. Checkpoints pickle ``DetectionModel``, and ``Detect`` of models/head.py, by this path.

python models/yolo.py --cfg yolov5s.yaml
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from models.common import Conv
from models.configuration import find_config, read_config
from models.head import Detect
from models.limits import watched_pass
from models.module_settings import set_norms
from models.parser import STRIDE_PROBE, parse_model
from models.tta import predict_augmented
from utils.autoanchor import check_anchor_order
from utils.errors import InputError
from utils.log import LOGGER
from utils.model_info import fuse_conv_and_bn, grid_size, is_foldable, log_info, module_gflops

PROFILE_RUNS = 10
INPLACE_ACTIVATIONS = (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU)


def _customized(config: Mapping[str, Any], ch: int, nc: int | None, anchors: float | None) -> dict[str, Any]:
    """Copy a configuration and set the values that the caller gave."""
    changed = copy.deepcopy(dict(config))
    changed.setdefault("ch", ch)
    given = {"nc": nc, "anchors": round(anchors) if anchors else None}
    for key, value in given.items():
        if value and value != changed[key]:
            LOGGER.info(f"Overriding model.yaml {key}={changed[key]} with {key}={value}")
            changed[key] = value
    return changed


class DetectionModel(nn.Module):
    """A YOLOv5 detector built from a configuration.

    Args:
        cfg: configuration file, its name in models/ or models/hub/, or a mapping; with a key ``channels`` the layers
            get these widths instead of the plain ones (a pruned network, see models/widths.py).
        ch: input channels, if the configuration names none.
        nc: classes; overrides the configuration's.
        anchors: number of anchors per level (rounded), to be fitted to the data; overrides the configuration's.

    Attributes:
        yaml: the configuration. yaml_file: its file name, if it came from a file.
        model: the layers. save: indices of layers whose output a later layer reads.
        stride: (nl,) pixels per cell. names: class names. inplace: see Detect.

    Raises:
        MissingFileError, InputError: the configuration does not exist or cannot be built.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any] = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: float | None = None,
    ) -> None:
        super().__init__()
        self.yaml = read_config(_customized(read_config(cfg), ch, nc, anchors))
        if not isinstance(cfg, Mapping):
            self.yaml_file = find_config(cfg).name
        self.model, self.save = parse_model(self.yaml, ch=[self.yaml["ch"]])
        self.names = [str(index) for index in range(self.yaml["nc"])]
        self.inplace = self.yaml.get("inplace", True)
        self.stride = self._prepare_head()
        set_norms(self, self.yaml.get("modules"))
        for module in self.modules():
            if type(module) in INPLACE_ACTIVATIONS:
                vars(module)["inplace"] = True
        self.info()
        LOGGER.info("")

    def _prepare_head(self) -> Tensor:
        """Measure the strides, convert the anchors to grid units and initialise the biases; return the strides."""
        head = self.model[-1]
        if not isinstance(head, Detect):
            raise InputError(f"the last row of a detection model must be Detect, got {type(head).__name__}")
        head.inplace = self.inplace
        probe = torch.zeros(1, self.yaml["ch"], STRIDE_PROBE, STRIDE_PROBE)
        with torch.no_grad(), watched_pass(self.model):  # in training mode: the norms see one batch, as in v6.2
            maps = self.forward(probe)
        if any(0 in map_.shape for map_ in maps):
            raise InputError(f"nothing is left of an image of {STRIDE_PROBE} pixels: use fewer strides")
        head.stride = torch.tensor([STRIDE_PROBE / map_.shape[2] for map_ in maps])
        check_anchor_order(head)
        head.anchors /= head.stride.view(-1, 1, 1)
        head.initialize_biases()
        return head.stride

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: str | Path | bool = False
    ) -> Any:
        """(B, ch, H, W) in 0..1 -> output of Detect; with ``augment`` (boxes of three image sizes, None).

        ``profile`` logs time and GFLOPs of each layer; ``visualize`` is a folder for pictures of each layer's output.
        """
        if not augment:
            return self._run_layers(x, profile, visualize)
        strides = self.stride.tolist()
        boxes = predict_augmented(lambda image: self._run_layers(image)[0], x, grid_size(self), strides)
        return boxes, None

    def _run_layers(self, x: Any, profile: bool = False, visualize: str | Path | bool = False) -> Any:
        kept: list[Any] = []  # outputs that later layers read; None for other layers
        milliseconds: list[float] = []
        for layer in self.model:
            if isinstance(layer.f, list):
                x = [x if source == -1 else kept[source] for source in layer.f]
            elif layer.f != -1:
                x = kept[layer.f]  # type: ignore[index]
            if profile:
                milliseconds.append(_profile_layer(layer, x))
            x = layer(x)
            kept.append(x if layer.i in self.save else None)
            if visualize:
                from utils.drawing.pictures import feature_visualization

                feature_visualization(x, layer.type, layer.i, save_dir=Path(visualize))  # type: ignore[arg-type]
        if profile:
            LOGGER.info(f"{sum(milliseconds):10.2f} {'-':>10s} {'-':>10s}  Total")
        return x

    def fuse(self) -> DetectionModel:
        """Fold the batch norm of each Conv block into its convolution, in place, and return self.

        Norms of other kinds, and those without running statistics, stay.
        """
        LOGGER.info("Fusing layers... ")
        for module in self.modules():
            if isinstance(module, Conv) and is_foldable(module.conv, getattr(module, "bn", None)):
                module.conv = fuse_conv_and_bn(module.conv, module.bn)
                del module.bn  # from now on Conv.forward is forward_fuse
        self.info()
        return self

    def info(self, verbose: bool = False, img_size: int = 640) -> None:
        """Log layers, parameters, gradients and GFLOPs at ``img_size``; one row per parameter if verbose."""
        log_info(self, verbose, img_size)

    def _apply(self, fn: Any, *arguments: Any, **keywords: Any) -> DetectionModel:
        """Also convert the strides of Detect, which are not a buffer, and reset its grids, which are a cache."""
        super()._apply(fn, *arguments, **keywords)
        head = self.model[-1]
        if isinstance(head, Detect):
            head.stride = None if head.stride is None else fn(head.stride)
            head.grid = [fn(cells.new_zeros(1)) for cells in head.grid]
            if isinstance(head.anchor_grid, list):  # a buffer up to v5.0
                head.anchor_grid = [fn(pixels.new_zeros(1)) for pixels in head.anchor_grid]
        return self


def _profile_layer(layer: nn.Module, x: Any) -> float:
    """Log the time of one layer (mean of PROFILE_RUNS), its GFLOPs and parameters; return the milliseconds."""
    device = next((parameter.device for parameter in layer.parameters()), torch.device("cpu"))
    started = time.perf_counter()
    for _ in range(PROFILE_RUNS):
        layer(x)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    milliseconds = (time.perf_counter() - started) * 1000 / PROFILE_RUNS
    if layer.i == 0:
        LOGGER.info(f"{'time (ms)':>10s} {'GFLOPs':>10s} {'params':>10s}  module")
    LOGGER.info(f"{milliseconds:10.2f} {module_gflops(layer, x):10.2f} {layer.np:10.0f}  {layer.type}")
    return milliseconds


Model = DetectionModel  # the name up to v6.1


def __getattr__(name: str) -> Any:
    """Refuse v6.2's other kind of model with a remedy."""
    if name == "ClassificationModel":
        raise ImportError("models.yolo has no ClassificationModel, this project detects: use torchvision.models")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    from models.inspection import main
    from utils.commands.cli import run_command

    run_command(main)
