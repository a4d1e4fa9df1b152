"""The services of ``--logger``, and the packages that they need. This module loads neither torch nor NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from utils.commands.packages import is_installed
from utils.errors import InputError, short_repr


@dataclass(frozen=True)
class Service:
    """A service.

    Attributes:
        title: its name in messages.
        module: import name of its package.
        tracker: the class that records there, in ``to_<name of the service>.py``.
        start: what makes it work where it cannot start a run.
    """

    title: str
    module: str
    tracker: str
    start: str


SERVICES = {
    "wandb": Service(
        "Weights & Biases", "wandb", "WandbTracker", "log in with 'wandb login', or set WANDB_MODE=offline"
    ),
    "mlflow": Service(
        "MLflow", "mlflow", "MlflowTracker", "check MLFLOW_TRACKING_URI, or unset it to record into this folder"
    ),
    "clearml": Service("ClearML", "clearml", "ClearmlTracker", "run 'clearml-init', or set CLEARML_OFFLINE_MODE=1"),
    "comet": Service("Comet", "comet_ml", "CometTracker", "log in with 'comet login', or set COMET_START_ONLINE=0"),
}


def check_services(names: Sequence[str]) -> None:
    """Raise InputError for a service that is not known, is named twice, or whose package is not installed."""
    for name in names:
        if name not in SERVICES:
            raise InputError(f"unknown --logger {short_repr(name)}: choose from {', '.join(SERVICES)}")
        if names.count(name) > 1:
            raise InputError(f"--logger names {name} twice: once is enough")
        if not is_installed(SERVICES[name].module):
            package = SERVICES[name].module
            raise InputError(
                f"--logger {name} needs the package {package}, which is not installed: pip install {package}"
            )
