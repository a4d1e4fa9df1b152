"""Many prunings of one model, measured: what sweep.py and sensitivity.py have in common.

The model, its groups, the scores and the images are opened once. Each point is written as soon as it is measured, so
that the same command goes on where it was broken off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_tools.planning import ChannelOptions
from prune_tools.pruning import (
    Pruning,
    PruningOptions,
    open_inputs,
    open_loader,
    repair_batches,
    val_options,
)
from utils.config import command_line, option, to_dict
from utils.errors import InputError, short_repr
from utils.files import atomic_path, make_folder
from utils.log import LOGGER, colorstr, warnings_only

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


@dataclass
class Point:
    """One measured pruning; ``ratio`` was asked for, of ``layer`` or ('') of all layers.

    ``channels``, ``parameters`` and ``gflops`` (at 640 pixels) are what is left. ``milliseconds`` is the median for one
    image, ``relative_time`` its share of the whole network's, measured in turns; None where time was not measured.
    """

    layer: str
    ratio: float
    channels: int
    parameters: int
    gflops: float
    precision: float
    recall: float
    map50: float
    map: float
    milliseconds: float | None = None
    relative_time: float | None = None


class Record:
    """The finished points of a survey in a JSON file, with the options they were measured with."""

    def __init__(self, file: Path, options: dict[str, Any], points: list[dict[str, Any]]) -> None:
        self.file, self.options = file, options
        self.points = {(point["layer"], point["ratio"]): Point(**point) for point in points}

    @classmethod
    def open(cls, place: Path, kind: str, wanted: dict[str, Any], exist_ok: bool) -> Record:
        """The record in ``place``, or place2, place3, ..., made with the same options; else a new one in a new folder.

        Raises:
            InputError: ``exist_ok`` and ``place`` holds a record with other options.
        """
        wanted = json.loads(json.dumps(wanted))  # as it will be read
        folder, number = place, 1
        make_folder(folder.parent)
        while not _is_created(folder):
            stored = read_survey(folder / f"{kind}.json") if (folder / f"{kind}.json").is_file() else None
            if stored is not None and stored["options"] == wanted:
                LOGGER.info(f"Going on with {folder}: {len(stored['points'])} finished points are kept")
                return cls(folder / f"{kind}.json", wanted, stored["points"])
            if exist_ok:
                if stored is not None:
                    raise InputError(f"{folder} holds a {kind} with {_differences(stored['options'], wanted)}: "
                                     "choose another --name, or repeat it with its own options")  # fmt: skip
                break
            number += 1
            folder = place.with_name(f"{place.name}{number}")
        record = cls(make_folder(folder) / f"{kind}.json", wanted, [])
        record.save()  # so that a run that is stopped before its first point goes on here, too
        return record

    def add(self, point: Point) -> None:
        """Keep a finished point."""
        self.points[point.layer, point.ratio] = point
        self.save()

    def save(self, **conclusions: Any) -> None:
        """Write the file, with what was concluded from the points."""
        content = {"options": self.options, "points": [asdict(point) for point in self.sorted()], **conclusions}
        write_json(self.file, content)

    def sorted(self) -> list[Point]:
        """The points by ratio; of a ratio in the order in which they were measured."""
        return sorted(self.points.values(), key=lambda point: point.ratio)


def _is_created(folder: Path) -> bool:
    """Create ``folder``; False where there is one already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
    return ", ".join(
        f"{name} {short_repr(stored.get(name))} instead of {short_repr(wanted.get(name))}" for name in names[:3]
    )


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_survey(path: Path) -> dict[str, Any]:
    """The content of sweep.json or sensitivity.json. Raises InputError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["options"] is not None and all(Point(**point) for point in content["points"]):
            return content
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{path} is not a record of a sweep or a sensitivity analysis: delete it, or name another folder")


def checkpoint_digest(file: str | Path) -> str:
    """SHA-256 of a checkpoint's content: the same model, wherever it lies."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def find_surveys(options: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """The finished surveys for a report, by kind, as far as there are any.

    Args:
        options: with ``sweep`` and ``sensitivity``, run folders or JSON files as the user named them; '' looks into
            ``folder``.

    Raises:
        InputError: a named one does not exist or is not finished.
    """
    found = {}
    for kind in ("sweep", "sensitivity"):
        given = getattr(options, kind)
        place = Path(given) if given else folder
        file = place if place.suffix == ".json" else place / f"{kind}.json"
        if file.is_file():
            found[kind] = read_survey(file)
            if "conclusion" not in found[kind]:
                raise InputError(f"{file} is not finished: run prune_tools/{kind}.py to its end first")
        elif given:
            raise InputError(f"--{kind} {given}: there is no {kind}.json, expected the run folder of {kind}.py")
    return found


def surveys_of(surveys: dict[str, dict[str, Any]], files: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Those of ``surveys`` that measured one of these checkpoints; the others are named in a warning."""
    known = {checkpoint_digest(file) for file in files} if surveys else set()
    own = {kind: survey for kind, survey in surveys.items() if survey["options"].get("checkpoint") in known}
    for kind in surveys.keys() - own.keys():
        measured = surveys[kind]["options"].get("weights")
        LOGGER.warning(
            f"WARNING: the {kind} is not shown in the report: it is of {measured}, whose content is not that of "
            f"{' or '.join(map(str, files))}"
        )
    return own


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
        from prune_tools.costs import CostModel
        from prune_tools.latency import check_runtime
        from prune_tools.planning import score_groups
        from prune_tools.tracing import trace_model

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
        from prune_tools.pictures import spread
        from utils.labels import find_images

        found, wanted = find_images(self.data["val"]), self.options.images
        if wanted > len(found):
            LOGGER.warning(f"WARNING: --images {wanted}, but there are {len(found)} validation images: all are used")
        chosen = spread(found, wanted) if wanted else found
        return chosen, len(chosen) == len(found)

    def _identity(self, images: list[str]) -> dict[str, Any]:
        """Return what a point depends on: the options, the checkpoint's content, the images with their labels."""
        from prune_tools.importance import NEEDS_IMAGES
        from utils.checks import check_dataset
        from utils.label_cache import files_hash
        from utils.labels import find_images, img2label_paths

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
        from prune_tools.reconstruction import empty_recording

        if self._batches is None:
            self._batches = KeptBatches(open_loader(self.options, self.data, self.model))
            self._repair = repair_batches(self.options, self.data, self.model)
            self._recording = empty_recording(self.model, self.options.reconstruct)
        return self._batches

    def measure(self, plan: Any, ratio: float, layer: str = "", timed: bool = True) -> Point:
        """Prune by ``plan``, repair, validate, and time (in turns with the whole network); the point is recorded."""
        import torch

        import val
        from prune_tools.costs import QUANTITIES

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
        from prune_tools.latency import prepare, time_calls

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
        from prune_tools.comparison import aligned, save_csv

        kind = self.record.file.stem
        command = command_line(f"prune_tools/{kind}.py", type(self.options), to_dict(self.options))
        self.record.save(conclusion=conclusion, command=command)
        save_csv(points, self.folder / f"{kind}.csv")
        rows = [asdict(point) for point in points]
        draw(rows, conclusion, self.folder / f"{kind}.png")
        LOGGER.info(f"\n{aligned(table_rows(rows))}\n\n{text}")
        names = ", ".join(f"{kind}.{suffix}" for suffix in ("csv", "json", "png"))
        LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder))}: {names}")
