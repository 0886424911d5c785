"""What every package states about the program, read from the repository's own files."""

import os
import re
import subprocess
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "qwenauth"
DOCUMENTS = ("LICENSE", "README.md", "CHANGELOG.md")


class Refused(Exception):
    """Why nothing is made, in one sentence."""


def completion_files():
    """Shell → file name and text."""
    shells = {
        "bash": "qwenauth.bash",
        "zsh": "_qwenauth",
        "fish": "qwenauth.fish",
        "powershell": "_qwenauth.ps1",
        "elvish": "qwenauth.elv",
        "nushell": "qwenauth.nu",
    }
    return {shell: (name, (ROOT / "completions" / name).read_bytes()) for shell, name in shells.items()}


def manual_pages():
    """File name → text."""
    pages = {page.name: page.read_bytes() for page in sorted((ROOT / "man").glob("*.1"))}
    if not pages:
        raise Refused("man/ has no manual pages; `just generate` writes them")
    return pages


@dataclass
class Project:
    version: str
    description: str
    license: str
    keywords: list
    repository: str
    epoch: int = field(default_factory=lambda: source_date())

    @classmethod
    def read(cls, repository=None):
        """`repository` replaces the one of Cargo.toml, for a trial."""
        package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
        repository = (repository or package.get("repository", "")).rstrip("/")
        if not repository:
            raise Refused(
                "`repository` in Cargo.toml is empty, so no package could say where it comes from; "
                "set it, or pass `--repository URL` for a trial"
            )
        return cls(package["version"], package["description"], package["license"], package["keywords"], repository)

    def download(self, file):
        """Where a file of this release can be downloaded."""
        return f"{self.repository}/releases/download/v{self.version}/{file}"

    def document(self, name):
        """A document whose links still lead somewhere outside the repository."""
        text = (ROOT / name).read_text()
        if name.endswith(".md"):
            base = f"{self.repository}/blob/v{self.version}/"
            text = re.sub(r"(\]\()(?!https?:|#|mailto:)([^)\s]+\))", rf"\1{base}\2", text)
            text = re.sub(r'(src=")(?!https?:)', rf"\1{base}", text)
        return text.encode()


def source_date():
    """`SOURCE_DATE_EPOCH`, else the time of the last commit: what every file in every package is dated."""
    if value := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(value)
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused("this is not a git clone, so `SOURCE_DATE_EPOCH` must say what the files are dated")
    return int(done.stdout)
