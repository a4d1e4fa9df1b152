"""Device selection, the line that describes the device, synchronised timing, random seeds."""

from __future__ import annotations

import platform
import random
import re
import time

import numpy as np
import torch

from utils.errors import InputError
from utils.version import MADE_BY


def select_device(device: str | int | torch.device | None = "", batch_size: int = 0) -> torch.device:
    """Return the torch device for ``device``. No environment variable is read or changed.

    Args:
        device: '' (the first GPU if there is one, else the CPU), 'cpu', 'mps', or a GPU as '0', 'cuda:0' or 'cuda'.
        batch_size: v6.2's parameter, which had to be a multiple of the number of devices; here there is one device.

    Raises:
        InputError: several devices, an unknown name, or a device that this machine does not have.
    """
    name = "" if device is None else str(device).strip().lower().replace("none", "")
    if name == "":
        name = "0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device mps is not available: no Apple GPU, or torch is not built for it; use cpu")
        return torch.device("mps")
    if "," in name:
        raise InputError(
            f"--device {str(device)[:60]} names several devices; only training commands use them, in one process for "
            "each (from Python: torchrun --nproc_per_node N): choose one, for example --device 0"
        )
    index = re.fullmatch(r"(?:cuda:?)?([0-9]{0,4})", name)
    if not index:
        raise InputError(f"unknown --device {str(device)[:60]}: expected cpu, mps, or the number of a GPU such as 0")
    return _gpu(int(index[1] or 0))


def _gpu(index: int) -> torch.device:
    if not torch.cuda.is_available():
        reason = "this torch build has no CUDA" if torch.version.cuda is None else "CUDA finds no GPU"
        raise InputError(f"--device {index} is not available: {reason} (torch {torch.__version__}); use --device cpu")
    count = torch.cuda.device_count()
    if index >= count:
        raise InputError(f"--device {index} does not exist: this machine has {count} GPU(s), 0 to {count - 1}")
    torch.cuda.set_device(index)  # loaders then pin memory for this one, and time_sync waits for it
    return torch.device("cuda", index)


def device_line(device: torch.device | None = None) -> str:
    """Versions and hardware in one line, for the start of a command (default: the device that '' selects)."""
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    line = f"{MADE_BY}, Python-{platform.python_version()}, torch-{torch.__version__}, "
    if device.type != "cuda":
        return line + (f"CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type.upper())
    properties = torch.cuda.get_device_properties(device)
    return line + f"CUDA:{device.index or 0} ({properties.name}, {properties.total_memory >> 20}MiB)"


def prepare_images(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 images (B, 3, H, W) -> float in 0..1 on ``device``, channels last (convolutions on CPUs gain a quarter)."""
    images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    return images.float().div_(255)


def time_sync() -> float:
    """Seconds of a monotonic clock, read after the GPU has finished its work; only differences are meaningful."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def seed_everything(seed: int = 0) -> None:
    """Seed the generators of Python, NumPy and torch, and make cuDNN choose the same algorithms every time."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # all devices
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
