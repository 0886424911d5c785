"""Archives, .deb, .rpm and install.sh, each into an empty root."""

import hashlib
import os
import signal
import subprocess
import threading

from processes import REPOSITORY, run
from rooms import Root, Server, VERSION, check, check_completions, check_pages, tree

ARCHIVE = f"qwenauth-{VERSION}-x86_64-unknown-linux-musl"


def archive(packages):
    with Root() as root:
        run(["tar", "-x", "-C", root.path / "home", "-f", packages / f"{ARCHIVE}.tar.gz"]).ok()
        directory = root.path / "home" / ARCHIVE
        check(root, f"/home/{ARCHIVE}/qwenauth", "a copy of unknown origin")
        check_pages(directory / "man")
        shells = {"bash": "qwenauth.bash", "zsh": "_qwenauth", "fish": "qwenauth.fish", "elvish": "qwenauth.elv"}
        shells |= {"nushell": "qwenauth.nu", "powershell": "_qwenauth.ps1"}
        files = {shell: f"/home/{ARCHIVE}/completions/{name}" for shell, name in shells.items()}
        check_completions(root, f"/home/{ARCHIVE}/qwenauth", files)


def check_system_package(root, listed, doctor, zsh):
    """`listed` is what the package manager says it installed."""
    files = {f"/{path}" for path in root.added() if not path.endswith("/") and not path.startswith("var/")}
    files = {path for path in files if not path.startswith("/usr/lib/sysimage/")}
    assert files == listed, f"installed {sorted(files - listed)}, listed {sorted(listed - files)}"
    check(root, "/usr/bin/qwenauth", doctor)
    check_pages(root.path / "usr/share/man/man1", ".gz")
    share = "/usr/share"
    shells = {
        "bash": f"{share}/bash-completion/completions/qwenauth",
        "zsh": f"{share}/zsh/{zsh}/_qwenauth",
        "fish": f"{share}/fish/vendor_completions.d/qwenauth.fish",
    }
    check_completions(root, "/usr/bin/qwenauth", shells)


def debian_package(packages):
    with Root() as root:
        admin = root.path / "var/lib/dpkg"
        for name in ("info", "updates"):
            (admin / name).mkdir(parents=True)
        (admin / "status").touch()
        dpkg = ["dpkg", f"--root={root.path}", "--log=/dev/null"]
        run([*dpkg, "--force-script-chrootless", "-i", packages / f"qwenauth_{VERSION}-1_amd64.deb"]).ok()
        listed = run([*dpkg, "-L", "qwenauth"]).ok().stdout.split()
        listed = {path for path in listed if root.below(path).is_file()}
        check_system_package(root, listed, "installed by dpkg: `/usr/bin/qwenauth`; upgrade with `dpkg -i FILE`", "vendor-completions")
        run([*dpkg, "--purge", "qwenauth"]).ok()
        left = [path for path in root.added() if not path.startswith("var/")]
        assert left == [], f"left after removal: {left}"


def rpm_package(packages):
    with Root() as root:
        (root.path / "var/lib/rpm").mkdir(parents=True)
        rpm = ["rpm", "--root", root.path, "--define", "_dbpath /var/lib/rpm"]
        run([*rpm, "--initdb"]).ok()
        file = packages / f"qwenauth-{VERSION}-1.x86_64.rpm"
        run([*rpm, "--install", file]).ok()
        scripts = run([*rpm, "-q", "--scripts", "qwenauth"]).ok()
        assert scripts.stdout == "", f"it runs something when it is installed: {scripts}"
        listed = set(run([*rpm, "-ql", "qwenauth"]).ok().stdout.split())
        assert not any(root.below(path).is_dir() for path in listed), f"it lists a directory: {listed}"
        check_system_package(root, listed, "installed by rpm: `/usr/bin/qwenauth`; upgrade with `rpm -U FILE`", "site-functions")
        run([*rpm, "--erase", "qwenauth"]).ok()
        left = [path for path in root.added() if not path.startswith("var/") and not path.endswith("/")]
        assert left == [], f"left after removal: {left}"


# What install.sh finds on its `PATH`: tools that any system has, and one that downloads.
TOOLS = "sh uname mktemp rm rmdir mkdir mv cp cut sed grep sort find tar gzip sha256sum cat chmod".split()


def tools(root, *more):
    """A directory with links to these programs of the host."""
    directory = root.path / "tools"
    directory.mkdir(exist_ok=True)
    for name in [*TOOLS, *more]:
        found = next(path for path in (f"/usr/bin/{name}", f"/bin/{name}") if os.path.exists(path))
        if not (directory / name).exists():
            (directory / name).symlink_to(found)
    root.before = tree(root.path)
    return {"PATH": str(directory), "HOME": str(root.path / "home")}


def script(packages):
    return (packages / "install.sh").read_text()


def files_of(server_directory, packages):
    name = f"{ARCHIVE}.tar.gz"
    return {f"{server_directory}/{name}": (packages / name).read_bytes()}


def left_in(root):
    return {path for path in tree(root.path) if path not in root.before}


def install_script(packages):
    for downloader in ("curl", "wget"):
        with Root() as root, Server(files_of("/v1", packages)) as server:
            environment = tools(root, downloader)
            # As `curl … | sh` runs it.
            piped = ["sh", "-s", "--", "--from", f"{server.url}/v1"]
            done = run(piped, script(packages), environment).ok()
            program = root.path / "home/.local/bin/qwenauth"
            assert f"installed qwenauth {VERSION}: {program}" in done.stderr and "is not on PATH" in done.stderr, done
            root.give_home_away()
            check(root, "/home/.local/bin/qwenauth", "installed by install.sh: ")
            share = root.path / "home/.local/share"
            check_pages(share / "man/man1")
            shells = {
                "bash": "/home/.local/share/bash-completion/completions/qwenauth",
                "zsh": "/home/.local/share/zsh/site-functions/_qwenauth",
                "fish": "/home/.local/share/fish/vendor_completions.d/qwenauth.fish",
            }
            check_completions(root, "/home/.local/bin/qwenauth", shells)
            # Nothing of it is in the directory of the logins, which is private.
            assert not (share / "qwenauth").exists() or (share / "qwenauth").stat().st_mode & 0o777 == 0o700
            # The list names each file, and removing by it leaves the login, which is not the script's.
            listed = set((share / "doc/qwenauth/installed-files").read_text().split())
            found = {path.removeprefix("home/.local/") for path in left_in(root) if not path.endswith("/")}
            assert {path for path in found if "credentials" not in path and path in listed} == listed, found
            # Again, as an upgrade: a file that the newer version does not have goes.
            (share / "man/man1/qwenauth-old.1").touch()
            with open(share / "doc/qwenauth/installed-files", "a") as names:
                names.write("share/man/man1/qwenauth-old.1\n")
            run(piped, script(packages), environment).ok()
            check_pages(share / "man/man1")
            token = root.run("/home/.local/bin/qwenauth", "token").ok()
            assert token.stdout == "sk-packaging-0123456789\n", token
            removed = run(["sh", "-s", "--", "--uninstall"], script(packages), environment).ok()
            left = {path for path in left_in(root) if path.removeprefix("home/.local/") in listed}
            assert left == set() and not program.parent.exists(), removed


def install_script_refuses(packages):
    name = f"{ARCHIVE}.tar.gz"
    good = (packages / name).read_bytes()
    for wrong in (good[:-1] + bytes([good[-1] ^ 1]), good[: len(good) // 2], b"", good + b"\0"):
        with Root() as root, Server({f"/{name}": wrong}) as server:
            environment = tools(root, "curl")
            done = run(["sh", "-s", "--", "--from", server.url], script(packages), environment)
            done.fails(f"the checksum of {name} is wrong; nothing was installed")
            assert left_in(root) == set(), left_in(root)
    with Root() as root, Server({}) as server:
        environment = tools(root, "curl")
        run(["sh", "-s", "--", "--from", server.url], script(packages), environment).fails("cannot download")
        run(["sh", "-s", "--", "--from", "http://example.invalid/x"], script(packages), environment).fails("is not an https address")
        address = f"http://127.0.0.1:x@{server.url.removeprefix('http://')}"
        run(["sh", "-s", "--", "--from", address], script(packages), environment).fails("has user information in it")
        run(["sh", "-s", "--", "--from"], script(packages), environment).fails("--from needs a value")
        run(["sh", "-s", "--", "--uninstall"], script(packages), environment).fails("was not installed in")
        # Cut anywhere before its end, the script does nothing.
        text = script(packages)
        for length in range(0, len(text) - len('main "$@"\n'), 97):
            run(["sh", "-s", "--", "--from", server.url], text[:length], environment)
        assert left_in(root) == set(), left_in(root)
    with Root() as root, Server({f"/{name}": good}) as server:
        environment = tools(root, "curl")
        (root.path / "tools/sha256sum").unlink()
        done = run(["sh", "-s", "--", "--from", server.url], script(packages), environment)
        done.fails("none of sha256sum, shasum and openssl is installed")
        assert "is wrong" not in done.stderr and left_in(root) <= {"tools/sha256sum"}, (done, left_in(root))
    with Root() as root, Server({f"/{name}": good}) as server:
        environment = tools(root, "curl")
        (root.path / "home/.local/bin").mkdir(parents=True)
        (root.path / "home/.local/bin/qwenauth").write_text("of another")
        before = left_in(root)
        run(["sh", "-s", "--", "--from", server.url], script(packages), environment).fails("was not installed by this script")
        assert left_in(root) == before


def install_script_interrupted(packages):
    """Interrupted while it downloads: nothing is left."""
    name = f"{ARCHIVE}.tar.gz"
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def like_a_terminal():
        # A shell cannot catch what was ignored when it began, as under `nohup`.
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        with Root() as root:
            arrived, go_on = threading.Event(), threading.Event()

            def wait():
                arrived.set()
                go_on.wait(60)
                return b""

            with Server({f"/{name}": wait}) as server:
                environment = tools(root, "curl")
                command = ["sh", "-c", script(packages), "install.sh", "--from", server.url]
                process = subprocess.Popen(
                    command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=like_a_terminal
                )
                try:
                    assert arrived.wait(60), "nothing was downloaded"
                    # As the keyboard does: to the whole group.
                    os.killpg(process.pid, number)
                    code = process.wait(60)
                finally:
                    go_on.set()
                    process.poll() is None and process.kill()
            assert code != 0, number
            assert left_in(root) == set(), (number, left_in(root))


def homebrew_formula(packages):
    """The formula's own lines, by a stand-in for Homebrew: right address and checksum, each file installed, its test."""
    run(["ruby", "-c", packages / "qwenauth.rb"]).ok()
    with Root() as root:
        done = run(["ruby", REPOSITORY / "tests/packaging/brew.rb", packages / "qwenauth.rb", packages, root.path / "home"])
        done.ok()
        root.give_home_away()
        check(root, "/home/Cellar/qwenauth/bin/qwenauth", "installed by Homebrew: ")
        check_pages(root.path / "home/Cellar/qwenauth/share/man/man1")


def sums(packages):
    """SHA256SUMS names each package once and is right."""
    lines = (packages / "SHA256SUMS").read_text().splitlines()
    named = {line[66:]: line[:64] for line in lines}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packages.iterdir() if path.name != "SHA256SUMS"}
    assert named == found


TESTS = {
    "archive": archive,
    "debian_package": debian_package,
    "rpm_package": rpm_package,
    "install_script": install_script,
    "install_script_refuses": install_script_refuses,
    "install_script_interrupted": install_script_interrupted,
    "homebrew_formula": homebrew_formula,
    "sums": sums,
}
