"""The names that programs written for YOLOv5 v6.2 import: all are there, and do what theirs did."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import DetectionModel
from utils import autobatch, general, plots, torch_utils
from utils.errors import InputError
from utils.storage.files import ROOT
from utils.training.optim import ModelEMA, smart_optimizer

# By module, what v6.2's train.py, val.py, detect.py, export.py, hubconf.py and models/*.py import from it, and below
# them what else docs/ARCHITECTURE.md promises
NAMES = {
    "models.common": """
        AutoShape Bottleneck BottleneckCSP C3 C3x Concat Conv CrossConv DWConv DWConvTranspose2d DetectMultiBackend
        Focus SPP SPPF autopad
        C3Ghost C3SPP C3TR Contract Detections Expand GhostBottleneck GhostConv TransformerBlock TransformerLayer""",
    "models.experimental": "MixConv2d attempt_download attempt_load Ensemble Sum",
    "models.yolo": "Detect DetectionModel Model parse_model",
    "utils.activations": "SiLU",
    "utils.augmentations": "letterbox random_perspective",
    "utils.autoanchor": "check_anchor_order check_anchors kmean_anchors",
    "utils.autobatch": "check_train_batch_size",
    "utils.callbacks": "Callbacks",
    "utils.dataloaders": """
        IMG_FORMATS LoadImages LoadStreams VID_FORMATS create_dataloader exif_transpose letterbox
        LoadImagesAndLabels""",
    "utils.downloads": "attempt_download is_url",
    "utils.general": """
        LOGGER check_amp check_dataset check_file check_git_status check_img_size check_imshow check_requirements
        check_suffix check_version check_yaml coco80_to_coco91_class colorstr cv2 emojis file_size get_latest_run
        increment_path init_seeds intersect_dicts labels_to_class_weights labels_to_image_weights logging make_divisible
        methods non_max_suppression one_cycle print_args print_mutation scale_coords strip_optimizer url2file xywh2xyxy
        xyxy2xywh yaml_load yaml_save
        ROOT box_iou clip_coords download resample_segments segment2box segments2boxes xyn2xy xywhn2xyxy xyxy2xywhn""",
    "utils.loggers": "Loggers",
    "utils.loss": "ComputeLoss",
    "utils.metrics": "ConfusionMatrix ap_per_class box_iou fitness bbox_iou",
    "utils.plots": """
        Annotator colors feature_visualization output_to_target plot_evolve plot_images plot_labels plot_val_study
        save_one_box""",
    "utils.torch_utils": """
        EarlyStopping ModelEMA copy_attr de_parallel fuse_conv_and_bn initialize_weights model_info profile scale_img
        select_device smart_DDP smart_inference_mode smart_optimizer smart_resume time_sync
        torch_distributed_zero_first""",
    "detect": "run",
    "export": "run",
    "train": "run",
    "val": "process_batch run",
}


@pytest.fixture
def logged(caplog):
    """The log, with messages of level INFO."""
    caplog.set_level(logging.INFO, "yolov5")
    return caplog


@pytest.mark.parametrize("module", NAMES)
def test_names_are_there(module):
    program = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(program, name)] == []


@pytest.mark.parametrize("module", [general, torch_utils])
def test_what_the_two_collections_export_exists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec(f"from {module.__name__} import no_such_name")


def test_the_other_kind_of_model_is_refused_with_a_remedy():
    with pytest.raises(ImportError, match=r"this project detects: use torchvision\.models"):
        from models.yolo import ClassificationModel  # noqa: F401


def test_import_loads_nothing_heavy():
    heavy = ("torchvision", "pandas", "seaborn", "matplotlib", "tensorboard", "scipy", "thop", "PIL")
    program = f"import sys, utils.general; print(*[name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout.strip(), result.stderr.strip()) == ("", "")


# -- checks ------------------------------------------------------------------------------------------------------------


def test_versions_are_compared():
    assert general.check_version("2.10.0+cu126", "2.9")
    assert not general.check_version("1.7.0", "1.10.0")
    assert not general.check_version("1.10.1", "1.10.0", pinned=True)
    with pytest.raises(InputError, match=r"torch 2\.6 is required, but torch 1\.9 is installed"):
        general.check_version("1.9", "2.6", "torch ", hard=True)


def test_missing_packages_are_named_and_not_installed(caplog):
    general.check_requirements(["torch>=1.0", "no-such-package-here>=3"], exclude=["other"])
    assert 'pip install "no-such-package-here>=3"' in caplog.text
    caplog.clear()
    general.check_requirements("no-such-package-here", exclude=["no-such-package-here"])
    general.check_requirements("torch<0.1; python_version < '3'")
    assert caplog.text == ""
    general.check_requirements("torch<0.1", install=True)
    assert "torch<0.1" in caplog.text


def test_a_requirements_file_is_read(tmp_path, caplog):
    file = tmp_path / "needs.txt"
    file.write_text("-r other.txt\n# a comment\ntorch>=2  # a remark\nno-such-package-here\n", encoding="utf-8")
    general.check_requirements(file)
    assert "no-such-package-here missing" in caplog.text and "torch" not in caplog.text


def test_mixed_precision_is_for_gpus():
    assert general.check_amp(nn.Linear(2, 2)) is False


def test_windows_are_refused_with_the_reason(monkeypatch, caplog):
    monkeypatch.setattr(general, "display_problem", lambda: "no display")
    assert general.check_imshow() is False and "no display" in caplog.text
    monkeypatch.setattr(general, "display_problem", lambda: "")
    assert general.check_imshow() is True


def test_updates_are_not_looked_for(logged):
    general.check_git_status()
    assert "updates are not looked for" in logged.text


# -- files and texts ---------------------------------------------------------------------------------------------------


def test_sizes_of_files_and_folders(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(bytes(1 << 20))
    (tmp_path / "b").write_bytes(bytes(1 << 19))
    assert (general.file_size(tmp_path / "b"), general.file_size(tmp_path)) == (0.5, 1.5)
    assert general.file_size(tmp_path / "none") == 0


def test_the_youngest_checkpoint_is_found(tmp_path):
    assert general.get_latest_run(tmp_path) == ""
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "last.pt").touch()
    assert general.get_latest_run(tmp_path) == str(tmp_path / "exp" / "last.pt")


def test_yaml_keeps_its_order_and_names_paths(tmp_path):
    general.yaml_save(tmp_path / "opt.yaml", {"z": 1, "a": tmp_path})
    assert list(general.yaml_load(tmp_path / "opt.yaml").items()) == [("z", 1), ("a", str(tmp_path))]


def test_texts(monkeypatch):
    assert general.url2file("https://host/a%20b.pt?token=1") == "a b.pt"
    assert general.emojis("ü") == "ü"
    monkeypatch.setattr(general.platform, "system", lambda: "Windows")
    assert general.emojis("aü🚀b") == "ab"


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_coco_categories():
    categories = general.coco80_to_coco91_class()
    assert (len(categories), categories[0], categories[11], categories[-1]) == (80, 1, 13, 90)


def test_multiples():
    assert [general.make_divisible(x, 8) for x in (8, 9, 15.5)] == [8, 16, 16]
    assert general.make_divisible(33, torch.tensor([8.0, 16.0, 32.0])) == 64


def test_image_weights_add_up_class_weights():
    labels = [np.array([[0.0, 0, 0, 0, 0], [2, 0, 0, 0, 0]]), np.zeros((0, 5)), np.array([[2.0, 0, 0, 0, 0]])]
    assert general.labels_to_image_weights(labels, 3, np.array([1.0, 10, 100])).tolist() == [101, 0, 100]
    assert general.labels_to_image_weights(labels, 3).tolist() == [2, 0, 1]


def test_seeds_make_runs_equal():
    general.init_seeds(3)
    first = torch.rand(2), np.random.rand()
    general.init_seeds(3)
    assert torch.equal(first[0], torch.rand(2)) and first[1] == np.random.rand()
    assert not torch.are_deterministic_algorithms_enabled()


def test_determinism_is_asked_for(monkeypatch):
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":16:8")
    general.init_seeds(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    torch.use_deterministic_algorithms(False)


# -- logging -----------------------------------------------------------------------------------------------------------


def test_arguments_are_logged(logged):
    def run(weights, imgsz=640):
        general.print_args(show_func=True)

    run("a.pt")
    general.print_args({"x": 1}, show_file=False)
    assert "test_v62_names: run: " in logged.text and "weights=a.pt, imgsz=640" in logged.text
    assert "x=1" in logged.text


def test_methods_of_an_object():
    assert {"split", "upper"} <= set(general.methods("text"))
    assert not [name for name in general.methods("text") if name.startswith("__")]


@pytest.mark.slow
def test_generations_are_recorded_and_drawn(tmp_path, logged):
    for rate in (0.01, 0.02):
        general.print_mutation([0.5, 0.5, rate, 0.1, 1, 1, 1], {"lr0": rate, "box": 0.05}, tmp_path)
    assert len((tmp_path / "evolve.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert "lr0 0.02, box 0.05" in logged.text
    plots.plot_evolve(tmp_path / "evolve.csv")
    assert (tmp_path / "evolve.png").stat().st_size > 1000
    with pytest.raises(InputError, match="Google storage is not offered"):
        general.print_mutation([0] * 7, {"lr0": 0.1}, tmp_path, bucket="mine")


# -- torch_utils -------------------------------------------------------------------------------------------------------


def test_attributes_are_copied():
    source, target = nn.Conv2d(2, 3, 1), nn.Identity()
    torch_utils.copy_attr(target, source, include=("in_channels", "groups", "_x"), exclude=("groups",))
    assert (target.in_channels, hasattr(target, "groups"), hasattr(target, "out_channels")) == (2, False, False)
    torch_utils.copy_attr(target, source)
    assert target.out_channels == 3


def test_norms_and_activations_are_initialised():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    torch_utils.initialize_weights(model)
    assert (model[0].eps, model[0].momentum, model[1].inplace) == (1e-3, 0.03, True)


@pytest.mark.parametrize(("new", "is_inference"), [(True, True), (False, False)])
def test_gradients_are_off_in_decorated_functions(new, is_inference):
    @torch_utils.smart_inference_mode(new)
    def run(x):
        return x * 2

    made = run(torch.ones(1, requires_grad=True))
    assert (made.requires_grad, made.is_inference()) == (False, is_inference)


def test_a_model_alone_is_not_wrapped():
    model = nn.Linear(1, 1)
    assert torch_utils.smart_DDP(model) is model
    with torch_utils.torch_distributed_zero_first(-1):
        assert torch_utils.de_parallel(model) is model


def test_a_run_is_resumed(tiny_cfg):
    model = DetectionModel(tiny_cfg)
    optimizer, average = smart_optimizer(model), ModelEMA(model)
    state = smart_optimizer(model, lr=0.5).state_dict()
    checkpoint = {"epoch": 4, "best_fitness": 0.3, "optimizer": state, "ema": DetectionModel(tiny_cfg), "updates": 7}
    assert torch_utils.smart_resume(checkpoint, optimizer, average, epochs=10) == (0.3, 5, 10)
    assert (average.updates, optimizer.param_groups[0]["lr"]) == (7, 0.5)
    name, weight = next(iter(checkpoint["ema"].named_parameters()))
    assert torch.equal(average.ema.state_dict()[name], weight)
    assert torch_utils.smart_resume(checkpoint, optimizer, epochs=3) == (0.3, 5, 7)
    with pytest.raises(InputError, match=r"best\.pt has ended"):
        torch_utils.smart_resume({"epoch": -1, "optimizer": None}, optimizer, weights="best.pt")


def test_operations_are_profiled(logged):
    conv = nn.Conv2d(3, 4, 1)
    rows = torch_utils.profile(torch.zeros(1, 3, 8, 8), [conv, torch.relu, nn.Linear(5, 5)], n=2, device="cpu")
    assert rows[2] is None
    assert rows[0][:3] == [16, 2 * 3 * 4 * 64 / 1e9, 0.0]
    assert rows[0][5:] == [(1, 3, 8, 8), (1, 4, 8, 8)]
    assert rows[1][0] == 0 and rows[1][3] > 0 and rows[1][4] > 0
    assert "backward ms" in logged.text


def test_images_of_test_time_augmentation_keep_their_shape():
    assert torch_utils.scale_img(torch.rand(1, 3, 100, 64), 0.5, same_shape=True).shape == (1, 3, 50, 32)


# -- pictures and batches ----------------------------------------------------------------------------------------------


def test_a_box_is_cut_out(tmp_path):
    image = np.zeros((100, 200, 3), np.uint8)
    image[..., 2] = 255  # red in BGR
    crop = plots.save_one_box(torch.tensor([20, 20, 60, 40]), image, tmp_path / "a.jpg", gain=1, pad=0, BGR=True)
    assert crop.shape == (20, 40, 3) and crop[0, 0].tolist() == [0, 0, 255]
    plots.save_one_box([20, 20, 60, 40], image, tmp_path / "a.jpg")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jpg", "a2.jpg"]
    square = plots.save_one_box([20, 20, 60, 40], image, gain=1, pad=0, square=True, save=False)
    assert square.shape == (40, 40, 3) and square[0, 0].tolist() == [255, 0, 0]


@pytest.mark.slow
def test_a_study_is_drawn(tmp_path):
    row = "0.5 0.5 0.5 0.4 0 0 0 1 2 3\n"
    (tmp_path / "study_coco_a.txt").write_text(row * 2, encoding="utf-8")
    plots.plot_val_study(dir=tmp_path, x=[320, 640])
    plots.plot_val_study(tmp_path / "study_coco_a.txt", x=[320, 640])
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_a_batch_size_is_chosen_for_the_device_of_the_model():
    assert autobatch.check_train_batch_size(nn.Conv2d(3, 3, 1), 64) == 16  # no memory to measure on a CPU
