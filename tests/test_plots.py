"""Pictures: sizes of the files, what is drawn where, and that no global state changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from utils.drawing import charts
from utils.drawing.annotator import Annotator, colors, write_picture
from utils.drawing.charts import (
    name_in_chart,
    plot_confusion_matrix,
    plot_mc_curve,
    plot_pr_curve,
    plot_results,
    read_results,
    save_figure,
)
from utils.drawing.fonts import find_font
from utils.drawing.pictures import feature_visualization, output_to_target, plot_images, plot_labels
from utils.errors import InputError, MissingFileError
from utils.storage.files import ROOT

GREY = 114


def blank(height: int = 100, width: int = 120) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    height, width = cv2.imread(str(path)).shape[:2]
    return width, height


def test_twenty_different_colours_that_repeat() -> None:
    assert len({colors(index) for index in range(20)}) == 20
    assert colors(23) == colors(3) and colors(3, True) == colors(3)[::-1]
    assert all(0 <= value <= 255 for index in range(20) for value in colors(index))


def test_box_and_plate_are_drawn() -> None:
    image = blank()
    annotator = Annotator(image, line_width=2)
    annotator.box_label([30.2, 40.0, 90, 80], "cat", color=(0, 0, 255))
    drawn = annotator.result()
    assert drawn is image  # in place
    assert drawn[60, 30].tolist() == [0, 0, 255] and drawn[60, 60].tolist() == [GREY] * 3
    assert (drawn[30:39, 30:50] == [0, 0, 255]).all(2).any() and (drawn[30:40, 30:60] == 255).all(2).any()
    assert (drawn[:10] == GREY).all()


def test_label_at_the_border_stays_inside() -> None:
    annotator = Annotator(blank(), line_width=2)
    annotator.box_label([80, 1, 119, 90], "a long name", color=(255, 0, 0))
    plate = (annotator.result() == [255, 0, 0]).all(2)
    assert plate[2:12, 40:60].any() and plate[:, :119].any()


@pytest.mark.parametrize(("label", "pil"), [("plain", False), ("plain", True), ("Größe é", False), ("口罩", False)])
def test_text_of_any_script_is_drawn(label: str, pil: bool) -> None:
    annotator = Annotator(blank(), line_width=2, font_size=16, pil=pil, example=label)
    annotator.box_label([10, 50, 100, 90], label, color=(0, 0, 0))
    assert (annotator.result()[25:50] == 255).any()
    annotator.text((-5, 95), label)  # partly and wholly outside: no error
    annotator.text((500, 500), label)


def test_accented_letters_are_not_question_marks() -> None:
    pictures = []
    for text in ("éèüñ", "????"):
        annotator = Annotator(blank(), font_size=20, pil=True, example="éèüñ?")
        annotator.text((5, 40), text)
        pictures.append(annotator.result())
    assert (pictures[0] != pictures[1]).any()


def test_default_font_is_kept_where_it_has_the_characters() -> None:
    assert find_font("abc éß Ж")[1] == "DejaVu Sans"
    assert find_font("\U0010fffd")[1] == "DejaVu Sans"  # nobody has it


def test_default_line_width_follows_the_image() -> None:
    assert Annotator(blank(1000, 1400)).line_width == 4 and Annotator(blank()).line_width == 2


@pytest.mark.parametrize("wrong", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), "picture"])
def test_only_images_can_be_drawn_on(wrong: object) -> None:
    with pytest.raises(InputError, match="uint8 array of shape"):
        Annotator(wrong)  # type: ignore[arg-type]


def test_pictures_have_any_path_and_known_formats(tmp_path: Path) -> None:
    file = tmp_path / "bücher 口罩.png"
    write_picture(file, blank())
    assert (cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) == GREY).all()
    with pytest.raises(InputError, match="no encoder"):
        write_picture(tmp_path / "a.xyz", blank())
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_mosaic_is_filled_by_columns(tmp_path: Path) -> None:
    images = torch.zeros(5, 3, 96, 128)
    for index in range(5):
        images[index, 0] = (index + 1) / 5  # red
    targets = torch.tensor([[3, 0, 0.5, 0.5, 0.5, 0.5]])
    plot_images(images, targets, [f"é{i}.jpg" for i in range(5)], tmp_path / "batch.png", {0: "cat"})
    mosaic = cv2.imread(str(tmp_path / "batch.png"))
    assert mosaic.shape == (3 * 192 + 20, 3 * 256, 3)  # small images are twice as large; the legend has one line
    for index in range(5):
        left, top = index // 3 * 256, index % 3 * 192
        assert mosaic[top + 180, left + 20].tolist() == [0, 0, round((index + 1) / 5 * 255)]
    assert mosaic[400, 600].tolist() == [255] * 3  # the empty cells
    assert mosaic[48 + 60, 256 + 64].tolist() == list(colors(0, bgr=True))  # left edge of image 3's box
    assert mosaic[3 * 192 + 10, 15].tolist() == list(colors(0, bgr=True))  # the square of the legend


def test_labels_hide_no_object(tmp_path: Path) -> None:
    rows = [[0, 0, x, y, 0.04, 0.04] for x in np.arange(0.1, 0.9, 0.05) for y in np.arange(0.1, 0.9, 0.05)]
    rows.append([0, 1, 0.5, 0.96, 0.9, 0.02])
    images = torch.full((1, 3, 320, 320), GREY / 255)
    plot_images(images, torch.tensor(rows), None, tmp_path / "crowd.png", ["a long name", "b"])
    picture = cv2.imread(str(tmp_path / "crowd.png"))
    for _, class_index, x, y, _, _ in rows:  # its middle is as it was
        assert picture[round(640 * y), round(640 * x)].tolist() == [GREY] * 3 or class_index == 1
    plain = (picture[:640] == GREY).all(2).mean()
    plot_images(images, torch.tensor(rows[-1:]), None, tmp_path / "one.png", ["a long name", "b"])
    one = cv2.imread(str(tmp_path / "one.png"))
    assert (one[:640] == colors(1, True)).all(2).sum() > 2 * 0.9 * 640 + 80  # the box, and the plate of its label
    assert plain > 0.6


def test_normalised_and_pixel_boxes_give_one_picture(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 64, 64)
    normalised = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.3], [1, 0, 0.3, 0.6, 0.2, 0.2]])
    pixels = normalised * torch.tensor([1, 1, 64, 64, 64, 64])
    for name, targets in (("a", normalised), ("b", pixels)):
        plot_images(images, targets, None, tmp_path / f"{name}.png")
    assert (cv2.imread(str(tmp_path / "a.png")) == cv2.imread(str(tmp_path / "b.png"))).all()


def test_large_batches_are_cut_and_shrunk(tmp_path: Path) -> None:
    plot_images(torch.zeros(20, 3, 640, 512, dtype=torch.uint8), torch.zeros(0, 6), None, tmp_path / "batch.jpg")
    assert size_of(tmp_path / "batch.jpg") == (4 * 384, 1920)


def test_uncertain_predictions_are_left_out(tmp_path: Path) -> None:
    found = [torch.tensor([[10, 20, 40, 60, 0.9, 1], [50, 20, 60, 60, 0.25, 0]]), torch.zeros(0, 6)]
    rows = output_to_target(found)
    assert rows.shape == (2, 7) and rows[0] == pytest.approx([0, 1, 25, 40, 30, 40, 0.9])
    plot_images(torch.zeros(2, 3, 64, 64), rows, None, tmp_path / "pred.png", ["a", "b"])
    picture = cv2.imread(str(tmp_path / "pred.png"))
    assert (picture == colors(1, True)).all(2).any() and not (picture == colors(0, True)).all(2).any()
    assert output_to_target([]).shape == (0, 7) and len(output_to_target(found, max_det=1)) == 1


@pytest.mark.slow
def test_label_statistics(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.concatenate((generator.integers(0, 3, (300, 1)), generator.uniform(0.1, 0.5, (300, 4))), 1)
    plot_labels(labels, {0: "ä", 1: "b", 2: "c"}, tmp_path)
    assert size_of(tmp_path / "labels.jpg") == (1600, 1600)
    assert size_of(tmp_path / "labels_correlogram.jpg") == (2000, 2000)


@pytest.mark.slow
def test_single_label_and_none(tmp_path: Path) -> None:
    plot_labels(np.zeros((0, 5)), {0: "a"}, tmp_path)
    assert not list(tmp_path.iterdir())
    plot_labels(np.array([[4, 0.5, 0.5, 1.0, 1.0]]), {0: "a"}, tmp_path)  # a class beyond the names
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("class_count", [0, 1, 3, 25])
def test_curves_of_any_number_of_classes(tmp_path: Path, class_count: int) -> None:
    grid, names = np.linspace(0, 1, 1000), [f"class {index}" for index in range(class_count)]
    curves = np.linspace(1, 0, 1000) ** np.linspace(0.2, 3, class_count)[:, None]
    plot_pr_curve(grid, curves, np.full((class_count, 10), 0.5), tmp_path / "PR.png", names)
    plot_mc_curve(grid, curves, tmp_path / "F1.png", names, ylabel="F1")
    assert size_of(tmp_path / "PR.png") == size_of(tmp_path / "F1.png") == (2250, 1500)


@pytest.mark.slow
def test_confusion_matrix_is_coloured_by_share(tmp_path: Path) -> None:
    plot_confusion_matrix(np.array([[1.0, 0], [0, 0]]), ["one"], tmp_path / "matrix.png")
    picture = cv2.imread(str(tmp_path / "matrix.png"))
    assert picture.shape == (2250, 3000, 3)
    dark = (picture.max(2) < 120).nonzero()
    assert dark[0].size > 100_000 and dark[0].mean() < 1125  # the upper left quarter


@pytest.mark.slow
def test_results_of_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = ",".join(f"{name:>20}" for name in ("epoch", "train/box_loss", "metrics/mAP_0.5"))
    for name in ("results.csv", "results_old.csv"):
        (tmp_path / name).write_text(f"{header}\n0, 0.5,    nan\n1, 0.4, 0.7\n")
    columns = read_results(tmp_path / "results.csv")
    assert list(columns) == ["epoch", "train/box_loss", "metrics/mAP_0.5"]
    assert columns["train/box_loss"].tolist() == [0.5, 0.4]
    figures = []

    def save(figure: Figure, path: Path, dpi: int) -> None:
        figures.append(figure)
        save_figure(figure, path, dpi)

    monkeypatch.setattr(charts, "save_figure", save)
    plot_results(tmp_path / "results.csv")
    assert size_of(tmp_path / "results.png") == (2400, 1200)
    labels = ["results", "results, smoothed", "results_old", "results_old, smoothed"]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == labels
    assert figures[0].axes[5].get_xlabel() == "epoch" and figures[0].axes[8].get_ylim()[0] == 0
    colours = [line.get_color() for line in figures[0].axes[0].lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "epoch,loss\n0,word\n", "epoch,loss\n0,1,2\n", "epoch,loss\n0,1\n1\n"])
def test_other_csv_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match=r"not the results\.csv of a training run"):
        plot_results(tmp_path / "results.csv")


@pytest.mark.slow
def test_any_class_name_can_be_drawn(tmp_path: Path) -> None:
    names = ["plain", "$\\frac{", "US$ and A$", "\ud800", "\x1b[2J\n", "x" * 400, "a_b^c", "<b>&"]
    steps = np.linspace(0, 1, 5)
    curves = np.tile(steps, (len(names), 1))
    plot_pr_curve(steps, curves, curves, tmp_path / "pr.png", names)
    plot_mc_curve(steps, curves, tmp_path / "mc.png", names)
    plot_confusion_matrix(np.eye(len(names) + 1), names, tmp_path / "confusion.png")
    plot_labels(np.full((3, 5), 0.5), names, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    drawn = [*map(name_in_chart, names)]
    assert all("$" not in name.replace("\\$", "") and len(name) <= 2 * 40 for name in drawn) and drawn[0] == "plain"


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no results"):
        plot_results(tmp_path / "results.csv")


@pytest.mark.slow
def test_feature_maps(tmp_path: Path) -> None:
    maps = torch.rand(2, 40, 6, 7)
    feature_visualization(maps, "models.common.Conv", 3, save_dir=tmp_path / "photo")
    saved = np.load(tmp_path / "photo/stage3_Conv_features.npy")
    assert np.array_equal(saved, maps[0].numpy()) and size_of(tmp_path / "photo/stage3_Conv_features.png")[0] == 1600
    feature_visualization(maps, "models.yolo.Detect", 24, save_dir=tmp_path / "photo")
    feature_visualization(torch.rand(1, 8, 1, 1), "Conv", 9, save_dir=tmp_path / "photo")
    assert len(list((tmp_path / "photo").iterdir())) == 2


def test_nothing_global_changes_and_imports_are_light() -> None:
    script = """
import sys
import utils.drawing.annotator, utils.autoanchor, utils.callbacks, utils.drawing.charts
import utils.loggers, utils.loss, utils.metrics, utils.plots
heavy = {'matplotlib', 'seaborn', 'pandas', 'tensorboard', 'PIL', 'scipy'} & set(sys.modules)
assert not heavy, heavy
import matplotlib
before = matplotlib.rcParams.copy()
from utils.drawing.charts import name_in_chart, new_figure, save_figure
figure = new_figure(2, 2)
figure.add_subplot().set_title('é')
save_figure(figure, sys.argv[1], 50)
assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before
"""
    target = ROOT / "tests" / ".picture.png"
    try:
        done = subprocess.run([sys.executable, "-c", script, str(target)], cwd=ROOT, capture_output=True, text=True)
    finally:
        target.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
