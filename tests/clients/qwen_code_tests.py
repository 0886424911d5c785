"""Qwen Code shares its file and its lock with `qwenauth`: each uses what the other wrote, one refresh serves both."""

import json
import signal
from functools import partial
from pathlib import Path

from processes import until

PRELOAD = Path(__file__).resolve().parent / "qwen_code_preload.mjs"
# Without `useExternal`, releases since 0.15 refuse the login of the ended free tier before they send anything.
SETTINGS = {
    "security": {"auth": {"selectedType": "qwen-oauth", "useExternal": True}},
    "privacy": {"usageStatisticsEnabled": False},
    "general": {"disableAutoUpdate": True},
}
QWENAUTH, QWEN_CODE = "qwenauth/", "node"  # who refreshes, by User-Agent


def reaching_loopback(version):
    """0.12.0 ignores `NO_PROXY`."""
    return {"HTTPS_PROXY": "", "HTTP_PROXY": ""} if version == "0.12.0" else {}


class QwenCode:
    def __init__(self, version, machine):
        self._machine = machine
        self._program = machine.package(f"qwen-code-{version}") / "node_modules/.bin/qwen"
        node = machine.package("node-22") / "node_modules/.bin"
        self._signs = machine.root / "signs"
        self._signs.mkdir()
        self.environment = {
            "PATH": f"{node}:{machine.environment()['PATH']}",
            "NODE_OPTIONS": f"--import={PRELOAD.as_uri()}",
            "SIGNS": str(self._signs),
            **reaching_loopback(version),
        }
        self.settings = machine.home / ".qwen" / "settings.json"
        self.settings.parent.mkdir(mode=0o700)
        self.settings.write_text(json.dumps(SETTINGS))

    def command(self, prompt):
        return self._program, "--auth-type", "qwen-oauth", "-p", prompt

    def start(self, prompt):
        return self._machine.start(*self.command(prompt), **self.environment)

    def lock_tries(self):
        """How often it found the lock taken."""
        tries = self._signs / "waits"
        return tries.stat().st_size if tries.exists() else 0

    def assert_it_removed_the_lock(self):
        assert (self._signs / "unlocked").exists(), "Qwen Code left the lock alone, so this test shows nothing"


def assert_answered(process, question):
    process.succeed()
    answer = process.stdout.partition("practice answer to:")[2]
    assert question in answer, f"no answer in {process.stdout!r}"


def uses_the_login_qwenauth_made(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    written = machine.credential_file.read_bytes()
    assert_answered(qwen.start("ping"), "ping")
    bearers = {request.token for request in machine.provider.of_kind("model")}
    assert machine.credential()["access_token"] in bearers, "Qwen Code sent another token"
    assert machine.credential_file.read_bytes() == written, "a valid login was rewritten"
    assert not machine.provider.of_kind("refresh"), "a valid login was refreshed"


def adopts_the_token_qwenauth_renewed(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    machine.expire()
    machine.qwenauth("token")
    assert_answered(qwen.start("ping"), "ping")
    machine.assert_refreshed_once_by(QWENAUTH)


def leaves_a_renewed_token_that_qwenauth_adopts(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    machine.expire()
    assert_answered(qwen.start("ping"), "ping")
    token = machine.qwenauth("token").stdout.strip()
    assert token == machine.credential()["access_token"]
    machine.assert_refreshed_once_by(QWEN_CODE)


def waits_for_qwenauth_and_adopts_its_token(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    machine.expire()
    machine.provider.refresh_gate.close()
    renewing = machine.start_qwenauth("token")
    renewing.wait_until_held(machine.provider.refresh_gate)
    asking = qwen.start("ping")
    asking.wait_for(qwen.lock_tries, "met the lock")
    machine.provider.refresh_gate.open()
    renewing.succeed()
    assert_answered(asking, "ping")
    machine.assert_refreshed_once_by(QWENAUTH)


def is_waited_for_by_qwenauth_which_adopts_its_token(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    machine.expire()
    machine.provider.refresh_gate.close()
    asking = qwen.start("ping")
    asking.wait_until_held(machine.provider.refresh_gate)
    waiting = machine.start_qwenauth("token")
    waiting.wait_for_stderr("waiting")
    machine.provider.refresh_gate.open()
    assert_answered(asking, "ping")
    token = waiting.succeed().stdout.strip()
    assert token == machine.credential()["access_token"]
    machine.assert_refreshed_once_by(QWEN_CODE)


def start_renewal(machine):
    """A renewal by `qwenauth` whose request the provider holds back."""
    machine.provider.refresh_gate.close()
    renewing = machine.start_qwenauth("refresh")
    renewing.wait_until_held(machine.provider.refresh_gate)
    return renewing


def finish_renewal(machine, qwen, renewing):
    """Lets the renewal end after Qwen Code has removed its lock."""
    qwen.assert_it_removed_the_lock()
    until(machine.lock_file.exists, "`qwenauth` to make its lock again", seconds=10)
    machine.provider.refresh_gate.open()
    renewing.succeed()


def may_end_while_qwenauth_renews(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    machine.provider.model_gate.close()
    asking = qwen.start("ping")
    asking.wait_until_held(machine.provider.model_gate)
    renewing = start_renewal(machine)
    machine.provider.model_gate.open()
    assert_answered(asking, "ping")
    finish_renewal(machine, qwen, renewing)
    machine.assert_refreshed_once_by(QWENAUTH)


def may_be_interrupted_while_qwenauth_renews(version, machine):
    qwen = QwenCode(version, machine)
    machine.login()
    machine.provider.model_gate.close()
    asking = qwen.start("ping")
    asking.wait_until_held(machine.provider.model_gate)
    renewing = start_renewal(machine)
    asking.signal(signal.SIGINT)
    asking.wait_for_all()
    finish_renewal(machine, qwen, renewing)
    machine.assert_refreshed_once_by(QWENAUTH)


def may_be_interrupted_while_it_waits_for_qwenauth(version, machine):
    """Interrupted there, it removes the lock at once, but lives on for a while and tries to take it."""
    qwen = QwenCode(version, machine)
    machine.login()
    machine.expire()
    renewing = start_renewal(machine)
    waiting = qwen.start("ping")
    waiting.wait_for(lambda: qwen.lock_tries() >= 7, "met the lock 7 times")  # the next try is a second away
    waiting.signal(signal.SIGINT)
    until(lambda: qwen.lock_tries() >= 8, "the interrupted Qwen Code to meet the lock again", seconds=10)
    finish_renewal(machine, qwen, renewing)
    waiting.wait_for_all()
    machine.assert_refreshed_once_by(QWENAUTH)


def answers_in_the_sandbox(machine):
    """The sandbox moves Qwen Code's directory, which releases since 0.15.10 follow."""
    qwen = QwenCode("0.24.4", machine)
    script = 'cp "$0" "$QWEN_HOME" && qwenauth login --no-browser && exec "$@"'
    inside = ["sh", "-c", script, qwen.settings, *qwen.command("ping")]
    done = machine.run("qwenauth", "sandbox", "--", *inside, **qwen.environment)
    assert "You said:" in done.stdout and "ping" in done.stdout, f"no answer in {done.stdout!r}"
    assert not machine.credential_file.exists(), "the sandbox wrote into the home directory"


VERSIONS = ("0.12.0", "0.24.4")
BEHAVIOURS = (
    uses_the_login_qwenauth_made,
    adopts_the_token_qwenauth_renewed,
    leaves_a_renewed_token_that_qwenauth_adopts,
    waits_for_qwenauth_and_adopts_its_token,
    is_waited_for_by_qwenauth_which_adopts_its_token,
    may_end_while_qwenauth_renews,
    may_be_interrupted_while_qwenauth_renews,
    may_be_interrupted_while_it_waits_for_qwenauth,
)
TESTS = {
    f"qwen_code_{version}_{behaviour.__name__}": (
        [f"qwen-code-{version}", "node-22"],
        partial(behaviour, version),
    )
    for version in VERSIONS
    for behaviour in BEHAVIOURS
} | {"qwen_code_0.24.4_answers_in_the_sandbox": (["qwen-code-0.24.4", "node-22"], answers_in_the_sandbox)}
