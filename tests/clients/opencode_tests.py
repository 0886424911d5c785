"""opencode with what `qwenauth exec` gives it."""

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


TESTS = {
    test.__name__: (["opencode"], test)
    for test in (
        opencode_gets_a_renewed_token_from_exec,
        opencode_answers_in_the_sandbox,
    )
}
