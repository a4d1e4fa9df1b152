"""Fill in --round-to where it is not given: from the sparse training, by a trial in the runtime asked for, or 8.

Whoever needs the step first decides it and records it: two trials could differ, and pruning must remove what sparse
training has brought to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.opening import Inputs, load_architecture, load_model
from prune_tools.options import PruneOptions
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.planning.goals import Limits, Target
from prune_tools.planning.latency import check_runtime
from prune_tools.planning.options import DEFAULT_ROUNDING, TRIED
from prune_tools.planning.width_step import fastest_step, within_reach
from prune_tools.sparsity.options import POLARIZE, SparseOptions
from prune_tools.sparsity.polarize import FREE_SHARE
from prune_tools.survey.options import SurveyOptions
from utils.commands.options import MOST
from utils.distributed import current_world
from utils.log import LOGGER
from utils.storage.files import read_yaml_mapping

AnySurvey = TypeVar("AnySurvey", bound=SurveyOptions)


def of_sparse_training(options: SparseOptions) -> SparseOptions:
    """The options of a sparse training with --round-to filled in. Raises InputError for weights that cannot be read."""
    target = options.target()
    if options.round_to is not None or target is None:
        return options

    def fits(step: int) -> bool:
        limits = Limits(round_to=step, max_layer_ratio=1 - FREE_SHARE)
        return _fits(_start(options.weights, options.cfg), options.scope, options.skip, target, limits)

    return replace(options, round_to=_by_trial(options.runtime, fits))


def of_pruning(inputs: Inputs[PruneOptions]) -> Inputs[PruneOptions]:
    """The inputs of a pruning with --round-to filled in. Raises InputError for a runtime that is not installed."""
    options, target = inputs.options, inputs.options.target()
    check_runtime(options.runtime)
    if options.round_to is not None or target is None:
        return inputs
    step = recorded_step(inputs.checkpoint.get("opt"))
    if step is not None:
        LOGGER.info(f"Taken from {options.weights[0]}: --round-to {step}, with which it was polarised")
        return replace(inputs, options=replace(options, round_to=step))

    def fits(step: int) -> bool:
        limits = Limits(options.min_channels, step, options.max_layer_ratio)
        return _fits(inputs.model, options.scope, options.skip, target, limits)

    return replace(inputs, options=replace(options, round_to=_by_trial(options.runtime, fits)))


def of_survey(inputs: Inputs[AnySurvey]) -> Inputs[AnySurvey]:
    """The inputs of a sweep or a sensitivity analysis with --round-to filled in: no trial is made for them."""
    options = inputs.options
    if options.round_to is not None:
        return inputs
    step = recorded_step(inputs.checkpoint.get("opt")) or options.default_rounding()
    return replace(inputs, options=replace(options, round_to=step))


def of_pipeline(options: PipelineOptions, record: Path) -> PipelineOptions:
    """The options of a pipeline with --round-to filled in, as in its ``record`` if there is one."""
    check_runtime(options.runtime)
    target = options.target()
    if options.round_to is not None or target is None:
        return options
    steps = read_yaml_mapping(record).values() if record.is_file() else ()
    recorded = [_step_in(step.get("options")) for step in steps if isinstance(step, Mapping)]
    for step in filter(None, recorded):
        LOGGER.info(f"Taken from {record}: --round-to {step}")
        return replace(options, round_to=step)
    scope = options.scope or "all"
    least = FREE_SHARE if options.penalty == POLARIZE else 0.0

    def fits(step: int) -> bool:
        limits = Limits(round_to=step, max_layer_ratio=1 - least)
        return _fits(_start(options.weights, options.cfg), scope, options.skip, target, limits)

    return replace(options, round_to=_by_trial(options.runtime, fits))


def recorded_step(opt: Any) -> int | None:
    """The step in a checkpoint's record ``opt`` of a training that was polarised to a budget; None otherwise."""
    return _step_in(opt) if isinstance(opt, Mapping) and opt.get("penalty") == POLARIZE else None


def _step_in(options: Any) -> int | None:
    """The step in recorded options with a budget, if it is a number that the option takes."""
    if not isinstance(options, Mapping) or not (options.get("target_flops") or options.get("target_params")):
        return None
    step = options.get("round_to")
    return step if type(step) is int and 1 <= step <= MOST else None


def _by_trial(runtime: str, fits: Callable[[int], bool]) -> int:
    """The step found by a trial in ``runtime``, if ``fits`` allows it; the default where none is made."""
    if runtime not in TRIED:
        return DEFAULT_ROUNDING
    if current_world().size > 1:
        LOGGER.info(
            f"Widths in multiples of {DEFAULT_ROUNDING}: several processes train together, and each would make a trial "
            "of its own"
        )
        return DEFAULT_ROUNDING
    step = fastest_step(runtime)
    if step != DEFAULT_ROUNDING and not fits(step):
        LOGGER.info(f"Widths in multiples of {DEFAULT_ROUNDING} all the same: with {step} the target cannot be reached")
        return DEFAULT_ROUNDING
    return step


def _fits(model: DetectionModel, scope: str, skip: list[str], target: Target, limits: Limits) -> bool:
    """Tell whether ``model`` can reach ``target``; of milliseconds nothing is known yet."""
    if target.quantity == "latency":
        return True
    return within_reach(Structure.of(model).protect(skip).select(scope), target, limits)


def _start(weights: str, cfg: str) -> DetectionModel:
    """The network that a training starts from."""
    return load_architecture(cfg) if cfg else load_model(weights)[0]
