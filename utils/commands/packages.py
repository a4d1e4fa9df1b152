"""Optional libraries: imported on demand, named when missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from typing import Any

from utils.errors import InputError

TELEMETRY = "openvino_telemetry"  # of OpenVINO and NNCF, which work without it
EXTRAS = "requirements-export.txt lists what export.py can use"


def require(module: str, purpose: str, package: str = "", listed: str = EXTRAS) -> Any:
    """Import a module that is not in requirements.txt.

    OpenVINO's telemetry is kept out: nobody has asked for it, and it forks this process with all its threads.

    Args:
        module: its import name.
        purpose: what needs it, as the user asked for it: '--include onnx', 'best.onnx'.
        package: the package to install, if its name differs.
        listed: words on where it is listed; '' if it is not.

    Raises:
        InputError: it is not installed, or cannot be loaded here; the message says what to install.
    """
    package = package or module.partition(".")[0]
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # its import now fails
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some print a greeting
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):  # one of its own requirements is missing
            package = f"{package} {error.name}"
        remedy = f"pip install {package}" + (f" ({listed})" if listed else "")
        raise InputError(f"{purpose} needs the package {package}: {remedy}") from error
    except (ImportError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{purpose} needs the package {package}, which does not load here: {reason}") from error


def is_installed(module: str) -> bool:
    """Tell whether a top-level module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None
