"""TensorRT engines (TensorRT 10 and 11), on the GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.metadata import parse_metadata
from utils.commands.packages import require
from utils.errors import InputError
from utils.log import log_once

LENGTH_BYTES = 4  # of the length that precedes the metadata, little-endian
LONGEST_METADATA = 2**20


class TensorRTRuntime(Runtime):
    """An engine with one input and one output, fed with the memory of torch's tensors."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load ``path``. Raises InputError without a GPU, or if the engine was built for another GPU or version."""
        if device.type != "cuda":
            raise InputError(f"{path} needs an NVIDIA GPU: choose one with --device, or run another export")
        tensorrt: Any = require("tensorrt", str(path))
        log_once(f"{path} is machine code for the GPU: open such files only from sources that you trust", logging.INFO)
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            self.metadata = parse_metadata(stream.read(length) if 0 < length < LONGEST_METADATA else None, path)
            self.runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))  # lives as long as its engine
            engine = self.runtime.deserialize_cuda_engine(stream.read())
        if engine is None:
            raise InputError(
                f"{path} cannot be loaded: an engine runs with the version of TensorRT and on the kind of GPU that it "
                f"was built with; here is TensorRT {tensorrt.__version__}"
            )
        self.device = device
        self.largest_batch = self.metadata.batch
        self.largest_size = self.metadata.imgsz[0], self.metadata.imgsz[1]
        self.context = engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(f"{path} has the inputs {inputs} and outputs {outputs}: expected one of each")
        self.input = inputs[0]
        self.output = outputs[0]
        halves = engine.get_tensor_dtype(self.output) == tensorrt.DataType.HALF
        self.output_type = torch.half if halves else torch.float

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        images = images.contiguous()
        if not self.context.set_input_shape(self.input, tuple(images.shape)):
            raise InputError(
                f"TensorRT refused images of shape {tuple(images.shape)}: the engine was built for "
                f"{'at most ' if self.metadata.dynamic else ''}{(self.metadata.batch, 3, *self.metadata.imgsz)}"
            )
        shape = tuple(self.context.get_tensor_shape(self.output))
        output = torch.empty(shape, dtype=self.output_type, device=self.device)
        self.context.set_tensor_address(self.input, images.data_ptr())
        self.context.set_tensor_address(self.output, output.data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise InputError(f"TensorRT failed on images of shape {tuple(images.shape)}: its log above says why")
        return output
