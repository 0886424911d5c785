"""Files that name a download and its checksum: templates, filled in from the archives that were just made."""

import hashlib
import re

from . import archive, project


def sums_of(files):
    """{file name: bytes} → {file name: SHA-256}"""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def fill(about, text, archives):
    """Replaces `@NAME@`. `archives` is {target triple: SHA-256}; a sum that is not known stays to be seen as missing."""
    values = {
        "VERSION": about.version,
        "DESCRIPTION": about.description,
        "REPOSITORY": about.repository,
        "LICENSE": about.license,
        "DOWNLOAD": about.download("").rstrip("/"),
        "SUMS": "\n".join(f"{triple} {digest}" for triple, digest in sorted(archives.items())),
    }
    values |= {f"SHA256 {triple}": digest for triple, digest in archives.items()}
    return re.sub(r"@([A-Z0-9]+(?: [a-z0-9_-]+)?)@", lambda match: values.get(match[1], f"MISSING {match[1]}"), text)


def make(about, archives):
    """install.sh, the formula, the lines for packaging/action/checksums, and the recipes that nobody has tried, in one archive of their own."""
    packaging = project.ROOT / "packaging"
    made = {
        "install.sh": fill(about, (packaging / "install.sh").read_text(), archives).encode(),
        "action-checksums": "".join(f"{about.version} {triple} {digest}\n" for triple, digest in archives.items()).encode(),
        "qwenauth.rb": fill(about, (packaging / "homebrew/qwenauth.rb").read_text(), archives).encode(),
    }
    untried = packaging / "untried"
    tree = {
        f"untried/{file.relative_to(untried)}": (fill(about, file.read_text(), archives).encode(), 0o644)
        for file in sorted(untried.rglob("*"))
        if file.is_file()
    }
    return made | {"untried-recipes.tar.gz": archive.gz(archive.tar(tree, about.epoch))}
