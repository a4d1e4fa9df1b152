"""Forward, loss and backward of one training batch: operation by operation, or replayed as a CUDA graph.

A small network keeps a GPU busy for less time than Python needs to launch its thousands of kernels. A CUDA graph has a
record of them all, and one launch replays it exactly, at the same addresses: the shapes must be those of the recording,
no value may decide what is computed, and no Python code runs again. Batches that do not fit run operation by
operation, with the same result. Optimizer, clipping, penalties, averages and hooks stay outside the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch

from utils.device import prepare_images
from utils.distributed import local_gradients
from utils.log import LOGGER
from utils.training.assignment import pad_labels, padded_count

if TYPE_CHECKING:
    from utils.training.state import TrainingState

WARMUP_BATCHES = 2  # before the first recording: they load libraries and allocate the gradients
MOST_RECORDINGS = 12  # pairs of an image shape and a padded number of labels


class BatchStep:
    """Runs batches operation by operation."""

    keeps_gradients = False  # gradients keep their memory and are set to zero between optimizer steps

    def __init__(self, state: TrainingState) -> None:
        """Keep the run's state, whose model, loss and scaler may be replaced between batches."""
        self.state = state

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, 3, H, W) -> the network's input: float in 0..1 on the device, in channels-last memory."""
        return prepare_images(images, self.state.device)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, steps: bool = True) -> torch.Tensor:
        """Add the gradients of a batch to those of the parameters.

        Args:
            images: (B, 3, H, W), as ``prepare`` returns them.
            targets: (n, 6) rows of image index, class, x, y, w, h, normalised; on any device.
            steps: an optimizer step follows, for which several ranks exchange gradients.

        Returns:
            The box, objectness and class loss (3,), without gradient.
        """
        device = self.state.device
        labels = pad_labels(targets, device) if self._recordable() else targets.to(device, non_blocking=True)
        with nullcontext() if steps else local_gradients(self.state.forward):
            return self._differentiate(images, labels)

    def _recordable(self) -> bool:
        return bool(getattr(self.state.compute_loss, "recordable", False))

    def _differentiate(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        state = self.state
        precision = state.run.autocast_dtype
        with torch.autocast(state.device.type, precision, enabled=precision is not None):
            loss, items = state.compute_loss(state.forward(images), labels, images)
        state.scaler.scale(loss * state.run.loss_factor).backward()
        return items


class Recorder(Protocol):
    """Records what a function launches on the device, so that it can be repeated."""

    def __call__(self, function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Record without computing; returns the replay function, and the result, which each replay overwrites."""


class CudaRecorder:
    """Records CUDA graphs that share their memory: they run one at a time, and no result outlives the next run."""

    def __init__(self) -> None:
        """Make the pool."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        # The loader's threads pin memory during the capture, which only the mode 'thread_local' allows
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result


class RecordedStep(BatchStep):
    """Replays batches of recorded shapes, and runs the others operation by operation.

    Images and labels are copied to fixed addresses, labels are padded to a power of two, and gradients are summed in
    place.
    """

    keeps_gradients = True

    def __init__(self, state: TrainingState, record: Recorder) -> None:
        """Record nothing yet."""
        super().__init__(state)
        self.record = record
        self.recordings: dict[tuple[Any, ...], tuple[Callable[[], None], torch.Tensor]] = {}
        self.given_up = ""  # reason for which nothing is recorded any more
        self._modules = list(state.model.modules())
        self._parameters = list(state.model.parameters())
        self._images: torch.Tensor | None = None  # the largest batch; smaller ones use a part of it
        self._labels: dict[int, torch.Tensor] = {}  # by number of rows
        self._warm = 0  # batches that were run operation by operation
        self._fixed: tuple[Any, ...] = ()  # the ``_structure`` that the recordings rely on

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """As ``BatchStep.prepare``, at a fixed address; valid until the next batch."""
        if self._images is None:
            self._images = torch.empty(
                images.shape, dtype=torch.float, device=self.state.device, memory_format=torch.channels_last
            )
        if self.given_up or images.shape[1:] != self._images.shape[1:] or len(images) > len(self._images):
            return super().prepare(images)
        fixed = self._images[: len(images)]
        return fixed.copy_(images.to(self.state.device, non_blocking=True)).div_(255)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, steps: bool = True) -> torch.Tensor:
        """See BatchStep."""
        if self.given_up or not self._can_replay(images):
            return super().__call__(images, targets, steps)
        count = padded_count(len(targets))
        labels = pad_labels(targets, self.state.device, self._labels.get(count))
        self._labels[count] = labels
        key = (images.shape, count)
        if key not in self.recordings and not self._record(key, images, labels):
            return super().__call__(images, targets, steps)
        replay, items = self.recordings[key]
        replay()
        return items

    def _can_replay(self, images: torch.Tensor) -> bool:
        """Tell if ``images`` lie at the fixed address and the recordings, if any, are still valid."""
        if self._images is None or images.data_ptr() != self._images.data_ptr():
            return False
        if self._warm < WARMUP_BATCHES:
            self._warm += 1
            return False
        hooked = next((module for module in self._modules if module._forward_hooks or module._forward_pre_hooks), None)
        if hooked is not None:
            return self._give_up(f"a hook is registered on {type(hooked).__name__}, which would not be called")
        structure = self._structure()
        if self.recordings and not self._same(structure):  # e.g. a layer was frozen: warm up and record again
            self.recordings.clear()
            self._warm = 1
            return False
        self._fixed = structure
        return True

    def _structure(self) -> tuple[Any, ...]:
        """List what a recording relies on: training flags, trained parameters, the gradients' memory, the loss."""
        return (
            [module.training for module in self._modules],
            [parameter.requires_grad for parameter in self._parameters],
            [parameter.grad for parameter in self._parameters],
            self.state.compute_loss,
        )

    def _same(self, structure: tuple[Any, ...]) -> bool:
        training, trained, gradients, loss = structure
        pairs = zip(gradients, self._fixed[2], strict=True)
        return (
            training == self._fixed[0]
            and trained == self._fixed[1]
            and loss is self._fixed[3]
            and all(own is other for own, other in pairs)
        )

    def _record(self, key: tuple[Any, ...], images: torch.Tensor, labels: torch.Tensor) -> bool:
        """Record the batch shape ``key``; False if that is not possible."""
        if len(self.recordings) >= MOST_RECORDINGS:
            return False
        if not self._recordable():
            return self._give_up(f"the loss, {type(self.state.compute_loss).__name__}, cannot be recorded")
        try:
            self.recordings[key] = self.record(lambda: self._differentiate(images, labels))
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            return self._give_up(f"recording failed ({reason})")
        if len(self.recordings) == 1:
            shape = "x".join(map(str, images.shape))
            LOGGER.info(f"CUDA graph: batches of {shape} are replayed (--no-cuda-graph switches it off)")
        return True

    def _give_up(self, reason: str) -> bool:
        self.given_up = reason
        self.recordings.clear()
        LOGGER.warning(f"CUDA graph: not used, {reason}; training continues without it, with the same result")
        return False


def batch_step(state: TrainingState) -> BatchStep:
    """Choose how batches are computed: recorded on a GPU, where shapes and process allow it, else one by one."""
    options = state.run.options
    reasons = {
        "--multi-scale changes the shapes": options.multi_scale,
        "several ranks exchange gradients": state.forward is not state.model,
        "--compile makes its own kernels": bool(getattr(state.model, "_compiled_call_impl", None)),
    }
    if state.device.type != "cuda" or options.no_cuda_graph:
        return BatchStep(state)
    for reason, holds in reasons.items():
        if holds:
            LOGGER.info(f"CUDA graph: not used, {reason}")
            return BatchStep(state)
    return RecordedStep(state, CudaRecorder())
