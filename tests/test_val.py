"""val.py: what each option changes in the figures and files."""

from __future__ import annotations

import json
import zipfile
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import val
from tests.colour_detector import colour_detector, label_rows
from utils.commands.options import build, parse, parser_for
from utils.errors import InputError
from utils.storage.files import read_yaml, write_yaml
from utils.validation import coco_json, loop
from utils.validation import study as study_module
from utils.validation.coco_json import CocoPredictions, CocoTruth
from utils.validation.inputs import make_loader

COLUMNS = "Class     Images     Labels          P          R     mAP@.5 mAP@.5:.95"


@pytest.fixture
def run(tiny_dataset, weights, tmp_path):
    """Validate on the four drawn pictures; returns val.run's result."""
    common = {"data": str(tiny_dataset), "weights": str(weights), "imgsz": 128, "device": "cpu", "workers": 0,
              "project": str(tmp_path / "runs"), "plots": False}  # fmt: skip
    return lambda **changes: val.run(**(common | changes))


@pytest.fixture
def command(tiny_dataset, weights, tmp_path):
    """Run the command with flags."""
    common = [
        "--data",
        tiny_dataset,
        "--weights",
        weights,
        "--device",
        "cpu",
        "--workers",
        0,
        "--project",
        tmp_path / "runs",
    ]

    def start(*flags: object) -> None:
        val.main(parse(val.ValOptions, "", [str(flag) for flag in (*common, *flags)]))

    return start


def truth(tiny_dataset: Path, stem: str) -> list[list[float]]:
    lines = (tiny_dataset.parent / f"labels/val/{stem}.txt").read_text().splitlines()
    return [[float(word) for word in line.split()] for line in lines]


def test_help_lists_the_published_options_and_no_others():
    flags = {flag for action in parser_for(val.ValOptions, "")._actions for flag in action.option_strings}
    published = {
        "--data", "--weights", "--batch-size", "--imgsz", "--img", "--img-size", "--conf-thres", "--iou-thres",
        "--task", "--device", "--workers", "--single-cls", "--augment", "--verbose", "--save-txt", "--save-hybrid",
        "--save-conf", "--save-json", "--project", "--name", "--exist-ok", "--half", "--dnn",
    }  # fmt: skip
    added = {"-h", "--help", "--version", "--max-det", "--allow-download-scripts"}
    assert flags == published | added


@pytest.mark.slow
def test_the_table_and_the_files(command, tmp_path, heard):
    command("--imgsz", 128)
    names = {path.name for path in (tmp_path / "runs/exp").iterdir()}
    curves = {f"{kind}_curve.png" for kind in ("PR", "F1", "P", "R")}
    assert names == curves | {"confusion_matrix.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg"}
    lines = [record.getMessage() for record in heard.records]
    table = [line.split() for line in lines if line.lstrip().startswith(("all ", "disc ", "square "))]
    assert any(line.endswith(COLUMNS) for line in lines)
    assert [row[:3] for row in table] == [["all", "4", "9"], ["disc", "4", "4"], ["square", "4", "5"]]
    assert float(table[0][5]) > 0.3
    assert any("at shape (32, 3, 128, 128)" in line for line in lines)
    assert lines[-2] == f"Results saved to {tmp_path / 'runs/exp'}" and lines[-1].startswith("Next: python export.py ")


def test_a_log_of_a_training_names_the_columns_of_its_last_table(run, heard, monkeypatch):
    monkeypatch.setattr(loop, "tqdm_is_quiet", lambda: True)
    for verbose in (False, True):
        heard.clear()
        run(compute_loss=lambda outputs, targets: (torch.zeros(1), torch.zeros(3)), verbose=verbose)
        assert any(line.endswith(COLUMNS) for line in heard.messages) == verbose


@pytest.mark.slow
def test_a_label_file_that_cannot_be_written_does_not_cost_the_others(run, command, tmp_path, heard):
    (tmp_path / "runs/exp/labels/001.txt").mkdir(parents=True)
    results, _, _ = run(save_txt=True, exist_ok=True)
    assert results == run()[0]
    assert {path.name for path in (tmp_path / "runs/exp/labels").glob("*.txt")} == {f"00{i}.txt" for i in range(4)}
    assert "001.txt: Is a directory" in heard.text and "1 label file(s) could not be written" in heard.text
    with pytest.raises(InputError, match=r"1 label file\(s\) could not be written: they are named above"):
        command("--save-txt", "--exist-ok", "--imgsz", 128)


def test_paths_are_taken_like_text(run, tiny_dataset, weights):
    assert run(data=Path(tiny_dataset), weights=Path(weights))[0] == run()[0]


def test_the_result(run):
    results, by_class, milliseconds = run()
    assert len(results) == 7 and results[4:] == (0, 0, 0)
    assert results[2] > 0.3 and results[3] == pytest.approx(by_class.mean())
    assert len(milliseconds) == 3 and min(milliseconds) >= 0


@pytest.mark.slow
def test_the_split(run, tiny_dataset, tmp_path, heard):
    data = str(tmp_path / "data.yaml")
    write_yaml(
        data, read_yaml(tiny_dataset) | {"path": str(tiny_dataset.parent), "test": ["images/val", "images/train"]}
    )
    for task, images in (("train", 12), ("val", 4), ("test", 16)):
        heard.clear()
        run(data=data, task=task)
        assert f"all{images:11d}" in heard.text
    with pytest.raises(InputError, match="'test'"):
        run(task="test")  # the drawn data set has none


def test_the_number_of_classes_must_fit(run, tmp_path, tiny_dataset):
    data = str(tmp_path / "data.yaml")
    content = {"path": str(tiny_dataset.parent), "val": "images/val"}
    write_yaml(data, content | {"names": ["a", "b", "c"]})
    with pytest.raises(InputError, match=r"has 2 classes but .* has 3"):
        run(data=data)


@pytest.mark.slow
def test_an_ensemble_is_not_one_model(run, weights, tmp_path):
    blind = colour_detector()
    torch.nn.init.constant_(blind.model[-1].m[0].bias, -20.0)
    from utils.checkpoint import save_checkpoint

    save_checkpoint({"model": blind}, tmp_path / "blind.pt")
    alone = run(weights=str(tmp_path / "blind.pt"))[0]
    assert alone[2] == 0
    assert run(weights=[str(tmp_path / "blind.pt"), str(weights)])[0] == pytest.approx(run()[0])


def test_sizes_of_images_and_batches(run, heard):
    small, large = run(imgsz=60, batch_size=2)[0], run(imgsz=128)[0]
    assert small[:4] != large[:4]
    assert "at shape (2, 3, 64, 64)" in heard.text and "image size 60 is changed to 64" in heard.text


@pytest.mark.parametrize("workers", [0, 1])
def test_workers(tiny_dataset, workers):
    from utils.dataset.description import check_dataset

    options = build(val.ValOptions, workers=workers, batch_size=2)
    loader = make_loader(options, check_dataset(tiny_dataset), 64, 32)
    assert (loader.num_workers, len(loader)) == (workers, 2)


@pytest.mark.slow
def test_thresholds_and_limits(run, tmp_path, heard):
    def count(**options: object) -> int:
        run(save_txt=True, save_dir=tmp_path / "out", **options)
        return sum(map(len, label_rows(tmp_path / "out").values()))

    usual = count()
    assert usual > count(conf_thres=0.5) > 0
    assert "confidence threshold 0.5: mAP is comparable with 0.001 only" in heard.text
    assert usual > count(iou_thres=0.1) > 0
    assert count(max_det=1) == 4
    for wrong in ({"max_det": 0}, {"batch_size": 0}, {"imgsz": 0}, {"workers": -1}, {"conf_thres": 1.5}):
        with pytest.raises(InputError):
            run(**wrong)


def test_single_class(run, tmp_path, heard):
    run(save_txt=True, save_dir=tmp_path, single_cls=True)
    assert {row[0] for lines in label_rows(tmp_path).values() for row in lines} == {0}
    assert "square" not in heard.text and f"all{4:11d}{9:11d}" in heard.text


@pytest.mark.slow
def test_augmented_inference_differs(run):
    assert run(augment=True)[0][3] != run()[0][3]


def test_a_row_per_class(run, tiny_dataset, tmp_path, heard):
    data = str(tmp_path / "data.yaml")  # 60 classes: only --verbose shows them
    many = {"path": str(tiny_dataset.parent), "val": "images/val", "names": [f"kind{index}" for index in range(60)]}
    write_yaml(data, many)
    for verbose in (False, True):
        heard.clear()
        run(data=data, weights="", model=colour_detector(), verbose=verbose)
        assert ("kind1" in heard.text) is verbose


def test_label_files(run, tmp_path, heard):
    run(save_txt=True, name="plain")
    run(save_txt=True, save_conf=True, name="sure")
    plain, sure = (label_rows(tmp_path / "runs" / name) for name in ("plain", "sure"))
    assert len(plain) == 4 and plain["000"] == [row[:5] for row in sure["000"]]
    confidences = [row[5] for row in sure["000"]]
    assert confidences == sorted(confidences, reverse=True)
    assert f"4 label files in {tmp_path / 'runs/plain/labels'}" in heard.text
    with pytest.raises(InputError, match="--save-txt"):
        run(save_conf=True)


def test_hybrid_labels_contain_the_true_ones(run, tiny_dataset, tmp_path, heard):
    results = run(save_hybrid=True, save_conf=True, save_dir=tmp_path)[0]
    written = label_rows(tmp_path)["001"]
    for kind, *box in truth(tiny_dataset, "001"):
        same = [row for row in written if row[0] == kind and np.abs(np.subtract(row[1:5], box)).max() < 2e-3]
        assert same and same[0][5] == 1
    assert results[2] == pytest.approx(0.995, abs=1e-3) and "say nothing about the model" in heard.text
    plain = run()[0]
    assert plain[2] < 0.9


@pytest.mark.slow
def test_run_folders(run, tmp_path):
    for _ in range(2):
        run(save_txt=True, name="mine")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mine", "mine2"]
    run(save_txt=True, name="mine", exist_ok=True)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_what_writes_nothing_makes_no_folder(run, tmp_path, heard):
    run()
    assert not (tmp_path / "runs").exists() and "Results saved" not in heard.text


def test_half_and_device_are_refused_where_they_cannot_be_had(run):
    with pytest.raises(InputError, match="half precision needs a GPU"):
        run(half=True)
    with pytest.raises(InputError, match="--device 99"):
        run(device="99")


# -- COCO's format -------------------------------------------------------------------------------------------------


def labels_in_coco_format(tiny_dataset: Path, stem: str) -> list[tuple[float, ...]]:
    """Class, left, top, width and height in pixels of the true boxes of a picture."""
    height, width = cv2.imread(str(tiny_dataset.parent / f"images/val/{stem}.jpg")).shape[:2]
    return [
        (int(kind), (x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        for kind, x, y, w, h in truth(tiny_dataset, stem)
    ]


def coco_annotations(tiny_dataset: Path, file: Path) -> None:
    """Write the true boxes of the drawn pictures as COCO has them, with ids 0 and 1 as categories."""
    images, boxes = [], []
    for picture in sorted((tiny_dataset.parent / "images/val").glob("*.jpg")):
        height, width = cv2.imread(str(picture)).shape[:2]
        images.append({"id": int(picture.stem), "width": width, "height": height, "file_name": picture.name})
        for kind, *box in labels_in_coco_format(tiny_dataset, picture.stem):
            boxes.append({"id": len(boxes) + 1, "image_id": int(picture.stem), "category_id": kind, "bbox": box,
                          "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
    kinds = [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}]
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": boxes, "categories": kinds}))


@pytest.fixture
def annotated_data(tiny_dataset, tmp_path) -> Path:
    """The drawn data set below a folder of its own that also has COCO's annotations."""
    coco_annotations(tiny_dataset, tmp_path / "set/annotations/instances_val2017.json")
    content = read_yaml(tiny_dataset) | {"path": str(tmp_path / "set"), "val": str(tiny_dataset.parent / "images/val")}
    write_yaml(tmp_path / "annotated.yaml", content)
    return tmp_path / "annotated.yaml"


def test_predictions_and_labels_as_json(run, tiny_dataset, tmp_path, heard):
    run(save_json=True, save_txt=True, save_conf=True, save_dir=tmp_path)
    predictions = json.loads((tmp_path / "colour_predictions.json").read_text())
    assert {entry["image_id"] for entry in predictions} == {0, 1, 2, 3}  # '000' is a number
    first = next(entry for entry in predictions if entry["image_id"] == 0)
    kind, x, y, w, h, confidence = label_rows(tmp_path)["000"][0]
    assert first["category_id"] == kind and first["score"] == pytest.approx(confidence, abs=1e-5)
    assert first["bbox"] == pytest.approx([(x - w / 2) * 128, (y - h / 2) * 128, w * 128, h * 128], abs=2e-3)
    assert first["bbox"] == [round(value, 3) for value in first["bbox"]]
    truth = json.loads((tmp_path / "ground_truth.json").read_text())
    assert {image["file_name"]: image["id"] for image in truth["images"]} == {f"00{i}.jpg": i for i in range(4)}
    assert [category["id"] for category in truth["categories"]] == [0, 1]
    of_first = [entry for entry in truth["annotations"] if entry["image_id"] == 0]
    expected = labels_in_coco_format(tiny_dataset, "000")
    assert [entry["category_id"] for entry in of_first] == [kind for kind, *_ in expected]
    for entry, (_, *box) in zip(of_first, expected, strict=True):
        assert entry["bbox"] == pytest.approx(box, abs=0.05) and entry["area"] == pytest.approx(
            box[2] * box[3], rel=0.01
        )


@pytest.mark.parametrize("package", ["pycocotools", "faster_coco_eval"])
def test_own_data_have_the_table_of_coco(run, tmp_path, heard, monkeypatch, package):
    pytest.importorskip(package, reason=f"{package} is an extra")
    monkeypatch.setattr(coco_json, "TOOLS", [tool for tool in coco_json.TOOLS if tool.annotations.startswith(package)])
    own = run(save_dir=tmp_path)[0]
    assert run(save_json=True, save_dir=tmp_path)[0] == pytest.approx(own)  # our own count stays
    (table,) = [line for line in heard.messages if "area= small" in line]
    assert table.startswith(coco_json.TOOLS[0].package) and len(table.splitlines()) > 12
    first = float(table.splitlines()[1].rpartition("=")[2])
    assert first == pytest.approx(own[3], abs=0.02)


def test_images_of_one_name_are_scored_apart(tmp_path, heard):
    predictions, truth = CocoPredictions({}), CocoTruth({}, {0: "disc"})
    for folder, offset in (("a", 0), ("b", 40)):
        box = [offset, 0, offset + 10, 20]
        predictions.add(Path(folder, "1.jpg"), np.array([[*box, 0.9, 0]]))
        truth.add(Path(folder, "1.jpg"), np.array([[0, *box]]), (64, 64))
    truth.write(tmp_path / "ground_truth.json")
    assert "1 images have the name of another one" in heard.text
    if find_spec("pycocotools") or find_spec("faster_coco_eval"):
        assert truth.score(predictions) == pytest.approx((1.0, 1.0))


def test_scores_of_pycocotools_replace_our_own(run, annotated_data, tmp_path, heard, monkeypatch):
    pytest.importorskip("pycocotools", reason="pycocotools is an extra")
    own = run(data=str(annotated_data), save_dir=tmp_path)[0]
    theirs = run(data=str(annotated_data), save_json=True, save_dir=tmp_path)[0]
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" in heard.text
    assert theirs[2:4] != own[2:4]  # two ways to interpolate
    assert theirs[2:4] == pytest.approx(own[2:4], abs=0.02)
    assert theirs[:2] == own[:2]


def test_annotations_of_other_images_are_told(run, annotated_data, tmp_path, heard):
    pytest.importorskip("pycocotools", reason="pycocotools is an extra")
    file = tmp_path / "set/annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    for entry in content["images"]:
        entry["id"] += 100
    file.write_text(json.dumps(content))
    own = run(data=str(annotated_data))[0]
    assert run(data=str(annotated_data), save_json=True, save_dir=tmp_path)[0] == pytest.approx(own)
    assert "not scored by pycocotools" in heard.text and "do not match" in heard.text


def test_without_pycocotools_our_own_scores_stay(run, annotated_data, tmp_path, heard, monkeypatch):
    import sys

    for module in ("pycocotools.coco", "faster_coco_eval"):
        monkeypatch.setitem(sys.modules, module, None)
    assert run(data=str(annotated_data), save_json=True, save_dir=tmp_path)[0][2] > 0.3
    assert "pip install pycocotools" in heard.text


def test_without_predictions_there_is_no_json(run, tmp_path, heard):
    run(save_json=True, save_dir=tmp_path, conf_thres=1.0)
    assert not list(tmp_path.glob("*.json")) and "is not written" in heard.text


def test_the_categories_of_coco():
    from utils.validation.coco_json import COCO_CATEGORIES, CocoPredictions, image_id, is_coco

    assert (len(COCO_CATEGORIES), COCO_CATEGORIES[0], COCO_CATEGORIES[11], COCO_CATEGORIES[79]) == (80, 1, 13, 90)
    assert is_coco({"val": "/data/coco/val2017.txt"}) and not is_coco({"val": ["coco/val2017.txt"]})
    found = torch.tensor([[1.0, 2.0, 4.0, 6.0, 0.5, 11.0]])
    for split, category in (("/data/coco/val2017.txt", 13), ("images/val", 11)):
        predictions = CocoPredictions({"val": split})
        predictions.add(Path("a/000042.jpg"), found)
        assert predictions.rows == [
            {"image_id": 42, "category_id": category, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
        ]
    assert image_id(Path("a/photo_1.jpg")) == "photo_1"


def test_coco_always_gives_json():
    assert build(val.ValOptions, data="data/coco.yaml").save_json
    assert not build(val.ValOptions, data="data/coco.yaml", task="speed").save_json
    assert not build(val.ValOptions, data="data/coco128.yaml").save_json


# -- speed and study -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_speed(command, weights, tmp_path, monkeypatch, heard):
    seen = []
    original = loop.evaluate

    def watch(inputs, folder):
        shape = tuple(next(iter(inputs.loader))[0].shape[2:])
        seen.append((inputs.options.conf_thres, inputs.options.iou_thres, inputs.given.plots, max(shape)))
        return original(inputs, folder)

    monkeypatch.setattr(loop, "evaluate", watch)
    command("--task", "speed", "--imgsz", 128, "--weights", weights, weights)
    command("--task", "speed", "--imgsz", 128, "--conf-thres", 0.001)
    command("--imgsz", 128)
    speed = (0.25, 0.45, False, 128)  # no padding
    assert seen == [speed, speed, (0.001, 0.45, False, 128), (0.001, 0.6, True, 160)]
    assert "speed: computing in FP32" in heard.text
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exp"]  # of the last command


@pytest.mark.slow
def test_study(command, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "SIZES", (64, 96, 128))
    other = tmp_path / "other.pt"
    other.write_bytes(weights.read_bytes())
    command("--task", "study", "--weights", weights, other)
    folder = tmp_path / "runs/exp"
    texts = {"study_tiny_colour.txt", "study_tiny_other.txt"}
    assert {path.name for path in folder.iterdir()} == texts | {"study.zip", "study.png"}
    table = np.loadtxt(folder / "study_tiny_colour.txt")
    assert table.shape == (3, 10) and table[2, 2] > 0.3 and (table[:, 7:] >= 0).all()
    assert all(len(line) == 109 for line in (folder / "study_tiny_colour.txt").read_text().splitlines())
    assert set(zipfile.ZipFile(folder / "study.zip").namelist()) == texts
    assert cv2.imread(str(folder / "study.png")).shape == (1500, 2250, 3)


def test_the_sizes_of_the_study():
    assert study_module.SIZES == (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536)


@pytest.mark.parametrize("more", [{"imgsz": 640}, {"save_txt": True}, {"save_json": True}, {"save_hybrid": True}])
def test_what_a_study_cannot_honour(more):
    with pytest.raises(InputError, match="--task study"):
        build(val.ValOptions, task="study", **more)


def test_a_study_is_no_single_run(run):
    with pytest.raises(InputError, match=r"val\.study"):
        run(task="study", imgsz=None)


# -- the model that is given ---------------------------------------------------------------------------------------


def test_a_model_in_memory_keeps_its_mode_and_weights(run):
    model = colour_detector().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = run(weights="", model=model)[0]
    assert results[2] > 0.3 and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
