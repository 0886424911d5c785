"""The tests of this directory, several at once: `all.py [TEST…]`, named as unittest names them: `test_same.Tokens`.

Most of them wait: for wine to start a program, or for a time to pass. Each has its own home and its own provider.
"""

import multiprocessing
import os
import sys
import time
import unittest

WORKERS = int(os.environ.get("WINDOWS_TEST_WORKERS", "4"))


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def run(names):
    return [outcome(name) for name in names]


def outcome(name):
    started = time.monotonic()
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromName(name).run(result)
    return name, time.monotonic() - started, bool(result.skipped), [text for _, text in result.failures + result.errors]


def groups(tests):
    """What is run one after another: a test, or those of a class whose tests share something."""
    found = {}
    for test in tests:
        shared = type(test).__name__ if getattr(test, "one_at_a_time", False) else test.id()
        found.setdefault(shared, []).append(test.id())
    return list(found.values())


def main():
    found = list(each(unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:] or ["test_windows", "test_same"])))
    # The long ones first, so that none is left alone at the end.
    found.sort(key=lambda test: not getattr(test, "takes_long", False))
    started, seconds, skipped, failed = time.monotonic(), {}, 0, 0
    with multiprocessing.Pool(WORKERS) as workers:
        outcomes = (one for several in workers.imap_unordered(run, groups(found)) for one in several)
        for name, took, was_skipped, problems in outcomes:
            seconds[name] = took
            skipped += was_skipped
            failed += bool(problems)
            for text in problems:
                print(f"FAILED {name} after {took:.1f} s\n{text}", flush=True)
    slowest = sorted(seconds, key=seconds.get)[-3:]
    print(
        f"{len(found)} tests, {skipped} skipped, {failed} failed, in {time.monotonic() - started:.0f} s; slowest: "
        + ", ".join(f"{name.rpartition('.')[2]} {seconds[name]:.0f} s" for name in reversed(slowest))
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
