"""What every command does around its work: logging, one-line errors, exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from utils.allocator import keep_freed_memory
from utils.config import parse
from utils.errors import InputError
from utils.log import LOGGER, colorstr, setup_logging
from utils.names import terminal_text


def show_arguments(command: str, options: Any) -> None:
    """Log the command's name and all its options as ``name=value`` on one line."""
    values = ", ".join(f"{name}={value}" for name, value in vars(options).items())
    LOGGER.info(colorstr(f"{command}: ") + values)


def run_command(main: Callable[[], object]) -> None:
    """Run ``main`` and end the process: 0, or 1 after an error that a user can mend, told in one line.

    Errors of the program itself keep their traceback. Ctrl-C ends with 1, too, and says so; every file is written
    under a temporary name and renamed, so what was saved before stays whole. SIGTERM ends with 143, as it does without
    this, but removes the temporary files first.
    """
    setup_logging()
    _clean_up_on_termination()
    keep_freed_memory()
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {terminal_text(error)}")
    except OSError as error:
        place = f" ({terminal_text(error.filename)})" if error.filename else ""
        sys.exit(f"error: {error.strerror or error}{place}: check that the path exists, is writable and has free space")
    except BaseException as error:
        if not _caused_by_interrupt(error):
            raise
        sys.exit("interrupted: files saved before this moment are complete")
    sys.exit(0)


def run_training_command(main: Callable[[Any], object], options_class: type, description: str) -> None:
    """Read the command line into ``options_class`` and run ``main(options)``, in one process for each device named."""

    def work() -> None:
        options: Any = parse(options_class, description)
        from utils.distributed import launch

        launch(main, options)

    run_command(work)


def _clean_up_on_termination() -> None:
    """Turn SIGTERM into SystemExit in this process; those that it forks still end at once.

    Processes of torchrun, which sends SIGTERM when another one has failed, are left as they are: they may wait for that
    one in a call that never returns.
    """
    if "LOCAL_RANK" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _caused_by_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is the error or made it: a file writer that is broken off raises errors of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
