"""Open an exported file with the library that runs it, and run it in batches of its size."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.formats import format_of
from utils.downloads import fetch_weights, is_url
from utils.errors import InputError, MissingFileError, one_line
from utils.installation import import_own
from utils.log import LOGGER

ONEDNN_LIMIT = "ONEDNN_MAX_CPU_ISA"  # limits the instructions of oneDNN, but not of all of OpenVINO
# Module and class of the runtime of each format, imported when such a file is opened
RUNTIMES = {
    "torchscript": ("torchscript", "TorchScriptRuntime"),
    "onnx": ("onnx_runtime", "OnnxRuntime"),
    "dnn": ("opencv_dnn", "OpenCVRuntime"),
    "openvino": ("openvino", "OpenVINORuntime"),
    "engine": ("tensorrt", "TensorRTRuntime"),
    "coreml": ("coreml", "CoreMLRuntime"),
    "tflite": ("tflite", "TFLiteRuntime"),
    "ncnn": ("ncnn", "NcnnRuntime"),
}


def open_runtime(path: Path, device: torch.device, dnn: bool = False) -> Runtime:
    """Load an exported file or folder with the library that runs it.

    Raises:
        MissingFileError: it does not exist. InputError: it is damaged, or its library is missing.
    """
    file_format = format_of(path)
    if is_url(str(path)):
        path = fetch_weights(path)
    if not path.exists():
        raise MissingFileError(f"no such export: {path}: make it with export.py --include {file_format.argument}")
    module, name = RUNTIMES["dnn" if dnn else file_format.argument]
    runtime = getattr(import_own(f"models.backends.{module}"), name)
    try:
        opened = runtime(path, device)
    except InputError:
        raise
    except Exception as error:  # each library raises its own errors
        remedy = "it is damaged or of another version, export it again"
        if file_format.argument == "openvino" and os.environ.get(ONEDNN_LIMIT):
            remedy = f"{ONEDNN_LIMIT} is set, with which OpenVINO does not always work: unset it"
        raise InputError(f"{path} cannot be loaded as {file_format.title}: {remedy} ({one_line(error)})") from error
    if device.type == "cuda" and opened.device.type == "cpu":
        LOGGER.info(f"{path} runs on the CPU")
    return opened


def run_in_batches(runtime: Runtime, images: Tensor) -> Tensor:
    """The output for images (B, 3, H, W), computed in batches of the file's size."""
    fixed = runtime.metadata.fixed_batch
    size = fixed or runtime.largest_batch or len(images)
    outputs = []
    for part in images.split(size):
        if fixed and len(part) < size:
            part = torch.cat((part, part.new_zeros(size - len(part), *part.shape[1:])))
        outputs.append(runtime(part))
    return torch.cat(outputs)[: len(images)]
