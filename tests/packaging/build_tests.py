"""`packaging/build` itself: the same bytes each time, and what it refuses."""

import filecmp
import os
import shutil
import tempfile
from pathlib import Path

from processes import REPOSITORY, run
from rooms import WORK

BUILD = REPOSITORY / "packaging/build"
PROGRAMS = Path(os.environ.get("QWENAUTH_PROGRAMS", WORK / "programs")).absolute()
TRIAL = ["--repository", "https://example.invalid/qwenauth"]


def build(*arguments, **more):
    environment = os.environ | {"PATH": f"{WORK / 'tools/bin'}:{os.environ['PATH']}"} | more
    return run([BUILD, *arguments], environment=environment)


def twice_the_same(packages):
    """At another time, in another place, with another umask."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        script = f'umask 077; exec "{BUILD}" "$@"'
        environment = os.environ | {"PATH": f"{WORK / 'tools/bin'}:{os.environ['PATH']}", "TZ": "Asia/Shanghai", "LC_ALL": "C"}
        run(["sh", "-c", script, "sh", *TRIAL, PROGRAMS, out], environment=environment, directory="/").ok()
        names = sorted(path.name for path in packages.iterdir())
        assert names == sorted(path.name for path in out.iterdir())
        _, different, _ = filecmp.cmpfiles(packages, out, names, shallow=False)
        assert different == [], different


def refuses(packages):
    with tempfile.TemporaryDirectory() as directory:
        out, programs = Path(directory, "out"), Path(directory, "programs")
        for arguments in ([PROGRAMS, out], ["--check"], ["--check", "v0.1.0"]):
            build(*arguments).fails("`repository` in Cargo.toml is empty")
        build(*TRIAL, "--complete", PROGRAMS, out).fails("a release needs aarch64-unknown-linux-musl")
        build(*TRIAL, "--check", "v9.9.9").fails("the tag is v9.9.9")
        build("--repository", "http://example.invalid/x", "--check").fails("is not an https address")
        build(*TRIAL, programs, out).fails("holds no TARGET/qwenauth")
        static = PROGRAMS / "x86_64-unknown-linux-musl/qwenauth"
        host = REPOSITORY / "target/debug/qwenauth"
        fixed = Path(directory, "fixed")
        program = bytearray(static.read_bytes())
        program[16:18] = b"\x02\0"  # ET_EXEC
        fixed.write_bytes(program)
        for triple, program, reason in (
            ("x86_64-unknown-linux-musl", host, "is not static"),
            ("x86_64-unknown-linux-musl", fixed, "is not position independent"),
            ("aarch64-unknown-linux-musl", static, "is not an ELF program for aarch64"),
            ("x86_64-unknown-linux-gnu", static, "is static"),
            ("x86_64-unknown-linux-gnu", host, "needs glibc 2."),
            ("x86_64-apple-darwin", static, "is not a Mach-O program"),
            ("x86_64-pc-windows-msvc", static, "is not a Windows program"),
        ):
            file = programs / triple / ("qwenauth.exe" if "windows" in triple else "qwenauth")
            file.parent.mkdir(parents=True)
            shutil.copy(program, file)
            build(*TRIAL, programs, out).fails(f"the program for {triple} {reason}")
            shutil.rmtree(programs)
        assert not out.exists()
        out.mkdir()
        (out / "mine").touch()
        # Before the programs are looked at.
        build(*TRIAL, programs, out).fails("is not empty")
        assert [path.name for path in out.iterdir()] == ["mine"]


TESTS = {"twice_the_same": twice_the_same, "refuses": refuses}
