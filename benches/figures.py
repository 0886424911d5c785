"""What every benchmark here keeps to: a release build, a quiet machine, and one file for the figures."""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FILE = REPOSITORY / "docs/figures.md"
HEAD = """# Figures

Made by `benches/run --write` and `benches/gateway/run --write`, each table in one run on one machine; only ratios can be compared
with those of other machines. `cat` sets up a locale where there is one (`LANG=C.UTF-8`, as in most shells) and none without
`LANG`; the ratios of the start depend on that.
"""
QUIET = 1.0  # the load average above which nothing is measured
PATIENCE = 600  # seconds for a load to go down, such as that of the build before


def require_release(program):
    """Ends unless `program` says of itself that it is a release build; returns what it says, on one line."""
    told = subprocess.run([program, "--version", "-v"], capture_output=True, text=True, check=True).stdout
    facts = dict(line.split(": ", 1) for line in told.splitlines()[1:])
    if facts.get("profile") != "release":
        sys.exit(f"not measured: `{program}` is a {facts.get('profile', 'unknown')} build, not a release")
    return f"{told.splitlines()[0]}, {facts['target']}, features: {facts['features']}"


def wait_for_quiet():
    """The load average before the measurement; ends when the machine stays busy."""
    ends = time.monotonic() + PATIENCE
    while os.getloadavg()[0] > QUIET:
        if time.monotonic() > ends:
            sys.exit(f"not measured: the load is {os.getloadavg()[0]:.1f}, above {QUIET}")
        time.sleep(5)
    return os.getloadavg()[0]


def commit():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock", "build.rs")
    return f"commit `{git('rev-parse', '--short=12', 'HEAD') or 'unknown'}`{' with changes' if changed else ''}"


def named(program):
    """A build by what it says of itself, and by its hash."""
    return f"{require_release(program)} (SHA-256 `{hashlib.sha256(Path(program).read_bytes()).hexdigest()[:16]}`)"


def static_build():
    """The program that `--static PROGRAM` names."""
    arguments = sys.argv[1:]
    return Path(arguments[arguments.index("--static") + 1]).absolute() if "--static" in arguments else None


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    libc = " ".join(os.confstr("CS_GNU_LIBC_VERSION").split()) if "CS_GNU_LIBC_VERSION" in os.confstr_names else "no glibc"
    rust = " ".join(subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[:2])
    kernel = os.uname().release.split("-")[0]
    return f"{model.group(1) if model else os.uname().machine}, {os.cpu_count()} cores, Linux {kernel}, {libc}, {rust}"


def table(head, alignment, rows):
    lines = [f"| {' | '.join(head)} |", f"|{alignment}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def publish(section, text):
    """Prints the section; with `--write` puts it in its place of the file too."""
    print(text)
    if "--write" not in sys.argv[1:]:
        return
    begin, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->\n"
    whole = FILE.read_text() if FILE.exists() else HEAD
    before, _, rest = whole.partition(begin)
    after = rest.partition(end)[2]
    FILE.write_text(f"{before.rstrip()}\n\n{begin}\n{text.strip()}\n\n{end}{after}")
