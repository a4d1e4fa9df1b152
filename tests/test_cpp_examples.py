"""The C++ examples give the boxes of detect.py: built here where their libraries are; their common part always."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import export
from tests.colour_detector import save_colour_detector
from utils.augmentations import letterbox
from utils.general import non_max_suppression, scale_coords
from utils.storage.files import ROOT

EXAMPLES = ROOT / "examples/cpp"
LIBRARIES = "it is not installed where CMake looks, nor below CMAKE_PREFIX_PATH"
CONFIDENCE = 0.1
CLASSES = ["disc", "square"]  # of the tiny data set
NAMES = ["face", 'with "quotes", \\ and [brackets]: {}', "口罩", "mask 😷 é"]

# A network that reads its output from a file and writes its input into one
PROBE = """
#include "command.h"

struct Recorded : Network {
    std::vector<float> run(std::vector<float>& input) override {
        std::ofstream("input.bin", std::ios::binary).write(reinterpret_cast<char*>(input.data()), 4 * input.size());
        std::ifstream file("rows.bin", std::ios::binary | std::ios::ate);
        std::vector<float> rows(file.tellg() / 4);
        file.seekg(0).read(reinterpret_cast<char*>(rows.data()), 4 * rows.size());
        return rows;
    }
};

int main(int argc, char** argv) {
    return run_command(argc, argv, [](const std::string& path) {
        std::ifstream file(path);
        const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        auto entries = JsonReader(json).read_entries();
        auto network = std::make_unique<Recorded>();
        network->metadata = checked_metadata([&](const std::string& key) { return entries[key]; });
        return network;
    });
}
"""


def run(folder: Path, program: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


def boxes_of(output: str, names: list[str]) -> np.ndarray:
    """Rows (n, 6) of the printed boxes: x1, y1, x2, y2, score, class; their order is that of the lines."""
    rows = []
    for line in output.splitlines():
        words, _, corners = line.rpartition(" at ")
        name, _, score = words.rpartition(" ")
        rows.append([*map(float, corners.split()), float(score), names.index(name)])
    return np.array(rows).reshape(-1, 6)


def assert_same_boxes(boxes: np.ndarray, expected: np.ndarray) -> None:
    """Compare rows (n, 6) in any order: printed are whole pixels and hundredths of scores."""
    assert boxes.shape == expected.shape
    tolerances = np.array([1, 1, 1, 1, 0.011, 0.1])
    left = boxes
    for row in expected:
        distances = (np.abs(left - row) / tolerances).max(1)  # (n,)
        assert distances.min() <= 1, f"no box like {row}"
        left = np.delete(left, distances.argmin(), 0)


def image_of(file: Path) -> np.ndarray:
    """The picture in a file, BGR (H, W, 3)."""
    image = cv2.imread(str(file))
    assert image is not None, file
    return image


# -- the common part -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The common part as a program of its own, without OpenCV and any runtime."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if not compiler or os.name == "nt":
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cpp").write_text(PROBE)
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{EXAMPLES}",
        "probe.cpp",
        "-o",
        "probe",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "probe"


def write_case(folder: Path, rows: np.ndarray, **changes: object) -> Path:
    """Write rows.bin and the metadata of a file of 96 x 128 pixels (width, height); returns the latter's path."""
    rows.astype(np.float32).tofile(folder / "rows.bin")
    content = {"names": NAMES, "stride": 32, "imgsz": [128, 96], "batch": 1, "dynamic": False, "half": False,
               "nms": None, "anchors": None, "weights": 'a "b", {c}.pt'} | changes  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder / "metadata.json"


@pytest.mark.parametrize("size", [(96, 128), (200, 333), (77, 40), (40, 77), (1, 1), (500, 3)])
def test_letterbox_nms_and_names_are_those_of_detection(probe, tmp_path, size):
    rng = np.random.default_rng(size[0])
    width, height = size
    coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
    picture = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "picture.ppm"), picture)
    rows = np.hstack((rng.uniform(10, 90, (60, 2)), rng.uniform(10, 40, (60, 2)), rng.uniform(0, 1, (60, 5))))
    done = run(tmp_path, probe, write_case(tmp_path, rows), "picture.ppm", CONFIDENCE)
    assert done.returncode == 0, done.stderr

    made = np.fromfile(tmp_path / "input.bin", np.float32).reshape(3, 128, 96)
    canvas, _, _ = letterbox(picture, (128, 96), auto=False)
    differences = np.abs(made * 255 - canvas[..., ::-1].transpose(2, 0, 1)).round()
    assert differences.max() <= 1 and differences.mean() < 0.03  # OpenCV has other kernels for other processors

    (expected,) = non_max_suppression(torch.from_numpy(rows).float()[None], CONFIDENCE, 0.45)
    scale_coords((128, 96), expected[:, :4], (height, width))
    boxes = boxes_of(done.stdout, NAMES)
    assert len(boxes) > 9 and {*boxes[:, 5]} == {0, 1, 2, 3}
    assert (np.diff(boxes[:, 4]) <= 0).all()
    np.testing.assert_allclose(boxes[:, :4], expected[:, :4], atol=0.51)  # whole pixels are printed
    np.testing.assert_allclose(boxes[:, 4], expected[:, 4], atol=0.006)


def test_boxes_are_drawn(probe, tmp_path):
    cv2.imwrite(str(tmp_path / "black.ppm"), np.zeros((128, 96, 3), np.uint8))
    rows = np.array([[40, 60, 20, 30, 0.9, 1, 0, 0, 0], [90, 120, 40, 40, 0.8, 0, 1, 0, 0]])
    done = run(tmp_path, probe, write_case(tmp_path, rows), "black.ppm")
    assert done.stdout == f"face 0.90 at 30 45 50 75\n{NAMES[1]} 0.80 at 70 100 96 128\n"
    drawn = image_of(tmp_path / "detected.ppm")
    assert (drawn[60, 30] == (0, 200, 0)).all() and (drawn[60, 40] == 0).all() and (drawn[110, 71] == (0, 200, 0)).all()


def test_what_cannot_be_used_is_one_line(probe, tmp_path):
    cv2.imwrite(str(tmp_path / "picture.ppm"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "short.ppm").write_bytes(b"P6\n9 9\n255\nabc")
    good = np.zeros((0, 9))
    cases: list[tuple[dict[str, object], tuple[str, ...], str]] = [
        ({"nms": {"conf_thres": 0.1}}, (), "exported with --nms, --raw-heads or --batch-size: leave that out"),
        ({"anchors": [[[1, 2]]]}, (), "exported with --nms, --raw-heads"),
        ({"batch": 4}, (), "exported with --nms, --raw-heads or --batch-size"),
        ({"names": []}, (), "no class names and image size: it was not written by export.py"),
        ({}, ("absent.ppm",), "cannot read absent.ppm: this program was built without OpenCV"),
        ({}, ("short.ppm",), "cannot read short.ppm"),
        ({}, ("picture.ppm", "much"), "expected a number from 0 to 1, got much"),
        ({}, ("picture.ppm", "0.5", "1.5"), "expected a number from 0 to 1, got 1.5"),
    ]
    for changes, words, message in cases:
        done = run(tmp_path, probe, write_case(tmp_path, good, **changes), *(words or ("picture.ppm",)))
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("error: ")
        assert message in done.stderr and done.stderr.count("\n") == 1
    for text in ("", "{", '{"names": ["a', '{"names" 1}', "[1]", '{"a": "\\u12'):
        (tmp_path / "metadata.json").write_text(text)
        done = run(tmp_path, probe, "metadata.json", "picture.ppm")
        assert done.returncode == 1 and done.stderr.startswith("error: cannot use metadata.json: "), text
    assert "usage: " in run(tmp_path, probe, "metadata.json").stderr


# -- with the runtimes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which CMake has built the examples whose libraries it finds."""
    if not shutil.which("cmake") or not (shutil.which("g++") or shutil.which("c++")):
        pytest.skip("no CMake or no C++ compiler")
    folder = tmp_path_factory.mktemp("build")
    for command in (["cmake", "-S", str(EXAMPLES), "-B", str(folder)], ["cmake", "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector that finds discs and squares by their colours."""
    return save_colour_detector(tmp_path_factory.mktemp("example") / "stock.pt")


@pytest.mark.parametrize(
    ("name", "package", "include"), [("onnxruntime_detect", "onnxruntime", "onnx"), ("ncnn_detect", "ncnn", "ncnn")]
)
def test_the_examples_find_what_detect_finds(built, weights, tiny_dataset, tmp_path, name, package, include):
    program = built / name
    if not program.is_file():
        pytest.skip(f"{package} for C++: {LIBRARIES}")
    for needed in (package, "pnnx" if include == "ncnn" else "onnx"):
        pytest.importorskip(needed)
    (model,) = export.run(weights=str(weights), include=[include], imgsz=128, data=str(tiny_dataset))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for file in sorted((tiny_dataset.parent / "images/val").glob("*.jpg")):
        for suffix in ("png", "ppm"):  # for detect.py, and for programs with and without OpenCV
            cv2.imwrite(str(pictures / f"{file.stem}.{suffix}"), image_of(file))
    folder = detect.run(
        weights=str(model), source=str(pictures), project=str(tmp_path), save_txt=True, save_conf=True, nosave=True,
        conf_thres=CONFIDENCE,
    )  # fmt: skip
    count = 0
    for file in sorted(pictures.glob("*.ppm")):
        done = run(tmp_path, program, model, file, CONFIDENCE)
        assert done.returncode == 0, done.stderr
        boxes = boxes_of(done.stdout, CLASSES)
        assert_same_boxes(boxes, recorded_boxes(folder / "labels" / f"{file.stem}.txt", file))
        count += len(boxes)
    assert count > 5
    done = run(tmp_path, program, tmp_path / "absent", file)
    assert done.returncode == 1 and done.stderr.startswith("error: cannot use ")
    if "OpenCV_DIR-NOTFOUND" not in (built / "CMakeCache.txt").read_text():
        check_pictures_and_videos(tmp_path, program, model, file.with_suffix(".png"))


def recorded_boxes(labels: Path, picture: Path) -> np.ndarray:
    """Rows (n, 6) of a label file of detect.py, in pixels; without detections there is none."""
    height, width = image_of(picture).shape[:2]
    rows = np.loadtxt(labels, ndmin=2) if labels.is_file() else np.zeros((0, 6))
    centre, sides = rows[:, 1:3] * (width, height), rows[:, 3:5] * (width, height)
    return np.column_stack((centre - sides / 2, centre + sides / 2, rows[:, 5], rows[:, 0]))


def check_pictures_and_videos(folder: Path, program: Path, model: Path, picture: Path) -> None:
    """What a program built with OpenCV can do, too: other pictures, names at boxes, videos."""
    image = image_of(picture)
    done = run(folder, program, model, picture)
    assert done.stdout and image_of(folder / "detected.jpg").shape == image.shape
    video = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, image.shape[1::-1])
    for _ in range(3):
        video.write(image)
    video.release()
    frames = run(folder, program, model, "clip.avi")
    assert frames.returncode == 0 and "3 frames, " in frames.stderr
    assert {line.split(" ", 2)[1] for line in frames.stdout.splitlines()} == {"0:", "1:", "2:"}
    assert "cannot read absent.avi" in run(folder, program, model, "absent.avi").stderr
