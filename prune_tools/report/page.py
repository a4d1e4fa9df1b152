"""The report as one HTML page that needs nothing else: no network, no files beside it, no script.

It is read on phones and printed, so wide tables scroll (on paper they shrink) and pictures are embedded.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

MOST_LAYERS = 12  # rows of the table of sensitive layers

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1f2933; --faint: #66727f; --line: #dde3e9; --accent: #1b9e77; }
* { box-sizing: border-box; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid var(--line); }
p.about, figcaption, .cards span { color: var(--faint); font-size: .875rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.cards div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.cards b { display: block; font-size: 1.5rem; line-height: 1.3; color: var(--accent); }
.cards span { display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--faint); font-weight: 600; }
td.bar { width: 30%; min-width: 5rem; }
td.bar div { background: var(--line); height: .7rem; border-radius: .2rem; }
td.bar i { display: block; background: var(--accent); height: 100%; border-radius: .2rem; }
figure { margin: 0 auto 1rem; max-width: 44rem; }
figure img { display: block; width: 100%; height: auto; }
.pair { display: grid; grid-template-columns: repeat($columns, minmax(0, 1fr)); gap: .4rem; }
.pair figure { margin: 0; }
.pair img { border-radius: .3rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .6rem 1.2rem; }
.pair span { font-size: .875rem; }
pre { background: #f4f6f8; border-radius: .4rem; padding: .7rem; font-size: .8125rem; white-space: pre-wrap;
      overflow-wrap: anywhere; margin: .5rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .875rem; margin: .5rem 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; }
  th, td { padding: .12rem .3rem; white-space: normal; }
  h2 { break-after: avoid; }
  figure, tr, .cards div, pre { break-inside: avoid; }
  figure { max-width: 13cm; }
  figure img { width: auto; max-width: 100%; max-height: 22cm; margin: 0 auto; }
  .pair img { width: 100%; }
  .pairs { grid-template-columns: 1fr 1fr; }
}
</style>
</head>
<body>
<h1>$title</h1>
<p class="about">$about</p>
$body
</body>
</html>
""")


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
        _section("Steps", _steps(steps), _lines(figures["notes"])),
        _section("Detections", _detections(figures["images"], detections)) if detections else "",
        _section("Gammas", _picture(diagrams["gammas"], "image/png", "Histogram of the batch-norm gammas",
                                    "How many channels have which |gamma|: what is near zero goes at little cost.")),
        _sweep(figures["sweep"], diagrams),
        _sensitivity(figures["sensitivity"], diagrams),
        _section("Channels of each layer", _layers(figures["layers"])),
        _section("Commands", *(f"<pre>{escape(command)}</pre>" for command in figures["commands"])),
        _section("Versions", _versions(figures["versions"])),
    ]  # fmt: skip
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


def _picture(content: bytes, kind: str, text: str, caption: str = "") -> str:
    source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{escape(text)}">{below}</figure>'


def _lines(lines: Sequence[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _cards(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """The figures that matter and were measured, the last model compared with the first."""
    cards = []
    for name, title in (("parameters", "parameters"), ("gflops", "GFLOPs"), ("milliseconds", "time per image")):
        before, after = first[name], last[name]
        if after is None:
            continue
        change = f"{after / before - 1:+.0%}" if before else "-"
        scale, unit = {"parameters": (1e-6, " M"), "gflops": (1, ""), "milliseconds": (1, " ms")}[name]
        cards.append((change, title, f"{scale * before:.3g} → {scale * after:.3g}{unit}"))
    for name, title in (("map50", "mAP50"), ("map", "mAP50-95")):
        if last[name] is None:
            continue
        change = 100 * (last[name] - first[name])
        cards.append((f"{last[name]:.3f}", title, f"{first['step']} {first[name]:.3f}, {change:+.1f} points"))
    items = (
        f"<div><b>{escape(value)}</b>{escape(title)}<span>{escape(detail)}</span></div>"
        for value, title, detail in cards
    )
    return '<div class="cards">\n' + "\n".join(items) + "\n</div>"


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    from prune_tools.report.table import Row, cells

    return _table(cells([Row(**step) for step in steps]))


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    """A row for each layer with a bar for what stays."""
    totals = {"name": "all", **{key: sum(layer[key] for layer in layers) for key in ("before", "after")}}
    rows = []
    for layer in (*layers, totals):
        share = layer["after"] / layer["before"]
        bar = f'<td class="bar"><div><i style="width:{share:.0%}"></i></div></td>'
        numbers = "".join(f"<td>{value}</td>" for value in (layer["before"], layer["after"], f"{share:.0%}"))
        rows.append(f"<tr><td>{escape(layer['name'])}</td>{numbers}{bar}</tr>")
    head = "".join(f"<th>{title}</th>" for title in ("layer", "before", "after", "kept", ""))
    return _scrolling(head, "\n".join(rows))


def _detections(images: Sequence[str], detections: Mapping[str, Sequence[bytes]]) -> str:
    """The same images with what each model finds, side by side."""
    pairs = []
    for number, image in enumerate(images):
        shown = "".join(
            f"<div>{_picture(files[number], 'image/jpeg', f'{image}: what {step} detects')}"
            f"<span>{escape(step)}</span></div>"
            for step, files in detections.items()
        )
        pairs.append(f'<figure><div class="pair">{shown}</div><figcaption>{escape(image)}</figcaption></figure>')
    return '<div class="pairs">\n' + "\n".join(pairs) + "\n</div>"


def _sweep(survey: Mapping[str, Any] | None, diagrams: Mapping[str, bytes]) -> str:
    from prune_tools.report.sweep_view import table_rows

    if not survey:
        return ""
    return _section(
        "Sweep: how far can it be pruned?",
        _lines([survey["conclusion"]["text"]]),
        _picture(diagrams["sweep"], "image/png", "Accuracy and costs over the share that is removed",
                 "Measured right after pruning, without training."),
        _table(table_rows(survey["points"])),
        _lines([survey["command"]]),
    )  # fmt: skip


def _sensitivity(survey: Mapping[str, Any] | None, diagrams: Mapping[str, bytes]) -> str:
    from prune_tools.report.sensitivity_view import table_rows

    if not survey:
        return ""
    rows = table_rows(survey["points"])
    return _section(
        "Sensitivity: which layers matter most?",
        _lines([survey["conclusion"]["text"]]),
        _picture(diagrams["sensitivity"], "image/png", "mAP50-95 lost when a layer alone is pruned"),
        _table(rows[: MOST_LAYERS + 1]),
        _lines([survey["command"]]),
    )


def _versions(versions: Mapping[str, str]) -> str:
    return (
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in versions.items()) + "</dl>"
    )
