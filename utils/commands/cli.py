"""What every command does around its work: logging, one-line errors, exit codes."""

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
from utils.log import LOGGER, colorstr, log_once, setup_logging
from utils.names import terminal_text

BROKEN_PIPE = 13  # number of SIGPIPE, which Windows does not have
_WRITERS_OF_TORCH = re.compile(r"inline_container|PytorchStreamWriter|iostream error|No space left on device")


def show_arguments(command: str, options: Any) -> None:
    """Log the command's name and all its options as ``name=value`` on one line."""
    values = ", ".join(f"{name}={value}" for name, value in vars(options).items())
    LOGGER.info(colorstr(f"{command}: ") + values)


def run_command(main: Callable[[], object]) -> None:
    """Run ``main`` and end the process: 0, or 1 after an error that a user can mend, told in one line.

    Errors of the program itself keep their traceback. After Ctrl-C, SIGTERM and SIGHUP the exit code is 128 and the
    signal's number (130, 143, 129), and one line says what is kept; see ``utils.commands.interrupts``. Every file is
    written under a temporary name and renamed, so what was saved before stays whole.
    """
    setup_logging()
    interrupts.install()
    threading.excepthook = _tell_error_of_thread
    keep_freed_memory()
    try:
        main()
        code: Any = _after_signal(interrupts.requested()) if interrupts.requested() != signal.SIGINT else 0
    except SystemExit as error:
        code = error.code
    except BaseException as error:
        if hasattr(signal, "SIGCHLD"):  # of torch: another loader process that ends would break off what follows
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        number = interrupts.requested() or (signal.SIGINT if _caused_by_interrupt(error) else 0)
        words = describe(error)
        if number:
            code = _after_signal(number, getattr(error, "advice", ""))
        elif isinstance(error, BrokenPipeError):  # who read the output has gone: nobody is told
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
    """An error that a user can mend, in one line: what is wrong and what to do; '' for an error of the program."""
    if isinstance(error, InputError):
        return without_middle(terminal_text(error))
    advice = getattr(error, "advice", "")
    remedy = "check that the path exists, is writable and has free space" + (f"; then {advice}" if advice else "")
    if isinstance(error, OSError):
        named = f" ({without_middle(terminal_text(error.filename))})" if error.filename else ""
        return f"{error.strerror or error}{named}: {remedy}"
    if isinstance(error, RuntimeError) and _WRITERS_OF_TORCH.search(str(error)):
        return f"a file could not be written: {remedy}"
    return loader_failure(error)


def _after_signal(number: int, advice: str = "") -> int:
    """Say that a signal has ended the work; the exit code."""
    if number:
        interrupts.tell(number, advice)
    return 128 + number if number else 0


def run_training_command(main: Callable[[Any], object], options_class: type, description: str) -> None:
    """Read the command line into ``options_class`` and run ``main(options)``, in one process for each device named."""

    def work() -> None:
        options: Any = parse(options_class, description)
        from utils.distributed import launch

        launch(main, options)

    run_command(work)


def _tell_error_of_thread(details: threading.ExceptHookArgs) -> None:
    """Tell in a line, once, what a thread could not write; other errors with their traceback.

    TensorBoard's thread hands its error on to who calls its writer, and that one tells it.
    """
    if type(details.thread).__module__.startswith("tensorboard."):
        return
    words = describe(details.exc_value) if details.exc_value is not None else ""
    if words:
        log_once(f"WARNING: {words}")
    else:
        threading.__excepthook__(details)


def _caused_by_interrupt(error: BaseException | None) -> bool:
    """Tell whether Ctrl-C is the error or made it: a file writer that is broken off raises errors of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
