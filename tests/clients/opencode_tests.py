"""opencode with what `qwenauth exec` gives it, and with what a team's gateway sets it up with."""

import contextlib
import os
import pty
import select
import signal
import time

OFFLINE = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def opencode(machine):
    return machine.package("opencode") / "node_modules/opencode-linux-x64/bin/opencode"


def opencode_gets_a_renewed_token_from_exec(machine):
    machine.login()
    machine.expire()
    machine.run("qwenauth", "exec", "--", opencode(machine), "run", "ping", **OFFLINE)
    machine.assert_refreshed_once_by("qwenauth/")


def opencode_answers_in_the_sandbox(machine):
    script = 'qwenauth login --no-browser && exec qwenauth exec -- "$0" run ping'
    done = machine.run("qwenauth", "sandbox", "--", "sh", "-c", script, opencode(machine), **OFFLINE)
    assert "You said: ping" in done.stdout, f"no answer in {done.stdout!r}"
    assert not machine.credential_file.exists(), "the sandbox wrote into the home directory"


def gateway_of_a_team(machine):
    """A gateway with keys, in a home of its own; its environment and its URL without `/v1`."""
    own = {"QWENAUTH_HOME": str(machine.root / "gateway"), "QWEN_HOME": str(machine.root / "gateway/qwen")}
    machine.run("qwenauth", "login", "--no-browser", **own)
    gateway = machine.start("qwenauth", "gateway", "--keys", "--listen", "127.0.0.1:0", **own)
    gateway.wait_for(lambda: "\n" in gateway.stdout, "printed its URL")
    return own, gateway.stdout.split()[0].removesuffix("/v1")


def typed_at_the_prompt(machine, command, prompt, text):
    """Runs a program on a terminal and types `text` after `prompt`; what the terminal shows."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(str(command[0]), [str(part) for part in command], machine.environment(TERM="xterm", **OFFLINE))
    shown, typed, deadline = b"", False, time.monotonic() + 100
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            shown += piece
            if not typed and prompt in shown:
                os.write(terminal, text.encode())
                typed = True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGHUP)
        os.close(terminal)
        os.waitpid(process, 0)
    assert typed, f"no prompt in {shown!r}"
    return shown.decode(errors="replace")


def opencode_is_set_up_by_a_teams_gateway(machine):
    own, url = gateway_of_a_team(machine)
    key = machine.run("qwenauth", "keys", "create", "ann", **own).stdout.strip()
    shown = typed_at_the_prompt(machine, [opencode(machine), "auth", "login", url], b"\nKey: ", f"{key}\n")
    assert "Logged into" in shown and key not in shown, shown
    answer = machine.run(opencode(machine), "run", "ping", **OFFLINE)
    assert answer.stdout.strip(), f"no answer: {answer.stderr}"
    usage = machine.run("qwenauth", "usage", "--team", **own).stdout
    assert "ann" in usage, usage
    machine.run("qwenauth", "keys", "revoke", "ann", "--yes", **own)
    refused = machine.start(opencode(machine), "run", "ping", **OFFLINE)
    refused.wait()
    assert answer.stdout.strip() not in refused.stdout, f"a revoked key was served: {refused.stdout}"


def opencode_is_set_up_by_a_teams_gateway_with_the_key_that_qwenauth_has(machine):
    own, url = gateway_of_a_team(machine)
    key = machine.run("qwenauth", "keys", "create", "ann", **own).stdout.strip()
    file = machine.root / "key"
    file.write_text(key)
    login = f'qwenauth login team --base-url {url}/v1 --api-key-stdin --model coder-model < "$0"'
    machine.run("sh", "-c", login, file)
    login = machine.run(opencode(machine), "auth", "login", f"{url}/qwenauth", **OFFLINE)
    assert key not in login.stdout + login.stderr, "the key was shown"
    assert machine.run(opencode(machine), "run", "ping", **OFFLINE).stdout.strip()


TESTS = {
    test.__name__: (["opencode"], test)
    for test in (
        opencode_gets_a_renewed_token_from_exec,
        opencode_answers_in_the_sandbox,
        opencode_is_set_up_by_a_teams_gateway,
        opencode_is_set_up_by_a_teams_gateway_with_the_key_that_qwenauth_has,
    )
}
