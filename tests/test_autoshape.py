"""AutoShape, Detections and the entries of torch.hub, on a detector made by hand that finds the drawn shapes."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import models.common
from models import autoshape
from models.autoshape import AutoShape
from models.backends import DetectMultiBackend
from models.detections import Detections
from models.yolo import DetectionModel
from tests.colour_detector import colour_detector, save_colour_detector
from tests.loopback import Site, site
from utils import downloads
from utils.dataset.images import read_image
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER
from utils.storage.files import ROOT

__all__ = ["site"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector's file."""
    return save_colour_detector(tmp_path_factory.mktemp("hub") / "shapes.pt")


@pytest.fixture
def model(checkpoint: Path) -> AutoShape:
    """The detector as torch.hub gives it."""
    return AutoShape(DetectMultiBackend(checkpoint), verbose=False)


@pytest.fixture
def picture() -> np.ndarray:
    """RGB (96, 128, 3), grey with a red disc about (40, 48) and a blue square about (96, 48), 28 pixels wide."""
    image = np.full((96, 128, 3), 128, np.uint8)
    cv2.circle(image, (40, 48), 14, (220, 60, 40), -1)
    cv2.rectangle(image, (82, 34), (110, 62), (40, 120, 220), -1)
    return image


@pytest.fixture
def file(picture: np.ndarray, tmp_path: Path) -> Path:
    """The picture as a lossless file."""
    target = tmp_path / "shapes.png"
    cv2.imwrite(str(target), picture[:, :, ::-1])
    return target


def finds_the_shapes(results: Detections, index: int = 0) -> bool:
    """Tell whether the best box of each class in a picture of 96 x 128 pixels lies on its shape."""
    best = {}
    for x, y, _, _, _, kind in reversed(results.xywh[index].tolist()):
        best[results.names[int(kind)]] = (x, y)
    return best.keys() == CENTRES.keys() and all(math.dist(best[name], CENTRES[name]) < 12 for name in best)


CENTRES = {"disc": (40, 48), "square": (96, 48)}


# -- what goes in ------------------------------------------------------------------------------------------------------


def test_every_kind_of_picture_gives_the_same(model: AutoShape, picture: np.ndarray, file: Path, site: Site):
    address = site.offer("/other.png", file.read_bytes())
    kinds = {
        "path": file, "text": str(file), "address": address + "?v=1", "array": picture, "float": picture.astype(float),
        "channels first": picture.transpose(2, 0, 1), "PIL": Image.open(file), "RGBA": Image.open(file).convert("RGBA"),
        "four channels": np.dstack([picture, picture[:, :, :1]]),
    }  # fmt: skip
    reference = model(picture, size=128)
    assert finds_the_shapes(reference)
    results = model(list(kinds.values()), size=128)
    assert len(results) == len(kinds)
    for kind, found in zip(kinds, results.pred, strict=True):
        torch.testing.assert_close(found, reference.pred[0], msg=f"{kind} differs")
    assert results.files[:4] == ["shapes.jpg", "shapes.jpg", "other.jpg", "image3.jpg"]


def test_pil_images_are_turned_as_their_exif_says(model: AutoShape, picture: np.ndarray, tmp_path: Path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(picture))).save(tmp_path / "turned.png", exif=exif)
    results = model(Image.open(tmp_path / "turned.png"), size=128)
    assert (results.imgs[0] == picture).all()
    assert finds_the_shapes(results)


def test_grey_pictures_have_no_colour_to_find(model: AutoShape, picture: np.ndarray):
    results = model([picture[:, :, 0], picture[:, :, :1], Image.fromarray(picture).convert("L")], size=128)
    assert [image.shape for image in results.imgs] == [(96, 128, 3)] * 3
    assert not any(len(found) for found in results.pred)


def test_sizes_of_a_batch(model: AutoShape):
    shapes = [(366, 512), (351, 400), (40, 60)]
    results = model([np.zeros((*shape, 3), np.uint8) for shape in shapes], size=320)
    assert results.s == (3, 3, 288, 320)  # measured with v6.2
    assert model(np.zeros((366, 512, 3), np.uint8), size=(160, 320)).s == (1, 3, 256, 320)
    with pytest.raises(InputError, match="size must be"):
        model(np.zeros((64, 64, 3), np.uint8), size=(1, 2, 3))


def test_boxes_are_in_the_pixels_of_each_picture(model: AutoShape, picture: np.ndarray):
    large = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    results = model([picture, large], size=128)
    assert finds_the_shapes(results)
    assert not finds_the_shapes(results, 1)
    results.xywh[1][:, :4] /= 2
    assert finds_the_shapes(results, 1)


def test_tensors_go_straight_through(model: AutoShape, picture: np.ndarray):
    tensor = torch.from_numpy(picture.transpose(2, 0, 1) / 255).half()[None]
    raw = model(tensor)[0]
    torch.testing.assert_close(raw, model.model(tensor.float())[0])
    assert raw.shape[2] == 7
    assert model(tensor, augment=True)[0].shape[1] > raw.shape[1]


def test_profile_times_the_layers(model: AutoShape, picture: np.ndarray, caplog):
    with caplog.at_level(logging.INFO, "yolov5"):
        assert finds_the_shapes(model(picture, size=128, profile=True))
    assert "models.yolo.Detect" in caplog.text
    with pytest.raises(InputError, match="without augment"):
        model(picture, size=128, profile=True, augment=True)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ([], "list is empty"),
        ([None], "picture 0 is of type NoneType"),
        (np.zeros((4, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 9, 3), np.uint8), "shape"),
        (np.full((9, 9, 3), 0.5), "values from 0.5 to 0.5"),
        (np.full((9, 9, 3), -1), "values from -1 to -1"),
        (np.full((9, 9, 3), np.nan), "values from nan"),
        ("nowhere.jpg", "nowhere.jpg cannot be read"),
    ],
)
def test_bad_pictures_are_named(model: AutoShape, source: object, reason: str):
    with pytest.raises(InputError, match=reason):
        model(source, size=64)


@pytest.mark.slow
def test_one_of_several_that_cannot_be_read_is_left_out(
    model: AutoShape, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(LOGGER, "propagate", True)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    results = model([tmp_path / "broken.jpg", file, "nowhere.jpg"], size=128)
    alone = model(file, size=128)
    assert len(results) == 3 and results.unreadable.keys() == {0, 2}
    torch.testing.assert_close(results.pred[1], alone.pred[0])
    assert [len(found) for found in results.pred] == [0, len(alone.pred[0]), 0]
    assert [len(table) for table in results.pandas().xyxy] == [0, len(alone.pred[0]), 0]
    assert "picture 0 is left out" in caplog.text and "nowhere.jpg cannot be read" in str(results).splitlines()[2]
    assert results[2].unreadable.keys() == {0} and not results[1].unreadable
    assert [path.name for path in results.save(save_dir=tmp_path / "out").iterdir()] == ["shapes.jpg"]
    with pytest.raises(InputError, match="broken"):
        model([tmp_path / "broken.jpg", "nowhere.jpg"], size=128)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_take_effect(model: AutoShape, picture: np.ndarray):
    assert (model.conf, model.iou, model.agnostic, model.multi_label, model.classes, model.max_det, model.amp) == (
        0.25, 0.45, False, False, None, 1000, False,
    )  # fmt: skip
    everything = len(model(picture, size=128).pred[0])
    assert everything >= 2
    model.max_det = 1
    assert len(model(picture, size=128).pred[0]) == 1
    model.max_det, model.classes = 1000, [1]
    assert set(model(picture, size=128).pred[0][:, 5].tolist()) == {1.0}
    model.classes, model.conf = None, 0.01
    assert len(model(picture, size=128).pred[0]) > everything
    overlapping = len(model(picture, size=128).pred[0])
    model.iou = 0.05
    assert len(model(picture, size=128).pred[0]) < overlapping
    model.iou, model.conf, model.multi_label = 0.45, 0.001, True
    several = model(picture, size=128).pred[0]
    model.agnostic = True
    assert len(model(picture, size=128).pred[0]) < len(several)


def test_a_bare_network_works_too(picture: np.ndarray):
    network = colour_detector()
    wrapped = AutoShape(network.train(), verbose=False)
    assert not network.training
    assert network.model[-1].inplace is False
    assert wrapped.names == ["disc", "square"]
    assert finds_the_shapes(wrapped(picture, size=128))


def test_half_precision_is_that_of_the_model(checkpoint: Path, picture: np.ndarray):
    wrapped = AutoShape(DetectMultiBackend(checkpoint), verbose=False).double()
    assert wrapped(picture, size=128).pred[0].dtype == torch.double


# -- Detections --------------------------------------------------------------------------------------------------------


@pytest.fixture
def results() -> Detections:
    """Two boxes in a picture of 100 x 200 pixels, and a picture without any."""
    found = torch.tensor([[10.0, 20, 60, 80, 0.9, 0], [100, 0, 200, 50, 0.5, 1]])
    pictures = [np.full((100, 200, 3), 30, np.uint8), np.full((50, 40, 3), 60, np.uint8)]
    times = 0.0, 0.01, 0.05, 0.07
    return Detections(pictures, [found, found[:0]], ["a.jpg", "b.jpg"], times, {0: "disc", 1: "square"}, (2, 3, 64, 64))


def test_forms_of_the_boxes(results: Detections):
    assert results.xyxy[0].tolist() == results.pred[0].tolist()
    assert results.xywh[0][0].tolist() == pytest.approx([35, 50, 50, 60, 0.9, 0])
    assert results.xyxyn[0][0].tolist() == pytest.approx([0.05, 0.2, 0.3, 0.8, 0.9, 0])
    assert results.xywhn[0][1].tolist() == pytest.approx([0.75, 0.25, 0.5, 0.5, 0.5, 1])
    assert [len(boxes) for boxes in results.xywhn] == [2, 0]
    assert results.t == pytest.approx((5, 20, 10))
    assert (results.n, results.s) == (2, (2, 3, 64, 64))


def test_each_picture_by_itself(results: Detections):
    assert len(results) == 2
    singles = results.tolist()
    assert [len(single.pred[0]) for single in singles] == [2, 0]
    assert [single.files for single in results] == [["a.jpg"], ["b.jpg"]]
    assert results[-1].files == ["b.jpg"]
    assert singles[1].imgs[0].shape == (50, 40, 3)
    with pytest.raises(IndexError):
        results[2]


def test_text(results: Detections, capsys):
    results.pred[0] = torch.cat([results.pred[0], results.pred[0][:1]])
    results.print()
    assert capsys.readouterr().out.splitlines() == [
        "image 1/2: 100x200 2 discs, 1 square",
        "image 2/2: 50x40 (no detections)",
        "Speed: 5.0ms pre-process, 20.0ms inference, 10.0ms NMS per image at shape (2, 3, 64, 64)",
    ]
    assert str(results[1]).startswith("image 1/1: 50x40 (no detections)")


def test_tables(results: Detections):
    tables = results.pandas()
    assert list(tables.xyxy[0].columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert list(tables.xywhn[0].columns)[:4] == ["xcenter", "ycenter", "width", "height"]
    assert [str(kind) for kind in tables.xyxy[0].dtypes[:6]] == ["float64"] * 5 + ["int64"]
    assert tables.xyxy[0]["name"].tolist() == ["disc", "square"]
    assert tables.xyxyn[0].iloc[0, :4].tolist() == pytest.approx([0.05, 0.2, 0.3, 0.8])
    assert (len(tables.xyxy[1]), list(tables.xyxy[1].columns)) == (0, list(tables.xyxy[0].columns))
    assert isinstance(results.xyxy[0], torch.Tensor)  # the original stays as it was


def test_render_draws_into_the_pictures(results: Detections):
    before = [image.copy() for image in results.imgs]
    drawn = results.render(labels=False)
    assert results.imgs is drawn
    assert (drawn[0][20, 30] != before[0][20, 30]).any()  # on the frame of the disc
    assert (drawn[0][50, 90] == before[0][50, 90]).all()
    assert (drawn[1] == before[1]).all()
    plain = drawn[0].copy()
    results.imgs = before
    assert (results.render(labels=True)[0] != plain).any()


def test_save(results: Detections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert results.save() == Path("runs/detect/exp")
    assert results.save(labels=False) == Path("runs/detect/exp2")
    chosen = tmp_path / "chosen"
    assert results.save(save_dir=chosen) == results.save(save_dir=chosen) == chosen
    assert sorted(path.name for path in chosen.iterdir()) == ["a.jpg", "b.jpg"]
    assert (results.imgs[0] == 30).all()
    assert np.abs(read_image(chosen / "a.jpg").astype(int) - 30).max() > 60  # boxes
    assert np.abs(read_image(chosen / "b.jpg").astype(int) - 60).max() < 3


def test_saved_pictures_have_the_right_colours(results: Detections, tmp_path: Path):
    results.imgs[1][:, :, 0] = 220  # red
    results.save(save_dir=tmp_path)
    assert read_image(tmp_path / "b.jpg")[9, 9] == pytest.approx([60, 60, 220], abs=4)  # BGR


def test_equally_named_pictures_do_not_overwrite_each_other(model: AutoShape, file: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / file.name
    second.write_bytes(file.read_bytes())
    results = model([file, second], size=128)
    assert results.files == ["shapes.jpg", "shapes_2.jpg"]
    assert len(list(results.save(save_dir=tmp_path / "out").iterdir())) == 2


def test_crop(results: Detections, tmp_path: Path):
    results.imgs[0][:, :, 0] = 200  # red
    crops = results.crop(save_dir=tmp_path / "out")
    assert [crop["label"] for crop in crops] == ["square 0.50", "disc 0.90"]
    assert float(crops[1]["conf"]) == pytest.approx(0.9) and int(crops[1]["cls"]) == 0
    assert [float(value) for value in crops[1]["box"]] == [10, 20, 60, 80]
    assert crops[1]["im"].shape == (71, 61, 3)  # 1.02 * 60 + 10 by 1.02 * 50 + 10
    assert crops[1]["im"][0, 0].tolist() == [30, 30, 200]  # BGR
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg")}
    assert written == {"crops/disc/a.jpg", "crops/square/a.jpg", "a.jpg", "b.jpg"}
    assert read_image(tmp_path / "out/crops/disc/a.jpg")[5, 5, 2] > 180
    results.crop(save_dir=tmp_path / "out")
    assert (tmp_path / "out/crops/disc/a2.jpg").exists()


def test_one_file_that_cannot_be_written_does_not_cost_the_others(
    results: Detections, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(LOGGER, "propagate", True)
    (tmp_path / "a.jpg").mkdir()
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/disc").touch()
    assert len(results.crop(save_dir=tmp_path)) == 2
    assert (tmp_path / "b.jpg").is_file() and (tmp_path / "crops/square/a.jpg").is_file()
    assert "Is a directory" in caplog.text and "1 image(s) could not be saved" in caplog.text


def test_class_names_of_any_kind(results: Detections, tmp_path: Path):
    results.names = {0: "..", 1: "a/b\x1b[2J"}
    results.crop(save_dir=tmp_path)
    assert {path.name for path in (tmp_path / "crops").iterdir()} == {"_", "a_b_[2J"}
    assert "a/b\\x1b[2J" in str(results) and "\x1b" not in str(results)


def test_crop_without_saving(results: Detections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert len(results.crop(save=False)) == 2
    assert not list(tmp_path.iterdir())


def test_show_needs_a_display(results: Detections, monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []
    monkeypatch.setattr(Image.Image, "show", lambda image, title: shown.append(title))
    monkeypatch.setattr("models.detections.display_problem", lambda: "no screen")
    with pytest.raises(InputError, match=r"no screen.*save\(\)"):
        results.show()
    monkeypatch.setattr("models.detections.display_problem", lambda: "")
    results.show()
    assert shown == ["a.jpg", "b.jpg"]


def test_show_in_a_notebook(results: Detections, monkeypatch: pytest.MonkeyPatch):
    shown: list[object] = []
    notebook = type(sys)("IPython")
    notebook.get_ipython = lambda: object()
    notebook.display = type("display", (), {"display": staticmethod(shown.append)})
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    results.show()
    assert [picture.size for picture in shown] == [(200, 100), (40, 50)]


# -- torch.hub ---------------------------------------------------------------------------------------------------------


def test_old_import_paths():
    assert models.common.AutoShape is AutoShape
    assert models.common.Detections is autoshape.Detections is Detections


def test_hub_loads_a_file(checkpoint: Path, picture: np.ndarray, file: Path):
    model = torch.hub.load(str(ROOT), "custom", path=str(checkpoint), source="local", _verbose=False, device="cpu")
    assert isinstance(model, AutoShape)
    assert finds_the_shapes(model(file, size=128))
    assert model.names == {0: "disc", 1: "square"}
    raw = torch.hub.load(str(ROOT), "custom", path=checkpoint, source="local", _verbose=False, autoshape=False)
    assert isinstance(raw, DetectMultiBackend)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in raw.modules())  # not fused: can be trained
    with pytest.raises(MissingFileError, match=r"cannot load nowhere\.pt.*force_reload"):
        torch.hub.load(str(ROOT), "custom", path="nowhere.pt", source="local")


@pytest.fixture
def hubconf():
    """The module as torch.hub imports it."""
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_entries(hubconf):
    expected = {f"yolov5{size}{level}" for size in "nsmlx" for level in ("", "6")} | {"custom"}
    for name in expected:
        assert getattr(hubconf, name).__name__ == name and getattr(hubconf, name).__doc__


def test_released_weights_are_fetched(hubconf, site: Site, checkpoint: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(downloads, "RELEASES_URL", site.url)
    monkeypatch.setattr(downloads, "SMALLEST_BYTES", 1000)
    monkeypatch.chdir(tmp_path)
    site.offer("/v6.2/yolov5n.pt", checkpoint.read_bytes())
    model = hubconf.yolov5n(_verbose=False, device="cpu")
    assert isinstance(model, AutoShape) and model.names[1] == "square"
    assert (tmp_path / "yolov5n.pt").exists()
    other = hubconf.yolov5n(classes=2, _verbose=False, device="cpu")
    assert isinstance(other, DetectionModel)
    assert (other.model[-1].nc, other.names) == (2, ["disc", "square"])


def test_networks_without_weights(hubconf):
    network = hubconf.yolov5n6(pretrained=False, channels=4, classes=3, _verbose=False, device="cpu")
    assert isinstance(network, DetectionModel)
    assert (network.yaml["ch"], network.model[-1].nc, network.model[-1].nl) == (4, 3, 4)


@pytest.mark.slow
def test_released_model_finds_what_v62_found(shared_folder: Path):
    """The released yolov5n on two photographs, against what YOLOv5's detect.py recorded for them at 320 pixels."""
    file = shared_folder / "weights/yolov5n.pt"
    if not file.exists():
        pytest.skip("no released weights beside the reference material")
    recorded = json.loads((shared_folder / "conformance/v6.2/detect_yolov5n.json").read_text())
    model = AutoShape(DetectMultiBackend(file), verbose=False)
    for name in ("bus.jpg", "zidane.jpg"):
        results = model(shared_folder / "images" / name, size=320)
        expected = recorded[f"{name}@320"]
        assert list(results.s) == expected["tensor"]
        torch.testing.assert_close(results.pred[0], torch.tensor(expected["boxes"]), atol=1, rtol=0)
        confidences = results.pred[0][:, 4], torch.tensor(expected["boxes"])[:, 4]
        torch.testing.assert_close(*confidences, atol=1e-3, rtol=0)
