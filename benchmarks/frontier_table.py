"""Table and picture of the cells of benchmarks/frontier.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune_tools.report.table import aligned, shown
from utils.drawing.charts import new_figure, save_figure

RUNTIMES = ("torch", "onnxruntime", "openvino")
SIZE = 640  # pixels, for which operations are counted


@dataclass
class Cell:
    """One method at one target; one that it could not reach has a ``problem`` instead of figures."""

    method: str
    flops: float  # target: share of the base's operations
    parameters: int = 0
    gflops: float = 0.0
    pruned_map50: float | None = None
    pruned_map: float | None = None
    map50: float | None = None  # after fine-tuning
    map: float | None = None
    milliseconds: dict[str, float] | None = None  # by runtime
    base_milliseconds: dict[str, float] | None = None  # timed in turns with these
    problem: str = ""


def as_table(cells: list[Cell], base: tuple[float, float]) -> str:
    """Return all cells as Markdown; times are in milliseconds, and as a share of the base's."""
    head = ("operations", "method", "params", "GFLOPs", "pruned", "fine-tuned", *(f"ms, {name}" for name in RUNTIMES))
    lines = [head]
    for cell in cells:
        target = f"{cell.flops - 1:+.0%}"
        if cell.problem:
            lines.append((target, cell.method, "-", "-", "not reached", *["-"] * (len(head) - 5)))
            continue
        ours = cell.milliseconds or {}
        base_times = cell.base_milliseconds or {}
        times = [
            f"{ours[name]:.1f} ({ours[name] / base_times[name]:.2f})" if name in ours else "-" for name in RUNTIMES
        ]
        pruned = f"{shown(cell.pruned_map50, '.3f')} / {shown(cell.pruned_map, '.3f')}"
        tuned = f"{shown(cell.map50, '.3f')} / {shown(cell.map, '.3f')}"
        lines.append((target, cell.method, f"{cell.parameters:,}", f"{cell.gflops:.2f}", pruned, tuned, *times))
    return f"{aligned(lines)}\n\nmAP50 / mAP50-95 of the base: {base[0]:.3f} / {base[1]:.3f}"


def draw(cells: list[Cell], base: tuple[float, float], base_gflops: float, path: Path) -> None:
    """Draw mAP50-95 over GFLOPs, a line for each method: after fine-tuning solid, right after pruning dotted."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for method in dict.fromkeys(cell.method for cell in cells):
        reached = sorted((cell for cell in cells if cell.method == method and not cell.problem), key=lambda c: c.gflops)
        if not reached:
            continue
        operations = [cell.gflops for cell in reached]
        (line,) = axes.plot(operations, [cell.map or 0.0 for cell in reached], marker="o", label=method)
        before = [cell.pruned_map or 0.0 for cell in reached]
        axes.plot(operations, before, marker=".", linestyle=":", color=line.get_color())
    axes.plot([base_gflops], [base[1]], marker="*", markersize=12, color="black", linestyle="", label="base")
    axes.set_xlabel(f"GFLOPs at {SIZE} pixels")
    axes.set_ylabel("mAP50-95")
    axes.set_title("fine-tuned (solid) and right after pruning (dotted)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path, dpi=150)
