"""The frame of every command: logging, one-line errors, exit codes."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from utils.commands import interrupts
from utils.commands.allocator import keep_freed_memory
from utils.commands.options import parse
from utils.errors import InputError, loader_failure, without_middle
from utils.installation import is_own
from utils.log import LOGGER, colorstr, log_once, setup_logging, terminal_text

BROKEN_PIPE = 13  # number of SIGPIPE, which Windows does not have
_WRITERS_OF_TORCH = re.compile(r"inline_container|PytorchStreamWriter|iostream error|No space left on device")


def show_arguments(command: str, options: Any) -> None:
    """Log the command's name and all its options as ``name=value`` on one line."""
    values = ", ".join(f"{name}={value}" for name, value in vars(options).items())
    LOGGER.info(colorstr(f"{command}: ") + values)


def run_command(main: Callable[[], object]) -> None:
    """Run ``main`` and end the process: with 0, or with 1 and one line for an error that the user can fix.

    Errors of the program itself keep their traceback. After Ctrl-C, SIGTERM and SIGHUP the exit code is 128 and the
    signal's number (130, 143, 129), and one line says what is kept; see ``utils.commands.interrupts``. Every file is
    written under a temporary name and renamed, so what was saved before stays whole.
    """
    setup_logging()
    interrupts.install()
    threading.excepthook = _report_error_of_thread
    keep_freed_memory()
    try:
        main()
        code: Any = _after_signal(interrupts.requested()) if interrupts.requested() != signal.SIGINT else 0
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        if hasattr(signal, "SIGCHLD"):  # torch's: another loader process that ends would interrupt what follows
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        number = interrupts.requested() or (signal.SIGINT if _caused_by_interrupt(error) else 0)
        words = describe(error)
        if number:
            code = _after_signal(number, getattr(error, "advice", ""))
        elif isinstance(error, BrokenPipeError):  # the reader of the output is gone
            code = 128 + BROKEN_PIPE
        elif words:
            code = f"error: {words}"
        else:
            raise
    finally:
        interrupts.clean_up()
        interrupts.end_output()
    if interrupts.requested():
        interrupts.leave(code)
    sys.exit(code)


def describe(error: BaseException) -> str:
    """One line for an error that the user can fix: what is wrong and what to do; '' for an error of the program."""
    if isinstance(error, InputError):
        return without_middle(terminal_text(error))
    if isinstance(error, ModuleNotFoundError) and error.name and not is_own(error.name):
        return f"the package {error.name.partition('.')[0]} is not installed: pip install -r requirements.txt"
    advice = getattr(error, "advice", "")
    remedy = "check that the path exists, is writable and has free space" + (f"; then {advice}" if advice else "")
    if isinstance(error, OSError):
        named = f" ({without_middle(terminal_text(error.filename))})" if error.filename else ""
        return f"{error.strerror or error}{named}: {remedy}"
    if isinstance(error, RuntimeError) and _WRITERS_OF_TORCH.search(str(error)):
        return f"a file could not be written: {remedy}"
    return loader_failure(error)


def _after_signal(number: int, advice: str = "") -> int:
    """Report that a signal has ended the work, and return the exit code; 0 for no signal."""
    if number:
        interrupts.tell(number, advice)
    return 128 + number if number else 0


def run_training_command(main: Callable[[Any], object], options_class: type, description: str) -> None:
    """Parse the command line into ``options_class`` and run ``main(options)``, in one process for each ``--device``."""

    def work() -> None:
        options: Any = parse(options_class, description)
        from utils.distributed import launch

        launch(main, options)

    run_command(work)


def _report_error_of_thread(details: threading.ExceptHookArgs) -> None:
    """Log what a thread could not write, in one line and once; other errors get their traceback.

    TensorBoard's thread passes its error to the caller of its writer, who reports it.
    """
    if type(details.thread).__module__.startswith("tensorboard."):
        return
    words = describe(details.exc_value) if details.exc_value is not None else ""
    if words:
        log_once(f"WARNING: {words}")
    else:
        threading.__excepthook__(details)


def _caused_by_interrupt(error: BaseException | None) -> bool:
    """Tell whether ``error`` is KeyboardInterrupt or was raised while handling it, as by an interrupted writer."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
