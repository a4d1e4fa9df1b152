"""The examples of serving find what detect.py finds, without importing this repository."""

from __future__ import annotations

import ast
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import detect
import export
from tests.colour_detector import save_colour_detector
from utils.storage.files import ROOT

EXAMPLE = ROOT / "examples/onnxruntime_detect.py"
RAW_EXAMPLE = ROOT / "examples/onnxruntime_raw_heads.py"


@pytest.fixture(scope="module")
def graph(tmp_path_factory, tiny_dataset) -> Path:
    """The ONNX file of the detector that finds discs and squares by their colours."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    weights = save_colour_detector(tmp_path_factory.mktemp("example") / "stock.pt")
    return export.run(weights=str(weights), include=["onnx"], imgsz=128, data=str(tiny_dataset))[0]


@pytest.fixture(scope="module")
def raw_graph(graph, tiny_dataset) -> Path:
    """The same detector with raw heads."""
    weights = graph.with_suffix(".pt")
    return export.run(weights=str(weights), include=["onnx"], imgsz=128, data=str(tiny_dataset), raw_heads=True)[0]


def _example(path: Path = EXAMPLE) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", [EXAMPLE, RAW_EXAMPLE])
def test_the_example_stands_alone(path):
    imported = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == {"json", "sys", "cv2", "numpy", "onnxruntime"}
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("path, name", [(EXAMPLE, "graph"), (RAW_EXAMPLE, "raw_graph")])
def test_plain_onnxruntime_finds_what_detect_finds(path, name, request, graph, tiny_dataset, tmp_path):
    example = _example(path)
    source = tiny_dataset.parent / "images/val"
    folder = detect.run(
        weights=str(graph), source=str(source), project=str(tmp_path), save_txt=True, save_conf=True, nosave=True,
        conf_thres=0.1,
    )  # fmt: skip
    session = example.load(str(request.getfixturevalue(name)))
    boxes = 0
    for file in sorted(source.glob("*.jpg")):
        image = cv2.imread(str(file))
        found = example.detect(session, image, confidence=0.1)
        labels = folder / "labels" / f"{file.stem}.txt"
        expected = np.loadtxt(labels, ndmin=2) if labels.is_file() else np.zeros((0, 6))
        size = np.tile(image.shape[1::-1], 2)
        centre, sides = (found[:, :2] + found[:, 2:4]) / 2, found[:, 2:4] - found[:, :2]
        rows = np.column_stack((found[:, 5], np.hstack((centre, sides)) / size, found[:, 4]))
        assert rows.shape == expected.shape
        np.testing.assert_allclose(sorted(rows.tolist()), sorted(expected.tolist()), atol=0.01)
        boxes += len(rows)
    assert boxes > 5
    empty = example.detect(session, np.zeros((50, 70, 3), np.uint8), confidence=0.9)
    assert empty.shape == (0, 6)


def test_each_example_names_the_other_where_that_reads_the_file(graph, raw_graph, tiny_dataset):
    with pytest.raises(
        SystemExit, match=r"_raw\.onnx was exported with --raw-heads: run it with onnxruntime_raw_heads"
    ):
        _example().load(str(raw_graph))
    with pytest.raises(SystemExit, match=r"was not written by export\.py --raw-heads: use onnxruntime_detect\.py"):
        _example(RAW_EXAMPLE).load(str(graph))
    how = {"include": ["onnx"], "imgsz": 64, "data": str(tiny_dataset), "raw_heads": True, "half": True}
    weights = shutil.copy(graph.with_suffix(".pt"), graph.with_name("half_precision.pt"))
    with pytest.raises(SystemExit, match="exported with --half or --batch-size: this example needs an export without"):
        _example(RAW_EXAMPLE).load(str(export.run(weights=str(weights), **how)[0]))


def test_the_example_as_a_command(graph, tiny_dataset, tmp_path):
    picture = next((tiny_dataset.parent / "images/train").glob("*.jpg"))
    command = [sys.executable, str(EXAMPLE), str(graph), str(picture)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == f"{len(run.stdout.splitlines())} boxes, drawn in detected.jpg\n"
    assert cv2.imread(str(tmp_path / "detected.jpg")).shape == cv2.imread(str(picture)).shape


@pytest.fixture(scope="module")
def others(graph, tiny_dataset) -> dict[str, Path]:
    """Files that the examples do not read, by the flag that they were exported with."""
    found = {}
    for flag in ("nms", "half", "dynamic", "raw_heads"):
        weights = graph.with_name(f"{flag}.pt")
        shutil.copy(graph.with_suffix(".pt"), weights)
        (found[flag],) = export.run(
            weights=str(weights), include=["onnx"], imgsz=64, data=str(tiny_dataset), **{flag: True}
        )
    return found


def test_what_the_example_cannot_read_is_one_line(graph, others, tmp_path, capsys):
    example = _example()
    for flag in ("nms", "half"):
        with pytest.raises(SystemExit, match=rf"{flag}\.onnx was exported with --nms, --half or --batch-size"):
            example.load(str(others[flag]))
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for name in ("damaged.onnx", "absent.onnx"):
        with pytest.raises(SystemExit, match=rf"cannot load .*{name}"):
            example.load(str(tmp_path / name))
    example.detect(example.load(str(others["dynamic"])), np.zeros((50, 70, 3), np.uint8))  # at its --imgsz
    for words, message in (([str(graph), "absent.jpg"], "cannot read the image absent.jpg"), ([], "street.jpg")):
        run = subprocess.run([sys.executable, str(EXAMPLE), *words], cwd=tmp_path, capture_output=True, text=True,
                             check=False)  # fmt: skip
        assert run.returncode == 1 and message in run.stderr and "Traceback" not in run.stderr


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def page(tmp_path):
    """A function (model, image) -> the page's HTML after it has run them in a headless browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    library = Path(os.environ.get("ORT_WEB", ROOT / "node_modules/onnxruntime-web/dist"))
    if not browser:
        pytest.skip("no Chromium")
    if not (library / "ort.wasm.bundle.min.mjs").is_file():
        pytest.skip("no onnxruntime-web: npm install onnxruntime-web, or its dist folder as ORT_WEB")
    shutil.copy(ROOT / "examples/web/index.html", tmp_path)
    (tmp_path / "ort").symlink_to(library.resolve())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def show(model: Path, image: np.ndarray | None) -> str:
        shutil.copy(model, tmp_path / "model.onnx")
        (tmp_path / "image.png").unlink(missing_ok=True)
        if image is not None:
            cv2.imwrite(str(tmp_path / "image.png"), image)  # decoded alike everywhere
        address = f"http://127.0.0.1:{server.server_port}/index.html?ort=ort/&model=model.onnx&image=image.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--virtual-time-budget=60000", "--dump-dom", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout

    yield show
    server.shutdown()


def test_the_page_finds_what_plain_onnxruntime_finds(page, graph, tiny_dataset):
    import onnxruntime

    image = cv2.imread(str(next(file for file in sorted((tiny_dataset.parent / "images/train").glob("*.jpg")))))
    shown = page(graph, image)
    match = re.search(r'data-boxes="([^"]*)"', shown)
    assert match, shown[-500:]
    boxes = json.loads(html.unescape(match[1]))
    rows = np.array([[box[key] for key in ("x1", "y1", "x2", "y2", "score", "kind")] for box in boxes])
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    expected = _example().detect(session, image)
    assert len(expected) > 0 and rows.shape == expected.shape
    np.testing.assert_allclose(rows, expected, atol=0.5)


def test_what_the_page_cannot_run_is_one_line(page, graph, others):
    image = np.zeros((64, 64, 3), np.uint8)
    for flag, model in others.items():
        words = f"Error: the model was exported with --{flag.replace('_', '-')}: export it without"
        assert words in page(model, image)
    assert "Error: no image at image.png (status 404)" in page(graph, None)
