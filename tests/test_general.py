"""utils.general: the names are there, they are the project's own objects, and importing them loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils import general
from utils.storage.files import ROOT

# What programs written for YOLOv5 v6.2 import from this path.
EXPECTED = [
    "LOGGER",
    "ROOT",
    "box_iou",
    "check_dataset",
    "check_file",
    "check_img_size",
    "check_suffix",
    "check_yaml",
    "clip_coords",
    "colorstr",
    "increment_path",
    "intersect_dicts",
    "non_max_suppression",
    "one_cycle",
    "resample_segments",
    "scale_coords",
    "segments2boxes",
    "strip_optimizer",
    "xyn2xy",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xyxy2xywh",
    "xyxy2xywhn",
]


@pytest.mark.parametrize("name", EXPECTED)
def test_name_is_exported(name):
    assert name in general.__all__
    assert getattr(general, name) is not None


def test_exported_names_all_exist():
    assert [name for name in general.__all__ if not hasattr(general, name)] == []


def test_import_loads_nothing_heavy():
    heavy = ("torchvision", "pandas", "seaborn", "matplotlib", "tensorboard", "scipy", "thop", "PIL")
    program = f"import sys, utils.general; print(*[name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout.strip(), result.stderr.strip()) == ("", "")
