"""OpenVINO folders, on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from models.backends.runtime import Runtime, folder_file, folder_metadata
from utils.commands.packages import require


class OpenVINORuntime(Runtime):
    """OpenVINO set up for single requests; files in FP32 are computed in FP32."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load the folder ``path``, or the .xml file in it."""
        openvino = require("openvino", str(path))
        folder = path.parent if path.suffix.lower() == ".xml" else path
        self.metadata = folder_metadata(folder)
        self.device = torch.device("cpu")
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if not self.metadata.half:
            settings["INFERENCE_PRECISION_HINT"] = "f32"  # the default is bfloat16 on processors that have it
        file = path if folder != path else folder_file(folder, "*.xml")
        with kept_signal_stack():
            self.request = openvino.compile_model(str(file), "CPU", settings).create_infer_request()

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        output = next(iter(self.request.infer({0: images.cpu().numpy()}).values()))
        return torch.from_numpy(output.copy())  # the request writes its next output into the same memory


class SignalStack(ctypes.Structure):
    """Linux's stack_t."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack | None:
    """The alternate signal stack of this thread; None on systems other than Linux."""
    if not sys.platform.startswith("linux"):
        return None
    stack = SignalStack()
    return stack if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0 else None


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack after the block.

    OpenVINO sets a new one for each compiled model and restores the previous one when the model is deleted. If models
    are deleted in another order than they were created, the restored one may already be freed, and the next signal
    (of a child that ends, say) ends the process with a segmentation fault. Models that are all created with the same
    stack can be deleted in any order.
    """
    before = signal_stack()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
