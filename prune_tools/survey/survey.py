"""Base of sweep.py and sensitivity.py: prune one model many ways and measure each.

The model, its groups, the scores and the images are opened once. Each point is saved as soon as it is measured, so that
the same command continues an interrupted survey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

import val
from models.yolo import DetectionModel
from prune_tools import rounding
from prune_tools.make_plan import score_groups
from prune_tools.opening import open_inputs
from prune_tools.planning import latency
from prune_tools.planning.costs import CostModel
from prune_tools.planning.plan import Plan
from prune_tools.planning.scores import NEEDS_IMAGES
from prune_tools.pruning import narrow, prune
from prune_tools.repair.reconstruction import Recording, empty_recording
from prune_tools.report.pictures import spread
from prune_tools.report.table import aligned, save_csv
from prune_tools.survey.options import SurveyOptions
from prune_tools.survey.record import Point, Record, checkpoint_digest
from prune_tools.training_images import Batch
from utils.commands.options import command_line, identity_of, to_dict
from utils.dataset.description import check_dataset
from utils.dataset.label_cache import files_hash
from utils.dataset.labels import find_images, img2label_paths
from utils.log import LOGGER, colorstr, warnings_only
from utils.storage.files import atomic_path

KEPT_BYTES = 1 << 30  # of decoded validation images in memory; more are read again for each point

AnyOptions = TypeVar("AnyOptions", bound=SurveyOptions)


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


class Survey(Generic[AnyOptions]):
    """A model with its groups, scores and images, and the record of what has been measured of it.

    Attributes:
        inputs: options, model and data; ``options`` are those of the inputs.
        structure: the model with the groups that may be pruned.
        groups, scores: of the channels that may be pruned.
        costs: parameters and operations of plans.
        limits: of every group.
        data: the data set, with the validation images to measure on.
        record: the finished points.
        folder: the run folder.
    """

    def __init__(self, options: AnyOptions, command: str) -> None:
        """Open everything that the points have in common; ``command`` is 'sweep' or 'sensitivity'."""
        latency.check_runtime(options.runtime)
        self.inputs = rounding.of_survey(open_inputs(options))
        self.options = self.inputs.options
        self.limits = self.options.limits()
        self.structure, self.scores = score_groups(
            self.inputs.model, self.options, self.options.data, self.options.imgsz
        )
        self.groups = self.structure.groups
        self.costs = CostModel(self.structure)
        images, everything = self._choose_images()
        run_folder = Path(options.project) / options.name
        self.record = Record.open(run_folder, command, self._identity(images), options.exist_ok)
        self.folder = self.record.file.parent
        self.data = self.inputs.data
        if not everything:
            image_list = self.folder / "images.txt"
            with atomic_path(image_list) as draft:
                draft.write_text("\n".join(images) + "\n", encoding="utf-8")
            self.data = {**self.data, "val": str(image_list)}
        self._batches: KeptBatches | None = None
        self._repair_batches: list[Batch] = []
        self._recording: Recording | None = None
        self._whole: latency.Call | None = None  # runs the whole network

    def _choose_images(self) -> tuple[list[str], bool]:
        """The validation images to measure on, and whether these are all."""
        images, count = find_images(self.inputs.data["val"]), self.options.images
        if count > len(images):
            LOGGER.warning(f"WARNING: --images {count}, but there are {len(images)} validation images: all are used")
        measured = spread(images, count) if count else images
        return measured, len(measured) == len(images)

    def _identity(self, images: list[str]) -> dict[str, Any]:
        """Everything that a point depends on: options, content of the checkpoint, images with their labels."""
        trained_on: list[str] = []
        if self.options.reconstruct or self.options.recalibrate or self.options.score in NEEDS_IMAGES:
            trained_on = find_images(check_dataset(self.options.data, splits=("train",))["train"])
        weights = Path(self.options.weights[0])
        return {
            **identity_of(self.options),
            "weights": str(weights),
            "checkpoint": checkpoint_digest(weights),
            "image count": len(images),
            "images": files_hash([*images, *img2label_paths(images)]),
            "training images": files_hash([*trained_on, *img2label_paths(trained_on)]) if trained_on else "",
        }

    def _open_images(self) -> KeptBatches:
        if self._batches is None:
            self._batches = KeptBatches(self.inputs.open_loader(self.data))
            self._repair_batches = self.inputs.repair_batches()
            self._recording = empty_recording(self.inputs.model, self.options.reconstruct)
        return self._batches

    def measure(self, plan: Plan, ratio: float, layer: str = "", timed: bool = True) -> Point:
        """Prune by ``plan``, repair, validate, and time in alternation with the whole network; records the point."""
        batches = self._open_images()
        with warnings_only():
            if plan.removes_any(self.groups):
                pruned = prune(self.structure, plan, self.options, self._repair_batches, recording=self._recording)
            else:
                pruned = narrow(self.structure, plan)
            fused = deepcopy(pruned.model).fuse()
            fused.to(memory_format=torch.channels_last)
            metrics, _, _ = val.run(
                self.data,
                model=fused,
                dataloader=batches,
                save_dir=self.folder,
                plots=False,
                **self.inputs.val_options(),
            )
            milliseconds, relative_time = self._time(pruned.model) if timed else (None, None)
        costs = self.costs.of_plan(plan)
        precision, recall, map50, map_ = [round(float(value), 5) for value in metrics[:4]]
        point = Point(
            layer,
            ratio,
            channels=sum(group.size - len(plan.removed(group)) for group in self.groups),
            parameters=round(costs["params"]),
            gflops=round(costs["flops"] / 1e9, 4),
            precision=precision,
            recall=recall,
            map50=map50,
            map=map_,
            milliseconds=milliseconds,
            relative_time=relative_time,
        )
        self.record.add(point)
        return point

    def _time(self, network: DetectionModel) -> tuple[float, float]:
        """Milliseconds of a network, absolute and as a share of the whole network's."""
        options = self.options
        self._whole = self._whole or latency.prepare(self.inputs.model, options.imgsz, options.runtime)
        calls = {"narrow": latency.prepare(network, options.imgsz, options.runtime), "whole": self._whole}
        times = latency.time_calls(calls, latency.SHORT_SECONDS)
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
        name = self.record.file.stem  # of the command
        command = command_line(f"prune_tools/{name}.py", type(self.options), to_dict(self.options))
        self.record.save(conclusion=conclusion, command=command)
        save_csv(points, self.folder / f"{name}.csv")
        rows = [asdict(point) for point in points]
        draw(rows, conclusion, self.folder / f"{name}.png")
        LOGGER.info(f"\n{aligned(table_rows(rows))}\n\n{text}")
        names = ", ".join(f"{name}.{suffix}" for suffix in ("csv", "json", "png"))
        LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder))}: {names}")
