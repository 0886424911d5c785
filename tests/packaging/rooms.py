"""Places to install into: empty roots that a program is run in as another user, and servers that packages come from.

A root has nothing but what was installed: no shell, no library, no toolchain, no certificate. What runs in it sees /proc,
/dev/null and two empty directories, has a mount namespace of its own, and is bounded in time.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import tomllib
from pathlib import Path

from processes import REPOSITORY, run
from provider import Answering, Loopback

WORK = REPOSITORY / "target/packaging"
VERSION = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]["version"]
STRANGER = 54321  # a user and group that no database knows

# $1 is the root, $2 the user, $3 `ro` or `rw`; the rest is the program. Read-only: all but /data and /tmp.
ENTER = """
root=$1 user=$2 mode=$3
shift 3
[ "$mode" = rw ] || {
  /bin/mount --bind "$root" "$root"
  /bin/mount -o remount,bind,ro "$root"
  for directory in data tmp; do
    [ ! -d "$root/$directory" ] || /bin/mount -t tmpfs -o "mode=1777" tmpfs "$root/$directory"
  done
}
/bin/mount -t proc proc "$root/proc"
/bin/mount --bind /dev/null "$root/dev/null"
exec /usr/sbin/chroot --userspec="$user:$user" --groups= "$root" "$@"
"""


def tree(directory):
    """Every path below, and what is there."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[f"{name}/"] = ""
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Root:
    """An empty root; `with` removes it."""

    def __init__(self):
        WORK.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="root-", dir=WORK))
        self.path.chmod(0o755)
        for name in ("proc", "dev", "home", "tmp"):
            (self.path / name).mkdir()
        (self.path / "dev/null").touch()
        for name in ("home", "tmp"):
            (self.path / name).chmod(0o1777)
        self.before = tree(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)

    def command(self, *arguments, user=STRANGER, mode="rw"):
        enter = ["/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-eu", "-c", ENTER, "enter"]
        return [str(part) for part in [*enter, self.path, user, mode, *arguments]]

    def environment(self, program, **more):
        """Nothing but an empty home and the directory of the program."""
        return {"HOME": "/home", "PATH": str(Path(program).parent)} | more

    def run(self, program, *arguments, stdin="", user=STRANGER, mode="rw", **more):
        command = self.command(program, *arguments, user=user, mode=mode)
        return run(command, stdin, self.environment(program, **more))

    def give_home_away(self):
        """What was installed below the home becomes the stranger's, as if he had done it."""
        for path in [self.path / "home", *self.path.joinpath("home").rglob("*")]:
            os.chown(path, STRANGER, STRANGER, follow_symlinks=False)

    def below(self, path):
        """A path of the root as it is seen from outside."""
        return self.path / str(path).lstrip("/")

    def added(self):
        """What was installed since the root was made, but for what a run leaves in the home."""
        return {path: what for path, what in tree(self.path).items() if path not in self.before and not path.startswith("home/")}


def check(root, program, installed, stdin_key="sk-packaging-0123456789"):
    """What holds for every installed package, run as a stranger with an empty home and nothing else on `PATH`.

    `installed` is what `doctor` says of how it came.
    """
    version = root.run(program, "--version").ok()
    assert version.stdout == f"qwenauth {VERSION}\n", version
    tour = root.run(program, "sandbox", "--tour").ok()
    for step in ("login", "status", "token", "refresh", "logout"):
        assert f"$ qwenauth {step}" in tour.stdout + tour.stderr, f"the tour has no {step}: {tour}"

    login = ["login", "custom", "--base-url", "http://127.0.0.1:9/v1", "--api-key-stdin", "--no-verify", "--model", "m"]
    root.run(program, *login, stdin=stdin_key).ok()
    token = root.run(program, "token").ok()
    assert token.stdout == f"{stdin_key}\n", token

    named = command_of(root.run(program, "setup", "codex", "--print").ok())
    assert named in ("qwenauth", str(program)), f"`setup` names {named}, not {program}"
    asked = root.run(named if named.startswith("/") else program, "token").ok()
    assert asked.stdout == f"{stdin_key}\n", asked
    doctor = root.run(program, "doctor", "--json").json()["checks"]
    told = [check["message"] for check in doctor if check["name"] == "installed"]
    assert len(told) == 1 and told[0].startswith(installed), told
    assert not any(check["status"] == "warn" for check in doctor if check["name"] == "installed"), doctor


def command_of(printed):
    """The program that Codex would ask for a token."""
    table = tomllib.loads(printed.stdout)
    (provider,) = table["model_providers"].values()
    return provider["auth"]["command"]


def check_pages(directory, suffix=""):
    """Each manual page is there and can be read by man."""
    pages = sorted(path.name for path in (REPOSITORY / "man").glob("*.1"))
    assert sorted(path.name for path in directory.glob("*")) == [page + suffix for page in pages]
    page = run(["man", "--warnings", "-l", directory / f"qwenauth-login.1{suffix}"], environment={"PATH": "/usr/bin:/bin", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"}).ok()
    assert "NAME" in page.stdout and "qwenauth" in page.stdout and page.stderr == "", page


def check_completions(root, program, files):
    """`files` is {shell: path in the root}; each is what the installed program prints."""
    for shell, path in files.items():
        printed = root.run(program, "completions", shell).ok()
        assert printed.stdout == root.below(path).read_text(), f"{path} is not what `completions {shell}` prints"


class Server(Loopback):
    """Files, and a package registry for npm."""

    def __init__(self, files):
        self.files = dict(files)
        self.asked = []
        outer = self

        class Handler(Answering):
            def do_GET(self):
                path = self.path.split("?")[0]
                outer.asked.append(path)
                content = outer.answer(path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(content or b"")

        super().__init__(Handler)

    def answer(self, path):
        found = self.files.get(path)
        return found() if callable(found) else found


class Provider(Loopback):
    """An OpenAI-compatible API that accepts one key."""

    def __init__(self, key):
        class Handler(Answering):
            def answer(self):
                self.body()
                known = self.headers.get("Authorization") == f"Bearer {key}"
                models = {"object": "list", "data": [{"id": "m", "object": "model"}]}
                self.reply(200 if known else 401, models if known else {"error": {"message": "no"}})

            do_GET = do_POST = answer

        super().__init__(Handler)
        self.url += "/v1"
