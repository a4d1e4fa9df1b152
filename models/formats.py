"""The file formats of detectors: names, suffixes, properties, and which are not offered.

Used by export.py, which writes them, and by ``models.backends``, which run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        title: its name for people. argument: its word after ``--include``. suffix: added to the stem of the checkpoint;
            a folder if it does not begin with a dot.
        cpu, gpu: where it runs.
        can: the properties of the file (``half``, ``dynamic``, ``nms``, ``int8``, ``raw_heads``) that are possible.
        flags: further flags of export.py that concern it. half_images: a file with ``half`` takes FP16 images; others
            only store FP16 and take FP32.
        packages: import name -> package to install, for the export. int8_packages: those that ``int8`` needs besides.
    """

    title: str
    argument: str
    suffix: str
    cpu: bool
    gpu: bool
    can: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    packages: tuple[tuple[str, str], ...] = ()
    int8_packages: tuple[tuple[str, str], ...] = ()
    half_images: bool = False

    def path(self, weights: str | Path, int8: bool = False, raw_heads: bool = False) -> Path:
        """Path for the export of a checkpoint: next to it, with this format's suffix, and marks for what it is."""
        marks = RAW_MARK * raw_heads + INT8_MARK * int8
        return Path(weights).with_name(Path(weights).stem + marks + self.suffix)


_ONNX = (("onnx", "onnx"), ("onnxruntime", "onnxruntime"))
_GRAPH_FLAGS = frozenset({"opset", "simplify"})  # of ONNX files and of what is made from one

PYTORCH = Format("PyTorch", "-", ".pt", True, True)
SAFETENSORS = Format("safetensors", "safetensors", ".safetensors", True, True, frozenset({"half", "dynamic"}))
CHECKPOINTS = PYTORCH, SAFETENSORS  # weights of a network that PyTorch runs
FORMATS = (
    PYTORCH,
    Format("TorchScript", "torchscript", ".torchscript", True, True, frozenset({"half", "dynamic"}),
           half_images=True),
    Format("ONNX", "onnx", ".onnx", True, True, frozenset({"half", "dynamic", "nms", "int8", "raw_heads"}),
           _GRAPH_FLAGS, _ONNX, half_images=True),
    Format("OpenVINO", "openvino", "_openvino_model", True, False, frozenset({"half", "dynamic", "nms", "int8"}),
           _GRAPH_FLAGS, (("onnx", "onnx"), ("openvino", "openvino")), (("nncf", "nncf"),)),
    Format("TensorRT", "engine", ".engine", False, True, frozenset({"half", "dynamic"}),
           _GRAPH_FLAGS | {"workspace", "verbose"}, (("onnx", "onnx"), ("tensorrt", "tensorrt")), half_images=True),
    Format("CoreML", "coreml", ".mlpackage", True, False, frozenset({"half"}), packages=(("coremltools",) * 2,)),
    Format("TensorFlow Lite", "tflite", ".tflite", True, False, frozenset({"int8", "raw_heads"}),
           packages=(("litert_torch", "litert-torch"), ("ai_edge_litert", "ai-edge-litert")),
           int8_packages=(("ai_edge_quantizer", "ai-edge-quantizer"),)),
    Format("ncnn", "ncnn", "_ncnn_model", True, False, frozenset({"half"}), packages=(("pnnx",) * 2, ("ncnn",) * 2)),
    SAFETENSORS,
)  # fmt: skip

ONE_IMAGE = ("coreml", "ncnn")  # formats of one image per call
OPSETS = 11, 20  # of ONNX: Resize as it is used came with 11, and torch's tracing exporter ends at 20
DEFAULT_OPSET = 17
INT8_OPSET = 13  # ranges for each channel came with it
INT8_MARK = "_int8"  # behind the stem of the checkpoint
RAW_MARK = "_raw"

# Formats of v6.2 and v7.0 whose converters are not maintained for current PyTorch: {argument: what to use instead}
NOT_OFFERED = {
    "saved_model": "no maintained converter makes TensorFlow models from PyTorch: use tflite, or onnx",
    "pb": "frozen graphs went with TensorFlow 1: use tflite, or onnx",
    "edgetpu": "the Edge TPU compiler has not been maintained since 2021: use tflite, openvino or ncnn",
    "tfjs": "its converter needs a TensorFlow model: use onnx, which onnxruntime-web runs in browsers",
    "paddle": "its converter is not maintained for current PyTorch: use onnx",
}
SUFFIXES_NOT_OFFERED = {
    "_saved_model": "saved_model", ".pb": "pb", "_edgetpu.tflite": "edgetpu", "_web_model": "tfjs",
    "_paddle_model": "paddle", ".mlmodel": "the older CoreML format",
}  # fmt: skip


def export_formats() -> Any:
    """The table of formats as a DataFrame with v6.2's columns."""
    import pandas as pd

    rows = [(entry.title, entry.argument, entry.suffix, entry.cpu, entry.gpu) for entry in FORMATS]
    return pd.DataFrame(rows, columns=["Format", "Argument", "Suffix", "CPU", "GPU"])


def find_formats(arguments: list[str]) -> list[Format]:
    """The formats named after ``--include``, in the order of the table. Raises InputError for other words."""
    words = [word.lower() for word in arguments]
    known = {entry.argument: entry for entry in FORMATS[1:]}
    for word in words:
        if word in NOT_OFFERED:
            raise InputError(f"--include {word} is not offered: {NOT_OFFERED[word]}")
        if word not in known:
            raise InputError(f"--include {word} is unknown: expected some of {' '.join(known)}")
        if words.count(word) > 1:
            raise InputError(f"--include names {word} twice: name each format once")
    return [entry for entry in FORMATS if entry.argument in words]


def format_of(path: str | Path) -> Format:
    """The format of a file or folder, by its name; an .xml file stands for its OpenVINO folder.

    Raises:
        InputError: it cannot be run.
    """
    name = str(Path(path).name).lower()
    for suffix, title in SUFFIXES_NOT_OFFERED.items():
        if name.endswith(suffix):
            raise InputError(f"cannot run {path}: {title} is not offered, export to another format with export.py")
    if name.endswith(".xml"):
        return next(entry for entry in FORMATS if entry.argument == "openvino")
    for entry in FORMATS:
        if name.endswith(entry.suffix):
            return entry
    raise InputError(
        f"cannot run {path}: expected a checkpoint (.pt) or an export of it, whose name ends with one of "
        + " ".join(entry.suffix for entry in FORMATS[1:])
    )
