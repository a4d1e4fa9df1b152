"""One run of detect.py: sources are opened, detected in batch by batch, written, shown and logged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.commands.interrupts import obeying
from utils.detection.detector import Detector, Selection
from utils.detection.display import Viewer, display_problem
from utils.detection.inputs import Picture, Window, alike, check_files, open_sources, picture_batches, windows
from utils.detection.options import DEFAULT_SOURCE, DetectOptions
from utils.detection.outputs import Writer
from utils.detection.sources import LoadImages
from utils.detection.streams import LoadStreams, is_stream
from utils.detection.threads import ReadAhead, WriteBehind
from utils.device import device_line, select_device
from utils.drawing.annotator import BoxStyle, draw_detections
from utils.errors import InputError
from utils.log import LOGGER, colorstr, terminal_text
from utils.storage.files import fitting_name, make_folder
from utils.storage.folder_lock import claimed_folder

WINDOW_BATCHES = 4  # batches of images that are searched for equal shapes

Sources = LoadImages | LoadStreams


def detect(options: DetectOptions, open_backend: Callable[..., Any]) -> tuple[Path, str]:
    """Detect and write.

    Args:
        options: of the run.
        open_backend: opens weights as a ``Backend``; called with arguments of ``models.backends.DetectMultiBackend``.

    Returns:
        The run folder, and in words what could not be read or written ('': nothing).
    """
    check_source(options)
    detector, image_size = open_detector(options, open_backend)
    check_files(options.source)  # before there is a folder for results
    run_folder = Path(options.project) / options.name
    with claimed_folder(run_folder, options.exist_ok, shared=options.exist_ok) as folder:  # parts of one source, say
        sources = open_sources(
            options.source,
            folder / "downloads",
            img_size=image_size,
            stride=detector.model.stride,
            auto=detector.model.fixed_size is None,
            vid_stride=options.vid_stride,
        )
        try:
            run = DetectionRun(options, detector, folder)
            seconds = run.over(sources)
        finally:
            sources.close()
        if sources.skipped and not run.seen:
            raise InputError(f"nothing in {options.source} could be read: the files are named above")
        run.report(seconds, image_size)
        return folder, run.shortcomings(sources)


def check_source(options: DetectOptions) -> None:
    """Raise InputError where the source is missing, or options do not go with it."""
    if options.view_img:
        wants_windows(options, live=False)
    if is_stream(options.source):
        if options.batch_size > 1:
            raise InputError("--batch-size is for files: a batch of streams is one frame of each, leave it out")
    elif options.source == DEFAULT_SOURCE and not Path(DEFAULT_SOURCE).exists():
        raise InputError(
            f"--source is missing, and its default, {DEFAULT_SOURCE}, does not exist: give an image, a folder, "
            "a video, a list file, a camera number or an address"
        )
    elif not Path(options.source).exists():
        check_files(options.source)


def wants_windows(options: DetectOptions, live: bool) -> bool:
    """Tell whether to open windows. Raises InputError when --view-img asks for them and there is no display."""
    if not (options.view_img or live):
        return False
    problem = display_problem()
    if problem and options.view_img:
        raise InputError(
            f"--view-img needs a display, and there is none here ({problem}): leave it out, as results are saved"
        )
    return not problem


def open_detector(options: DetectOptions, open_backend: Callable[..., Any]) -> tuple[Detector, list[int]]:
    """Open the weights; returns the detector and the (height, width) in pixels to letterbox images to.

    Raises:
        InputError: the weights cannot be used, or not as it is asked for.
    """
    weights = options.weights[0] if len(options.weights) == 1 else options.weights
    device = select_device(options.device)
    LOGGER.info(device_line(device))
    model = open_backend(weights, device=device, data=options.data, fp16=options.half, dnn=options.dnn)
    model.check_request(
        options.conf_thres,
        options.iou_thres,
        options.augment,
        options.visualize,
        options.update,
        options.agnostic_nms,
    )
    if model.pt:
        model.to(memory_format=torch.channels_last)
    image_size = model.image_size(options.imgsz)
    unknown = [index for index in options.classes or () if index not in model.names]
    if unknown:
        raise InputError(
            f"--classes {unknown} do not exist in the model: it has 0 to {len(model.names) - 1} ({model.names})"
        )
    model.warmup((options.batch_size, 3, *image_size))
    selection = Selection(options.conf_thres, options.iou_thres, options.max_det, options.classes, options.agnostic_nms)
    return Detector(model, selection, options.augment), image_size


class DetectionRun:
    """Detects batch by batch, writes, shows and logs.

    Attributes:
        seen: number of images and frames so far.
    """

    def __init__(self, options: DetectOptions, detector: Detector, folder: Path) -> None:
        """Files go into ``folder``."""
        self.options, self.detector, self.folder = options, detector, folder
        self.style = BoxStyle(options.line_thickness, options.hide_labels, options.hide_conf)
        self.writer = Writer(
            detector.names, folder, options.save_txt, options.save_conf, options.save_crop, options.save_csv
        )
        self.viewer: Viewer | None = None
        self.seen = 0

    def over(self, sources: Sources) -> float:
        """Detect on all of ``sources``; returns the seconds that it took."""
        options = self.options
        live = sources.mode == "stream"
        make_folder(self.folder / "labels" if options.save_txt else self.folder)
        self.viewer = Viewer() if wants_windows(options, live) else None
        start = time.perf_counter()
        try:
            if options.batch_size > 1:
                self.in_batches(sources, options.batch_size)
            else:
                self.one_by_one(sources)
        except KeyboardInterrupt:
            if not live:  # a stream has no other end
                raise
        finally:
            self.close()
        return time.perf_counter() - start

    def one_by_one(self, sources: Sources) -> None:
        """Detect on each image as it comes, or on one of each stream, until the user has enough."""
        for rgb, pictures in obeying(picture_batches(sources)):
            if not self.batch(rgb, pictures):
                break

    def batch(self, rgb: np.ndarray, pictures: list[Picture]) -> bool:
        """Detect on images (B, 3, H, W) of ``pictures``; returns False once the user has enough."""
        if self.options.visualize and len(pictures) > 1:
            wants_more = True
            for index, picture in enumerate(pictures):
                wants_more = wants_more and self.batch(rgb[index : index + 1], [picture])
            return wants_more
        feature_folder = None
        if self.options.visualize:
            feature_folder = self.folder / fitting_name(self.folder, self.writer.stem(pictures[0]))
        sizes = [picture.size for picture in pictures]
        detections, seconds = self.detector.batch(rgb, sizes, feature_folder)
        size = f"{rgb.shape[2]}x{rgb.shape[3]} "
        line, wants_more = "", True
        for picture, rows in zip(pictures, detections, strict=True):
            line += picture.text + size + summarize(rows, self.detector.names)
            if not self.deliver(picture, rows):
                wants_more = False
        self.seen += len(pictures)
        LOGGER.info(f"{line}Done. ({seconds:.3f}s)")
        return wants_more

    def in_batches(self, sources: Sources, size: int) -> None:
        """Detect on ``size`` images of one shape at a time; what is written and logged comes in their order."""
        with ReadAhead(picture_batches(sources), 2 * size) as batches, WriteBehind(self.deliver, 2 * size) as deliver:
            for window in obeying(windows(batches, WINDOW_BATCHES * size)):
                for (rgb, picture), (rows, seconds) in zip(window, self.detect_window(window, size), strict=True):
                    deliver(picture, rows)
                    self.seen += 1
                    shape = f"{rgb.shape[1]}x{rgb.shape[2]} "
                    LOGGER.info(f"{picture.text}{shape}{summarize(rows, self.detector.names)}Done. ({seconds:.3f}s)")

    def detect_window(self, window: Window, size: int) -> list[tuple[torch.Tensor, float]]:
        """Detections (N, 6) of each image of ``window``, and its share of the seconds of inference."""
        results: dict[int, tuple[torch.Tensor, float]] = {}
        for indices in alike(window, size):
            rgb = np.stack([window[index][0] for index in indices])  # (B, 3, H, W)
            sizes = [window[index][1].size for index in indices]
            detections, seconds = self.detector.batch(rgb, sizes)
            for index, rows in zip(indices, detections, strict=True):
                results[index] = rows, seconds / len(indices)
        return [results[index] for index in range(len(window))]

    def deliver(self, picture: Picture, detections: torch.Tensor) -> bool:
        """Write and show what was detected in one picture; returns False once the user has enough."""
        annotated = None
        if self.viewer or not self.options.nosave:
            best_on_top = detections.flip(0).tolist()
            annotated = draw_detections(picture.native, best_on_top, self.detector.names, self.style)
        self.writer.write(picture, detections, None if self.options.nosave else annotated)
        return self.viewer is None or annotated is None or not self.viewer.show(str(picture.path), annotated)

    def close(self) -> None:
        """Finish the videos and close the windows."""
        self.writer.close()
        if self.viewer:
            self.viewer.close()

    def report(self, seconds: float, image_size: list[int]) -> None:
        """Log the times, and where the results are; ``seconds`` from the first image to the last."""
        options = self.options
        milliseconds = tuple(1e3 * total / max(self.seen, 1) for total in self.detector.seconds)
        line = "Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape "
        LOGGER.info(line + str((options.batch_size, 3, *image_size)), *milliseconds)
        middle, late = 1e3 * np.percentile(self.detector.calls or [0.0], (50, 95))
        per_call = "one image or one of each stream"
        if options.batch_size > 1:
            per_call = f"up to {options.batch_size} images"
        LOGGER.info(
            f"{self.seen / max(seconds, 1e-9):.1f} images per second in all; latency of each call, "
            f"for {per_call}: median {middle:.1f} ms, 95th percentile {late:.1f} ms"
        )
        labels = f", {self.writer.label_files} label files in {self.folder / 'labels'}" if options.save_txt else ""
        table = f", the detections in {self.writer.table.file}" if self.writer.table is not None else ""
        if not options.nosave or options.save_txt or options.save_crop or options.save_csv or options.visualize:
            LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder))}{labels}{table}")

    def shortcomings(self, sources: Sources) -> str:
        """Return how many files could not be read or written, in words; '' if none."""
        counts = {
            "could not be read and were skipped": sources.skipped,
            "could be read in part only": sources.incomplete,
            "have results that could not be written": len(self.writer.incomplete),
        }
        parts = [f"{count} file(s) {problem}" for problem, count in counts.items() if count]
        return f"{', '.join(parts)}: they are named above" if parts else ""


def summarize(detections: torch.Tensor, names: Mapping[int, str]) -> str:
    """Counts by class in class order: ``6 persons, 1 handbag, ``; empty if nothing was detected."""
    counts = sorted(Counter(detections[:, 5].int().tolist()).items())
    return "".join(f"{count} {terminal_text(names[index])}{'s' if count > 1 else ''}, " for index, count in counts)
