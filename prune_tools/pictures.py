"""Pictures of a pipeline run: gammas before and after sparse training, layer widths, detections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from utils.charts import new_figure, save_figure

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

DPI = 130
TILES = 12  # validation images in the picture of detections
COLUMNS = 4


def draw_gammas(dense: nn.Module, sparse: nn.Module, percent: float | None, path: Path) -> None:
    """Histograms of all prunable |gamma| of two models, and the threshold below which ``percent`` of the second lie.

    Without ``percent`` there is no common threshold: the channels went by what they cost, too.
    """
    import torch

    from prune_tools.groups import prunable_norms

    figure = new_figure(8, 3.4)
    axes = figure.subplots()
    for model, name, color in ((dense, "before sparse training", "#8da0cb"), (sparse, "after", "#fc8d62")):
        gammas = (
            torch.cat([norm.weight.detach().abs().float() for norm in prunable_norms(model).values()]).sort().values
        )
        axes.hist(gammas.numpy(), bins=80, alpha=0.75, label=f"{name}, median {gammas.median():.2f}", color=color)
    if percent is not None:
        threshold = float(gammas[int(len(gammas) * percent)])
        axes.axvline(threshold, color="#444444", linestyle="--", linewidth=1, label=f"threshold for {percent:.0%}")
    axes.set(xlabel="|gamma| of the prunable batch norms", ylabel="channels")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path, DPI)


def draw_widths(before: nn.Module, after: nn.Module, path: Path) -> None:
    """Channels of every layer before and after pruning."""
    from prune_tools.report import layer_widths

    original, remaining = layer_widths(before), layer_widths(after)
    places = range(len(original))
    figure = new_figure(11, 3.8)
    axes = figure.subplots()
    axes.bar(places, list(original.values()), color="#d9d9d9", label="base")
    axes.bar(places, [remaining[name] for name in original], color="#66c2a5", label="pruned")
    names = [name.removeprefix("model.").removesuffix(".bn") for name in original]
    axes.set_xticks(places, names, rotation=90, fontsize=6)
    axes.set_ylabel("channels")
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path, DPI)


def draw_detections(weights: Path, images: list[str], image_size: int, path: Path) -> None:
    """What the model of ``weights`` finds in the first images, as one sheet."""
    import numpy as np

    from detect import DetectOptions, Detector, Writer
    from utils.annotator import write_picture
    from utils.augmentations import letterbox
    from utils.images import read_image

    options = DetectOptions(weights=[str(weights)], imgsz=[image_size], line_thickness=2)
    detector = Detector(options)
    writer = Writer(options, detector.names, path.parent)
    tiles = []
    for file in images[:TILES]:
        native = read_image(file)
        network_input = letterbox(native, image_size, stride=detector.model.stride)[0]
        found, _ = detector(np.ascontiguousarray(network_input[..., ::-1].transpose(2, 0, 1)), native.shape[:2])
        tiles.append(letterbox(writer.annotate(native, found.flip(0)), image_size, auto=False)[0])
    write_picture(path, _sheet(tiles))


def _sheet(tiles: list[np.ndarray]) -> np.ndarray:
    """Equal pictures in rows of COLUMNS; the last row is filled with white."""
    import numpy as np

    blank = np.full_like(tiles[0], 255)
    tiles = tiles + [blank] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)


def draw_run(
    checkpoints: dict[str, Path], data: str, percent: float | None, image_size: int, folder: Path
) -> list[Path]:
    """gammas.png, widths.png and detections.jpg of a finished pipeline run, in ``folder``; returns their paths."""
    from models.loading import load_checkpoint
    from utils.checks import check_dataset
    from utils.labels import find_images

    models = {step: load_checkpoint(file)["model"].float() for step, file in checkpoints.items()}
    images = find_images(check_dataset(data, splits=("val",))["val"])
    paths = [folder / name for name in ("gammas.png", "widths.png", "detections.jpg")]
    draw_gammas(models["base"], models["sparse"], percent, paths[0])
    draw_widths(models["sparse"], models["pruned"], paths[1])
    draw_detections(checkpoints["finetuned"], images, image_size, paths[2])
    return paths
