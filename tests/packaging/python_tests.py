"""The wheel, by pip and by uv, from files alone."""

import os
import sys
import zipfile

from processes import run
from rooms import Root, VERSION, WORK, check, check_pages, tree


def wheel_of(packages):
    (wheel,) = packages.glob("*-py3-none-manylinux*.whl")
    return wheel


def pip(packages):
    with Root() as root:
        venv = root.path / "opt/venv"
        run([sys.executable, "-m", "venv", venv]).ok()
        before = tree(venv)
        run([venv / "bin/pip", "install", "--no-index", "--find-links", packages, "qwenauth"]).ok()
        files = run([venv / "bin/pip", "show", "--files", "qwenauth"]).ok().stdout
        location = files.split("Location: ")[1].splitlines()[0]
        names = {os.path.normpath(f"{location}/{line.strip()}") for line in files.split("Files:\n")[1].splitlines()}
        added = {str(venv / path) for path in tree(venv) if path not in before and not path.endswith("/")}
        assert added == names, added ^ names
        check(root, "/opt/venv/bin/qwenauth", "installed by pip: `/opt/venv/bin/qwenauth`; upgrade with `/opt/venv/bin/pip install --upgrade FILE`")
        check_pages(venv / "share/man/man1")
        run([venv / "bin/pip", "uninstall", "--yes", "qwenauth"]).ok()
        left = {path for path in tree(venv) if path not in before and "__pycache__" not in path and not path.endswith("/")}
        assert left == set(), left


def uv_environment(root):
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root.path / "home"),
        "UV_TOOL_DIR": str(root.path / "opt/uv/tools"),
        "UV_TOOL_BIN_DIR": str(root.path / "opt/bin"),
        "UV_CACHE_DIR": str(root.path / "home/uv"),
        "UV_OFFLINE": "1",
        "UV_PYTHON": sys.executable,
        "UV_NO_CONFIG": "1",
    }


def uv_tool(packages):
    uv = WORK / "tools/bin/uv"
    source = ["--no-index", "--find-links", packages]
    with Root() as root:
        environment = uv_environment(root)
        run([uv, "tool", "install", *source, "qwenauth"], environment=environment).ok()
        linked = root.path / "opt/bin/qwenauth"
        assert run([linked, "--version"], environment={}).ok().stdout == f"qwenauth {VERSION}\n"
        check(root, "/opt/uv/tools/qwenauth/bin/qwenauth", "installed by uv: ")
        run([uv, "tool", "uninstall", "qwenauth"], environment=environment).ok()
        left = {path for path in root.added() if "qwenauth" in path}
        assert left == set(), left


def uvx(packages):
    """What runs once is not what other programs are set up to call."""
    uvx = WORK / "tools/bin/uvx"
    with Root() as root:
        environment = uv_environment(root)
        once = [uvx, "--no-index", "--find-links", packages, "qwenauth"]
        run([*once, "sandbox", "--tour"], environment=environment).ok()
        login = ["login", "custom", "--base-url", "http://127.0.0.1:9/v1", "--api-key-stdin", "--no-verify", "--model", "m"]
        run([*once, *login], "sk-packaging-0123456789", environment).ok()
        done = run([*once, "setup", "codex", "--print"], environment=environment)
        done.fails("run from the cache of uv")
        assert done.stdout == "", done


def wheel_contents(packages):
    """The record names every file with its sum, and the tags say a static program."""
    import base64
    import hashlib

    wheel = wheel_of(packages)
    for tag in ("manylinux_2_17_x86_64", "musllinux_1_1_x86_64"):
        assert tag in wheel.name, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (record,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        rows = [line.rsplit(",", 2) for line in archive.read(record).decode().splitlines()]
        assert sorted(row[0] for row in rows) == sorted(names)
        for name, digest, size in rows:
            if name != record:
                content = archive.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={expected}", str(len(content))), name


TESTS = {"pip": pip, "uv_tool": uv_tool, "uvx": uvx, "wheel_contents": wheel_contents}
