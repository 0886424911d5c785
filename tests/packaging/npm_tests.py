"""The npm packages, by name from a registry of ours on loopback: nothing runs when they are installed."""

import base64
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import tarfile
import time

from processes import REPOSITORY, run
from rooms import Root, Server, VERSION, WORK, check, check_pages, command_of, tree

NATIVE = "lib/node_modules/qwenauth/node_modules/@qwenauth/linux-x64/bin/qwenauth"
LOGIN = ["login", "custom", "--base-url", "http://127.0.0.1:9/v1", "--api-key-stdin", "--no-verify", "--model", "m"]


def manifests(packages):
    for file in packages.glob("*.tgz"):
        with tarfile.open(file) as archive:
            yield file, json.load(archive.extractfile("package/package.json"))


def registry(packages):
    """Serves each package as a registry does: its document and its file."""
    server = Server({})
    for file, manifest in manifests(packages):
        content = file.read_bytes()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
        path = f"/-/{file.name}"
        server.files[path] = content
        version = manifest | {"dist": {"tarball": server.url + path, "integrity": integrity}}
        document = {"name": manifest["name"], "dist-tags": {"latest": VERSION}, "versions": {VERSION: version}}
        server.files["/" + manifest["name"].replace("/", "%2f")] = json.dumps(document).encode()
    return server


def environment_of(root, server, node=None):
    directory = node or os.path.dirname(shutil.which("node"))
    return {
        "PATH": f"{directory}:/usr/bin:/bin",
        "HOME": str(root.path / "home"),
        "npm_config_registry": server.url,
        "npm_config_cache": str(root.path / "home/npm"),
        "npm_config_update_notifier": "false",
        "npm_config_fund": "false",
        "npm_config_audit": "false",
        "NO_PROXY": "*",
    }


def install(root, server):
    """Returns the launcher."""
    prefix = root.path / "opt/npm"
    environment = environment_of(root, server)
    run(["npm", "install", "--global", "--prefix", prefix, "qwenauth"], environment=environment).ok()
    return prefix / "bin/qwenauth", environment


def npm(packages):
    for file, manifest in manifests(packages):
        assert "scripts" not in manifest, f"{file.name} runs something: {manifest['scripts']}"
    with Root() as root, registry(packages) as server:
        launcher, environment = install(root, server)
        prefix = launcher.parents[1]
        check(root, f"/opt/npm/{NATIVE}", f"installed by npm: `/opt/npm/{NATIVE}`; upgrade with `npm install --global FILE`")
        check_pages(prefix / "share/man/man1")
        assert run([launcher, "--version"], environment=environment).ok().stdout == f"qwenauth {VERSION}\n"
        run([launcher, "sandbox", "--tour"], environment=environment).ok()
        run([launcher, *LOGIN], "sk-packaging-0123456789", environment).ok()
        # What other programs call is the program, not the launcher.
        named = command_of(run([launcher, "setup", "codex", "--print"], environment=environment).ok())
        assert named == str(prefix / NATIVE), named
        environment["PATH"] = f"{launcher.parent}:{environment['PATH']}"
        doctor = run([launcher, "doctor", "--json"], environment=environment).json()["checks"]
        told = [(check["status"], check["message"]) for check in doctor if check["name"] == "installed"]
        assert len(told) == 1 and told[0][0] == "ok", told
        run(["npm", "uninstall", "--global", "--prefix", prefix, "qwenauth"], environment=environment).ok()
        left = {path for path in root.added() if not path.endswith("/") and "node_modules/.package-lock.json" not in path}
        assert left == set(), left


def node_22():
    """The Node that the clients' tests use, which has `process.execve`."""
    source, target = REPOSITORY / "tests/clients/packages/node-22", WORK / "node-22"
    lock = (source / "package-lock.json").read_bytes()
    if not (target / "node_modules").exists() or (target / "package-lock.json").read_bytes() != lock:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        run(["npm", "ci", "--loglevel", "error"], directory=target, seconds=300).ok()
    (found,) = [path for path in target.glob("node_modules/*/bin/node") if path.parts[-3] != ".bin"]
    return found.parent


def npm_launcher(packages):
    """Exit codes, signals and standard input pass the launcher, where it becomes the program and where it cannot."""
    for node, becomes in ((None, False), (node_22(), True)):
        with Root() as root, registry(packages) as server:
            launcher, environment = install(root, server)
            environment |= environment_of(root, server, node) | {"PATH": environment_of(root, server, node)["PATH"]}
            kind = run(["node", "-p", "typeof process.execve"], environment=environment).ok().stdout.strip()
            assert (kind == "function") == becomes, kind
            run([launcher, "token"], environment=environment).fails("", 4)
            login = run([launcher, *LOGIN], "sk-packaging-0123456789", environment).ok()
            assert "arning" not in login.stderr, login
            for code in (0, 42, 126):
                done = run([launcher, "exec", "--", "sh", "-c", f"exit {code}"], environment=environment)
                assert done.code == code, done
            same_process(launcher, environment, becomes)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
                passes(launcher, environment, number)
            shutil.rmtree(launcher.parents[1] / NATIVE.removesuffix("/bin/qwenauth"))
            run([launcher, "--version"], environment=environment).fails("the package `@qwenauth/linux-x64` is missing")


def same_process(launcher, environment, becomes):
    command = [launcher, "exec", "--", "sh", "-c", "echo $$"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and (int(text) == process.pid) == becomes, (text, process.pid, becomes)


def passes(launcher, environment, number):
    """A signal to the launcher ends the program, and the launcher as the program ended."""
    command = [launcher, "exec", "--", "sh", "-c", "echo $$; exec sleep 60"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        child = int(process.stdout.readline())
        # The shell has become `sleep`, or will end by the same signal.
        os.kill(process.pid, number)
        code = process.wait(60)
    finally:
        process.poll() is None and process.kill()
        process.stdout.close()
    assert code == -number, (code, number)
    assert not os.path.exists(f"/proc/{child}"), f"the program of the launcher outlives it after {number!r}"


def npm_launcher_cost(packages):
    """Prints what a call through the launcher costs; no bound, for it is Node's own start."""
    with Root() as root, registry(packages) as server:
        launcher, environment = install(root, server)

        def median(command):
            times = []
            for _ in range(7):
                started = time.monotonic()
                run([command, "--version"], environment=environment).ok()
                times.append(time.monotonic() - started)
            return statistics.median(times) * 1000

        print(f"    launcher {median(launcher):.0f} ms, program {median(launcher.parents[1] / NATIVE):.0f} ms a call")


def npx(packages):
    with Root() as root, registry(packages) as server:
        environment = environment_of(root, server)
        once = ["npx", "--yes", "qwenauth"]
        run([*once, "sandbox", "--tour"], environment=environment).ok()
        run([*once, *LOGIN], "sk-packaging-0123456789", environment).ok()
        done = run([*once, "setup", "codex", "--print"], environment=environment)
        done.fails("run from the cache of npx")
        assert done.stdout == "", done
        assert tree(root.path / "home/.codex") == {}


TESTS = {"npm": npm, "npm_launcher": npm_launcher, "npm_launcher_cost": npm_launcher_cost, "npx": npx}
