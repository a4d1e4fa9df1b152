"""detect.py: what each option changes in the results."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
from tests.colour_detector import colour_detector, label_rows, save_colour_detector
from tests.conftest import TINY_COLOURS
from utils.checkpoint import save_checkpoint
from utils.commands.options import parser_for
from utils.dataset.images import read_image
from utils.detection import run as detection
from utils.detection.detector import Detector
from utils.detection.display import display_problem
from utils.detection.run import DetectionRun
from utils.detection.video_files import VideoFile
from utils.downloads import OFFLINE_VARIABLE
from utils.drawing.annotator import crop_box
from utils.errors import InputError
from utils.storage.files import ROOT, safe_name
from utils.storage.results import CropNames, UniqueStems


@pytest.fixture
def pictures(tiny_dataset) -> Path:
    """Four drawn pictures."""
    return tiny_dataset.parent / "images/val"


@pytest.fixture
def video(pictures, tmp_path) -> Path:
    """Seven frames at 10 per second, each with discs and squares."""
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 128))
    if not writer.isOpened():
        pytest.skip("this build of OpenCV writes no video")
    for _ in range(7):
        writer.write(read_image(pictures / "000.jpg"))
    writer.release()
    return file


@pytest.fixture
def run(weights, pictures, tmp_path):
    """Run detect.py on the drawn pictures, or with other options."""
    common = {"weights": str(weights), "source": str(pictures), "imgsz": 128, "device": "cpu", "conf_thres": 0.3,
              "project": str(tmp_path / "runs"), "nosave": True}  # fmt: skip
    return lambda **changes: detect.run(**(common | changes))


def classes(folder: Path) -> list[int]:
    return [int(row[0]) for lines in label_rows(folder).values() for row in lines]


def test_help_lists_the_published_options_and_no_others():
    flags = {flag for action in parser_for(detect.DetectOptions, "")._actions for flag in action.option_strings}
    published = {
        "--weights", "--source", "--data", "--imgsz", "--img", "--img-size", "--conf-thres", "--iou-thres", "--max-det",
        "--device", "--view-img", "--save-txt", "--save-conf", "--save-crop", "--nosave", "--classes", "--agnostic-nms",
        "--augment", "--visualize", "--update", "--project", "--name", "--exist-ok", "--line-thickness",
        "--hide-labels", "--hide-conf", "--half", "--dnn",
    }  # fmt: skip
    added = {"-h", "--help", "--version", "--batch-size", "--vid-stride", "--save-csv"}
    assert flags == published | added


def test_a_folder_gives_annotated_pictures_and_what_was_found(run, pictures, heard):
    folder = run(nosave=False)
    assert [file.name for file in sorted(folder.iterdir())] == [file.name for file in sorted(pictures.iterdir())]
    original, annotated = read_image(pictures / "001.jpg"), read_image(folder / "001.jpg")
    assert original.shape == annotated.shape and (original != annotated).any()
    assert f"image 1/4 {pictures / '000.jpg'}: 128x128 " in heard.text
    assert "disc" in heard.text and "squares" in heard.text
    assert f"Results saved to {folder}" in heard.text and "at shape (1, 3, 128, 128)" in heard.text


def test_nosave_writes_nothing(run, heard):
    assert not list(run(nosave=True).iterdir())
    assert "Results saved" not in heard.text


def test_label_files_and_confidences(run, heard):
    plain = label_rows(run(save_txt=True))
    folder = run(save_txt=True, save_conf=True)
    sure = label_rows(folder)
    assert len(plain) == 4 and [row[:5] for row in sure["000"]] == plain["000"]
    confidences = [row[5] for row in sure["000"]]
    assert confidences == sorted(confidences) and confidences[0] > 0.3  # the best comes last
    assert f"4 label files in {folder / 'labels'}" in heard.text


def test_save_conf_without_label_files_is_refused(run):
    with pytest.raises(InputError, match="--save-txt"):
        run(save_conf=True)


def test_thresholds_and_limits(run):
    def count(**options: object) -> int:
        return len(classes(run(save_txt=True, **options)))

    usual = count()
    assert usual > count(conf_thres=0.8) > 0
    assert usual > count(iou_thres=0.1) > 0
    assert count(max_det=1) == 4


def test_classes_are_filtered(run):
    assert set(classes(run(save_txt=True))) == {0, 1}
    assert set(classes(run(save_txt=True, classes=[1]))) == {1}
    with pytest.raises(InputError, match="--classes"):
        run(classes=[2])


def test_agnostic_nms(run, tmp_path):
    picture = np.full((128, 128, 3), 128, np.uint8)
    for index, left in enumerate(range(20, 100, 16)):  # stripes so narrow that the boxes of neighbours overlap
        cv2.rectangle(picture, (left, 40), (left + 15, 80), TINY_COLOURS[index % 2], -1)
    cv2.imwrite(str(tmp_path / "stripes.png"), picture)
    options = {"save_txt": True, "source": str(tmp_path / "stripes.png"), "iou_thres": 0.2}
    each, joint = (len(classes(run(**options, agnostic_nms=agnostic))) for agnostic in (False, True))
    assert each > joint > 0


def test_several_weights_are_an_ensemble(run, weights, tmp_path):
    blind = colour_detector()
    torch.nn.init.constant_(blind.model[-1].m[0].bias, -20.0)
    save_checkpoint({"model": blind}, tmp_path / "blind.pt")
    assert not label_rows(run(save_txt=True, weights=str(tmp_path / "blind.pt")))
    both = label_rows(run(save_txt=True, weights=[str(tmp_path / "blind.pt"), str(weights)]))
    assert both == label_rows(run(save_txt=True))


def test_image_size(run, pictures, heard):
    run(imgsz=[64], source=str(pictures / "001.jpg"))
    run(imgsz=[64, 128], source=str(pictures / "001.jpg"))  # 96 x 128
    sizes = [
        record.getMessage().split("jpg: ")[1].split()[0] for record in heard.records if "jpg: " in record.getMessage()
    ]
    assert sizes == ["64x64", "64x96"]
    assert "(1, 3, 64, 64)" in heard.text and "(1, 3, 64, 128)" in heard.text
    with pytest.raises(InputError, match="--imgsz"):
        run(imgsz=[64, 64, 64])


def test_augmented_inference_sees_more(run):
    assert len(classes(run(save_txt=True, augment=True, iou_thres=1.0))) > len(
        classes(run(save_txt=True, iou_thres=1.0))
    )


def test_names_of_the_data_set_are_used_where_the_checkpoint_has_none(run, tmp_path, heard):
    nameless = colour_detector()
    nameless.names = []
    save_checkpoint({"model": nameless}, tmp_path / "nameless.pt")
    (tmp_path / "fruit.yaml").write_text("names: [apple, plum]\n")
    run(weights=str(tmp_path / "nameless.pt"), data=str(tmp_path / "fruit.yaml"))
    assert "apple" in heard.text and "disc" not in heard.text
    heard.clear()
    run(weights=str(tmp_path / "nameless.pt"), data=str(ROOT / "data/coco128.yaml"))  # 80 names do not fit
    assert "class0" in heard.text and "2 classes without names" in heard.text


def test_device_and_half_are_refused_where_they_cannot_be_had(run):
    with pytest.raises(InputError, match="--device 99"):
        run(device="99")
    with pytest.raises(InputError, match="half precision needs a GPU"):
        run(half=True)


def test_run_folders(run, tmp_path):
    assert [run(name="mine").name for _ in range(2)] == ["mine", "mine2"]
    assert run(name="mine", exist_ok=True) == tmp_path / "runs/mine"
    assert run(project=str(tmp_path / "elsewhere")) == tmp_path / "elsewhere/exp"


def test_crops(run, pictures):
    folder = run(save_crop=True, max_det=3)
    assert {path.name for path in (folder / "crops").iterdir()} == {"disc", "square"}
    names = {path.name for path in (folder / "crops").rglob("*.jpg")}
    assert {"000.jpg", "0002.jpg"} <= names and len(list((folder / "crops").rglob("*.jpg"))) == 12


def test_a_crop_is_larger_than_its_box_and_keeps_its_colours(tmp_path):
    picture = np.zeros((100, 200, 3), np.uint8)
    assert crop_box(picture, [10, 20, 60, 80]).shape[:2] == (71, 61)  # measured with v6.2
    assert crop_box(picture, [0, 0, 200, 100]).shape == picture.shape
    from utils.drawing.annotator import write_picture

    picture[::2, ::2] = 255, 0, 0
    losses = []
    for full in (True, False):
        write_picture(tmp_path / "crop.jpg", picture, full_colour=full)
        losses.append(np.abs(cv2.imread(str(tmp_path / "crop.jpg")).astype(int) - picture).mean())
    assert losses[0] < losses[1] / 2


def test_a_class_name_is_no_way_out_of_the_folder():
    for name, folder in (("../../etc", "__.._etc"), ("..", "_"), ("a/b\\c", "a_b_c"), ("", "_"), ("口罩", "口罩")):
        assert safe_name(name) == folder


@pytest.mark.parametrize(
    ("options", "label"), [({}, "square 0."), ({"hide_conf": True}, "square"), ({"hide_labels": True}, "")]
)
def test_labels_and_line_thickness(run, monkeypatch, options, label):
    from utils.drawing.annotator import Annotator

    drawn = []
    monkeypatch.setattr(Annotator, "box_label", lambda self, box, text, color: drawn.append((text, self.line_width)))
    run(nosave=False, classes=[1], line_thickness=7, **options)
    assert drawn and all(text.startswith(label) and width == 7 for text, width in drawn)
    assert {"square" in text for text, _ in drawn} == {bool(label)}
    assert {"0." in text for text, _ in drawn} == {label.endswith("0.")}


@pytest.mark.slow
def test_feature_maps(run, pictures):
    folder = run(visualize=True, source=str(pictures / "*01.jpg"))
    assert [path.name for path in folder.iterdir()] == ["001"]
    names = {path.name for path in (folder / "001").iterdir()}
    assert names == {f"stage{stage}_Conv_features.{kind}" for stage in (0, 1) for kind in ("png", "npy")}
    assert np.load(folder / "001/stage0_Conv_features.npy").shape == (8, 12 + 1, 16 + 1)  # 96 x 128 pixels, stride 8


def test_feature_maps_of_several_passes_or_models_are_refused(run, weights):
    for wrong in ({"augment": True}, {"weights": [str(weights)] * 2}):
        with pytest.raises(InputError, match="--visualize"):
            run(visualize=True, **wrong)


def test_update_strips_the_weights_file(run, tmp_path):
    file = save_colour_detector(tmp_path / "last.pt", epoch=7, optimizer={"state": {0: torch.zeros(9)}})
    run(weights=str(file), max_det=1)
    assert torch.load(file, weights_only=False)["optimizer"] is not None
    run(weights=str(file), max_det=1, update=True)
    stripped = torch.load(file, weights_only=False)
    assert stripped["optimizer"] is None and stripped["epoch"] == -1


# -- videos, lists, addresses --------------------------------------------------------------------------------------


def frames_of(file: Path) -> tuple[int, float]:
    """(number of frames, frames per second) of a video."""
    capture = cv2.VideoCapture(str(file))
    count = 0
    while capture.read()[0]:
        count += 1
    return count, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize(("stride", "numbers"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 4, 7])])
def test_frame_stride(run, video, stride, numbers):
    folder = run(source=str(video), vid_stride=stride, save_txt=True, nosave=False)
    assert sorted(label_rows(folder)) == [f"clip_{number}" for number in numbers]
    assert frames_of(folder / "clip.mp4") == (len(numbers), pytest.approx(10 / stride, rel=0.01))
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_bad_numbers_are_refused(run):
    for name in ("vid_stride", "max_det", "line_thickness"):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must be at least 1"):
            run(**{name: 0})


def test_equally_named_files_do_not_overwrite_each_other(run, pictures, tmp_path, heard):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(pictures / "000.jpg", tmp_path / folder / "same.jpg")
    folder = run(source=str(tmp_path / "**/same.jpg"), save_txt=True, nosave=False)
    assert {path.name for path in folder.iterdir()} == {"same.jpg", "same_2.jpg", "labels"}
    assert list(label_rows(folder)) == ["same", "same_2"]
    assert "are called same_2" in heard.text


def test_stems_stay_with_their_file():
    stems = UniqueStems()
    assert [stems(Path(name)) for name in ("a/x.jpg", "b/x.png", "a/x.jpg", "c/x_2.jpg")] == ["x", "x_2", "x", "x_2_2"]


def test_what_cannot_be_read_is_named_counted_and_the_rest_is_done(run, weights, pictures, tmp_path, heard):
    source = tmp_path / "mixed"
    shutil.copytree(pictures, source)
    (source / "broken.jpg").write_bytes(b"no image")
    (source / "broken.mp4").write_bytes(b"no video")
    assert len(label_rows(run(source=str(source), save_txt=True))) == 4
    assert "broken.jpg" in heard.text and "broken.mp4" in heard.text
    assert "2 file(s) could not be read" in heard.text
    (source / "long.avi").touch()
    options = {"weights": str(weights), "source": str(source), "imgsz": 128, "nosave": True}
    with pytest.raises(InputError, match=r"^3 file\(s\) could not be read and were skipped: they are named above$"):
        detect.main(detect.DetectOptions(project=str(tmp_path / "runs"), **options))
    with pytest.raises(InputError, match=r"nothing in .* could be read"):
        run(source=str(source / "broken.jpg"))


def test_a_damaged_frame_costs_a_frame_and_a_cut_video_its_end(run, pictures, tmp_path, heard):
    rng = np.random.default_rng(0)
    whole = write_noise(tmp_path / "whole.avi", 12)
    content = bytearray(whole.read_bytes())
    start = content.find(b"movi")
    chunks = [place for place in range(start, len(content)) if content[place : place + 4] == b"00dc"][:12]
    damaged = bytearray(content)
    for place in (chunks[4], chunks[5], chunks[9]):
        length = int.from_bytes(damaged[place + 4 : place + 8], "little")
        damaged[place + 8 : place + 8 + length] = rng.integers(0, 255, length, dtype=np.uint8).tobytes()
    source = tmp_path / "videos"
    source.mkdir()
    (source / "damaged.avi").write_bytes(damaged)
    (source / "cut.avi").write_bytes(content[: chunks[7] + 60])
    (source / "empty.mp4").touch()
    shutil.copy(whole, source)
    options = {"source": str(source), "conf_thres": 1e-6, "max_det": 1, "save_txt": True, "nosave": False}
    numbers: dict[str, list[int]] = {}
    for name in label_rows(run(**options)):
        stem, number = name.rsplit("_", 1)
        numbers.setdefault(stem, []).append(int(number))
    assert sorted(numbers["damaged"]) == [1, 2, 3, 4, 7, 8, 9, 11, 12]
    assert sorted(numbers["whole"]) == list(range(1, 13)) and set(numbers["cut"]) == set(range(1, 8))
    assert "damaged.avi: 3 of 12 frames cannot be decoded" in heard.text
    assert "cut.avi ended after 7 of 12 announced frames: the file is cut off" in heard.text
    assert "empty.mp4 cannot be read as a video (0 bytes)" in heard.text
    assert "1 file(s) could not be read and were skipped, 2 file(s) could be read in part only" in heard.text


def write_noise(file: Path, frames: int, rate: float = 10.0) -> Path:
    """A motion JPEG video of 96 x 64 pixels in which a detector may see anything."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), rate, (96, 64))
    if not writer.isOpened():
        pytest.skip("this build of OpenCV writes no video")
    for _ in range(frames):
        writer.write(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    writer.release()
    return file


@pytest.mark.parametrize("rate", [119.983, 240.003, 66.667, 90000])
def test_a_video_of_any_rate_is_written(run, tmp_path, rate):
    folder = run(source=str(write_noise(tmp_path / "phone.avi", 3, rate)), nosave=False)
    assert frames_of(folder / "phone.mp4")[0] == 3


def test_a_video_that_cannot_be_written_does_not_cost_the_others(run, mixed, monkeypatch, heard):
    def fail(self: VideoFile, frame: np.ndarray) -> None:
        raise InputError(f"cannot write the video {self.target}: there is no encoder")

    monkeypatch.setattr(VideoFile, "write", fail)
    shutil.copy(mixed / "clip.avi", mixed / "other.avi")
    folder = run(source=str(mixed), save_txt=True, nosave=False)
    assert len(label_rows(folder)) == 9 + 14 and len(list(folder.glob("*.png"))) == 9
    assert [heard.text.count(f"{name}.mp4: there is no encoder") for name in ("clip", "other")] == [1, 1]
    assert "2 file(s) have results that could not be written" in heard.text


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_full_disk_ends_the_run(run, monkeypatch, batch_size):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "crop.jpg")

    monkeypatch.setattr("utils.detection.outputs.write_picture", fail)
    with pytest.raises(OSError, match="No space left"):
        run(save_crop=True, batch_size=batch_size)


def test_names_may_be_as_long_as_the_file_system_takes(run, pictures, tmp_path, heard):
    source = tmp_path / "long"
    source.mkdir()
    stems = ["\u9577" * 81, "x" * 251, "x" * 250 + "y", "short"]
    for stem in stems:
        shutil.copy(pictures / "000.jpg", source / f"{stem}.jpg")
    folder = run(source=str(source), save_txt=True, save_crop=True, nosave=False)
    assert {path.stem for path in folder.glob("*.jpg")} == set(stems)
    assert set(label_rows(folder)) == set(stems)
    assert {path.name for path in (folder / "crops/disc").iterdir()} >= {f"{stem}.jpg" for stem in stems}
    shutil.copy(write_noise(tmp_path / "v.avi", 2), source / f"{'v' * 251}.avi")
    folder = run(source=str(source / f"{'v' * 251}.avi"), save_txt=True, conf_thres=1e-6, max_det=1, nosave=False)
    assert len(label_rows(folder)) == 2 and len({name[:200] for name in label_rows(folder)}) == 1
    assert "is too long for its results" in heard.text


def test_crops_of_videos_carry_the_number_of_the_frame(run, video, tmp_path):
    folder = tmp_path / "runs/exp/crops/disc"
    folder.mkdir(parents=True)
    for number in range(2, 40):  # as earlier versions called them
        (folder / f"clip{number}.jpg").touch()
    run(source=str(video), save_crop=True, save_txt=True, exist_ok=True)
    for name, lines in label_rows(tmp_path / "runs/exp").items():
        for index, class_name in enumerate(("disc", "square")):
            count = sum(int(line[0]) == index for line in lines)
            crops = {path.name for path in (tmp_path / "runs/exp/crops" / class_name).glob(f"{name}[-.]*")}
            assert crops == {f"{name}.jpg", *(f"{name}-{number}.jpg" for number in range(2, count + 1))} if count else 1


def test_a_further_crop_costs_no_look_at_the_others(tmp_path, monkeypatch):
    names, looks = CropNames(), []
    exists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: looks.append(path) or exists(path))
    for _ in range(300):
        names(tmp_path, "a").touch()
    assert len(looks) < 3 * 300 and len(list(tmp_path.iterdir())) == 300
    assert names(tmp_path, "a").name == "a301.jpg" and names(tmp_path, "b").name == "b.jpg"


def test_a_picture_named_like_a_frame_is_not_overwritten(run, pictures, video, tmp_path, heard):
    source = tmp_path / "alike"
    source.mkdir()
    shutil.copy(pictures / "001.jpg", source / "clip_3.jpg")
    shutil.copy(video, source)
    found = label_rows(run(source=str(source), save_txt=True))
    assert set(found) == {"clip_3", *(f"clip_2_{number}" for number in range(1, 8))}


@pytest.mark.slow
def test_class_names_of_any_kind(run, tmp_path, heard):
    for names in (
        ["..", "."],
        ["a/b", "a:b"],
        ["x" * 400, "x" * 399 + "y"],
        ["\x1b[31mred", "two\nlines"],
        ["nul", ""],
    ):
        model = colour_detector()
        model.names = names
        save_checkpoint({"model": model}, tmp_path / "odd.pt")
        folder = run(weights=str(tmp_path / "odd.pt"), save_crop=True, save_txt=True, nosave=False)
        assert len(list((folder / "crops").iterdir())) == 2
        assert {path.parent.parent for path in folder.rglob("*.jpg") if path.parent != folder} == {folder / "crops"}
        assert not any("\x1b" in record.getMessage() for record in heard.records)


def test_without_a_source_the_command_says_what_to_give(weights, monkeypatch, tmp_path):
    missing = str(tmp_path / "data/images")
    monkeypatch.setattr(detection, "DEFAULT_SOURCE", missing)
    monkeypatch.setattr(detection, "open_detector", None)  # the source is looked at first
    with pytest.raises(
        InputError, match=r"--source is missing, and its default, .*images, does not exist: give an image"
    ):
        detect.main(detect.DetectOptions(weights=[str(weights)], source=missing))
    with pytest.raises(InputError, match="no such image"):
        detect.main(detect.DetectOptions(weights=[str(weights)], source="gone.jpg"))


def test_a_list_of_files(run, pictures, tmp_path):
    (tmp_path / "list.txt").write_text(f"{pictures / '001.jpg'}\n{pictures / '003.jpg'}\n")
    assert list(label_rows(run(source=str(tmp_path / "list.txt"), save_txt=True))) == ["001", "003"]


def test_an_image_on_the_network_is_downloaded(run, pictures, monkeypatch):
    monkeypatch.delenv(OFFLINE_VARIABLE)
    handler = partial(SimpleHTTPRequestHandler, directory=str(pictures))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        folder = run(source=f"{address}/002.jpg?size=full", save_txt=True, nosave=False)
        with pytest.raises(InputError, match=r"cannot download .*gone\.jpg"):
            run(source=f"{address}/gone.jpg")
        server.shutdown()
    assert (folder / "downloads/002.jpg").read_bytes() == (pictures / "002.jpg").read_bytes()
    assert list(label_rows(folder)) == ["002"] and (folder / "002.jpg").is_file()


@pytest.fixture
def mixed(pictures, video, tmp_path) -> Path:
    """A folder of nine pictures of three shapes in turns, and a video of a fourth."""
    folder = tmp_path / "mixed_shapes"
    folder.mkdir()
    for number in range(9):
        picture = read_image(pictures / f"00{number % 4}.jpg")
        height, width = ((128, 128), (96, 128), (128, 96))[number % 3]
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(picture, (width, height)))
    shutil.copy(video, folder)
    return folder


def test_the_model_is_warm_before_times_count(run, monkeypatch):
    from models.backends import DetectMultiBackend

    shapes, calls = [], []
    monkeypatch.setattr(DetectMultiBackend, "warmup", lambda self, shape: shapes.append((shape, len(calls))))
    monkeypatch.setattr(
        DetectMultiBackend, "forward", lambda _, images, **__: calls.append(0) or torch.zeros(len(images), 0, 7)
    )
    run(imgsz=64, batch_size=2)
    assert shapes == [((2, 3, 64, 64), 0)] and calls


@pytest.mark.slow
def test_batches_find_what_single_images_give(run, mixed, monkeypatch, heard):
    sizes, original = [], Detector.batch

    def noted(self, rgb: np.ndarray, *arguments: object):
        sizes.append(len(rgb))
        return original(self, rgb, *arguments)

    monkeypatch.setattr(Detector, "batch", noted)
    folders, lines = [], []
    for size in (1, 3):
        folders.append(run(source=str(mixed), batch_size=size, save_txt=True, save_conf=True, nosave=False))
        told = [record.getMessage() for record in heard.records]
        lines.append([line.split("Done")[0] for line in told if "Done" in line])
        of = "one image or one of each stream" if size == 1 else "up to 3 images"
        assert f"images per second in all; latency of each call, for {of}: median" in told[-2]
        heard.clear()
    assert sizes == [1] * 16 + [3, 3, 3, 3, 3, 1]  # with 3 at most 12 pictures are looked through for equal shapes
    assert lines[0] == lines[1] and len(lines[0]) == 16
    one, three = (label_rows(folder) for folder in folders)
    assert one.keys() == three.keys() and len(one) == 16
    for stem, expected in one.items():
        np.testing.assert_allclose(three[stem], expected, atol=2e-5)
    assert {file.name for file in folders[0].iterdir()} == {file.name for file in folders[1].iterdir()}
    assert frames_of(folders[1] / "clip.mp4")[0] == 7


def test_batches_name_and_skip_what_cannot_be_read(run, mixed, heard):
    (mixed / "4.png").write_bytes(b"no image")
    assert len(label_rows(run(source=str(mixed), batch_size=4, save_txt=True))) == 15
    assert "4.png" in heard.text and "1 file(s) could not be read" in heard.text


@pytest.mark.parametrize(
    "place", ["utils.detection.outputs.Writer.write", "utils.detection.inputs.LoadImages._network_image"]
)
def test_an_error_of_a_thread_ends_the_run(run, mixed, monkeypatch, place):
    def broken(*_: object) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(place, broken)
    before = threading.active_count()
    with pytest.raises(InputError, match="the disk is full"):
        run(source=str(mixed), batch_size=2, save_txt=True)
    assert threading.active_count() == before


def test_ctrl_c_between_batches_keeps_what_was_found(run, mixed, tmp_path, monkeypatch):
    original, calls = DetectionRun.detect_window, []

    def interrupted(self, *arguments: object):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(DetectionRun, "detect_window", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run(source=str(mixed), batch_size=2, save_txt=True)
    assert len(label_rows(tmp_path / "runs/exp")) == 8 and threading.active_count() == before


def test_batches_are_for_files_without_windows(run, video, tmp_path):
    (tmp_path / "one.streams").write_text(str(video))
    with pytest.raises(InputError, match="--batch-size is for files"):
        run(source=str(tmp_path / "one.streams"), batch_size=2)
    for option in ("view_img", "visualize"):
        with pytest.raises(InputError, match="leave out --batch-size"):
            run(batch_size=2, **{option: True})


def test_a_list_of_streams_is_read_side_by_side(run, video, tmp_path, heard):
    shutil.copy(video, tmp_path / "other.avi")
    (tmp_path / "list.streams").write_text(f"{video}\n{tmp_path / 'other.avi'}\n")
    folder = run(source=str(tmp_path / "list.streams"), save_txt=True, nosave=False)
    for name in ("clip", "other"):
        found = [stem for stem in label_rows(folder) if stem.startswith(name)]
        assert found[0] == f"{name}_0" and frames_of(folder / f"{name}.mp4")[0] == len(found)
    assert "0: 128x128 " in heard.text and "1: 128x128 " in heard.text


def test_ctrl_c_is_how_a_stream_ends(run, video, tmp_path, monkeypatch, heard):
    original, calls = Detector.batch, []

    def interrupted(self, *arguments: object):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Detector, "batch", interrupted)
    (tmp_path / "one.streams").write_text(str(video))
    folder = run(source=str(tmp_path / "one.streams"), nosave=False)
    assert frames_of(folder / "clip.mp4")[0] == 1 and f"Results saved to {folder}" in heard.text
    calls.clear()
    with pytest.raises(KeyboardInterrupt):  # a folder of pictures was broken off: the command says so
        run()


# -- windows -------------------------------------------------------------------------------------------------------


class Screen:
    """Stands for OpenCV's windows; ``key`` is pressed at every picture."""

    def __init__(self, monkeypatch, key: int = -1) -> None:
        self.shown: list[str] = []
        monkeypatch.setattr(detection, "display_problem", lambda: "")
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "resizeWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", lambda name, picture: self.shown.append(Path(name).name))
        monkeypatch.setattr(cv2, "waitKey", lambda _: key)


def test_windows(run, monkeypatch):
    screen = Screen(monkeypatch)
    run()
    assert not screen.shown
    run(view_img=True)
    assert screen.shown == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]


def test_the_key_q_ends_the_run(run, monkeypatch):
    screen = Screen(monkeypatch, key=ord("q"))
    folder = run(view_img=True, save_txt=True)
    assert screen.shown == ["000.jpg"] and list(label_rows(folder)) == ["000"]


def test_streams_are_shown_where_there_is_a_display(run, video, monkeypatch, tmp_path):
    (tmp_path / "one.streams").write_text(str(video))
    screen = Screen(monkeypatch)
    run(source=str(tmp_path / "one.streams"))
    assert set(screen.shown) == {"clip.avi"}
    monkeypatch.setattr(detection, "display_problem", lambda: "no display")
    before = len(screen.shown)
    run(source=str(tmp_path / "one.streams"))
    assert len(screen.shown) == before


def test_without_a_display_windows_are_refused(run, monkeypatch):
    monkeypatch.setattr(detection, "display_problem", lambda: "there is no screen")
    with pytest.raises(InputError, match=r"--view-img needs a display.*there is no screen"):
        run(view_img=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a display is always there")
def test_a_missing_display_is_noticed_and_survived(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    display_problem.cache_clear()
    assert display_problem()
    display_problem.cache_clear()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_table_of_all_detections(run, pictures, batch_size):
    folder = run(save_csv=True, save_txt=True, save_conf=True, batch_size=batch_size)
    header, *rows = csv.reader((folder / "predictions.csv").read_text().splitlines())
    assert header == ["image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2"]
    labels = label_rows(folder)
    assert len(rows) == sum(map(len, labels.values())) > 4
    for image, frame, kind, name, confidence, *corners in rows:
        assert Path(image).parent == pictures and frame == "" and name == f"{['disc', 'square'][int(kind)]}"
        height, width = read_image(Path(image)).shape[:2]
        x1, y1, x2, y2 = (float(corner) for corner in corners)
        label = [int(kind), (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        assert any(row == pytest.approx((*label, float(confidence)), abs=1e-4) for row in labels[Path(image).stem])


def test_a_table_names_frames_and_is_never_overwritten(run, video):
    folder = run(save_csv=True, source=str(video), exist_ok=True, name="one")
    first = (folder / "predictions.csv").read_bytes()
    run(save_csv=True, source=str(video), exist_ok=True, name="one", vid_stride=7)
    assert (folder / "predictions.csv").read_bytes() == first
    frames = [{row["frame"] for row in csv.DictReader(file.open())} for file in sorted(folder.glob("*.csv"))]
    assert sorted(map(len, frames)) == [1, 7] and len(list(folder.iterdir())) == 2  # no draft stays
