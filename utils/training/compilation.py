"""torch.compile for training."""

from __future__ import annotations

import torch
from torch import nn

from utils.errors import InputError
from utils.log import LOGGER

BACKEND = "inductor"


def check_compiler(device: torch.device) -> None:
    """Compile one line for ``device``. Raises InputError, naming what is missing, if that fails."""
    probe = torch.compile(lambda values: values.sin() + 1, backend=BACKEND)
    try:
        probe(torch.zeros(8, device=device))
    except Exception as error:
        reason = " ".join(" ".join(str(error).split("\n", 2)[:2]).split())[:160]  # the second line is the compiler's
        raise InputError(
            f"--compile: torch cannot compile for {device.type} here ({reason}); it needs a C++ compiler for CPUs and "
            "Triton for GPUs: install it, or leave --compile out"
        ) from error


def compile_model(model: nn.Module) -> None:
    """Have ``model`` compiled, forward and backward, when it is first called.

    This happens inside the module: its class, its parameters, and its copies and pickles stay the same.
    """
    LOGGER.info("torch.compile: the model is compiled now; the first batches take minutes")
    model.compile(backend=BACKEND)
