#!/usr/bin/env python3
"""Detect objects in images and videos with a YOLOv5 detector.

python detect.py --weights best.pt --source photo.jpg          # or folder/, 'folder/*.jpg', video.mp4, list.txt
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import run_command, show_arguments
from utils.config import build, check_thresholds, option, parse
from utils.errors import InputError
from utils.files import ROOT, increment_path, make_folder
from utils.log import LOGGER, colorstr

if TYPE_CHECKING:
    import numpy as np
    import torch

CROP_GAIN, CROP_PADDING = 1.02, 10  # crops are a little larger than the box: factor, then pixels


@dataclass
class DetectOptions:
    """Options of detect.py."""

    weights: list[str] = option([str(ROOT / "yolov5s.pt")], "checkpoint; several make an ensemble", nargs="+")
    source: str = option(str(ROOT / "data/images"), "image, folder, glob, video, or text file with a path per line")
    data: str = option(str(ROOT / "data/coco128.yaml"), "data set YAML; read only for names that a checkpoint lacks")
    imgsz: list[int] = option(
        [640], "image size in pixels: longer side, or height and width", "--img", "--img-size", nargs="+"
    )
    conf_thres: float = option(0.25, "least confidence")
    iou_thres: float = option(0.45, "NMS threshold")
    max_det: int = option(1000, "most detections per image")
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    save_txt: bool = option(False, "write the detections as label files")
    save_conf: bool = option(False, "with --save-txt: append the confidence to each line")
    save_crop: bool = option(False, "save each detected box as a picture of its own")
    nosave: bool = option(False, "write no annotated images or videos")
    classes: list[int] | None = option(None, "keep these class indices only", nargs="+", type=int)
    agnostic_nms: bool = option(False, "let boxes of different classes suppress each other")
    augment: bool = option(False, "augmented inference: three sizes, flipped")
    project: str = option(str(ROOT / "runs/detect"), "folder of the runs")
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken")
    exist_ok: bool = option(False, "write into the run folder even if it exists")
    line_thickness: int = option(3, "thickness of the boxes in pixels")
    hide_labels: bool = option(False, "draw no labels")
    hide_conf: bool = option(False, "draw no confidences")
    half: bool = option(False, "compute in FP16 (on a GPU)")

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        self.weights = [
            str(file) for file in ([self.weights] if isinstance(self.weights, (str, Path)) else self.weights)
        ]
        self.imgsz = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz)
        if len(self.imgsz) > 2 or min(self.imgsz) < 1:
            raise InputError(f"--imgsz takes one or two positive numbers (height width), got {self.imgsz}")
        check_thresholds(self.conf_thres, self.iou_thres)
        if self.save_conf and not self.save_txt:
            raise InputError("--save-conf only acts on label files: add --save-txt")


class Writer:
    """Writes what was asked for of each image: annotated picture or video frame, label file, crops."""

    def __init__(self, options: DetectOptions, names: dict[int, str], folder: Path) -> None:
        """Files go into ``folder``; ``names`` label the boxes."""
        self.options, self.names, self.folder = options, names, folder
        self.label_files = 0
        self.video: Any = None
        self.video_path: Path | None = None

    def image(self, path: Path, native: np.ndarray, found: torch.Tensor, frame: int | None, capture: Any) -> None:
        """Write one result: ``native`` (H, W, 3) BGR, ``found`` (N, 6) in its rounded pixels, best first."""
        stem = path.stem if frame is None else f"{path.stem}_{frame}"
        worst_first = found.flip(0)
        if self.options.save_txt and len(found):
            from utils.evaluation import save_labels

            save_labels(worst_first, native.shape[:2], self.folder / "labels" / f"{stem}.txt", self.options.save_conf)
            self.label_files += 1
        if self.options.save_crop:
            for box in worst_first:
                self._crop(box, native, path.stem)
        if not self.options.nosave:
            picture = self.annotate(native, worst_first)
            if frame is None:
                write_image(self.folder / path.name, picture)
            else:
                self._video_frame(path, picture, capture)

    def annotate(self, native: np.ndarray, found: torch.Tensor) -> np.ndarray:
        """A copy of ``native`` (H, W, 3) BGR with the boxes (N, 6) drawn, the last on top."""
        from utils.annotator import Annotator, colors

        options = self.options
        text = " ".join(self.names.values())
        annotator = Annotator(native.copy(), line_width=options.line_thickness, example=text)
        for *box, confidence, class_index in found.tolist():
            name = self.names[int(class_index)]
            label = "" if options.hide_labels else name if options.hide_conf else f"{name} {confidence:.2f}"
            annotator.box_label(box, label, color=colors(int(class_index), True))
        return annotator.result()

    def _crop(self, box: torch.Tensor, native: np.ndarray, stem: str) -> None:
        height, width = native.shape[:2]
        x1, y1, x2, y2 = box[:4].tolist()
        half_width = ((x2 - x1) * CROP_GAIN + CROP_PADDING) / 2
        half_height = ((y2 - y1) * CROP_GAIN + CROP_PADDING) / 2
        center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
        left, right = max(int(center_x - half_width), 0), min(int(center_x + half_width), width)
        top, bottom = max(int(center_y - half_height), 0), min(int(center_y + half_height), height)
        folder = make_folder(self.folder / "crops" / self.names[int(box[5])])
        write_image(increment_path(folder / f"{stem}.jpg"), native[top:bottom, left:right])

    def _video_frame(self, path: Path, picture: np.ndarray, capture: Any) -> None:
        import cv2

        target = (self.folder / path.name).with_suffix(".mp4")
        if target != self.video_path:
            self.close()
            rate = capture.get(cv2.CAP_PROP_FPS) or 30
            size = picture.shape[1], picture.shape[0]
            self.video = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            self.video_path = target
            if not self.video.isOpened():
                raise InputError(
                    f"cannot write the video {target}: this OpenCV has no mp4v encoder; use --nosave --save-txt"
                )
        self.video.write(picture)

    def close(self) -> None:
        """Finish the video being written, if any."""
        if self.video is not None:
            self.video.release()
            self.video = None


def write_image(path: Path, picture: np.ndarray) -> None:
    """Encode ``picture`` (BGR) in the format of the suffix (PNG for formats that OpenCV cannot write)."""
    import cv2

    from utils.annotator import write_picture

    write_picture(path if cv2.haveImageWriter(f"x{path.suffix}") else path.with_suffix(".png"), picture)


def summarize(found: torch.Tensor, names: dict[int, str]) -> str:
    """Counts by class in class order: ``6 persons, 1 handbag, ``; empty if nothing was found."""
    counts = sorted(Counter(found[:, 5].int().tolist()).items())
    return "".join(f"{count} {names[index]}{'s' if count > 1 else ''}, " for index, count in counts)


def class_names(model: Any, options: DetectOptions) -> dict[int, str]:
    """The names in the checkpoint, or those of --data if it has none."""
    if model.names:
        return model.names
    from utils.checks import check_dataset

    return check_dataset(options.data, splits=())["names"]


class Detector:
    """Image in, detections in native pixels out, with the time that each stage took."""

    def __init__(self, options: DetectOptions) -> None:
        """Load the weights onto the device."""
        from models.backends import DetectMultiBackend
        from utils.checks import check_img_size
        from utils.device import select_device

        weights = options.weights[0] if len(options.weights) == 1 else options.weights
        self.options = options
        self.model = DetectMultiBackend(weights, device=select_device(options.device), fp16=options.half)
        size = options.imgsz * 2 if len(options.imgsz) == 1 else options.imgsz
        self.image_size = check_img_size(size, s=self.model.stride)
        self.names = class_names(self.model, options)
        unknown = [index for index in options.classes or () if index not in self.names]
        if unknown:
            raise InputError(f"--classes {unknown} not in the model: it has 0 to {len(self.names) - 1} ({self.names})")
        self.seconds = [0.0, 0.0, 0.0]  # pre-process, inference, NMS

    def __call__(self, rgb: np.ndarray, native_size: tuple[int, int]) -> tuple[torch.Tensor, float]:
        """Detections (N, 6) of one letterboxed image (3, H, W) uint8 RGB, and the seconds of its inference."""
        import torch

        from utils.boxes import scale_coords
        from utils.device import time_sync
        from utils.nms import non_max_suppression

        options, model = self.options, self.model
        times = [time_sync()]
        images = torch.from_numpy(rgb).to(model.device)[None]
        images = (images.half() if model.fp16 else images.float()) / 255
        times.append(time_sync())
        with torch.no_grad():
            predictions = model(images, augment=options.augment)
        times.append(time_sync())
        found = non_max_suppression(
            predictions, options.conf_thres, options.iou_thres, options.classes, options.agnostic_nms,
            max_det=options.max_det,
        )[0]  # fmt: skip
        found[:, :4] = scale_coords(images.shape[2:], found[:, :4], native_size).round()
        times.append(time_sync())
        spans = [end - start for start, end in pairwise(times)]
        self.seconds = [total + span for total, span in zip(self.seconds, spans, strict=True)]
        return found, spans[1]


def main(options: DetectOptions) -> Path:
    """Detect and write; returns the run folder."""
    from utils.sources import LoadImages

    show_arguments("detect", options)
    detector = Detector(options)
    sources = LoadImages(options.source, img_size=detector.image_size, stride=detector.model.stride, auto=True)
    folder = increment_path(Path(options.project) / options.name, exist_ok=options.exist_ok)
    make_folder(folder / "labels" if options.save_txt else folder)
    writer = Writer(options, detector.names, folder)
    seen = 0
    try:
        for path, rgb, native, capture, text in sources:
            found, seconds = detector(rgb, native.shape[:2])
            size = f"{rgb.shape[1]}x{rgb.shape[2]} "
            LOGGER.info(f"{text}{size}{summarize(found, detector.names)}Done. ({seconds:.3f}s)")
            writer.image(Path(path), native, found, sources.frame if sources.mode == "video" else None, capture)
            seen += 1
    finally:
        writer.close()
    height, width = detector.image_size
    milliseconds = tuple(1e3 * total / max(seen, 1) for total in detector.seconds)
    line = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape " + str((1, 3, height, width))
    LOGGER.info(line, *milliseconds)
    labels = f", {writer.label_files} label files in {folder / 'labels'}" if options.save_txt else ""
    if not options.nosave or options.save_txt or options.save_crop:
        LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}{labels}")
    return folder


def run(**keywords: Any) -> Path:
    """Detect from Python, ``detect.run(weights='best.pt', source='photo.jpg')``: the flags as keywords."""
    return main(build(DetectOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(DetectOptions, "Detect objects in images and videos.")))
