"""Many random inputs: ``python -m tests.fuzz models --count 2000 --seed 0``. Exits with 1 if any was met badly.

Each trial runs under the memory that the process may take (``--memory``). What is slower than 5 s of CPU time, ends in
a traceback or has a message of several lines is printed, with its number, which ``--only`` repeats.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.fuzz.trials import TRIALS, silence

SLOW = 5.0  # seconds
HANGS = 60  # seconds of CPU time after which a trial is broken off


def _break_off(*_: object) -> None:
    raise RuntimeError(f"still busy after {HANGS} seconds")


def main() -> int:
    """Run the trials; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=TRIALS)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat this trial and print its input")
    parser.add_argument("--memory", type=int, default=12, help="GiB of address space")
    options = parser.parse_args()
    if hasattr(signal, "SIGPROF"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (options.memory << 30, options.memory << 30))
        signal.signal(signal.SIGPROF, _break_off)
    kinds: collections.Counter[str] = collections.Counter()
    slowest, bad = (0.0, -1), 0
    with tempfile.TemporaryDirectory() as name, silence():
        os.chdir(name)
        for number in range(options.count) if options.only is None else [options.only]:
            if hasattr(signal, "SIGPROF"):
                signal.setitimer(signal.ITIMER_PROF, HANGS)
            text, outcome = TRIALS[options.kind](random.Random(f"{options.seed} {number}"), Path(name))
            kind = "slow" if outcome.seconds > SLOW and number else outcome.kind  # the first one imports libraries
            kinds[kind] += 1
            slowest = max(slowest, (outcome.seconds, number)) if number else slowest
            if kind in ("slow", "traceback", "bad message") or options.only is not None:
                bad += kind in ("slow", "traceback", "bad message")
                shown = text if options.only is not None else text[:300]
                print(f"{number}: {kind}, {outcome.seconds:.1f} s\n{shown!r}\n{outcome.text[-1500:]}\n", flush=True)
    print(f"{options.kind}, seed {options.seed}: {dict(kinds)}; slowest {slowest[0]:.2f} s (number {slowest[1]})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
