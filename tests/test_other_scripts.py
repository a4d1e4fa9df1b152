"""The names that public scripts for YOLOv5 v3 to v7.0 import are there, and do what they did."""

from __future__ import annotations

import importlib
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.experimental import attempt_load
from models.yolo import DetectionModel
from utils import augmentations, datasets, general, google_utils, metrics, other_versions, plots, torch_utils
from utils.checkpoint import save_checkpoint
from utils.detection import live
from utils.errors import InputError

V5_GENERAL = """apply_classifier check_imshow check_img_size check_requirements colorstr increment_path
    non_max_suppression save_one_box scale_coords set_logging strip_optimizer xyxy2xywh"""
V5_TORCH = "select_device load_classifier time_synchronized"
V62_GENERAL = """LOGGER check_file check_img_size check_imshow check_requirements colorstr cv2 increment_path
    non_max_suppression print_args scale_coords strip_optimizer xyxy2xywh"""
V7_GENERAL = """LOGGER Profile check_file check_img_size check_imshow check_requirements colorstr cv2 increment_path
    non_max_suppression print_args scale_boxes strip_optimizer xyxy2xywh"""
AUGMENTATIONS = "Albumentations augment_hsv copy_paste letterbox mixup random_perspective"

# By script, what its import lines take from each module of YOLOv5
SCRIPTS = {
    "robot arm with a depth camera, v5.0": {
        "models.experimental": "attempt_load", "utils.datasets": "LoadStreams LoadImages", "utils.general": V5_GENERAL,
        "utils.plots": "colors plot_one_box", "utils.torch_utils": V5_TORCH,
    },
    "ROS node for cattle, v3": {
        "models.experimental": "attempt_load",
        "utils.general": """check_img_size non_max_suppression apply_classifier scale_coords xyxy2xywh plot_one_box
            strip_optimizer set_logging""",
        "utils.torch_utils": V5_TORCH,
    },
    "ensemble with another detector, v3": {
        "utils.datasets": "LoadStreams LoadImages",
        "utils.general": "xywh2xyxy plot_one_box apply_classifier set_logging",
        "utils.torch_utils": V5_TORCH,
    },
    "counter of people with SORT, v5.0": {
        "utils.datasets": "LoadStreams LoadImages LoadWebcam", "utils.general": V5_GENERAL,
        "utils.plots": "plot_one_box",
    },
    "DeepSORT tracker, v5.0": {
        "utils.google_utils": "attempt_download", "utils.datasets": "LoadImages LoadStreams letterbox",
        "utils.general": "check_img_size non_max_suppression scale_coords check_imshow xyxy2xywh",
        "utils.torch_utils": "select_device time_synchronized",
    },
    "port to another accelerator, v5.0": {
        "models.yolo": "Model", "utils.general": f"{V5_GENERAL} coco80_to_coco91_class file_size",
        "utils.plots": "colors plot_one_box color_list", "utils.activations": "Hardswish SiLU",
        "utils.torch_utils": V5_TORCH,
    },
    "ROS 2 node of a mobile robot, v6.0": {
        "utils.augmentations": AUGMENTATIONS, "utils.datasets": "LoadStreams LoadImages",
        "utils.general": V5_GENERAL, "utils.plots": "colors plot_one_box", "utils.torch_utils": V5_TORCH,
    },
    "lifting of poses to three dimensions, v6.0": {
        "utils.general": "check_suffix print_args save_one_box set_logging apply_classifier",
        "utils.metrics": "bbox_iou", "utils.plots": "Annotator colors",
        "utils.torch_utils": "load_classifier select_device time_sync", "utils.augmentations": "letterbox",
    },
    "window of a desktop program, v6.1": {
        "models.common": "DetectMultiBackend", "utils.datasets": "IMG_FORMATS VID_FORMATS LoadImages LoadStreams",
        "utils.general": f"""{V62_GENERAL} DATASETS_DIR NUM_THREADS check_dataset check_yaml clean_str is_ascii
            apply_classifier set_logging segments2boxes xyn2xy xywh2xyxy xywhn2xyxy xyxy2xywhn""",
        "utils.augmentations": AUGMENTATIONS, "utils.torch_utils": "torch_distributed_zero_first time_sync",
    },
    "assignment of targets, v6.1": {
        "utils.metrics": "bbox_iou bbox_ioa", "utils.torch_utils": "is_parallel", "utils.general": "check_version",
    },
    "Flask server, v6.2": {
        "models.common": "DetectMultiBackend", "utils.dataloaders": "LoadImages LoadWebcam",
        "utils.general": "check_img_size non_max_suppression scale_coords", "utils.plots": "Annotator colors",
    },
    "inspection of a production line, v6.2": {
        "utils.dataloaders": "IMG_FORMATS VID_FORMATS LoadImages LoadStreams", "utils.general": V62_GENERAL,
        "utils.plots": "Annotator colors save_one_box", "utils.augmentations": "letterbox",
        "utils.torch_utils": "select_device smart_inference_mode time_sync",
    },
    "training with quantisation, v6.2": {
        "val": "run", "utils.dataloaders": "create_dataloader", "utils.general": "check_dataset",
        "utils.torch_utils": "select_device",
    },
    "ROS 2 node with sonar, v7.0": {
        "models.common": "DetectMultiBackend",
        "utils.dataloaders": "IMG_FORMATS VID_FORMATS LoadImages LoadScreenshots LoadStreams",
        "utils.general": V7_GENERAL, "utils.torch_utils": "select_device smart_inference_mode",
    },
    "StrongSORT tracker, v7.0": {
        "utils.general": f"{V7_GENERAL} clip_boxes", "utils.plots": "Annotator colors save_one_box",
        "utils.dataloaders": "VID_FORMATS LoadImages LoadStreams", "utils.torch_utils": "select_device time_sync",
    },
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_import_lines_work(script):
    for module, names in SCRIPTS[script].items():
        program = importlib.import_module(module)
        assert [name for name in names.split() if not hasattr(program, name)] == [], module


def test_what_belongs_to_another_project_is_refused_with_a_remedy():
    with pytest.raises(ImportError, match=r"YOLOv7's: use torch\.jit\.trace"):
        from utils.torch_utils import TracedModel  # noqa: F401


def test_old_paths_give_the_same_objects():
    assert datasets.LoadImages is importlib.import_module("utils.dataloaders").LoadImages
    assert google_utils.attempt_download is importlib.import_module("utils.downloads").attempt_download
    assert general.scale_boxes is general.scale_coords and torch_utils.time_synchronized is torch_utils.time_sync
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec("from utils.augmentations import no_such_name")


def test_weights_are_loaded_with_the_old_keyword(tmp_path, tiny_cfg):
    save_checkpoint({"model": DetectionModel(tiny_cfg), "epoch": -1}, tmp_path / "a.pt")
    model = attempt_load(str(tmp_path / "a.pt"), map_location=torch.device("cpu"))
    assert isinstance(model, DetectionModel) and not model.training


def test_one_box_is_drawn_in_place():
    image = np.zeros((100, 100, 3), np.uint8)
    plots.plot_one_box(torch.tensor([20.0, 30, 60, 70]), image, color=[0, 0, 255], line_thickness=1)
    assert image[30, 40].tolist() == [0, 0, 255] and image[50, 40].tolist() == [0, 0, 0]
    labelled = np.zeros((100, 100, 3), np.uint8)[:, ::-1]  # not contiguous
    general.plot_one_box([20, 30, 60, 70], labelled, label="cat")
    assert labelled[30, 40].any() and labelled[20:28, 22:40].any()
    assert plots.color_list()[3] == plots.colors(3)


class Brightness(nn.Module):
    """A classifier: class 1 for bright crops, 0 for dark ones."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(N, 3, 224, 224) -> (N, 2)."""
        assert crops.shape[1:] == (3, 224, 224)
        bright = crops.mean((1, 2, 3))
        return torch.stack((0.5 - bright, bright - 0.5), 1)


def test_a_classifier_confirms_detections():
    native = np.zeros((200, 400, 3), np.uint8)
    native[:, 200:] = 255
    letterboxed = torch.zeros(1, 3, 100, 200)
    rows = torch.tensor([[10.0, 40, 20, 50, 0.9, 0], [170, 40, 180, 50, 0.9, 0], [170, 40, 180, 50, 0.8, 1]])
    (kept,) = general.apply_classifier([rows], Brightness(), letterboxed, native)
    assert torch.equal(kept, rows[[0, 2]])
    assert general.apply_classifier([rows[:0]], Brightness(), letterboxed, [native])[0].shape == (0, 6)


def test_a_classifier_gets_a_new_last_layer(monkeypatch):
    asked = {}

    def get_model(name: str, weights: str) -> nn.Module:
        asked[name] = weights
        model = nn.ModuleDict()
        model.fc = nn.Linear(7, 1000)
        return model

    models = types.SimpleNamespace(get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    model = torch_utils.load_classifier("resnet18", n=3)
    assert asked == {"resnet18": "DEFAULT"} and model.get_submodule("fc")(torch.ones(2, 7)).tolist() == [[0, 0, 0]] * 2


def test_shares_of_boxes_that_are_covered():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]])
    assert metrics.bbox_ioa(np.array([0, 0, 10, 10]), boxes) == pytest.approx([1, 0.5, 0])
    assert metrics.bbox_ioa(boxes[:2], boxes) == pytest.approx(np.array([[1, 0.5, 0], [0.5, 1, 0]]))


def test_texts():
    assert general.clean_str("rtsp://a@b:1") == "rtsp_//a_b_1"
    assert general.is_ascii(["face"]) and not general.is_ascii(["人"])


def test_a_block_is_timed(monkeypatch):
    moments = iter([10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(other_versions.Profile, "time", lambda self: next(moments))
    timer = general.Profile()
    for expected in (2.0, 3.0):
        with timer:
            pass
        assert timer.dt == expected
    assert timer.t == 5.0


def test_wrapped_models_are_recognised():
    assert not torch_utils.is_parallel(nn.Linear(1, 1)) and torch_utils.is_parallel(nn.DataParallel(nn.Linear(1, 1)))


def test_augmentations_without_their_package_change_nothing(monkeypatch):
    monkeypatch.setattr(other_versions, "is_installed", lambda name: False)
    image, labels = np.full((8, 8, 3), 50, np.uint8), np.array([[1, 0.5, 0.5, 0.2, 0.2]], np.float32)
    made = augmentations.Albumentations()(image, labels)
    assert made[0] is image and made[1] is labels


def test_augmentations_of_the_package_are_applied(monkeypatch):
    class Compose:
        """Moves every box by a tenth and darkens the image."""

        def __init__(self, parts: list, bbox_params: object) -> None:
            assert len(parts) == 4

        def __call__(self, image, bboxes, class_labels):
            return {"image": image // 2, "bboxes": bboxes[:1] + [0.1, 0, 0, 0], "class_labels": class_labels[:1]}

    package = types.SimpleNamespace(Compose=Compose, BboxParams=dict)
    for name in ("Blur", "MedianBlur", "ToGray", "CLAHE"):
        setattr(package, name, dict)
    monkeypatch.setitem(sys.modules, "albumentations", package)
    monkeypatch.setattr(other_versions, "is_installed", lambda name: True)
    labels = np.array([[1, 0.5, 0.5, 0.2, 0.2], [0, 0.1, 0.1, 0.1, 0.1]], np.float32)
    image, rows = augmentations.Albumentations()(np.full((8, 8, 3), 50, np.uint8), labels)
    assert image[0, 0, 0] == 25 and rows == pytest.approx(np.array([[1, 0.6, 0.5, 0.2, 0.2]]))


# -- cameras and screens -----------------------------------------------------------------------------------------------


def test_pictures_of_a_camera_are_mirrored(tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for _ in range(2):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32] = 255  # bright on the left
        video.write(picture)
    video.release()
    camera = datasets.LoadWebcam(str(tmp_path / "a.avi"), img_size=64)
    path, image, native, capture, text = next(iter(camera))
    camera.close()
    assert (path, capture, text[:7], len(camera)) == ("webcam.jpg", None, "webcam ", 0)
    assert image.shape == (3, 64, 64) and native.shape == (48, 64, 3)
    assert native[24, 8, 0] < 50 and native[24, 56, 0] > 200


class Screens:
    """Two screens, pretended; pictures are BGRA."""

    def __init__(self) -> None:
        self.monitors = [{"left": left, "top": 0, "width": 200 - left, "height": 100} for left in (0, 100)]

    def grab(self, part: dict[str, int]) -> np.ndarray:
        """A blue picture of ``part``."""
        return np.full((part["height"], part["width"], 4), (255, 0, 0, 9), np.uint8)


def test_the_screen_is_seen(monkeypatch):
    monkeypatch.setitem(sys.modules, "mss", types.SimpleNamespace(mss=Screens))
    source, image, native, _, text = next(iter(datasets.LoadScreenshots("screen 1", img_size=64)))
    assert (source, image.shape, native.shape) == ("screen 1", (3, 64, 64), (100, 100, 3))
    assert native[0, 0].tolist() == [255, 0, 0] and text == "screen 1 (LTWH): 100,0,100,100: "
    part = live.LoadScreenshots("screen 1 10 20 30 40")
    assert part.monitor == {"left": 110, "top": 20, "width": 30, "height": 40}
    for wrong, message in (("screen 7", "no screen 7, 0 to 1 exist"), ("screen 1 2", "expected screen")):
        with pytest.raises(InputError, match=message):
            live.LoadScreenshots(wrong)


def test_the_screen_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(InputError, match="pip install mss"):
        live.LoadScreenshots("screen")
