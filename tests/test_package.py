"""The package that pip installs: built from a copy of the checkout, and used by a process that sees nothing else."""

from __future__ import annotations

import json
import logging
import os
import pickletools
import re
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from models.loading import load_checkpoint
from models.yolo import DetectionModel
from tests.conftest import WIDE_MODEL, draw_tiny_dataset
from tests.pruning_networks import random_gammas
from utils.log import LOGGER, log_as_command
from utils.storage.files import ROOT
from yolov5_prune.__main__ import COMMANDS
from yolov5_prune.tree import FILES as TREE_FILES
from yolov5_prune.tree import FOLDERS, SCRIPTS, CheckoutFinder, renamed

SOURCES = ("data", "models", "prune_tools", "utils", "yolov5_prune")
FILES = (
    "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "requirements.txt", "requirements-export.txt",
    "docs/DATA.md",
)  # fmt: skip
OF_CHECKOUT = {*FOLDERS, *SCRIPTS, "hubconf", "benchmarks", "tests"}  # names that must not be importable at the top

OWN_IMPORT = re.compile(rf"^\s*(?:from|import) (?:{'|'.join((*FOLDERS, *SCRIPTS))})\b", re.MULTILINE)
FIXED_NAME = re.compile(r'__module__(?: = |\.startswith\()f?"(?:models|utils)\b')
EXAMPLE = re.compile(r'"""(?s:.*?)"""')  # docstrings, where code is an example

# Uses the package in the working folder, which has the data set tiny.yaml and the model start.pt
PROGRAM = """
import json, logging, sys
import yolov5_prune
silent = not logging.getLogger("yolov5").handlers
heavy = sorted({"torch", "numpy", "cv2", "matplotlib"} & set(sys.modules))
common = dict(data="tiny.yaml", imgsz=64, batch_size=4, workers=0, device="cpu")
trained = yolov5_prune.train(weights="start.pt", epochs=1, noplots=True, **common)
pruned = yolov5_prune.prune(trained.best, percent=0.3, reconstruct=0, noval=True, **common)
tuned = yolov5_prune.finetune(weights=pruned.pruned, epochs=1, noplots=True, **common)
measured = yolov5_prune.val("tiny.yaml", tuned.best, imgsz=64, workers=0, device="cpu", plots=False)
seen = yolov5_prune.detect(tuned.best, "images/val", imgsz=[64], device="cpu", nosave=True)
exported = yolov5_prune.export(tuned.best, include=["torchscript"], imgsz=[64])
model = yolov5_prune.load(exported[0], device="cpu")
import torch
from yolov5_prune.models.loading import load_checkpoint
torch.save({"model": load_checkpoint(tuned.best)["model"]}, "by_torch.pt")
top = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({
    "version": yolov5_prune.__version__, "file": yolov5_prune.__file__, "silent": silent, "heavy": heavy, "top": top,
    "folders": [str(result.folder) for result in (trained, pruned, tuned, seen)], "finished": trained.finished,
    "parameters": [pruned.before.parameters, pruned.after.parameters], "map50": [tuned.map50, measured.map50],
    "exported": [str(file) for file in exported], "model": type(model).__module__,
}))
"""


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, expected",
    [
        ("from utils.log import LOGGER\n", "from yolov5_prune.utils.log import LOGGER\n"),
        ("from data import scripts", "from yolov5_prune.data import scripts"),
        ("import val", "import yolov5_prune.scripts.val as val"),
        ("import os, train as t, sys", "import os, yolov5_prune.scripts.train as t, sys"),
        ("import train, val", "import yolov5_prune.scripts.train as train, yolov5_prune.scripts.val as val"),
        ("x = 'é'; from models import yolo", "x = 'é'; from yolov5_prune.models import yolo"),
        ("def f():\n    from export import (\n        run,\n    )\n", None),
        ("from utilsx import y\nimport dataclasses\nfrom . import utils\n'from utils.log import x'\n", "same"),
    ],
)
def test_import_statements_are_renamed_and_nothing_else(source: str, expected: str | None) -> None:
    if expected is None:
        expected = source.replace("export", "yolov5_prune.scripts.export")
    assert renamed(source) == (source if expected == "same" else expected)


def test_a_statement_that_binds_the_folder_is_refused() -> None:
    assert renamed("import utils.log as log") == "import yolov5_prune.utils.log as log"
    with pytest.raises(ValueError, match="line 2: write 'from"):
        renamed("\nimport utils.log")


def test_every_file_can_be_renamed_and_keeps_its_lines() -> None:
    for file in [*(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")), ROOT / "train.py"]:
        source = file.read_text(encoding="utf-8")
        result = renamed(source)
        assert result.count("\n") == source.count("\n")
        assert OWN_IMPORT.findall(EXAMPLE.sub("", result)) == [], file


def test_modules_are_named_in_a_way_that_holds_in_the_package() -> None:
    others = ("utils/commands/packages.py", "utils/dataset/own_augmentation.py")  # import other people's modules alone
    computed = {ROOT / name for name in ("utils/installation.py", *others)}
    for file in {file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")} - computed:
        source = file.read_text(encoding="utf-8")
        assert "import_module(" not in source, f"{file}: import_own of utils.installation finds the project's modules"
        assert not FIXED_NAME.search(source), f"{file}: see path_in_files of utils.installation"


def test_the_finder_knows_the_files_of_the_checkout() -> None:
    finder = CheckoutFinder(ROOT)
    files = {
        "yolov5_prune.utils.log": "utils/log.py",
        "yolov5_prune.models": "models/__init__.py",
        "yolov5_prune.scripts.train": "train.py",
        "yolov5_prune.library": "yolov5_prune/library.py",
    }
    assert {name: finder.file_of(name) for name in files} == {name: ROOT / file for name, file in files.items()}
    for other in ("yolov5_prune", "yolov5_prune.tree", "yolov5_prune.tests.slow", "yolov5_prune.utils.none", "utils"):
        assert finder.file_of(other) is None


def test_commands_are_those_of_the_project_table() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11 and newer
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {f"yolov5-{name}": f"yolov5_prune.{module}:cli" for name, module in COMMANDS.items()}
    programs = [*(ROOT / f"{name}.py" for name in SCRIPTS), *(ROOT / "data/scripts").glob("*.py")]
    programs += (ROOT / "prune_tools").glob("*.py")
    callable_ones = {file.stem.replace("_", "-") for file in programs if "\ndef cli() -> None:" in file.read_text()}
    assert callable_ones == set(COMMANDS)


# -- logging -----------------------------------------------------------------------------------------------------------


def bare_logger(patch: pytest.MonkeyPatch, root_handlers: list[logging.Handler]) -> logging.Logger:
    """Return the project's logger as it is in a program that has set up nothing but ``root_handlers``."""
    patch.setattr(logging.root, "handlers", root_handlers)  # within the test: pytest adds its own before each
    LOGGER.handlers = []
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True
    return LOGGER


def test_calls_from_python_log_as_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = bare_logger(monkeypatch, [])
    log_as_command()
    log_as_command()
    assert (len(logger.handlers), logger.level, logger.propagate) == (1, logging.INFO, False)


def test_a_level_that_the_caller_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = bare_logger(monkeypatch, [])
    logger.setLevel(logging.ERROR)
    log_as_command()
    assert (len(logger.handlers), logger.level) == (1, logging.ERROR)


@pytest.mark.parametrize("owner", ["root", "own"])
def test_handlers_of_the_caller_are_left_alone(monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    handlers: dict[str, list[logging.Handler]] = {"root": [], "own": []}
    handlers[owner] = [logging.NullHandler()]
    logger = bare_logger(monkeypatch, handlers["root"])
    logger.handlers = list(handlers["own"])
    log_as_command()
    assert (logger.handlers, logger.level, logger.propagate) == (handlers["own"], logging.NOTSET, True)


def test_the_handler_of_a_colab_notebook_is_not_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = bare_logger(monkeypatch, [logging.NullHandler()])
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    log_as_command()
    assert len(logger.handlers) == 1 and not logger.propagate


# -- the built package -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which a wheel, built from a source distribution of the checkout, has been installed."""
    pytest.importorskip("setuptools", reason="the package is built with setuptools, which is not installed here")
    folder = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns("__pycache__", "*.pt")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in (*FILES, *(f"{script}.py" for script in SCRIPTS)):
        (folder / "source" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    pack = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", pack], cwd=folder / "source", check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    wheel = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(archive)]
    subprocess.run(wheel, check=True, capture_output=True)
    install = [*pip, "install", *offline, "--no-compile", "--target", str(folder / "target")]
    subprocess.run([*install, *map(str, folder.glob("*.whl"))], check=True, capture_output=True)
    return folder / "target"


@pytest.fixture(scope="module")
def used(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Return the working folder of a process that has used the package, and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    draw_tiny_dataset(folder)
    torch.manual_seed(0)
    model = DetectionModel(WIDE_MODEL, ch=3, nc=2)
    model.names = ["disc", "square"]  # type: ignore[assignment]
    random_gammas(model)
    torch.save({"model": model.half()}, folder / "start.pt")
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", PROGRAM],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "log.txt").write_text(done.stderr, encoding="utf-8")
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_the_wheel_brings_one_package_with_its_data(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} - {"bin", "Scripts"}
    assert names == {"yolov5_prune"}
    assert {f"yolov5-{name}" for name in COMMANDS} <= {path.stem for path in installed.glob("[bS]*/*")}
    package = installed / "yolov5_prune"
    for file in ("models/yolov5n.yaml", "data/hyps/hyp.scratch-low.yaml", "prune_tools/report/page.html", *TREE_FILES):
        assert (package / file).read_bytes() == (ROOT / file).read_bytes()
    assert (package / "py.typed").is_file()


def test_importing_is_quick_and_silent_and_nothing_gets_in_the_way(installed: Path, used: tuple[Path, dict]) -> None:
    _, report = used
    assert Path(report["file"]) == installed / "yolov5_prune/__init__.py"
    assert report["silent"] and report["heavy"] == []
    assert OF_CHECKOUT.isdisjoint(report["top"])
    assert report["model"] == "yolov5_prune.models.autoshape"


def test_runs_lie_in_the_working_folder_and_log(used: tuple[Path, dict]) -> None:
    folder, report = used
    assert report["folders"] == ["runs/train/exp", "runs/val/exp", "runs/train/exp2", "runs/detect/exp"]
    assert report["finished"] and all((folder / name).is_dir() for name in report["folders"])
    before, after = report["parameters"]
    assert after < before
    assert report["map50"][0] == pytest.approx(report["map50"][1], abs=1e-3)
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "Next: yolov5-val --weights" in log and "python " not in log
    assert f"yolov5_prune.load({report['exported'][0]!r})" in log


def test_checkpoints_name_the_classes_of_yolov5(used: tuple[Path, dict]) -> None:
    folder, report = used
    for file in (Path(report["folders"][0], "weights/last.pt"), Path(report["folders"][1], "pruned_model.pt")):
        with zipfile.ZipFile(folder / file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            operations = list(pickletools.genops(archive.read(name)))
        classes = {str(argument).replace(" ", ".") for code, argument, _ in operations if code.name == "GLOBAL"}
        assert {"models.yolo.DetectionModel", "models.common.Conv", "models.yolo.Detect"} <= classes
        assert not any("yolov5_prune" in str(argument) for _, argument, _ in operations)
        assert type(load_checkpoint(folder / file)["model"]) is DetectionModel
    assert type(load_checkpoint(folder / "by_torch.pt")["model"]) is DetectionModel


def test_a_command_and_the_module_find_the_shipped_files(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "yolov5_prune", "groups", "--cfg", "models/yolov5n.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "normalised channels can be pruned in scope all" in done.stdout
    wrong = subprocess.run([*command[:3], "drain"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert wrong.returncode == 1 and "'drain' is not a command" in wrong.stderr
    helped = subprocess.run([*command[:3], "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert helped.returncode == 0 and "one of train, val, " in helped.stdout


# -- the image ---------------------------------------------------------------------------------------------------------


def is_sent(path: str, patterns: list[str]) -> bool:
    """Tell whether .dockerignore lets a path through: the last pattern that fits it or a folder above it decides."""
    sent = True
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for pattern in patterns:
        text = pattern.removeprefix("!")
        names = above if not text.startswith("**/") else parts
        if any(fnmatch(name, text.removeprefix("**/")) for name in names):
            sent = pattern.startswith("!")
    return sent


def test_the_image_gets_what_the_package_is_built_from() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert set(copied) == {*SOURCES, *FILES, *(f"{script}.py" for script in SCRIPTS)}
    assert all((ROOT / name).exists() for name in copied)
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()[1:]
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!") and "*" not in pattern} == set(copied)
    assert all(is_sent(name, patterns) for name in (*copied, "data/weights/drawn_faces.pt", "utils/log.py"))
    unwanted = ("runs/train/exp/weights/best.pt", "datasets/a.jpg", ".git/config", ".env", "utils/__pycache__/log.pyc")
    assert not any(is_sent(name, patterns) for name in (*unwanted, "models/mine.pt", "data/mine/labels.cache"))
