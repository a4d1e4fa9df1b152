#!/usr/bin/env python3
"""Detect objects in images and videos with a YOLOv5 detector.

python detect.py --weights best.pt --source photo.jpg          # or folder/, 'folder/*.jpg', video.mp4, list.txt
                                            0                  # webcam
                                            rtsp://host/path   # or http://..., list.streams: a stream on each line
                                            https://host/photo.jpg
python detect.py --weights best.pt --source folder/ --batch-size 16        # more images per second
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.commands.cli import run_command, show_arguments
from utils.commands.interrupts import obeying
from utils.commands.options import LARGEST_IMAGE, as_list, build, check_numbers, option, parse
from utils.detection.outputs import Writer
from utils.errors import InputError, short_repr
from utils.log import LOGGER, colorstr
from utils.names import terminal_text
from utils.storage.files import ROOT, fitting_name, make_folder
from utils.storage.folder_lock import claimed_folder

if TYPE_CHECKING:
    import numpy as np
    import torch

    from utils.detection.inputs import Picture, Window
    from utils.detection.sources import LoadImages
    from utils.detection.streams import LoadStreams

DEFAULT_SOURCE = str(ROOT / "data/images")  # as in v6.2; no pictures are shipped
REMEMBERED_CALLS = 100_000  # of whose times percentiles are taken
WINDOW_BATCHES = 4  # batches of images that are looked through for equal shapes


@dataclass
class DetectOptions:
    """Options of detect.py."""

    weights: list[str] = option(
        [str(ROOT / "yolov5s.pt")],
        "checkpoint or export; several checkpoints make an ensemble",
        nargs="+",
        handed_on=False,
    )
    source: str = option(DEFAULT_SOURCE, "image, folder, glob, video, list file, camera number, address")
    data: str = option(
        str(ROOT / "data/coco128.yaml"), "data set YAML; read only for names that a checkpoint lacks", handed_on=False
    )
    imgsz: Any = option(
        None, "image size in pixels: longer side, or height and width (default: 640); an export has its own", "--img",
        "--img-size", nargs="+", type=int, at_least=1, at_most=LARGEST_IMAGE,
    )  # fmt: skip
    batch_size: int = option(
        1,
        "images of one shape to detect in together; above 1 threads read and write meanwhile: more images per second",
        at_least=1,
        handed_on=False,
    )
    conf_thres: float = option(0.25, "least confidence", at_least=0, at_most=1)
    iou_thres: float = option(0.45, "NMS threshold", at_least=0, at_most=1)
    max_det: int = option(1000, "most detections per image", at_least=1)
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    view_img: bool = option(False, "show the results in a window, where there is a display; streams always do")
    save_txt: bool = option(False, "write the detections as label files")
    save_conf: bool = option(False, "with --save-txt: append the confidence to each line")
    save_crop: bool = option(False, "save each detected box as a picture of its own")
    nosave: bool = option(False, "write no annotated images or videos")
    classes: list[int] | None = option(None, "keep these class indices only", nargs="+", type=int, at_least=0)
    agnostic_nms: bool = option(False, "let boxes of different classes suppress each other")
    augment: bool = option(False, "augmented inference: three sizes, flipped")
    visualize: bool = option(False, "save pictures of each layer's output")
    update: bool = option(False, "strip the optimizer from the weights files afterwards")
    project: str = option(str(ROOT / "runs/detect"), "folder of the runs", handed_on=False)
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken", handed_on=False)
    exist_ok: bool = option(False, "write into the run folder even if it exists", handed_on=False)
    line_thickness: int = option(3, "thickness of the boxes in pixels", at_least=1, at_most=LARGEST_IMAGE)
    hide_labels: bool = option(False, "draw no labels")
    hide_conf: bool = option(False, "draw no confidences")
    half: bool = option(False, "compute in FP16 (on a GPU)")
    dnn: bool = option(False, "run an ONNX file with OpenCV")
    vid_stride: int = option(1, "take every n-th frame of videos and streams", at_least=1)

    def __post_init__(self) -> None:
        """Refuse values that no run can use, by name."""
        check_numbers(self)
        self.weights = as_list(self.weights)
        self.imgsz = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz or [])
        if len(self.imgsz) > 2:
            raise InputError(f"--imgsz takes one or two numbers (height width), got {short_repr(self.imgsz)}")
        if self.save_conf and not self.save_txt:
            raise InputError("--save-conf only acts on label files: add --save-txt")
        if self.batch_size > 1 and (self.view_img or self.visualize):
            raise InputError("--view-img and --visualize take one image at a time: leave out --batch-size")
        if self.visualize and (self.augment or len(self.weights) > 1):
            raise InputError(
                "--visualize shows the layers of one pass of one model: leave out --augment, give one file"
            )


def summarize(found: torch.Tensor, names: dict[int, str]) -> str:
    """Counts by class in class order: ``6 persons, 1 handbag, ``; empty if nothing was found."""
    counts = sorted(Counter(found[:, 5].int().tolist()).items())
    return "".join(f"{count} {terminal_text(names[index])}{'s' if count > 1 else ''}, " for index, count in counts)


class Detector:
    """Images in, detections in native pixels out, with the time that each stage took."""

    def __init__(self, options: DetectOptions) -> None:
        """Load the weights onto the device."""
        import torch

        from models.backends import DetectMultiBackend
        from utils.device import select_device

        weights = options.weights[0] if len(options.weights) == 1 else options.weights
        device = select_device(options.device)
        self.options = options
        self.model = DetectMultiBackend(weights, device=device, data=options.data, fp16=options.half, dnn=options.dnn)
        self.model.check_request(
            options.conf_thres,
            options.iou_thres,
            options.augment,
            options.visualize,
            options.update,
            options.agnostic_nms,
        )
        if self.model.pt:
            self.model.to(memory_format=torch.channels_last)
        self.names = self.model.names
        self.image_size = self.model.image_size(options.imgsz)
        unknown = [index for index in options.classes or () if index not in self.names]
        if unknown:
            raise InputError(f"--classes {unknown} not in the model: it has 0 to {len(self.names) - 1} ({self.names})")
        self.seconds = [0.0, 0.0, 0.0]  # pre-process, inference, NMS
        self.calls: deque[float] = deque(maxlen=REMEMBERED_CALLS)  # seconds of each call of ``batch``
        self.model.warmup((options.batch_size, 3, *self.image_size))

    def __call__(self, rgb: np.ndarray, native_size: tuple[int, int]) -> tuple[torch.Tensor, float]:
        """``batch`` for one image: (3, H, W) and its native size -> ((N, 6), seconds)."""
        (found,), seconds = self.batch(rgb[None], [native_size])
        return found, seconds

    def batch(
        self, rgb: np.ndarray, native_sizes: Sequence[tuple[int, int]], feature_folder: Path | None = None
    ) -> tuple[list[torch.Tensor], float]:
        """Detections (N, 6) of each letterboxed image of (B, 3, H, W) uint8 RGB, and the seconds of their inference.

        ``native_sizes`` are the images' own (height, width), the frame of the boxes, which are rounded to whole pixels.
        With ``feature_folder`` pictures of the layers' outputs for the first image are saved there.
        """
        import torch

        from utils.device import time_sync
        from utils.geometry.boxes import scale_coords
        from utils.geometry.nms import non_max_suppression

        options, model = self.options, self.model
        times = [time_sync()]
        images = torch.from_numpy(rgb).to(model.device)
        if model.pt:
            images = images.contiguous(memory_format=torch.channels_last)
        images = (images.half() if model.fp16 else images.float()) / 255
        times.append(time_sync())
        with torch.no_grad():
            predictions = model(images, augment=options.augment, visualize=feature_folder or False)
        times.append(time_sync())
        detections = non_max_suppression(
            predictions, options.conf_thres, options.iou_thres, options.classes, options.agnostic_nms,
            max_det=options.max_det,
        )  # fmt: skip
        for found, native_size in zip(detections, native_sizes, strict=True):
            found[:, :4] = scale_coords(images.shape[2:], found[:, :4], native_size).round()
        times.append(time_sync())
        spans = [end - start for start, end in pairwise(times)]
        self.seconds = [total + span for total, span in zip(self.seconds, spans, strict=True)]
        self.calls.append(times[-1] - times[0])
        return detections, spans[1]


class DetectionRun:
    """One run of the command: detects batch by batch, writes, shows and logs."""

    def __init__(self, options: DetectOptions, detector: Detector, folder: Path, shows: bool) -> None:
        """Files go into ``folder``; ``shows`` opens windows."""
        from utils.detection.display import Viewer

        self.options, self.detector, self.folder = options, detector, folder
        self.writer = Writer(options, detector.names, folder)
        self.viewer = Viewer() if shows else None
        self.seen = 0

    def batch(self, rgb: np.ndarray, pictures: list[Picture]) -> bool:
        """Detect on (B, 3, H, W); returns whether the user wants to go on."""
        if self.options.visualize and len(pictures) > 1:
            return all(self.batch(rgb[index : index + 1], [picture]) for index, picture in enumerate(pictures))
        feature_folder = None
        if self.options.visualize:
            feature_folder = self.folder / fitting_name(self.folder, self.writer.stem(pictures[0]))
        sizes = [picture.native.shape[:2] for picture in pictures]
        detections, seconds = self.detector.batch(rgb, sizes, feature_folder)
        size = f"{rgb.shape[2]}x{rgb.shape[3]} "
        line, goes_on = "", True
        for picture, found in zip(pictures, detections, strict=True):
            line += picture.text + size + summarize(found, self.detector.names)
            goes_on &= self._deliver(picture, found)
        self.seen += len(pictures)
        LOGGER.info(f"{line}Done. ({seconds:.3f}s)")
        return goes_on

    def one_by_one(self, sources: LoadImages | LoadStreams) -> None:
        """Detect on each image as it comes, or on one of each stream, until the user has enough."""
        from utils.detection.inputs import picture_batches

        for rgb, pictures in obeying(picture_batches(sources)):
            if not self.batch(rgb, pictures):
                break

    def in_batches(self, sources: LoadImages | LoadStreams, size: int) -> None:
        """Detect on ``size`` images of one shape at a time; what is written and logged comes in their order."""
        from utils.detection.inputs import picture_batches, windows
        from utils.detection.threads import ReadAhead, WriteBehind

        with ReadAhead(picture_batches(sources), 2 * size) as batches, WriteBehind(self._deliver, 2 * size) as deliver:
            for window in obeying(windows(batches, WINDOW_BATCHES * size)):
                for (rgb, picture), (found, seconds) in zip(window, self._detect(window, size), strict=True):
                    deliver(picture, found)
                    self.seen += 1
                    shape = f"{rgb.shape[1]}x{rgb.shape[2]} "
                    LOGGER.info(f"{picture.text}{shape}{summarize(found, self.detector.names)}Done. ({seconds:.3f}s)")

    def _detect(self, window: Window, size: int) -> list[tuple[torch.Tensor, float]]:
        """Return what is found in each image of ``window``, and its part of the seconds of inference."""
        import numpy as np

        from utils.detection.inputs import alike

        results: dict[int, tuple[torch.Tensor, float]] = {}
        for places in alike(window, size):
            rgb = np.stack([window[place][0] for place in places])
            detections, seconds = self.detector.batch(rgb, [window[place][1].native.shape[:2] for place in places])
            results |= {place: (detections[row], seconds / len(places)) for row, place in enumerate(places)}
        return [results[place] for place in range(len(window))]

    def _deliver(self, picture: Picture, found: torch.Tensor) -> bool:
        annotated = None
        if self.viewer or not self.options.nosave:
            annotated = self.writer.annotate(picture.native, found.flip(0))
        self.writer.write(picture, found, None if self.options.nosave else annotated)
        return self.viewer is None or annotated is None or not self.viewer.show(str(picture.path), annotated)

    def close(self) -> None:
        """Finish the videos and close the windows."""
        self.writer.close()
        if self.viewer:
            self.viewer.close()

    def report(self, seconds: float) -> None:
        """Log the times, and where the results are; ``seconds`` from the first image to the last."""
        import numpy as np

        options = self.options
        height, width = self.detector.image_size
        milliseconds = tuple(1e3 * total / max(self.seen, 1) for total in self.detector.seconds)
        line = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape "
        LOGGER.info(line + str((options.batch_size, 3, height, width)), *milliseconds)
        middle, late = 1e3 * np.percentile(self.detector.calls or [0.0], (50, 95))
        of_images = (
            f"up to {options.batch_size} images" if options.batch_size > 1 else "one image or one of each stream"
        )
        LOGGER.info(
            f"{self.seen / max(seconds, 1e-9):.1f} images per second in all; latency of each call, "
            f"for {of_images}: median {middle:.1f} ms, 95th percentile {late:.1f} ms"
        )
        labels = f", {self.writer.label_files} label files in {self.folder / 'labels'}" if options.save_txt else ""
        if not options.nosave or options.save_txt or options.save_crop or options.visualize:
            LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder))}{labels}")

    def shortcomings(self, sources: LoadImages | LoadStreams) -> str:
        """Return how many files could not be read or written, in words; '' if all is there."""
        counts = {
            "could not be read and were skipped": sources.skipped,
            "could be read in part only": sources.incomplete,
            "have results that could not be written": len(self.writer.incomplete),
        }
        found = [f"{count} file(s) {what}" for what, count in counts.items() if count]
        return f"{', '.join(found)}: they are named above" if found else ""


def wants_windows(options: DetectOptions, live: bool) -> bool:
    """Tell whether to open windows. Raises InputError when --view-img asks for them and there is no display."""
    if not (options.view_img or live):
        return False
    from utils.detection.display import display_problem

    problem = display_problem()
    if problem and options.view_img:
        raise InputError(f"--view-img needs a display, and here is none ({problem}): leave it out, results are saved")
    return not problem


def check_source(options: DetectOptions) -> None:
    """Raise InputError where the source is missing, or options do not go with it."""
    from utils.detection.inputs import check_files
    from utils.detection.streams import is_stream

    if options.view_img:
        wants_windows(options, live=False)
    if is_stream(options.source):
        if options.batch_size > 1:
            raise InputError("--batch-size is for files: of several streams one frame each is a batch, leave it out")
    elif options.source == DEFAULT_SOURCE and not Path(DEFAULT_SOURCE).exists():
        raise InputError(
            f"--source is missing, and its default, {DEFAULT_SOURCE}, is not there: give an image, a folder, a video, "
            "a list file, a camera number or an address"
        )
    elif not Path(options.source).exists():
        check_files(options.source)


def detect(options: DetectOptions) -> tuple[Path, str]:
    """Detect and write; returns the run folder, and in words what could not be read or written ('': nothing)."""
    show_arguments("detect", options)
    from utils.detection.inputs import check_files

    check_source(options)
    from utils.device import device_line, select_device

    LOGGER.info(device_line(select_device(options.device)))
    detector = Detector(options)
    check_files(options.source)  # before there is a folder for results
    wanted = Path(options.project) / options.name
    with claimed_folder(wanted, options.exist_ok, shared=options.exist_ok) as folder:  # parts of one source, say
        return folder, _detect_into(folder, options, detector)


def _detect_into(folder: Path, options: DetectOptions, detector: Detector) -> str:
    from utils.detection.inputs import open_sources

    sources = open_sources(
        options.source, folder / "downloads", img_size=detector.image_size, stride=detector.model.stride,
        auto=detector.model.fixed_size is None, vid_stride=options.vid_stride,
    )  # fmt: skip
    try:
        make_folder(folder / "labels" if options.save_txt else folder)
        detection = DetectionRun(options, detector, folder, wants_windows(options, live=sources.mode == "stream"))
        start = time.perf_counter()
        try:
            if options.batch_size > 1:
                detection.in_batches(sources, options.batch_size)
            else:
                detection.one_by_one(sources)
        except KeyboardInterrupt:
            if sources.mode != "stream":  # a stream has no other end
                raise
        finally:
            detection.close()
    finally:
        sources.close()
    if sources.skipped and not detection.seen:
        raise InputError(f"nothing in {options.source} could be read: the files are named above")
    detection.report(time.perf_counter() - start)
    if options.update:
        from models.loading import strip_optimizer

        for file in options.weights:
            strip_optimizer(file)
    return detection.shortcomings(sources)


def main(options: DetectOptions) -> Path:
    """The command: returns the run folder; raises InputError, at the end, if a file could not be read or written."""
    folder, shortcomings = detect(options)
    if shortcomings:
        raise InputError(shortcomings)
    return folder


def run(**keywords: Any) -> Path:
    """Detect from Python, ``detect.run(weights='best.pt', source='photo.jpg')``: the flags as keywords.

    Returns the run folder. A file that cannot be read, or whose results cannot be written, costs a warning.
    """
    folder, shortcomings = detect(build(DetectOptions, **keywords))
    if shortcomings:
        LOGGER.warning(shortcomings)
    return folder


if __name__ == "__main__":
    run_command(lambda: main(parse(DetectOptions, "Detect objects in images and videos.")))
