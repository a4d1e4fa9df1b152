"""Milliseconds per image of finished networks, in turns, on one thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.frontier.results import Results
from benchmarks.frontier.tasks import Task
from prune_tools.opening import load_model
from prune_tools.planning.latency import prepare, time_calls
from utils.errors import InputError
from utils.log import LOGGER

RUNTIMES = ("onnxruntime", "openvino")


def time_cells(results: Results) -> None:
    """Time the measured cells that have no times yet: those of one data set in turns, the first measured seed of each.

    Times are comparable within one call only, so all cells of a data set are timed again when one of them has none.
    """
    for data in dict.fromkeys(cell.data for cell in results.cells):
        chosen: dict[tuple[Any, ...], Task] = {}
        for cell in results.cells:
            if cell.data == data and results.is_measured(cell):
                chosen.setdefault((cell.teacher, cell.budget, cell.method), cell)
        if all("milliseconds" in results.cells[cell] for cell in chosen.values()):
            continue
        files = {cell.name: (str(results.folder / results.cells[cell]["checkpoint"]), results.cells[cell]["image_size"])
                 for cell in chosen.values()}  # fmt: skip
        LOGGER.info(f"Timing {len(files)} networks of {data} in turns")
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # so that no runtime leaves threads behind
            times = pool.submit(time_in_turns, files).result()
        for cell in chosen.values():
            results.put(cell, {**results.cells[cell], "milliseconds": times[cell.name]})


def time_in_turns(files: Mapping[str, tuple[str, int]]) -> dict[str, dict[str, float]]:
    """Milliseconds by name and runtime of networks (checkpoint, image size); a missing runtime is left out."""
    torch.set_num_threads(1)
    networks = {name: (load_model(Path(file))[0], size) for name, (file, size) in files.items()}
    times: dict[str, dict[str, float]] = {name: {} for name in networks}
    for runtime in RUNTIMES:
        try:
            calls = {name: prepare(network, size, runtime) for name, (network, size) in networks.items()}
        except InputError as error:
            LOGGER.warning(f"{error}: not timed")
            continue
        for name, milliseconds in time_calls(calls).items():
            times[name][runtime] = milliseconds
    return times
