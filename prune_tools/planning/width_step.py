"""Find by trial the multiple of channels at which a runtime on this machine computes its convolutions fastest.

Runtimes keep channels in blocks as wide as the processor's vectors: a layer of 24 channels may take as long as one of
32. Two small networks are timed in alternation, one whose widths are multiples of 16, one whose widths are other
multiples of 8. The wider step counts only where it is clearly faster for its operations.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.planning import latency
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Limits, Target
from prune_tools.planning.options import DEFAULT_ROUNDING
from utils.log import LOGGER, warnings_only
from utils.model_info import gflops

WIDE_STEP = 16  # channels
EVEN, UNEVEN = (32, 32), (24, 40)  # channels of alternate layers; the sums are the same
PAIRS = 3  # of layers
IMAGE_SIZE = 160  # pixels; small, so that one call takes a few milliseconds
SECONDS, LEAST_CALLS = 0.7, 10
# Of the time per operation. Where whole networks gained by the wide step, trials gave 0.68 to 0.84, and 0.90 to 0.92 on
# narrower vectors
CLEARLY_FASTER = 0.87


@dataclass(frozen=True)
class Trial:
    """Processor time per call of both networks, and what follows.

    Attributes:
        even, uneven: milliseconds of each call, in alternation.
        operations: of the even network, as a share of those of the uneven one.
    """

    even: list[float]
    uneven: list[float]
    operations: float

    def ratio(self, part: slice = slice(None)) -> float:
        """Time per operation of the even network as a share of the uneven one's, by medians of ``part``."""
        return statistics.median(self.even[part]) / statistics.median(self.uneven[part]) / self.operations

    @property
    def step(self) -> int:
        """The wide step if both halves of the calls find it clearly faster, else the default."""
        half = len(self.even) // 2
        clear = all(self.ratio(part) <= CLEARLY_FASTER for part in (slice(half), slice(half, None)))
        return WIDE_STEP if clear else DEFAULT_ROUNDING


def fastest_step(runtime: str) -> int:
    """The multiple of channels that suits ``runtime`` on this machine's processor; logs it with its figures.

    Raises:
        InputError: the runtime is unknown or not installed.
    """
    trial = run_trial(runtime)
    LOGGER.info(
        f"Widths in multiples of {trial.step} (--round-to names another step): in {runtime} on this machine, "
        f"convolutions of {EVEN[0]} channels take {trial.ratio():.2f} of the time per operation of those of "
        f"{UNEVEN[0]} and {UNEVEN[1]} (at most {CLEARLY_FASTER} speaks for {WIDE_STEP}; {len(trial.even)} calls of "
        f"{statistics.median(trial.even):.2f} and {statistics.median(trial.uneven):.2f} ms)"
    )
    return trial.step


def run_trial(runtime: str) -> Trial:
    """Time both networks; random numbers and the number of threads are restored."""
    with torch.random.fork_rng(devices=[]), warnings_only():
        networks = [_network(widths) for widths in (EVEN, UNEVEN)]
    operations = [gflops(network, IMAGE_SIZE) or 1.0 for network in networks]
    even, uneven = time_networks(networks[0], networks[1], IMAGE_SIZE, runtime)
    return Trial(even, uneven, operations[0] / operations[1])


def time_networks(
    first: DetectionModel, second: DetectionModel, image_size: int, runtime: str
) -> tuple[list[float], list[float]]:
    """Milliseconds of processor time of each call of both networks on one thread, on one image, in alternation.

    Raises:
        InputError: the runtime is unknown or not installed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings_only():
            calls = [latency.prepare(network, image_size, runtime) for network in (first, second)]
        return time_pair(calls[0], calls[1])
    finally:
        torch.set_num_threads(threads)


def time_pair(first: latency.Call, second: latency.Call) -> tuple[list[float], list[float]]:
    """Milliseconds of processor time of each call, in alternation: other processes hardly count in it."""
    coarse = "GetProcessTimes" in time.get_clock_info("process_time").implementation  # Windows: 16 ms
    clock = time.perf_counter if coarse else time.process_time
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(latency.WARMUP_RUNS):
        first(), second()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(samples[0]) < LEAST_CALLS:
        for call, times in zip((first, second), samples, strict=True):
            start = clock()
            call()
            times.append(1e3 * (clock() - start))
    return samples


def _network(widths: tuple[int, int]) -> DetectionModel:
    """A stem and pairs of a 1 x 1 and a 3 x 3 convolution, as networks to be pruned have, with a head of one level."""
    first, second = widths
    backbone = [[-1, 1, "Conv", [first, 6, 2, 2]], [-1, 1, "Conv", [second, 3, 2]]]
    backbone += PAIRS * [[-1, 1, "Conv", [first, 1, 1]], [-1, 1, "Conv", [second, 3, 1]]]
    return DetectionModel(
        {
            "nc": 1,
            "depth_multiple": 1.0,
            "width_multiple": 1.0,
            "anchors": [[10, 13]],
            "backbone": backbone,
            "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
        },
        ch=3,
    )


def within_reach(structure: Structure, target: Target, limits: Limits) -> bool:
    """Tell whether a network can be pruned to ``target``, parameters or operations, within ``limits``."""
    costs = CostModel(structure)
    least = np.array([limits.allowed(group.size)[0] for group in structure.groups])  # (G,)
    present = float(costs(target.quantity, costs.sizes))
    return float(costs(target.quantity, least)) <= target.amount(present)
