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
            settings["INFERENCE_PRECISION_HINT"] = "f32"  # by default it is bfloat16 where the processor has that
        file = path if folder != path else folder_file(folder, "*.xml")
        with kept_signal_stack():
            self.request = openvino.compile_model(str(file), "CPU", settings).create_infer_request()

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        output = next(iter(self.request.infer({0: images.cpu().numpy()}).values()))
        return torch.from_numpy(output.copy())  # the request writes its next output into the same memory


class SignalStack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack | None:
    """That of this thread, None where there is no such thing to ask for."""
    if not sys.platform.startswith("linux"):
        return None
    stack = SignalStack()
    return stack if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0 else None


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread its alternate signal stack back afterwards.

    OpenVINO sets one of its own for each compiled model and puts back the one that it found when the model goes. Where
    models go in another order than they came, that is one whose memory has gone, and the next signal (of a child that
    ends, say) ends the process with a segmentation fault. Models that all find the same one can go in any order.
    """
    before = signal_stack()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
