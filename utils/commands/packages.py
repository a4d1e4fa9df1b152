"""Libraries that only some commands need: imported when asked for, named when missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from typing import Any

from utils.errors import InputError

TELEMETRY = "openvino_telemetry"  # of OpenVINO and NNCF; they do without it where it is missing
EXTRAS = "requirements-export.txt lists what export.py can use"


def require(module: str, purpose: str, package: str = "") -> Any:
    """Import a module that is no plain requirement of the project.

    OpenVINO's telemetry stays out: nobody has asked for it, and it forks this process, threads and all.

    Args:
        module: its import name.
        purpose: what needs it, as the user asked for it: '--include onnx', 'best.onnx'.
        package: what to install, where that is named otherwise.

    Raises:
        InputError: it is not installed, or cannot be loaded here; the message says what to install.
    """
    package = package or module.partition(".")[0]
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # its import now fails
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some greet
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):  # what it needs itself is missing
            package = f"{package} {error.name}"
        raise InputError(f"{purpose} needs the package {package}: pip install {package} ({EXTRAS})") from error
    except (ImportError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{purpose} needs the package {package}, which does not load here: {reason}") from error


def is_installed(module: str) -> bool:
    """Tell whether a top-level module could be imported; it is not."""
    return importlib.util.find_spec(module) is not None
