"""Shared by the tests of exports: sizes, formats, and the comparison with the checkpoint."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import val
from models.backends import DetectMultiBackend
from models.formats import FORMATS
from utils.dataset.description import check_dataset
from utils.validation.inputs import make_loader
from utils.validation.options import ValOptions

SIZE = 64
RUNNABLE = ("torchscript", "onnx", "openvino", "ncnn", "tflite")


def needs(*arguments: str) -> None:
    """Skip the test where a library of one of these formats is missing."""
    for kind in FORMATS:
        for module, package in kind.packages if kind.argument in arguments else ():
            if find_spec(module) is None:
                pytest.skip(f"{package} is not installed")
    if "openvino" in arguments:
        skip_where_openvino_is_misled()


def skip_where_openvino_is_misled() -> None:
    """Skip the test if ONEDNN_MAX_CPU_ISA hides instructions from a half of OpenVINO: the other half asks for them."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):
        pytest.skip("OpenVINO does not always work with ONEDNN_MAX_CPU_ISA")


def outputs(path: Path, weights: Path, images: torch.Tensor, **how) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what an export and its checkpoint give for the same images."""
    with torch.no_grad():
        return DetectMultiBackend(path, **how)(images)[0], DetectMultiBackend(weights)(images)[0]


def checkpoint_scores(weights: Path, data: Path, size: int, square: bool, **how) -> tuple[float, ...]:
    """Return what val.py gives for a checkpoint; ``square``: on the images that a file of a fixed size gets."""
    if not square:
        return val.run(str(data), str(weights), imgsz=size, **how)[0]
    options = ValOptions(data=str(data), weights=[str(weights)], batch_size=how["batch_size"], workers=0)
    loader = make_loader(options, check_dataset(str(data)), size, 32, square=True)
    return val.run(str(data), str(weights), imgsz=size, dataloader=loader, **how)[0]
