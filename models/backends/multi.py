"""One interface to detectors of every file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.backends.opening import open_runtime, run_in_batches
from models.backends.runtime import Runtime
from models.formats import CHECKPOINTS, PYTORCH, format_of
from models.loading import load_with_record
from utils.checks import check_img_size
from utils.dataset.classes import names_by_index
from utils.dataset.description import check_dataset
from utils.errors import InputError, one_line
from utils.geometry.boxes import xyxy2xywh
from utils.log import LOGGER
from utils.model_info import grid_size
from utils.training_record import TrainingRecord


class DetectMultiBackend(nn.Module):
    """A detector loaded from a file, ready for inference.

    Attributes:
        stride: pixels, at least 32; image sides must be multiples of it.
        names: class names, {index: name}.
        nc: number of classes.
        record: what the file says of its training.
        fixed_size: (height, width) in pixels that images must have; None: any multiple of the stride.
        fp16: it takes FP16 images; others are converted.
        device: of the computation.
        pt: the file is a checkpoint, of PyTorch or safetensors. jit, onnx, engine: it is of that format.
        model: the DetectionModel or Ensemble of a checkpoint, else None. runtime: the library that runs another file.
    """

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path] = "yolov5s.pt",
        device: torch.device | str | None = None,
        dnn: bool = False,
        data: str | Path | Mapping[str, Any] | None = None,
        fp16: bool = False,
        fuse: bool = True,
        channels: int | None = 3,
    ) -> None:
        """Load ``weights``.

        Args:
            weights: a .pt or .safetensors file, several for an ensemble, or an export, file or folder, of
                ``models.formats``.
            device: default: the CPU. Runtimes without GPU support compute on the CPU.
            dnn: run an ONNX file with OpenCV; an error with other files.
            data: data set YAML, or its content; its names are used if the checkpoint has none and their number fits.
            fp16: compute in FP16: a .pt file on a GPU; an error with an exported file that is in FP32.
            fuse: fold batch norms into their convolutions.
            channels: of the images to come, which a checkpoint must take; None: any.

        Raises:
            MissingFileError, CheckpointError, InputError: the file cannot be used, or not in this way.
        """
        super().__init__()
        files: list[str | Path] = [weights] if isinstance(weights, str | Path) else list(weights)
        formats = [format_of(file) for file in files]
        self.format = formats[0] if formats else PYTORCH
        if len(files) > 1 and any(kind not in CHECKPOINTS for kind in formats):
            raise InputError(
                f"an ensemble is made of checkpoints (.pt, .safetensors), got {', '.join(map(str, files))}"
            )
        self.pt = self.format in CHECKPOINTS
        self.jit = self.format.argument == "torchscript"
        self.onnx = self.format.argument == "onnx"
        self.engine = self.format.argument == "engine"
        if dnn and not self.onnx:
            raise InputError(f"dnn runs ONNX files with OpenCV, got {files[0]}: leave dnn out")
        self.device = torch.device(device or "cpu")
        self.runtime: Runtime | None = None
        self.fixed_size: tuple[int, int] | None = None
        self.model: Any = None
        if self.pt:
            self._load_checkpoints(files, data, fp16, fuse, channels)
        else:
            self._load_export(Path(files[0]), dnn, fp16)
        self.nc = len(self.names)

    def _load_checkpoints(
        self, files: Sequence[str | Path], data: Any, fp16: bool, fuse: bool, channels: int | None
    ) -> None:
        if fp16 and self.device.type == "cpu":
            raise InputError("half precision needs a GPU: leave out --half, or choose one with --device")
        self.fp16 = fp16
        self.model, self.record = load_with_record(files, self.device, fuse=fuse, channels=channels)
        if fp16:
            self.model.half()
        self.stride = grid_size(self.model)
        self.names = _class_names(self.model, data)

    def _load_export(self, path: Path, dnn: bool, fp16: bool) -> None:
        self.runtime = open_runtime(path, self.device, dnn)
        metadata = self.runtime.metadata
        if fp16 and not metadata.half:
            raise InputError(f"{path} computes in FP32: leave out --half, or export it with --half")
        self.device = self.runtime.device
        self.fixed_size = metadata.fixed_size
        self.fp16 = metadata.half and self.format.half_images
        self.stride = metadata.stride
        self.names = dict(enumerate(metadata.names))
        self.record = TrainingRecord(str(path), tuple(metadata.names))
        self._path = path
        self._warned_of_limit = False

    @property
    def nms(self) -> dict[str, Any] | None:
        """The thresholds of the non-maximum suppression inside the file, or None."""
        return self.runtime.metadata.nms if self.runtime else None

    def image_size(self, requested: int | Sequence[int] | None, default: int | None = None) -> list[int]:
        """(height, width) in pixels to letterbox images to.

        Args:
            requested: side of a square, or (height, width); None: the size that suits the file.
            default: of checkpoints, instead of that of their training; exports have the size that they were made with.

        Raises:
            InputError: the file takes images of another size, or ``requested`` is not a size.
        """
        sides = [requested] if isinstance(requested, int) else list(requested or [])
        asked = sides * 2 if len(sides) == 1 else sides
        if self.fixed_size is None:
            size = check_img_size(
                asked or (self.runtime.metadata.imgsz if self.runtime else [default or self.record.image_size] * 2),
                s=self.stride,
            )
            self._check_largest(size)
            return size
        fixed = list(self.fixed_size)
        if asked and asked != fixed:
            raise InputError(
                f"{self._path} takes images of {fixed[0]}x{fixed[1]} pixels (height x width), but --imgsz asks for "
                f"{asked[0]}x{asked[1]}: leave --imgsz out, or export with --imgsz {asked[0]} {asked[1]} or --dynamic"
            )
        return fixed

    def _check_largest(self, size: Sequence[int]) -> None:
        """Raise InputError if images of (height, width) are larger than the file takes."""
        largest = self.runtime.largest_size if self.runtime else None
        if largest and (size[0] > largest[0] or size[1] > largest[1]):
            raise InputError(
                f"{self._path} takes images of at most {largest[0]}x{largest[1]} pixels (height x width), got "
                f"{size[0]}x{size[1]}: choose a smaller --imgsz, or export with a larger one"
            )

    def check_request(
        self,
        conf_thres: float = 1.0,
        iou_thres: float = 0.0,
        augment: bool = False,
        visualize: bool = False,
        update: bool = False,
        agnostic: bool | None = None,
    ) -> None:
        """Raise InputError if an export cannot do what is requested: it has no layers, or its own NMS settings."""
        if self.runtime is None:
            return
        for flag, asked in (("--augment", augment), ("--visualize", visualize), ("--update", update)):
            if asked:
                raise InputError(f"{flag} needs a PyTorch checkpoint, got {self._path}: leave it out")
        nms = self.nms
        if nms and (conf_thres < nms["conf_thres"] or iou_thres > nms["iou_thres"]):
            raise InputError(
                f"{self._path} applies NMS itself, with --conf-thres {nms['conf_thres']:g} --iou-thres "
                f"{nms['iou_thres']:g}, but {conf_thres:g} and {iou_thres:g} are asked for: export it with these"
            )
        if nms and agnostic is not None and agnostic != nms["agnostic"]:
            words = ("within each class: leave out", "with") if agnostic else ("across classes: give", "without")
            raise InputError(
                f"{self._path} applies NMS itself, {words[0]} --agnostic-nms, or export the file {words[1]} it"
            )

    def forward(self, im: Tensor, augment: bool = False, visualize: Any = False) -> tuple[Tensor, Any]:
        """(B, 3, H, W) in 0..1 -> ((B, N, 5 + nc) boxes in pixels and scores, raw maps; None if augmented or exported).

        A file with a fixed batch runs as often as needed, the last time filled up with blank images. If the file has
        NMS inside, each row is one detection in the form of a prediction.
        """
        if self.runtime is None:
            return self.model(im, augment=augment, visualize=visualize)
        self.check_request(augment=augment, visualize=bool(visualize))
        if self.fixed_size is not None and tuple(im.shape[2:]) != self.fixed_size:
            raise InputError(
                f"{self._path} takes images of {self.fixed_size}, got {tuple(im.shape[2:])} (height, width)"
            )
        if self.fixed_size is None:
            self._check_largest(im.shape[2:])
        images = im.to(self.device, torch.half if self.fp16 else torch.float)
        try:
            output = run_in_batches(self.runtime, images)
        except InputError:
            raise
        except Exception as error:  # each library raises its own errors
            raise InputError(f"{self._path} cannot run images of shape {tuple(im.shape)}: {one_line(error)}") from error
        return self._checked(output), None

    def _checked(self, output: Tensor) -> Tensor:
        """Predictions (B, N, 5 + nc) from a file's output. Raises InputError if its classes do not match its names."""
        nms = self.nms
        width = int(output[..., 5].max()) + 6 if nms and output.numel() else output.shape[-1]
        if width > self.nc + 5 or (not nms and width != self.nc + 5):
            raise InputError(
                f"{self._path} finds {width - 5} classes, but its metadata have the {self.nc} names "
                f"{list(self.names.values())}: export it again"
            )
        if not nms:
            return output
        predictions = as_predictions(output, self.nc)
        counts = (predictions[..., 5:] * (output[..., 4:5] > 0)).sum(dim=1)  # (B, nc)
        most_of_class = counts.sum(dim=1) if nms["agnostic"] else counts
        full = counts.sum(dim=1).max() >= nms["topk_all"] or most_of_class.max() >= nms["topk_per_class"]
        if full and not self._warned_of_limit:
            self._warned_of_limit = True
            LOGGER.warning(
                f"WARNING: {self._path} has limits inside, --topk-all {nms['topk_all']} and --topk-per-class "
                f"{nms['topk_per_class']}, and reached one: there may be more detections, whatever --max-det says"
            )
        return predictions

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run one blank batch of this shape on a GPU, so that everything is loaded before times are measured."""
        if self.device.type != "cpu":
            with torch.no_grad():
                self.forward(torch.zeros(*imgsz, device=self.device, dtype=torch.half if self.fp16 else torch.float))


def as_predictions(detections: Tensor, classes: int) -> Tensor:
    """Detections (B, K, 6) x1, y1, x2, y2, score, class -> predictions (B, K, 5 + classes) of which NMS keeps all."""
    indices = torch.arange(classes, device=detections.device)
    one_hot = (detections[..., 5:6] == indices).to(detections)  # (B, K, classes)
    return torch.cat((xyxy2xywh(detections[..., :4]), detections[..., 4:5], one_hot), dim=2)


def _class_names(model: Any, data: str | Path | Mapping[str, Any] | None) -> dict[int, str]:
    names = getattr(model, "names", None)
    count = getattr(model, "nc", 0) or model.model[-1].nc
    if not names and data:
        names = check_dataset(data, splits=())["names"]
        if len(names) != count:
            LOGGER.warning(
                f"the model has {count} classes without names, the data set {len(names)}: they stay nameless"
            )
            names = None
    if not names:
        names = [f"class{index}" for index in range(count)]
    return names_by_index(names)
