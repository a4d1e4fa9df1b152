"""The report of a pruning: one page that needs nothing else, and the same figures as JSON."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from prune_tools.finetune import FinetuneOptions
from prune_tools.options import PruneOptions
from prune_tools.pipeline_options import STEPS, PipelineOptions
from prune_tools.pipeline_report import report_of
from prune_tools.report import page, pictures
from prune_tools.report.pictures import draw_gammas, gamma_histogram, spread
from prune_tools.report.report import Report
from prune_tools.report.table import Row, best_model, tuning_verdict
from prune_tools.survey import sensitivity, sweep
from prune_tools.survey.options import SensitivityOptions, SweepOptions
from prune_tools.survey.record import Point, find_surveys
from prune_tools.train_sparity import SparseOptions
from tests.pruning_networks import thin
from utils.checkpoint import save_checkpoint
from utils.commands.options import build, command_line, parse, to_dict
from utils.errors import InputError
from utils.storage.files import write_json, write_yaml
from utils.training.options import TrainOptions
from utils.version import PROGRAM, __version__

HOSTILE = "<script>alert(1)</script> & 'x\".pt"


def survey_contents() -> dict[str, dict]:
    """A sweep with a cliff and an analysis with a layer to protect, as in their JSON files."""
    swept = [
        Point("", ratio, 10, 100, 1.0, 0, 0, 0.5, value, 3.0, 1.0)
        for ratio, value in ((0, 0.4), (0.1, 0.4), (0.2, 0.1))
    ]
    alone = [Point("", 0.0, 10, 100, 1.0, 0, 0, 0.5, 0.4), *(Point(name, 0.5, 9, 90, 0.9, 0, 0, 0.5, value)
             for name, value in (("model.1.conv", 0.2), ("model.2.cv1.conv", 0.4)))]  # fmt: skip
    concluded = {
        "sweep": (swept, sweep.conclude(swept, build(SweepOptions))[0]),
        "sensitivity": (alone, sensitivity.conclude(alone, build(SensitivityOptions))[0]),
    }
    return {
        kind: {"options": {}, "points": [asdict(point) for point in points], "conclusion": conclusion, "command": kind}
        for kind, (points, conclusion) in concluded.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a report with everything in it."""
    rows = [
        Row("before", 0.9, 0.8, 0.75, 0.41, 1_766_623, 4.2, 20.0, HOSTILE + 90 * "x"),
        Row("pruned", 0.8, 0.7, 0.70, 0.37, 900_000, 2.1, 12.0, "pruned_model.pt"),
    ]
    picture = np.zeros((600, 600, 3), np.uint8)
    report = Report(
        title=f"Pruning of {HOSTILE}",
        rows=rows,
        widths=({"model.0.bn": 16, "model.1.bn": 32}, {"model.0.bn": 16, "model.1.bn": 8}),
        gammas=gamma_histogram({"stays": torch.tensor([0.5, 1.0]), "goes": torch.tensor([0.0])}, 0.25),
        commands=["python prune_tools/prune.py --percent 0.3"],
        export="python export.py --weights pruned_model.pt --include onnx",
        notes=["a note"],
        classes={0: "face", 1: "c" * 90},
        surveys=survey_contents(),
        images=["a.jpg", f"{'b' * 90}.jpg"],
        detections={"before": [picture, picture], "pruned": [picture, picture]},
    )
    place = tmp_path_factory.mktemp("report")
    report.save(place)
    return place


class Page(HTMLParser):
    """Elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_page(page: Page) -> None:
    """Pictures that can be decoded, tables with their figures, nothing from elsewhere."""
    import cv2

    assert page.open == []
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 3 + 4
    for source in sources:
        kind, content = source.split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None and max(picture.shape) > 100
        assert kind == "data:image/png" or picture.shape == (480, 480, 3)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == 4 and not {"script", "link", "iframe"} & set(names)
    assert not any("href" in attributes for _, attributes in page.tags)
    for expected in ("mAP50-95", "1,766,623", "model.1.bn", "25%", "--percent 0.3", "The cliff", "model.1.conv (0.200)",
                     "a note", "--include onnx", "face", PROGRAM, __version__, "Python", "torch", HOSTILE,
                     "a.jpg"):  # fmt: skip
        assert expected in page.text, expected


@pytest.mark.slow
def test_the_page_needs_nothing_else(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    check_page(Page(text))
    assert "<script" not in text and not re.search(r"https?://|url\(|@import", text)
    assert "width=device-width" in text and "@media print" in text


def test_chromium_shows_it(folder):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("Debian's chromium is not installed")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", (folder / "report.html").as_uri()],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_page(Page(done.stdout))


def test_the_style_breaks_long_words_and_lets_tables_scroll():
    style = page.PAGE.template.partition("<style>")[2].partition("</style>")[0]
    rules = dict(re.findall(r"^([^@\n{]+?) \{([^}]*)\}", style, re.MULTILINE))
    assert "overflow-wrap: anywhere" in rules["body"] and "overflow-x: auto" in rules[".scroll"]
    assert "white-space: pre-wrap" in rules["pre"] and "minmax(0, 1fr)" in rules["dl"] + rules[".pair"]
    table = page._table([("a", "b"), ("1", "2")])
    assert table.startswith('<div class="scroll"><table>')


def test_a_phone_shows_it_without_scrolling_sideways(folder, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("Debian's chromium is not installed")
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe id="f" src="{(folder / "report.html").as_uri()}" style="width:390px;height:900px"></iframe>'
        "<script>document.getElementById('f').onload = event => { const root = event.target.contentDocument"
        ".documentElement; document.title = `${root.scrollWidth} of ${root.clientWidth}` }</script>",
        encoding="utf-8",
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    done = subprocess.run(
        [browser, *flags, "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    widths = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert widths is not None and widths[1] == widths[2], done.stdout[-500:]


def cards_of(first: Row, last: Row) -> list[str]:
    """The class of each card of a page."""
    return re.findall(r'<div class="(\w+)"><b>', page._cards(asdict(first), asdict(last)))


def test_losses_and_gains_have_their_colours():
    before = Row("base", 0.5, 0.5, 0.5, 0.4, 100, 4.0, 20.0, "a.pt")
    after = Row("pruned", 0.5, 0.5, 0.4, 0.45, 50, 4.0, 25.0, "b.pt")
    assert cards_of(before, after) == ["gain", "same", "loss", "loss", "gain"]  # parameters, GFLOPs, time, mAP50, mAP
    style = page.PAGE.template
    assert ".cards .loss b { color: var(--loss); }" in style and "--loss: #c62f2f" in style


@pytest.mark.parametrize(("tuned", "is_said"), [(0.39, True), (0.40, True), (0.41, False)])
def test_fine_tuning_that_did_not_help_is_named(tuned, is_said):
    rows = [Row("base", 0, 0, 0, 0.5, 9, 1, 1, "a.pt"), Row("pruned", 0, 0, 0, 0.4, 5, 1, 1, "<b>.pt")]
    rows.append(Row("finetuned", 0, 0, 0, tuned, 5, 1, 1, "c.pt"))
    shown = page._verdict([asdict(row) for row in rows])
    assert (f"mAP50-95 is {tuned:.3f}, and it was 0.400" in shown and "Use &lt;b&gt;.pt" in shown) == is_said
    assert best_model(rows).weights == ("<b>.pt" if is_said else "c.pt") and best_model(rows[:2]).weights == "<b>.pt"
    assert bool(shown) == is_said and not tuning_verdict(rows[:2]) and not tuning_verdict(rows[:1])


def test_no_outline_of_the_gammas_hides_another(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, *_: figures.append(figure))
    gammas = {"base": torch.ones(500), "sparse": torch.cat((torch.zeros(499), torch.ones(1)))}
    draw_gammas(gamma_histogram(gammas), tmp_path / "gammas.png")
    (axes,) = figures[0].axes
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 1  # a bin of one channel is seen
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert len(outlines) == 2 and len({tuple(patch.get_edgecolor()) for patch in outlines}) == 2
    assert all(patch.get_alpha() < 0.2 for patch in axes.patches if patch.get_fill())


@pytest.mark.slow
def test_json_holds_the_same_figures(folder):
    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [step["parameters"] for step in figures["steps"]] == [1_766_623, 900_000]
    assert figures["layers"][1] == {"name": "model.1.bn", "before": 32, "after": 8}
    assert sum(figures["gammas"]["counts"]["stays"]) == 2 and figures["gammas"]["threshold"] == 0.25
    assert figures["sweep"]["conclusion"]["cliff"] == [0.1, 0.2]
    assert figures["sensitivity"]["conclusion"]["sensitive"] == ["model.1.conv"]
    assert [name[-5:] for name in figures["images"]] == ["a.jpg", "b.jpg"] and figures["commands"]
    assert figures["versions"][PROGRAM] == __version__ and figures["versions"]["Python"]


def test_surveys_are_found_in_the_folder_or_where_they_were_named(tmp_path):
    sweeps = survey_contents()["sweep"]
    write_json(tmp_path / "sweep.json", sweeps)
    assert find_surveys(build(PruneOptions), tmp_path) == {"sweep": sweeps}
    assert find_surveys(build(PruneOptions), tmp_path / "elsewhere") == {}
    for given in (tmp_path, tmp_path / "sweep.json"):
        assert find_surveys(build(PruneOptions, sweep=str(given)), tmp_path / "elsewhere") == {"sweep": sweeps}
    with pytest.raises(InputError, match=r"there is no sensitivity\.json"):
        find_surveys(build(PruneOptions, sensitivity=str(tmp_path)), tmp_path)


def test_the_pictures_are_spread_over_the_images():
    assert spread([*"abcdefgh"], 4) == [*"aceg"] and spread([*"abc"], 5) == [*"abc"]


def test_a_command_line_is_read_back_as_the_same_options():
    options = build(
        PruneOptions, weights=["my model.pt"], target_flops="0.5", skip=["model.1?.*", "model.9"], fold=False
    )
    words = command_line("prune.py", PruneOptions, vars(options))
    assert parse(PruneOptions, "", shlex.split(words)[2:]) == options
    assert "--no-fold" in words and "'my model.pt'" in words and "--imgsz" not in words
    assert command_line("train.py", TrainOptions, vars(build(TrainOptions))) == "python train.py"


@pytest.mark.slow
@pytest.mark.parametrize("goal, threshold", [({"percent": 0.3}, True), ({"target_params": "0.5"}, False)])
def test_a_pipeline_reports_the_commands_of_its_steps(tmp_path, goal, threshold):
    options = build(PipelineOptions, weights="start.pt", **goal)
    folders = {step: tmp_path / step for step in STEPS}
    recorded = {
        "base": build(TrainOptions, weights="start.pt", resume="last.pt"),
        "sparse": build(SparseOptions, **options.of_penalty()),
        "finetuned": build(FinetuneOptions, weights="pruned.pt", teacher="base.pt"),
    }
    for step, chosen in recorded.items():
        folders[step].mkdir()
        write_yaml(folders[step] / "opt.yaml", to_dict(chosen))
    checkpoint = {"epoch": -1, "model": thin("yolov5n").float(), "ema": None, "optimizer": None, "opt": None}
    save_checkpoint(checkpoint, tmp_path / "model.pt")
    rows = [Row(step, 0.5, 0.5, 0.5, 0.5, 9, 1.0, 1.0, "model.pt") for step in STEPS]
    checkpoints = dict.fromkeys(STEPS, tmp_path / "model.pt")
    report = report_of(options, folders, checkpoints, rows, {})
    assert options.goal() in report.title and options.goal() in report.commands[0]
    assert report.commands[1:] == [  # the pruning of an earlier version has left no report
        "python train.py --weights start.pt",
        command_line("prune_tools/train_sparity.py", SparseOptions, to_dict(recorded["sparse"]) | {"hyp": None}),
        "python prune_tools/finetune.py --weights pruned.pt --teacher base.pt",
    ]
    assert set(report.gammas["counts"]) == {"base", "sparse"} and (report.gammas["threshold"] is not None) == threshold
