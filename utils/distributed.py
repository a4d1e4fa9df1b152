"""Data-parallel training: ranks, the process group and collective operations.

``torchrun`` starts the processes and sets their ranks in the environment. Everything here also works in a single
process without a group: then there is one rank, nothing is exchanged, and the functions return at once.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.commands.interrupts import run_child
from utils.device import select_device
from utils.errors import InputError
from utils.installation import PREFIX, words_to_start
from utils.log import LOGGER, setup_logging
from utils.training.options import TrainOptions

PATIENCE = timedelta(hours=12)  # how long other ranks wait for the first one, which validates
Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """The position of this process among all; ``rank`` and ``local_rank`` are -1 outside torchrun."""

    rank: int = -1  # among all processes
    local_rank: int = -1  # among those of this machine
    size: int = 1  # processes on all machines
    local_size: int = 1  # processes on this machine

    @property
    def is_main(self) -> bool:
        """Tell whether this process logs, validates and writes files."""
        return self.rank in (-1, 0)


def current_world() -> World:
    """The ranks and sizes that torchrun set in the environment. Raises InputError if they are incomplete."""
    if "LOCAL_RANK" not in os.environ:
        return World()
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    try:
        rank = int(os.environ["RANK"])
        local_rank = int(os.environ["LOCAL_RANK"])
        size = int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise InputError(
            f"LOCAL_RANK is set but not all of {', '.join(names)} are numbers: start with torchrun"
        ) from error
    return World(rank, local_rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))


# -- starting and ending -------------------------------------------------------------------------------------------


def launch(main: Callable[[Any], Result], options: Any) -> Result:
    """Run ``main(options)``; with several devices in ``options.device``, in one process for each, through torchrun.

    For the entry point of a command: it starts this process's command line again.
    """
    devices = [name for name in options.device.split(",") if name.strip()]
    if len(devices) < 2 or current_world().rank >= 0:
        return main(options)
    for name in devices:
        select_device(name)
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(devices)}"]
    own_command = [*words_to_start(main.__module__.rpartition(".")[2]), *sys.argv[1:]] if PREFIX else sys.argv
    sys.exit(run_child([*starter, *own_command]))


def device_of_rank(device: str, world: World) -> str:
    """The device of this process: the entry of ``--device`` at its local rank.

    Raises InputError if there are fewer devices than processes on this machine.
    """
    listed = [name.strip() for name in str(device).split(",") if name.strip()]  # from Python it may be a number
    if world.rank < 0 or listed == ["cpu"] or (not listed and not torch.cuda.is_available()):
        return device
    available = listed or [str(number) for number in range(torch.cuda.device_count())]
    if world.local_size > len(available):
        raise InputError(
            f"{world.local_size} processes but {len(available)} device(s), {', '.join(available)}: "
            f"start torchrun with --nproc_per_node {len(available)}, or train on --device cpu"
        )
    return available[world.local_rank]


@contextmanager
def processes(options: TrainOptions) -> Iterator[tuple[torch.device, World]]:
    """Yield the device and the World of this process, which is a member of the group if torchrun started it.

    The group uses NCCL on GPUs and gloo elsewhere. Its threads end with it only if nothing refers to it any more, as a
    wrapper of ``parallel`` does; a thread that outlives the interpreter ends the process with SIGABRT when it frees a
    tensor of the last message. Raises InputError for options that these processes cannot honour.
    """
    world = current_world()
    check_options(options, world)
    device = select_device(device_of_rank(options.device, world), options.batch_size)
    if world.rank < 0 or in_group():
        yield device, world
        return
    setup_logging(world.rank)
    # Its functions have the group as a default argument: if DDP imported it later, they would keep the group alive
    import torch.distributed.nn

    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device, world
    finally:
        gc.collect()  # unused wrappers of models, which refer to the group
        torch.distributed.destroy_process_group()


def check_options(options: TrainOptions, world: World) -> None:
    """Raise InputError for training options that this number of processes cannot honour."""
    if options.local_rank not in (-1, world.local_rank):
        raise InputError(
            f"--local_rank {options.local_rank} is set by launchers that also set LOCAL_RANK, which is "
            f"{world.local_rank if world.rank >= 0 else 'not set'}: start with torchrun --nproc_per_node N"
        )
    if options.sync_bn and world.size == 1:
        LOGGER.info("--sync-bn has nothing to join: the batch norms of a single process see the whole batch")
    if world.rank < 0:
        return
    for flag, chosen in (("--evolve", options.evolve), ("--image-weights", options.image_weights)):
        if chosen:
            raise InputError(f"{flag} works in a single process only: leave it out, or start without torchrun")
    if options.batch_size < 1 or options.batch_size % world.size:
        raise InputError(
            f"--batch-size {options.batch_size} is of all {world.size} processes together: give a multiple of that"
        )


# -- the model -----------------------------------------------------------------------------------------------------


def parallel(model: nn.Module, device: torch.device, sync_bn: bool = False) -> nn.Module:
    """Return ``model`` itself, or in a group a wrapper that averages the gradients of all ranks.

    With ``sync_bn`` batch norms use the batches of all ranks; if there are several, those of ``model`` are replaced.
    """
    if not in_group():
        return model
    if sync_bn and ranks()[1] > 1:
        if device.type != "cuda":
            raise InputError("--sync-bn works on GPUs only: leave it out")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def local_gradients(model: Any) -> AbstractContextManager:
    """A context in which backward passes through the result of ``parallel`` do not exchange gradients."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def plain_norms(model: nn.Module) -> nn.Module:
    """Replace synchronised batch norms inside ``model`` by ordinary ones, in place, and return it."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SyncBatchNorm):
                norm = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
                norm.load_state_dict(child.state_dict())
                norm.to(child.running_mean).train(child.training)
                for own, other in zip(norm.parameters(), child.parameters(), strict=True):
                    own.requires_grad = other.requires_grad
                setattr(module, name, norm)
    return model


# -- messages ------------------------------------------------------------------------------------------------------


def in_group() -> bool:
    """Tell whether this process is a member of a group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def ranks() -> tuple[int, int]:
    """(rank, number of ranks) of the group; (0, 1) without one."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if in_group() else (0, 1)


def from_first(value: Result) -> Result:
    """The value of the first rank, on every rank; all must call this. For small picklable values only."""
    if ranks()[1] == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def by_first(work: Callable[[], Result]) -> Result:
    """Call ``work`` on the first rank only; all ranks return its result, or raise its InputError."""
    outcome: Any = None
    if ranks()[0] == 0:
        try:
            outcome = work()
        except InputError as error:
            outcome = error
    outcome = from_first(outcome)
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def average(values: torch.Tensor) -> torch.Tensor:
    """Element-wise mean over all ranks, on every rank; all must call this."""
    count = ranks()[1]
    if count > 1:
        torch.distributed.all_reduce(values)
        values = values / count
    return values


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let the first rank run the block before the others, which then find the files that it wrote."""
    rank, count = ranks()
    if rank > 0:
        torch.distributed.barrier()
    try:
        yield
    finally:
        if rank == 0 and count > 1:
            torch.distributed.barrier()
