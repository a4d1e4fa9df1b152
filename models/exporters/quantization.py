"""INT8 by post-training quantization: weights per channel and symmetric, activations by their range on images.

The head stays in float: its last convolutions give coordinates and scores, and the values that decode them range over
hundreds of pixels, for which 256 steps are too few. It takes little time.

Weights for ONNX Runtime have 7 bits. On x86 processors without VNNI it adds two products of an activation (0 to 255)
and a weight in 16 bits, at most 32767: weights up to 127 would give 64770, weights up to 64 give 32640. So a file
computes the same everywhere. Corrected biases compensate for the eighth bit.

Ranges of activations are the extremes on all images. Means over the images were better on photographs, but clip values
that occur in few images. The quantizer of TensorFlow Lite takes moving averages.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from models.backends.openvino import kept_signal_stack
from models.exporters.bias_correction import correct_biases
from models.exporters.images import ImageBatches
from utils.commands.packages import require

_HEAD_OF_TFLITE = "ExportHead|serving_default_output"  # scopes of its operations, and the output


def after_convolutions(readers: Mapping[str, Sequence[str]], convolutions: set[str]) -> list[str]:
    """The nodes of a graph that no convolution follows: the last convolutions, and everything after them.

    Args:
        readers: each node's name -> names of the nodes that read its output, sources before their readers.
        convolutions: names of the convolutions.
    """
    followed: dict[str, bool] = {}
    for name in reversed(list(readers)):
        followed[name] = any(followed[reader] or reader in convolutions for reader in readers[name])
    return [name for name in readers if not followed[name]]


def quantize_onnx(model: Any, images: ImageBatches) -> Any:
    """An onnx.ModelProto in FP32 -> one with QuantizeLinear and DequantizeLinear (QDQ), for ONNX Runtime."""
    onnx = require("onnx", "--int8")
    ort_quantization = require("onnxruntime.quantization", "--int8 --include onnx")
    pre_process = require("onnxruntime.quantization.shape_inference", "--int8 --include onnx").quant_pre_process
    with TemporaryDirectory() as name, _only_errors("root"):
        plain = str(Path(name, "plain.onnx"))
        prepared = str(Path(name, "prepared.onnx"))
        quantized = str(Path(name, "quantized.onnx"))
        onnx.save(model, plain)
        pre_process(plain, prepared, skip_symbolic_shape=True)
        ort_quantization.quantize_static(
            prepared,
            quantized,
            _Reader(images, model.graph.input[0].name),
            quant_format=ort_quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort_quantization.QuantType.QUInt8,
            weight_type=ort_quantization.QuantType.QInt8,
            reduce_range=True,
            nodes_to_exclude=_head_of_onnx(onnx.load(prepared).graph),
            extra_options={"WeightSymmetric": True},
        )
        result = onnx.load(quantized)
        correct_biases(Path(prepared), result, (batch.numpy() for batch in images))
        return _without_unused_domains(result)


def _without_unused_domains(model: Any) -> Any:
    """Remove the operator sets that no node uses: a runtime that lacks one may refuse the file."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if not entry.domain or entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


class _Reader:
    """Calibration images in the form that ONNX Runtime reads."""

    def __init__(self, images: ImageBatches, name: str) -> None:
        self.name = name
        self.rest = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the input's name, None after the last."""
        batch = next(self.rest, None)
        return None if batch is None else {self.name: batch.numpy()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return iter(self.get_next, None)


def _head_of_onnx(graph: Any) -> list[str]:
    """Names of the nodes that stay in float."""
    reading: dict[str, list[str]] = {}
    for node in graph.node:
        for source in node.input:
            reading.setdefault(source, []).append(node.name)
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        readers[node.name] = [name for output in node.output for name in reading.get(output, ())]
    return after_convolutions(readers, {node.name for node in graph.node if node.op_type == "Conv"})


def quantize_openvino(model: Any, images: ImageBatches) -> Any:
    """An openvino.Model in FP32 -> one with FakeQuantize, by NNCF, which corrects the biases."""
    # NNCF draws its progress bars on stdout, even if that is a file
    progress = nullcontext() if sys.stdout.isatty() else redirect_stdout(io.StringIO())
    with _only_errors("nncf"), progress, kept_signal_stack():
        nncf = require("nncf", "--int8 --include openvino")
        logging.getLogger("nncf").setLevel(logging.ERROR)  # its import sets the level
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda batch: batch.numpy()),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,  # outputs of SiLU are asymmetric
            ignored_scope=nncf.IgnoredScope(names=_head_of_openvino(model)),
        )


def _head_of_openvino(model: Any) -> list[str]:
    """Names of the operations that stay in float."""
    operations = model.get_ordered_ops()
    readers: dict[str, list[str]] = {}
    for operation in operations:
        targets = [target for output in operation.outputs() for target in output.get_target_inputs()]
        readers[operation.get_friendly_name()] = [target.get_node().get_friendly_name() for target in targets]
    kinds = {operation.get_friendly_name(): operation.get_type_name() for operation in operations}
    last = after_convolutions(readers, {name for name, kind in kinds.items() if kind.endswith("Convolution")})
    return [name for name in last if kinds[name] not in ("Constant", "Parameter", "Result")]


def quantize_tflite(path: Path, images: ImageBatches, whole: bool) -> None:
    """Quantize a TensorFlow Lite file in FP32 in place, by Google's quantizer.

    Args:
        path: the file; its input takes the batches. images: calibrate on these.
        whole: quantize the head's convolutions, too, for chips that compute with integers alone.
    """
    quantizer_module = require("ai_edge_quantizer.quantizer", "--int8 --include tflite", "ai-edge-quantizer")
    interpreter_class = require("ai_edge_litert.interpreter", "--int8 --include tflite", "ai-edge-litert").Interpreter
    operation = require("ai_edge_quantizer.qtyping", "--int8 --include tflite").TFLOperationName
    ((signature, sides),) = interpreter_class(str(path)).get_signature_list().items()
    (name,) = sides["inputs"]
    quantizer = quantizer_module.Quantizer(str(path))
    quantizer.add_static_config(".*", operation.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    in_float = [(".*", operation.INPUT), (".*", operation.OUTPUT)]
    for scope, kind in in_float if whole else [*in_float, (_HEAD_OF_TFLITE, operation.ALL_SUPPORTED)]:
        quantizer.update_quantization_recipe(scope, kind, algorithm_key="no_quantize")
    ranges = quantizer.calibrate(
        {signature: [{name: batch.numpy()} for batch in images]}, num_threads=torch.get_num_threads()
    )
    result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    path.write_bytes(result.quantized_model)


@contextmanager
def _only_errors(logger: str) -> Iterator[None]:
    """Hide a library's messages below the level of errors."""
    library = logging.getLogger(logger)
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)
