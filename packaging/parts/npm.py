"""npm packages: one with a launcher, and one a platform with the program. None runs anything when it is installed."""

import json

from . import archive, project


def manifest(about, **more):
    common = {
        "version": about.version,
        "description": about.description,
        "license": about.license,
        "repository": {"type": "git", "url": f"git+{about.repository}.git"},
    }
    return (json.dumps(common | more, indent=2) + "\n").encode(), 0o644


def pack(about, name, files):
    tree = {f"package/{path}": file for path, file in files.items()}
    file = name.removeprefix("@").replace("/", "-")
    return {f"{file}-{about.version}.tgz": archive.gz(archive.tar(tree, about.epoch))}


def platform(about, target, program):
    system, cpu = target.npm
    return pack(
        about,
        target.npm_name,
        {
            "package.json": manifest(about, name=target.npm_name, os=[system], cpu=[cpu], preferUnplugged=True),
            f"bin/{target.program}": (program, 0o755),
            "LICENSE": (about.document("LICENSE"), 0o644),
            "README.md": (f"The program of `qwenauth` for {system} on {cpu}.\n".encode(), 0o644),
        },
    )


def main(about, targets):
    """`targets` are those that have a platform package."""
    pages = {f"man/{name}": (text, 0o644) for name, text in project.manual_pages().items()}
    launcher = project.ROOT / "packaging/npm/qwenauth.js"
    package = manifest(
        about,
        name="qwenauth",
        keywords=about.keywords,
        bin={"qwenauth": "bin/qwenauth.js"},
        man=[f"./{page}" for page in pages],
        engines={"node": ">=18"},
        optionalDependencies={target.npm_name: about.version for target in targets},
    )
    files = {
        "package.json": package,
        "bin/qwenauth.js": (launcher.read_bytes(), 0o755),
        "LICENSE": (about.document("LICENSE"), 0o644),
        "README.md": (about.document("README.md"), 0o644),
    }
    return pack(about, "qwenauth", files | pages)
