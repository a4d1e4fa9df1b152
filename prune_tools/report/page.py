"""The report as one self-contained HTML page: no network, no further files, no script.

The page is meant for phones and for print, so wide tables scroll (on paper they shrink) and pictures are embedded. Its
frame and style are in page.html, where $title, $about, $columns and $body are filled in.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from prune_tools.report import sensitivity_view, sweep_view
from prune_tools.report.table import Row, cells, tuning_verdict

MOST_LAYERS = 12  # rows of the table of sensitive layers
MOST_CLASSES = 20  # of the legend: then the colours repeat
EXPORT = (
    "For a device without PyTorch, export the model. --include takes onnx, openvino, ncnn, tflite, engine, coreml and "
    "torchscript; val.py and detect.py run the exported file as they run this one."
)
GAMMAS = (
    "Number of channels by |gamma|, on a logarithmic axis: those near zero are removed at little cost. Where an "
    "outline is above the other one, there are more channels of that size."
)

PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def render(figures: Mapping[str, Any], diagrams: Mapping[str, bytes], detections: Mapping[str, Sequence[bytes]]) -> str:
    """The page.

    Args:
        figures: the content of report.json.
        diagrams: PNG files by name: gammas, sweep, sensitivity.
        detections: by step, a JPEG file for each of ``figures['images']``.
    """
    steps = figures["steps"]
    sections = [
        _cards(steps[0], steps[-1]),
        _section("Steps", _steps(steps), _verdict(steps), _lines(figures["notes"])),
        _section("Export", _paragraph(EXPORT), _lines([figures["export"]])),
        _section("Detections", _legend(figures["classes"]), _detections(figures["images"], detections))
        if detections
        else "",
        _section(
            "Gammas",
            _picture(
                diagrams["gammas"],
                "image/png",
                "Histogram of the batch-norm gammas",
                GAMMAS,
            ),
        ),
        _sweep(figures["sweep"], diagrams),
        _sensitivity(figures["sensitivity"], diagrams),
        _section("Channels of each layer", _layers(figures["layers"])),
        _section("Commands", *(f"<pre>{escape(command)}</pre>" for command in figures["commands"])),
        _section("Versions", _versions(figures["versions"])),
    ]
    about = f"{steps[0]['weights']}, {figures['made']}"
    columns = str(max(len(detections), 1))
    return PAGE.substitute(
        title=escape(figures["title"]), about=escape(about), columns=columns, body="\n".join(filter(None, sections))
    )


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(filter(None, parts)) + "\n</section>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Head and rows of text as a table that scrolls on narrow screens."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return _scrolling(head, body)


def _scrolling(head: str, body: str) -> str:
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _picture(content: bytes, mime: str, text: str, caption: str = "") -> str:
    source = f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{escape(text)}">{below}</figure>'


def _lines(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _cards(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """The main figures, where they were measured: the last model compared with the first."""
    cards = []  # value, title, detail, class of the page's style
    costs = (
        ("parameters", "parameters", 1e-6, " M"),
        ("gflops", "GFLOPs", 1, ""),
        ("milliseconds", "time per image", 1, " ms"),
    )
    for name, title, scale, unit in costs:
        before, after = first[name], last[name]
        if after is not None:
            change = f"{after / before - 1:+.0%}" if before else "-"
            detail = f"{scale * before:.3g} → {scale * after:.3g}{unit}"
            cards.append((change, title, detail, _judgement(before - after)))
    for name, title in (("map50", "mAP50"), ("map", "mAP50-95")):
        before, after = first[name], last[name]
        if after is not None:
            change = f"{100 * (after - before):+.1f}"
            detail = f"{first['step']} {before:.3f}, {change} points"
            cards.append((f"{after:.3f}", title, detail, _judgement(round(after - before, 3))))
    items = (
        f'<div class="{judgement}"><b>{escape(value)}</b>{escape(title)}<span>{escape(detail)}</span></div>'
        for value, title, detail, judgement in cards
    )
    return '<div class="cards">\n' + "\n".join(items) + "\n</div>"


def _judgement(gain: float) -> str:
    """The style of a figure that has become better or worse by ``gain``."""
    return "gain" if gain > 0 else "loss" if gain < 0 else "same"


def _verdict(steps: Sequence[Mapping[str, Any]]) -> str:
    text = tuning_verdict([Row(**step) for step in steps])
    return f'<p class="warning">{escape(text)}</p>' if text else ""


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _legend(classes: Sequence[Mapping[str, Any]]) -> str:
    """The classes and the colours of their boxes."""
    items = (
        f'<span><i style="background:rgb({",".join(map(str, each["rgb"]))})"></i>{escape(each["name"])}</span>'
        for each in classes[:MOST_CLASSES]
    )
    return f'<p class="legend">{" ".join(items)}</p>' if classes else ""


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    return _table(cells([Row(**step) for step in steps]))


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    """A row for each layer, with a bar for the share of channels that was kept."""
    before = sum(layer["before"] for layer in layers)
    after = sum(layer["after"] for layer in layers)
    rows = [_layer(layer["name"], layer["before"], layer["after"]) for layer in layers]
    head = "".join(f"<th>{title}</th>" for title in ("layer", "before", "after", "kept", ""))
    return _scrolling(head, "\n".join([*rows, _layer("all", before, after)]))


def _layer(name: str, before: int, after: int) -> str:
    share = f"{after / before:.0%}"
    numbers = "".join(f"<td>{value}</td>" for value in (before, after, share))
    bar = f'<td class="bar"><div><i style="width:{share}"></i></div></td>'
    return f"<tr><td>{escape(name)}</td>{numbers}{bar}</tr>"


def _detections(images: Sequence[str], detections: Mapping[str, Sequence[bytes]]) -> str:
    """The same images with the detections of each model, side by side."""
    pairs = []
    for number, image in enumerate(images):
        shown = ""
        for step, files in detections.items():
            picture = _picture(files[number], "image/jpeg", f"{image}: detections of {step}")
            shown += f"<div>{picture}<span>{escape(step)}</span></div>"
        pairs.append(f'<figure><div class="pair">{shown}</div><figcaption>{escape(image)}</figcaption></figure>')
    return '<div class="pairs">\n' + "\n".join(pairs) + "\n</div>"


def _sweep(survey: Mapping[str, Any] | None, diagrams: Mapping[str, bytes]) -> str:
    if not survey:
        return ""
    return _section(
        "Sweep: how far can it be pruned?",
        _lines([survey["conclusion"]["text"]]),
        _picture(
            diagrams["sweep"],
            "image/png",
            "Accuracy and costs over the share that is removed",
            "Measured right after pruning, without training.",
        ),
        _table(sweep_view.table_rows(survey["points"])),
        _lines([survey["command"]]),
    )


def _sensitivity(survey: Mapping[str, Any] | None, diagrams: Mapping[str, bytes]) -> str:
    if not survey:
        return ""
    rows = sensitivity_view.table_rows(survey["points"])
    return _section(
        "Sensitivity: which layers matter most?",
        _lines([survey["conclusion"]["text"]]),
        _picture(diagrams["sensitivity"], "image/png", "mAP50-95 lost when a layer alone is pruned"),
        _table(rows[: MOST_LAYERS + 1]),
        _lines([survey["command"]]),
    )


def _versions(versions: Mapping[str, str]) -> str:
    items = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in versions.items())
    return "<dl>" + "".join(items) + "</dl>"
