"""What a pruning gained and lost, as text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from utils.model_info import count_parameters, gflops


def layer_widths(model: nn.Module) -> dict[str, int]:
    """Channels of every batch norm, by module path, in the model's order."""
    return {path: module.num_features for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def layer_table(before: nn.Module, after: nn.Module) -> str:
    """A row for each batch norm: name, original channels, remaining channels, share that remains."""
    original, remaining = layer_widths(before), layer_widths(after)
    width = max(len("layer"), *map(len, original))
    lines = [f"{'layer':<{width}}  {'original':>8}  {'remaining':>9}  {'kept':>6}"]
    lines += [
        f"{name:<{width}}  {count:>8}  {remaining[name]:>9}  {remaining[name] / count:>6.0%}"
        for name, count in original.items()
    ]
    total, left = sum(original.values()), sum(remaining.values())
    lines.append(f"{'all':<{width}}  {total:>8}  {left:>9}  {left / total:>6.0%}")
    return "\n".join(lines)


def comparison_table(rows: Sequence[tuple[str, nn.Module, Sequence[float]]], image_size: int) -> str:
    """Size and accuracy of models: rows of (title, model, (P, R, mAP50, mAP50-95, ...)).

    GFLOPs are for one image of ``image_size`` x ``image_size`` pixels.
    """
    width = max(len(title) for title, _, _ in rows)
    lines = [f"{'':<{width}}  {'params':>11}  {'GFLOPs':>7}  {'P':>6}  {'R':>6}  {'mAP50':>6}  {'mAP50-95':>8}"]
    for title, model, metrics in rows:
        operations = gflops(model, image_size)
        work = "-" if operations is None else f"{operations:.2f}"
        accuracy = "  ".join(f"{value:>{places}.3f}" for value, places in zip(metrics[:4], (6, 6, 6, 8), strict=True))
        lines.append(f"{title:<{width}}  {count_parameters(model):>11,}  {work:>7}  {accuracy}")
    return "\n".join(lines) + f"\nGFLOPs at {image_size} x {image_size} pixels"
