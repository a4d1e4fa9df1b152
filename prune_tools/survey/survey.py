"""Many prunings of one model, measured: what sweep.py and sensitivity.py have in common.

The model, its groups, the scores and the images are opened once. Each point is written as soon as it is measured, so
that the same command goes on where it was broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_tools.opening import open_inputs, open_loader, repair_batches, val_options
from prune_tools.options import PruningOptions
from prune_tools.planning.options import ChannelOptions
from prune_tools.steps import Pruning
from prune_tools.survey.record import Point, Record, checkpoint_digest
from utils.commands.options import command_line, option, to_dict
from utils.log import LOGGER, colorstr, warnings_only
from utils.storage.files import atomic_path

KEPT_BYTES = 1 << 30  # of decoded validation images in memory; more are read anew for each point
TIMING_SECONDS = 0.5  # for each network
IRRELEVANT = ("cfg", "project", "name", "exist_ok", "workers", "dnn", "images", "ratios", "largest", "tolerance")


@dataclass
class SurveyOptions(ChannelOptions, PruningOptions):
    """Options of the commands that measure many prunings."""

    images: int = option(0, "validation images to measure on, evenly spread over all; 0 = all", at_least=0)
    runtime: str = option(
        "torch", "where the time per image is measured", choices=["torch", "onnxruntime", "openvino"], handed_on=False
    )
    batch_size: int = option(16, "images per batch", at_least=1)

    def check_survey(self) -> None:
        """Refuse values that no survey can use."""
        self.check_channels()
        self.check_inputs()


class KeptBatches:
    """A loader whose batches are read once and kept in memory, if they fit."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.kept: list[tuple] | None = []

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple]:
        """The batches."""
        if self.kept:
            yield from self.kept
            return
        kept, size = [], 0
        for batch in self.loader:
            size += batch[0].nbytes
            if size <= KEPT_BYTES:
                kept.append(batch)
            yield batch
        self.kept = kept if size <= KEPT_BYTES else None


class Survey:
    """A model with its groups, scores and images, and the record of what has been measured of it.

    Attributes:
        groups, scores: of the channels that take part.
        costs: parameters and operations of plans.
        limits: of every group.
        folder: of the run.
        record: the finished points.
    """

    def __init__(self, options: SurveyOptions, kind: str) -> None:
        """Open everything that the points have in common."""
        from prune_tools.channels.tracing import trace_model
        from prune_tools.planning.costs import CostModel
        from prune_tools.planning.latency import check_runtime
        from prune_tools.planning.options import score_groups

        check_runtime(options.runtime)
        self.options, self.limits = options, options.limits()
        self.model, _, self.data = open_inputs(options)
        self.trace = trace_model(self.model)
        self.groups, self.scores = score_groups(self.model, self.trace, options, options.data, options.imgsz)
        self.costs = CostModel(self.model, self.trace, self.groups)
        images, everything = self._choose_images()
        place = Path(options.project) / options.name
        self.record = Record.open(place, kind, self._identity(images), options.exist_ok)
        self.folder = self.record.file.parent
        if not everything:
            listed = self.folder / "images.txt"
            with atomic_path(listed) as draft:
                draft.write_text("\n".join(images) + "\n", encoding="utf-8")
            self.data = {**self.data, "val": str(listed)}
        self._batches: KeptBatches | None = None
        self._repair: list[Any] = []
        self._recording: Any = None
        self._whole: Any = None

    def _choose_images(self) -> tuple[list[str], bool]:
        """The validation images to measure on, and whether these are all."""
        from prune_tools.report.pictures import spread
        from utils.dataset.labels import find_images

        found, wanted = find_images(self.data["val"]), self.options.images
        if wanted > len(found):
            LOGGER.warning(f"WARNING: --images {wanted}, but there are {len(found)} validation images: all are used")
        chosen = spread(found, wanted) if wanted else found
        return chosen, len(chosen) == len(found)

    def _identity(self, images: list[str]) -> dict[str, Any]:
        """Return what a point depends on: the options, the checkpoint's content, the images with their labels."""
        from prune_tools.planning.scores import NEEDS_IMAGES
        from utils.checks import check_dataset
        from utils.dataset.label_cache import files_hash
        from utils.dataset.labels import find_images, img2label_paths

        trained_on: list[str] = []
        if self.options.reconstruct or self.options.recalibrate or self.options.score in NEEDS_IMAGES:
            trained_on = find_images(check_dataset(self.options.data, splits=("train",))["train"])
        weights = Path(self.options.weights[0])
        chosen = {name: value for name, value in to_dict(self.options).items() if name not in IRRELEVANT}
        return {
            **chosen,
            "weights": str(weights),
            "checkpoint": checkpoint_digest(weights),
            "image count": len(images),
            "images": files_hash([*images, *img2label_paths(images)]),
            "training images": files_hash([*trained_on, *img2label_paths(trained_on)]) if trained_on else "",
        }

    def _open_images(self) -> KeptBatches:
        from prune_tools.repair.reconstruction import empty_recording

        if self._batches is None:
            self._batches = KeptBatches(open_loader(self.options, self.data, self.model))
            self._repair = repair_batches(self.options, self.data, self.model)
            self._recording = empty_recording(self.model, self.options.reconstruct)
        return self._batches

    def measure(self, plan: Any, ratio: float, layer: str = "", timed: bool = True) -> Point:
        """Prune by ``plan``, repair, validate, and time (in turns with the whole network); the point is recorded."""
        import torch

        import val
        from prune_tools.planning.costs import QUANTITIES

        batches = self._open_images()
        with warnings_only():
            pruning = Pruning(self.model, self.trace, self.groups, plan)
            network = pruning.narrow()
            if any(len(plan.removed(group)) for group in self.groups):
                pruning.repair(network, self.options, self._repair, self._recording)
            fused = deepcopy(network).fuse()
            fused.to(memory_format=torch.channels_last)
            metrics, _, _ = val.run(
                self.data, model=fused, dataloader=batches, save_dir=self.folder, plots=False,
                **val_options(self.options),
            )  # fmt: skip
            times = self._time(network) if timed else (None, None)
        parameters, operations = (self.costs.of_plan(plan)[quantity] for quantity in QUANTITIES)
        left = sum(group.size - len(plan.removed(group)) for group in self.groups)
        figures = [round(float(value), 5) for value in metrics[:4]]
        point = Point(layer, ratio, left, round(parameters), round(operations / 1e9, 4), *figures, *times)
        self.record.add(point)
        return point

    def _time(self, network: Any) -> tuple[float, float]:
        from prune_tools.planning.latency import prepare, time_calls

        options = self.options
        self._whole = self._whole or prepare(self.model, options.imgsz, options.runtime)
        calls = {"narrow": prepare(network, options.imgsz, options.runtime), "whole": self._whole}
        times = time_calls(calls, TIMING_SECONDS)
        return round(times["narrow"], 3), round(times["narrow"] / times["whole"], 4)

    def publish(
        self,
        points: Sequence[Point],
        conclusion: dict[str, Any],
        text: str,
        table_rows: Callable[[list[dict[str, Any]]], Any],
        draw: Callable[[list[dict[str, Any]], dict[str, Any], Path], None],
    ) -> None:
        """Write record, table and picture of the finished survey into its folder, and log table and conclusion."""
        from prune_tools.report.table import aligned, save_csv

        kind = self.record.file.stem
        command = command_line(f"prune_tools/{kind}.py", type(self.options), to_dict(self.options))
        self.record.save(conclusion=conclusion, command=command)
        save_csv(points, self.folder / f"{kind}.csv")
        rows = [asdict(point) for point in points]
        draw(rows, conclusion, self.folder / f"{kind}.png")
        LOGGER.info(f"\n{aligned(table_rows(rows))}\n\n{text}")
        names = ", ".join(f"{kind}.{suffix}" for suffix in ("csv", "json", "png"))
        LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder))}: {names}")
