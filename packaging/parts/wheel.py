"""Wheels: the program is a script of the environment, so no interpreter stands between it and its caller."""

import base64
import hashlib

from . import archive, project


def make(about, target, program):
    files = {}
    data = f"qwenauth-{about.version}.data"
    info = f"qwenauth-{about.version}.dist-info"
    files[f"{data}/scripts/{target.program}"] = (program, 0o755)
    for name, text in project.manual_pages().items():
        files[f"{data}/data/share/man/man1/{name}"] = (text, 0o644)
    files[f"{info}/licenses/LICENSE"] = (about.document("LICENSE"), 0o644)
    files[f"{info}/METADATA"] = (metadata(about), 0o644)
    files[f"{info}/WHEEL"] = (wheel(target), 0o644)
    record = f"{info}/RECORD"
    lines = [f"{path},sha256={digest(content)},{len(content)}" for path, (content, _) in files.items()]
    files[record] = ("\n".join([*lines, f"{record},,", ""]).encode(), 0o644)
    return {f"qwenauth-{about.version}-py3-none-{target.wheel}.whl": archive.zip_(files, about.epoch)}


def digest(content):
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def metadata(about):
    head = [
        "Metadata-Version: 2.4",
        "Name: qwenauth",
        f"Version: {about.version}",
        f"Summary: {about.description}",
        f"Keywords: {','.join(about.keywords)}",
        f"License-Expression: {about.license}",
        "License-File: LICENSE",
        "Requires-Python: >=3.8",
        f"Project-URL: Repository, {about.repository}",
        f"Project-URL: Changelog, {about.repository}/blob/v{about.version}/CHANGELOG.md",
        "Description-Content-Type: text/markdown; charset=UTF-8; variant=GFM",
    ]
    return "\n".join(head).encode() + b"\n\n" + about.document("README.md")


def wheel(target):
    tags = [f"Tag: py3-none-{platform}" for platform in target.wheel.split(".")]
    return "\n".join(["Wheel-Version: 1.0", "Generator: qwenauth", "Root-Is-Purelib: false", *tags, ""]).encode()
