"""Compare an exported file with its checkpoint on real images, through the runtime that users use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.backends import DetectMultiBackend
from models.exporters.options import NmsSettings
from utils.augmentations import letterbox
from utils.dataset.images import read_image
from utils.errors import InputError
from utils.geometry.boxes import xywh2xyxy
from utils.geometry.nms import non_max_suppression

CONFIDENT = 0.01  # boxes with a lower score are not compared: nobody sees them, and large ones amplify rounding
LEAST_BOXES = 50  # the best boxes that are compared in any case
ENOUGH_DETECTIONS = 10  # of files with NMS: after these no further images are run
OUTLIERS, HALF_OUTLIERS = 1 / 20, 1 / 4  # share of detections for which NMS may have decided differently
PIXELS, SCORE = 0.5, 0.005  # largest differences of FP32
HALF_PIXELS, HALF_SCORE = 8.0, 0.1  # and of FP16, bfloat16 and TF32


@dataclass(frozen=True)
class Difference:
    """The largest differences from PyTorch in box coordinates (pixels) and scores, over ``boxes`` boxes.

    Without boxes nothing was judged. ``half``: the export may round to half of the digits of FP32.
    """

    pixels: float
    score: float
    boxes: int
    half: bool = False

    @property
    def judged(self) -> bool:
        """Tell whether there was anything to compare."""
        return self.boxes > 0

    def __str__(self) -> str:
        if not self.judged:
            return "not judged"
        figures = f"{self.pixels:.2g} pixels, {self.score:.2g} of a score"
        return f"largest difference from PyTorch: {figures} ({self.boxes} boxes)"

    def check(self, what: str) -> None:
        """Raise InputError if rounding cannot explain the difference."""
        limits = (HALF_PIXELS, HALF_SCORE) if self.half else (PIXELS, SCORE)
        if not (self.pixels <= limits[0] and self.score <= limits[1]):  # also if not a number
            raise InputError(
                f"{what} differs from the checkpoint by {self.pixels:.3g} pixels and {self.score:.3g} of a score, more "
                f"than {limits[0]:g} and {limits[1]:g}: nothing was written, try another format or --opset"
            )


def example_image(file: Path | None, size: tuple[int, int]) -> Tensor:
    """An image file letterboxed to ``size``, or a generated image, as (1, 3, H, W) in 0..1.

    The generated one has the spectrum of photographs: amplitudes fall with the frequency.
    """
    if file is not None:
        picture = letterbox(read_image(file), size, auto=False)[0][:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255
    rng = np.random.default_rng(0)
    rows = np.fft.fftfreq(size[0])[:, None]  # (H, 1)
    columns = np.fft.fftfreq(size[1])  # (W,)
    frequency = np.hypot(rows, columns) + 1 / max(size)  # (H, W)
    waves = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, *size))) / frequency).real  # (3, H, W)
    waves = (waves - waves.mean()) / waves.std()
    return torch.from_numpy(np.clip(0.5 + 0.2 * waves, 0, 1)).float()[None]


@torch.no_grad()
def compare(
    backend: DetectMultiBackend, predict: Callable[[Tensor], Tensor], batches: Iterable[Tensor], half: bool
) -> Difference:
    """Run an export on the first batch and compare its output with the checkpoint's.

    An export with NMS inside is run on further batches until ENOUGH_DETECTIONS are found.

    Args:
        backend: the export, loaded as by val.py and detect.py.
        predict: returns the checkpoint's (B, N, 5 + nc) in FP32. batches: of images (B, 3, H, W) in 0..1.
        half: the export may round to half of the digits of FP32.

    Raises:
        InputError: the export cannot run these images.
    """
    gaps: list[Tensor] = []
    for images in batches:
        expected = predict(images).cpu()
        # In the memory layout of validation
        output = backend(images.contiguous(memory_format=torch.channels_last))[0].cpu().float()
        if not backend.nms:
            return _difference_of_predictions(output, expected, half)
        gaps += _gaps_of_detections(output, expected, NmsSettings(**backend.nms), HALF_SCORE if half else SCORE)
        if len(gaps) >= 2 * ENOUGH_DETECTIONS:
            break
    return _difference_of_detections(gaps, half)


def _difference_of_predictions(output: Tensor, expected: Tensor, half: bool) -> Difference:
    """The difference of predictions (B, N, 5 + nc)."""
    if output.shape != expected.shape:
        raise InputError(f"the export gives the shape {tuple(output.shape)} instead of {tuple(expected.shape)}")
    best = (expected[..., 4] * expected[..., 5:].amax(dim=2)).flatten()  # (B * N,)
    count = max(int((best > CONFIDENT).sum()), min(LEAST_BOXES, len(best)))
    rows = best.topk(count).indices
    boxes = (output[..., :4] - expected[..., :4]).flatten(0, 1)[rows].abs()  # (count, 4)
    return Difference(float(boxes.max()), float((output[..., 4:] - expected[..., 4:]).abs().max()), count, half)


def _gaps_of_detections(output: Tensor, expected: Tensor, settings: NmsSettings, margin: float) -> list[Tensor]:
    """The gaps (2,) of each detection to the nearest of its class on the other side.

    One side are the detections of a file with NMS, given as predictions, the other those that NMS finds in the
    checkpoint's predictions; both (B, ., 5 + nc). Detections whose score is less than ``margin`` above the threshold
    are left out: rounding may decide about them.
    """
    classes = output[..., 5:].argmax(dim=2, keepdim=True).to(output)  # (B, K, 1)
    output = torch.cat((xywh2xyxy(output[..., :4]), output[..., 4:5], classes), dim=2)  # (B, K, 6)
    gaps = []
    for rows, predictions in zip(output, expected, strict=True):
        ours = rows[rows[:, 4] > 0]  # (n, 6)
        theirs = detections_of(predictions, settings)  # (m, 6)
        for judged, others in ((ours, theirs), (theirs, ours)):
            gaps += [_nearest(row, others) for row in judged if not row[4] <= settings.conf_thres + margin]
    return gaps


def _difference_of_detections(gaps: list[Tensor], half: bool) -> Difference:
    """The largest gaps, leaving out a share of outliers.

    Rounding may change which of two overlapping boxes is the better one, and whether an overlap is above the threshold.
    """
    if not gaps:
        return Difference(0.0, 0.0, 0, half)
    outliers = int((HALF_OUTLIERS if half else OUTLIERS) * len(gaps))
    worst_last = torch.stack(gaps)[torch.stack(gaps)[:, 0].argsort()]
    pixels, score = worst_last[: len(gaps) - outliers].amax(dim=0).tolist()
    return Difference(pixels, score, -(-len(gaps) // 2), half)


def _nearest(row: Tensor, others: Tensor) -> Tensor:
    """Gaps (2,) in pixels and score between a detection (6,) and the nearest of its class; infinite without one."""
    gaps = (others[others[:, 5] == row[5], :5] - row[:5]).abs()
    if not len(gaps):
        return row.new_full((2,), torch.inf)
    pixels = gaps[:, :4].amax(dim=1)
    return torch.stack((pixels.min(), gaps[pixels.argmin(), 4]))


def detections_of(predictions: Tensor, settings: NmsSettings) -> Tensor:
    """Predictions (N, 5 + nc) of one image -> detections (n, 6) as detect.py finds them, within the file's limits."""
    (detections,) = non_max_suppression(
        predictions[None], settings.conf_thres, settings.iou_thres, agnostic=settings.agnostic, max_det=len(predictions)
    )
    same = (detections[:, 5:6] == detections[:, 5]) | settings.agnostic
    rank = same.tril(-1).sum(dim=1)  # number of better ones of its class
    return detections[rank < settings.topk_per_class][: settings.topk_all]
