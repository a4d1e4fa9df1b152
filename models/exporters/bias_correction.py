"""Correct the biases of a quantized ONNX graph by the mean error that rounding its weights adds to each channel.

After M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, *Data-Free Quantization Through Weight Equalization and Bias
Correction*, ICCV 2019: averaged over many images, apart from the borders, a convolution with rounded weights differs
from the original by the sum of the weights' errors times the means of its input channels. Here the means are measured
on calibration images.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from utils.commands.packages import require

Means = dict[str, np.ndarray]


def correct_biases(plain: Path, quantized: Any, batches: Iterable[np.ndarray]) -> None:
    """Change the biases of the quantized convolutions in place.

    Args:
        plain: the ONNX file in FP32. quantized: the onnx.ModelProto in QDQ format made of it, with the same node names.
        batches: calibration images (B, 3, H, W), as the graph takes them.
    """
    onnx = require("onnx", "--int8")
    to_array = onnx.numpy_helper.to_array
    to_tensor = onnx.numpy_helper.from_array
    original = onnx.load(plain)
    weights = {tensor.name: tensor for tensor in original.graph.initializer}
    convolutions = {node.name: node for node in original.graph.node if node.op_type == "Conv"}
    values = {tensor.name: tensor for tensor in quantized.graph.initializer}
    source = {output: node for node in quantized.graph.node for output in node.output}
    rounded = [
        node
        for node in quantized.graph.node
        if node.name in convolutions and len(node.input) == 3 and {*node.input[1:]} <= {*source}
    ]
    means = _input_means(original, {convolutions[node.name].input[0] for node in rounded}, batches)
    corrected: set[str] = set()
    limits = np.iinfo(np.int32)
    for node in rounded:
        before = convolutions[node.name]
        bias_name, bias_scale = source[node.input[2]].input[:2]
        if bias_name in corrected:  # a convolution that runs twice
            continue
        corrected.add(bias_name)
        weight_name, weight_scale = source[node.input[1]].input[:2]
        integers = to_array(values[weight_name])  # (O, I / groups, h, w)
        scale = to_array(values[weight_scale]).astype(float).reshape(-1, 1, 1, 1)  # (O, 1, 1, 1), or one for all
        error = integers * scale - to_array(weights[before.input[1]])  # (O, I / groups, h, w)
        shift = _mean_shift(error, means[before.input[0]])  # (O,) in the units of the output
        bias = to_array(values[bias_name]) - shift / to_array(values[bias_scale])  # (O,) in steps of bias_scale
        bias = np.clip(np.round(bias), limits.min, limits.max).astype(np.int32)
        values[bias_name].CopyFrom(to_tensor(bias, bias_name))


def _mean_shift(error: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Errors of weights (O, I / groups, h, w), means of the input channels (I,) -> mean errors of the outputs (O,)."""
    groups = len(means) // error.shape[1]
    of_outputs = np.repeat(means.reshape(groups, -1), len(error) // groups, axis=0)  # (O, I / groups)
    return (error.sum(axis=(2, 3)) * of_outputs).sum(axis=1)


def _input_means(model: Any, names: set[str], batches: Iterable[np.ndarray]) -> Means:
    """Mean of each channel of the tensors called ``names``, all (B, C, H, W), over the batches."""
    onnx = require("onnx", "--int8")
    onnxruntime = require("onnxruntime", "--int8 --include onnx")
    images = model.graph.input[0].name
    inner = sorted(names - {images})
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    count = 0
    for batch in batches:
        maps = {images: batch}  # each (B, C, H, W)
        if inner:
            maps |= dict(zip(inner, session.run(inner, {images: batch}), strict=True))
        for name in names:
            sums[name] = sums[name] + maps[name].mean(axis=(2, 3), dtype=float).sum(axis=0)  # (C,)
        count += len(batch)
    return {name: value / count for name, value in sums.items()}
