"""docs/deploy.md: its blocks are taken from the page and run as far as that goes without the service they are for."""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

from image_tests import USER, unpack
from processes import REPOSITORY, run
from rooms import Provider, Root, STRANGER, Server, VERSION, WORK
from runner import Runner, load_text

PAGE = REPOSITORY / "docs/deploy.md"
KEY = "sk-deploy-0123456789abcdef"
ARCHIVE = f"qwenauth-{VERSION}-x86_64-unknown-linux-musl"
PROGRAMS = Path(os.environ.get("QWENAUTH_PROGRAMS", WORK / "programs")).absolute()
PROGRAM = PROGRAMS / "x86_64-unknown-linux-musl/qwenauth"
START_SECONDS = 30


def block(heading, language):
    section = next(part for part in PAGE.read_text().split("\n## ") if part.startswith(f"{heading}\n"))
    (found,) = re.findall(rf"```{language}\n(.*?)```", section, re.S)
    return found


@contextlib.contextmanager
def running(command, environment, **options):
    """A gateway, from its first line of output to its end by SIGTERM, which must be a clean one; yields its first lines."""
    process = subprocess.Popen(
        [str(part) for part in command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )
    ended = threading.Timer(START_SECONDS, process.kill)
    ended.start()
    try:
        first = process.stdout.readline().decode().strip()
        assert first.startswith("http://127.0.0.1:"), (first, process.stderr.read().decode() if not first else "")
        yield first, process
    finally:
        ended.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=START_SECONDS)
    assert process.returncode in (0, -signal.SIGTERM), (process.returncode, out, err)
    assert KEY not in (out + err).decode(), "the provider's key was printed"


def status_of(url, key=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=START_SECONDS) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def check_gateway(url, key_file):
    """A request with the gateway's key reaches the provider with the provider's; one without goes nowhere."""
    base = url.removesuffix("/v1")
    assert status_of(f"{base}/healthz") == 200
    assert status_of(f"{base}/readyz") == 200
    key = key_file.read_text().strip()
    assert key != KEY
    assert status_of(f"{url}/models", key) == 200
    assert status_of(f"{url}/models") == 401


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def at_provider(text, provider):
    """The block's lines at the test's provider instead of the real one."""
    assert "dashscope --region intl" in text, text
    return text.replace("dashscope --region intl", f"custom --base-url {provider.url}")


def deploy_systemd(packages):
    unit = block("systemd", "ini")
    with Root() as root, Provider(KEY) as provider:
        # systemd looks whether the programs are there.
        shutil.copy(PROGRAM, root.path / "qwenauth")
        file = root.path / "qwenauth-gateway.service"
        file.write_text(unit.replace("/usr/bin/qwenauth", str(root.path / "qwenauth")))
        verified = run(["systemd-analyze", "verify", "--man=no", file]).ok()
        assert str(file) not in verified.stderr and "qwenauth-gateway" not in verified.stderr, verified
        security = run(["systemd-analyze", "security", "--offline=true", "--no-pager", file]).ok().stdout
        score = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", security)[1])
        assert score <= 2.0, security

        values = dict(re.findall(r"^(ExecStartPre|ExecStart|Environment|StateDirectory|LoadCredential)=(.*)$", unit, re.M))
        state = root.path / "state" / values["StateDirectory"]
        credentials = root.path / "credentials"
        name, _, source = values["LoadCredential"].partition(":")
        assert source == "/etc/qwenauth/dashscope"
        for directory in (state, credentials):
            directory.mkdir(parents=True, mode=0o700)
        (credentials / name).write_text(f"{KEY}\n")
        (credentials / name).chmod(0o400)
        for path in (state, credentials, credentials / name):
            os.chown(path, STRANGER, STRANGER)
        environment = {"CREDENTIALS_DIRECTORY": str(credentials), "STATE_DIRECTORY": str(state), "PATH": "/usr/bin:/bin"}
        assigned = values["Environment"].replace("%S/qwenauth", str(state))
        environment |= dict(pair.split("=", 1) for pair in assigned.split())
        as_user = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
        port = free_port()

        def line(text):
            text = text.replace("/usr/bin/qwenauth", str(root.path / "qwenauth")).replace(":8399", f":{port}")
            return shlex.split(text.replace("${STATE_DIRECTORY}", str(state)))

        with reachable(root.path):
            # Twice, as a restart does.
            for _ in range(2):
                pre = run(line(at_provider(values["ExecStartPre"], provider)), "", environment, **as_user).ok()
                assert KEY not in pre.stdout + pre.stderr
                with running(line(values["ExecStart"]), environment, **as_user) as (url, _):
                    check_gateway(url, state / "gateway-key")


@contextlib.contextmanager
def reachable(path):
    """Another user can reach it, whatever the modes of the directories above; they are put back."""
    closed = [(parent, parent.stat().st_mode) for parent in path.parents if not parent.stat().st_mode & 0o001]
    for parent, mode in closed:
        parent.chmod(mode | 0o001)
    try:
        yield
    finally:
        for parent, mode in closed:
            parent.chmod(mode & 0o7777)


def build_image(context, storage):
    """Builds the page's Dockerfile; returns the image's root and configuration."""
    buildah = ["buildah", "--storage-driver", "vfs", "--root", storage / "root", "--runroot", storage / "run"]
    run([*buildah, "build", "--isolation", "chroot", "--tag", "deploy", context]).ok()
    made = run([*buildah, "from", "deploy"]).ok().stdout.strip()
    mounted = Path(run([*buildah, "mount", made]).ok().stdout.strip())
    config = run([*buildah, "inspect", made]).ok().json()["OCIv1"]["config"]
    return mounted, config, lambda: run([*buildah, "rmi", "--all", "--force"])


def deploy_image(packages):
    with Root() as root, Provider(KEY) as provider, tempfile.TemporaryDirectory() as directory:
        context = Path(directory)
        (context / "Dockerfile").write_text(block("A container image", "dockerfile"))
        shutil.copy(PROGRAM, context / "qwenauth")
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", context)
        (context / "data").mkdir(mode=0o700)
        mounted, config, remove = build_image(context, WORK / "buildah")
        try:
            run(["cp", "-a", f"{mounted}/.", root.path]).ok()
        finally:
            remove()
        assert config["User"] == f"{USER}:{USER}" and list(config["Volumes"]) == ["/data"], config
        variables = dict(variable.split("=", 1) for variable in config["Env"])
        assert (root.path / "data").stat().st_uid == USER
        login = ["login", "custom", "--base-url", provider.url, "--api-key-stdin"]
        root.run(*config["Entrypoint"], *login, stdin=KEY, user=USER, **variables).ok()
        arguments = [argument.replace(":8399", ":0") for argument in config["Cmd"]]
        # The volume is what the image's user may write to; the rest is read-only.
        command = root.command(*config["Entrypoint"], *arguments, user=USER, mode="rw")
        with running(command, variables) as (url, _):
            check_gateway(url, root.path / "data/gateway-key")


def secret_volume(directory, files):
    """As kubelet lays it out: a directory with a date, a link to it that is swapped, and a link for each file."""
    dated = directory / "..2026_01_01_00_00_00.000000001"
    dated.mkdir(parents=True)
    for name, content in files.items():
        (dated / name).write_text(content)
        (dated / name).chmod(0o440)
        os.chown(dated / name, 0, USER)
        (directory / name).symlink_to(f"..data/{name}")
    (directory / "..data").symlink_to(dated.name)
    directory.chmod(0o3777)


def deploy_kubernetes(packages):
    (pod,) = load_text(block("Kubernetes", "yaml"))
    gateway, client = pod["spec"]["containers"]
    (volume,) = pod["spec"]["volumes"]
    (mount,) = gateway["volumeMounts"]
    assert mount["name"] == volume["name"]
    secret = volume["secret"]["secretName"]
    (given,) = [variable["valueFrom"]["secretKeyRef"] for variable in client["env"] if "valueFrom" in variable]
    assert given == {"name": secret, "key": "gateway"}
    with Root() as root, Provider(KEY) as provider:
        unpack(packages, root)
        variables = {variable["name"]: variable["value"] for variable in gateway["env"]}
        own = "0123456789abcdef" * 4
        secret_volume(root.below(mount["mountPath"]), {"dashscope": f"{KEY}\n", "gateway": f"{own}\n"})
        assert variables["QWENAUTH_API_KEY_FILE"] == f"{mount['mountPath']}/dashscope"
        # At the test's provider; the region is one of the real provider's.
        variables |= {"QWENAUTH_PROVIDER": "custom", "QWENAUTH_BASE_URL": provider.url, "HOME": "/data", "QWENAUTH_HOME": "/data"}
        del variables["QWENAUTH_REGION"]
        arguments = [argument.replace(":8399", ":0") for argument in gateway["args"]]
        probe = gateway["readinessProbe"]["exec"]["command"]
        with running(root.command("/qwenauth", *arguments, user=USER), variables) as (url, _):
            key_file = root.path / "data/gateway-key"
            key_file.write_text(own)
            check_gateway(url, key_file)
            root.run(*probe, user=USER, **variables).ok()
        missing = root.run(*probe, user=USER, **(variables | {"QWENAUTH_API_KEY_FILE": "/none"}))
        assert missing.code != 0, missing


CLIENT = "import os; print('asked', os.environ['OPENAI_BASE_URL'], 'with', len(os.environ['OPENAI_API_KEY']))\n"


def deploy_gitlab(packages):
    (jobs,) = load_text(block("GitLab CI", "yaml"))
    job = jobs["ask"]
    with Root() as root, Provider(KEY) as provider:
        (root.path / "client.py").write_text(CLIENT)
        (root.path / "bin").mkdir()
        shutil.copy(PROGRAM, root.path / "bin/qwenauth")
        number = str(os.getpid())
        environment = {"HOME": str(root.path / "home"), "PATH": f"{root.path}/bin:/usr/bin:/bin", "CI_JOB_ID": number, "DASHSCOPE_API_KEY": KEY}
        environment |= {name: value.replace("$CI_JOB_ID", number) for name, value in job["variables"].items()}
        script = at_provider("\n".join(job["before_script"] + job["script"]), provider)
        done = run(["sh", "-e", "-c", script], "", environment, root.path).ok()
        assert f"asked {provider.url} with {len(KEY)}" in done.stdout and KEY not in done.stdout + done.stderr, done
        assert list((root.path / "home").iterdir()) == []
        run(["sh", "-e", "-c", "\n".join(job["after_script"])], "", environment, root.path).ok()
        assert not os.path.exists(environment["QWENAUTH_HOME"])
        unset = environment | {"DASHSCOPE_API_KEY": ""}
        assert run(["sh", "-e", "-c", script], "", unset, root.path).code != 0
        shutil.rmtree(environment["QWENAUTH_HOME"], ignore_errors=True)


def deploy_github(packages):
    (workflow,) = load_text(block("GitHub Actions", "yaml"))
    steps = workflow["jobs"]["ask"]["steps"]
    archive = (packages / f"{ARCHIVE}.tar.gz").read_bytes()
    with Server({f"/v/{ARCHIVE}.tar.gz": archive}) as server, Provider(KEY) as provider:
        runner = Runner(tempfile.mkdtemp(dir=WORK))
        try:
            runner.secrets = {"DASHSCOPE_API_KEY": KEY}
            runner.contexts |= {
                "vars.QWENAUTH_SHA256": hashlib.sha256(archive).hexdigest(),
                "vars.QWENAUTH_DOWNLOAD_URL": f"{server.url}/v",
                "github.action_repository": "",
            }
            (runner.workspace / "client.py").write_text(CLIENT)
            inputs = {name: runner.text(value) for name, value in steps[0]["with"].items()}
            assert (inputs.pop("provider"), inputs.pop("region")) == ("dashscope", "intl")
            inputs |= {"provider": "custom", "base-url": provider.url, "version": VERSION}
            runner.action(REPOSITORY / "action.yml", inputs).ok()
            done = runner.step(steps[1]).ok()
            assert f"asked {provider.url} with {len(KEY)}" in done.stdout, done
            assert KEY not in runner.shown()
        finally:
            shutil.rmtree(runner.directory)


TESTS = {
    "deploy_systemd": deploy_systemd,
    "deploy_image": deploy_image,
    "deploy_gitlab": deploy_gitlab,
    "deploy_github": deploy_github,
    "deploy_kubernetes": deploy_kubernetes,
}
