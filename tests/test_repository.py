"""The repository itself: its YAML files, its requirements, links in its texts, and nothing that names one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from utils.storage.files import ROOT, read_yaml

HYPERPARAMETERS = {
    "lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "box", "cls",
    "cls_pw", "obj", "obj_pw", "iou_t", "anchor_t", "fl_gamma", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate",
    "scale", "shear", "perspective", "flipud", "fliplr", "mosaic", "mixup", "copy_paste",
}  # fmt: skip
PACKAGES = {"cv2": "opencv-python", "yaml": "pyyaml", "PIL": "pillow"}  # where the import name differs
OPTIONAL = {
    "albumentations",
    "mkdocs",
    "onnxruntime",
    "setuptools",
    "torch_pruning",
    "yt_dlp",
}  # used when the user has it, and the program says so when it is missing; setuptools builds the package
LONGEST_FILE = 400  # lines, tests left out
PLACES = ("/" + "home/", "/" + "root/", "/" + "Users/", "C:" + "\\Users", "/" + "work/", "/" + "tmp/")


def tracked_files() -> list[Path]:
    """Return the files that git tracks or would track; skip the test where this is no git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def text_files() -> list[tuple[Path, str]]:
    """Return the tracked files that are text, with their content."""
    suffixes = {".py", ".md", ".yaml", ".toml", ".txt", ""}
    return [(path, path.read_text(encoding="utf-8")) for path in tracked_files() if path.suffix in suffixes]


@pytest.mark.parametrize("path", sorted(ROOT.glob("data/hyps/*.yaml")), ids=lambda path: path.stem)
def test_hyperparameter_files_are_complete(path):
    values = read_yaml(path)
    assert set(values) - {"anchors"} == HYPERPARAMETERS
    assert all(isinstance(value, (int, float)) for value in values.values())


def test_all_published_hyperparameter_files_are_there():
    names = {path.name for path in ROOT.glob("data/hyps/*.yaml")}
    assert names >= {f"hyp.{name}.yaml" for name in ("scratch-low", "scratch-med", "scratch-high", "VOC", "Objects365")}
    low = read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml")
    assert (low["lr0"], low["cls"], low["scale"], low["mixup"]) == (0.01, 0.5, 0.5, 0.0)
    assert read_yaml(ROOT / "data/hyps/hyp.VOC.yaml")["anchors"] == 3.412


@pytest.mark.parametrize("path", sorted(ROOT.glob("data/*.yaml")), ids=lambda path: path.stem)
def test_data_set_files_name_their_classes_in_order(path):
    description = read_yaml(path)
    assert {"path", "train", "val", "names"} <= set(description)
    assert list(description["names"]) == list(range(len(description["names"])))
    assert description.get("nc", len(description["names"])) == len(description["names"])


def test_coco_has_its_eighty_classes():
    for name in ("coco", "coco128"):
        names = read_yaml(ROOT / f"data/{name}.yaml")["names"]
        assert (len(names), names[0], names[17], names[79]) == (80, "person", "horse", "toothbrush")


def test_every_import_is_a_requirement():
    listed = re.findall(r"^([A-Za-z0-9_-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    allowed = {name.lower() for name in listed} | set(sys.stdlib_module_names) | OPTIONAL
    allowed |= {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    for path in tracked_files():
        if path.suffix != ".py" or "tests" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.split(".")[0]
                assert PACKAGES.get(top, top).lower() in allowed, f"{path.name} imports {module}"


def test_every_required_package_is_imported_somewhere():
    listed = re.findall(r"^([A-Za-z0-9_-]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in tracked_files()
        if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts
    )
    modules = {package: module for module, package in PACKAGES.items()} | {"tensorboard": "torch.utils.tensorboard"}
    unused = [
        name for name in listed if not re.search(rf"^\s*(import|from) {modules.get(name, name)}\b", code, re.MULTILINE)
    ]
    assert unused == []


def test_files_stay_readable():
    code = [
        (path, text)
        for path, text in text_files()
        if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts
    ]
    long = {path.name: text.count("\n") for path, text in code}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST_FILE}


def test_nothing_names_a_place_on_one_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if any(re.search(rf"(?<![\w.]){re.escape(place)}", line) for place in PLACES)
    ]
    assert not found


def test_links_in_texts_lead_somewhere():
    for path, text in text_files():
        if path.suffix == ".md":
            targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text) + re.findall(r'src="([^":]+)"', text)
            missing = [target for target in targets if not (path.parent / target).exists()]
            assert not missing, f"{path.name} links to {missing}"
