"""What the `run` of each suite in Python does with its tests, which every `*_tests.py` lists in TESTS: name → test."""

import importlib
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from processes import REPOSITORY

PROGRAM = Path(os.environ.get("QWENAUTH", REPOSITORY / "target/debug/qwenauth")).absolute()


def tests_of(directory, *lists):
    """`lists`: beside TESTS, where a file has them."""
    tests = {}
    for file in sorted(Path(directory).glob("*_tests.py")):
        module = importlib.import_module(file.stem)
        for name in ("TESTS", *lists):
            tests |= getattr(module, name, {})
    return tests


def chosen(tests, begins):
    """The tests whose names begin so, or all; ends the run where there is none."""
    found = {name: test for name, test in tests.items() if not begins or name.startswith(tuple(begins))}
    if not found:
        print(f"no test is called {' or '.join(begins)}; `--list` shows them", file=sys.stderr)
        sys.exit(2)
    return found


def run_each(tests, run, report=sys.stdout, workers=1):
    """Runs all of them, so many at once, whatever fails; `run` gets a test and returns why it was skipped, if it was.
    Name → whether it passed."""

    def passes(named):
        name, test = named
        started = time.monotonic()
        try:
            skipped = run(test)
        except Exception as failure:  # a test may fail in any way; the others still run
            line = f"FAIL {name}: {failure}\n{traceback.format_exc(limit=-3)}"
        else:
            line = f"skip {name}: {skipped}" if skipped else f"ok  {name}"
        print(f"{line}  ({time.monotonic() - started:.1f} s)", file=report, flush=True)
        return not line.startswith("FAIL ")

    with ThreadPoolExecutor(workers) as pool:
        passed = dict(zip(tests, pool.map(passes, tests.items())))
    failed = list(passed.values()).count(False)
    print(f"{len(passed) - failed} passed, {failed} failed", file=report, flush=True)
    return passed
