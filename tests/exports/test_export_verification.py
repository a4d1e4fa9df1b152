"""After an export the file is compared with the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import export
from models.exporters import request, to_onnx, verify
from models.exporters.checkpoint import other_size
from tests.exports.helpers import SIZE, needs
from utils.errors import InputError, MissingFileError
from utils.storage.files import read_yaml, write_yaml


def test_a_wrong_export_is_an_error_and_leaves_nothing(monkeypatch, tmp_path, pruned, tiny_dataset):
    needs("onnx")
    weights = tmp_path / "pruned.pt"
    weights.write_bytes(pruned.read_bytes())
    (tmp_path / "pruned.onnx").write_text("the old one")
    honest = to_onnx.onnx_model

    def off_by_a_little(job):
        with torch.no_grad():
            job.model.network.model[-1].offsets += 3
        return honest(job)

    monkeypatch.setattr(to_onnx, "onnx_model", off_by_a_little)
    with pytest.raises(InputError, match=r"ONNX export differs from the checkpoint by 3 pixels"):
        export.run(weights=str(weights), include=["onnx"], imgsz=SIZE, data=str(tiny_dataset))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned.onnx", "pruned.pt"]
    assert (tmp_path / "pruned.onnx").read_text() == "the old one"


def test_images_to_compare_on(tiny_dataset, tmp_path, monkeypatch, caplog):
    options = export.ExportOptions(data=str(tiny_dataset))
    (picture,) = request.comparison_files(options)
    assert Path(picture).parent == tiny_dataset.parent / "images/val"
    options = replace(options, nms=True, include=["onnx"])
    assert len(request.comparison_files(options)) == 4  # all that there are
    assert verify.example_image(Path(picture), (64, 96)).shape == (1, 3, 64, 96)
    generated = verify.example_image(None, (64, 96))
    assert generated.shape == (1, 3, 64, 96) and 0.05 < generated.std() < 0.4
    absent = {**read_yaml(tiny_dataset), "path": str(tmp_path / "absent")}
    write_yaml(tmp_path / "absent.yaml", absent)
    options = replace(options, data=str(tmp_path / "absent.yaml"))
    with pytest.raises(MissingFileError):
        request.comparison_files(options)
    assert request.comparison_files(replace(options, data="")) == []


def test_damaged_images_are_not_compared_on(blank_dataset, caplog):
    options = export.ExportOptions(data=str(blank_dataset))
    (picture,) = request.comparison_files(options)
    Path(picture).write_bytes(b"damaged")
    (other,) = request.comparison_files(options)
    assert other != picture and f"skipped: {picture}" in caplog.text
    for file in Path(picture).parent.iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"none of the val images of .* can be read"):
        request.comparison_files(options)


@pytest.fixture
def blank_dataset(tmp_path) -> Path:
    """The YAML of a data set of three grey images, with nothing to find."""
    (tmp_path / "blank").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"blank/{index}.png"), np.full((64, 64, 3), 120, np.uint8))
    write_yaml(tmp_path / "blank.yaml", {"path": str(tmp_path), "train": "blank", "val": "blank", "names": ["a", "b"]})
    return tmp_path / "blank.yaml"


class Times(torch.nn.Module):
    """A network whose output is multiplied by a number."""

    def __init__(self, network: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The product."""
        return self.network(images) * self.factor


def test_detections_are_compared_on_as_many_images_as_it_takes(monkeypatch, stock, tmp_path, blank_dataset, caplog):
    needs("onnx")
    honest = to_onnx.onnx_model

    def finds_nothing(job):
        job.model.model = Times(job.model.model, 0.0)
        return honest(job)

    monkeypatch.setattr(to_onnx, "onnx_model", finds_nothing)
    weights = tmp_path / "stock.pt"
    weights.write_bytes(stock.read_bytes())
    how = {"weights": str(weights), "include": ["onnx"], "imgsz": SIZE, "data": str(blank_dataset), "nms": True}
    (written,) = export.run(**how)  # there is nothing to find, and it says so
    assert "WARNING: the ONNX export is not judged: in 3 image(s) there are too few boxes" in caplog.text
    written.unlink()
    first, *_ = request.comparison_files(export.ExportOptions(data=str(blank_dataset)))
    last = next(file for file in sorted(Path(first).parent.iterdir()) if str(file) != first)
    square = np.full((64, 64, 3), 120, np.uint8)
    square[10:40, 10:40] = (220, 120, 40)
    cv2.imwrite(str(last), square)
    for conf_thres in (0.25, 0.8):
        with pytest.raises(InputError, match="ONNX export differs from the checkpoint by inf pixels"):
            export.run(conf_thres=conf_thres, **how)
    monkeypatch.setattr(to_onnx, "onnx_model", honest)
    caplog.clear()
    export.run(conf_thres=0.8, **how)
    assert "not judged" not in caplog.text


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32), (64, 64), (320, 320), (96, 160)])
def test_dynamic_files_are_compared_at_a_truly_other_size(size):
    height, width = other_size(size, 32)
    assert (height, width) != size and height != width and height % 32 == width % 32 == 0
    within = other_size(size, 32, at_most=size)
    if within is None:
        assert size == (32, 32)
    else:
        assert within != size and within[0] <= size[0] and within[1] <= size[1]
