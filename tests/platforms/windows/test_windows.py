"""What only Windows has: batch files, jobs, the console, shared files, access lists, places."""

import json
import os
import shutil
import subprocess
import time
import unittest

from machine import ON_WINDOWS, Test, first_line
from processes import until

SUCCESS = 0


def batch(side, name, text):
    (side.bin / name).write_bytes(text.replace("\n", "\r\n").encode())


class Programs(Test):
    def setUp(self):
        super().setUp()
        self.windows.logged_in()

    def test_a_batch_file_is_found_as_npm_installs_tools(self):
        batch(self.windows, "tool.cmd", "@echo off\necho %OPENAI_API_KEY%\n")
        self.whole(self.windows.run("exec", "--", "tool"), stdout="access-1\n")

    def test_a_batch_file_of_the_other_ending_is_found(self):
        batch(self.windows, "tool.bat", "@echo off\necho %OPENAI_MODEL%\n")
        self.whole(self.windows.run("exec", "--", "tool"), stdout="coder-model\n")

    def test_the_code_of_a_batch_file_is_passed_on(self):
        batch(self.windows, "tool.cmd", "@exit /b 9\n")
        self.whole(self.windows.run("exec", "--", "tool"), code=9)

    def test_a_batch_file_gets_plain_arguments_and_those_with_spaces(self):
        batch(self.windows, "tool.cmd", "@echo off\nhelper args %*\n")
        self.whole(self.windows.run("exec", "--", "tool", "one", "two three"), stdout="[one]\n[two three]\n")

    def test_a_batch_file_is_not_a_way_into_the_shell(self):
        batch(self.windows, "tool.cmd", "@echo off\necho done\n")
        outcome = self.windows.run("exec", "--", "tool", "x & echo injected", 'y" & echo injected & "')
        self.assertNotIn("\ninjected", outcome.stdout)

    def test_a_program_comes_before_a_batch_file_of_the_same_name(self):
        batch(self.windows, "helper.cmd", "@echo wrong\n")
        self.whole(self.windows.run("exec", "--", "helper", "args", "right"), stdout="[right]\n")

    def test_a_program_in_the_working_directory_is_not_found(self):
        batch(self.windows, "../tool.cmd", "@echo planted\n")
        outcome = self.windows.run("exec", "--", "tool")
        self.assertEqual((outcome.code, outcome.stdout), (127, ""))
        self.assertIn("`tool` was not found", outcome.stderr)

    def test_a_program_that_is_named_with_its_directory_is_run_from_there(self):
        (self.windows.home / "other").mkdir()
        batch(self.windows, "../other/tool.cmd", "@echo there\n")
        self.whole(self.windows.run("exec", "--", "other\\tool"), stdout="there\n")

    def test_a_file_that_is_no_program_ends_with_126_or_127(self):
        (self.windows.bin / "notes.txt").write_text("x")
        outcome = self.windows.run("exec", "--", self.windows.bin / "notes.txt")
        self.assertEqual((outcome.code, outcome.stdout), (126, ""))
        self.assertIn("PATHEXT", outcome.stderr)

    def test_a_code_of_32_bits_is_passed_on_whole(self):
        words = ("code", self.windows.program, "exec", "--", "helper", "exit", "-1073741510")
        self.whole(self.windows.run_program(self.windows.helper, *words), stdout="code 0xC000013A\n")

    def test_a_batch_file_beside_a_gateway_reaches_it(self):
        batch(self.windows, "tool.cmd", "@echo off\necho %OPENAI_BASE_URL%\nexit /b 3\n")
        outcome = self.windows.run("exec", "--gateway", "--", "tool")
        self.assertEqual((outcome.code, outcome.stdout), (3, "http://127.0.0.1:{port}/v1\n"))

    def test_a_program_is_ended_with_the_one_that_started_it(self):
        for words in (["exec", "--"], ["exec", "--gateway", "--"]):
            batch(self.windows, "tool.cmd", "@helper sleep 600000\n")
            line = ("killwhentold", self.windows.program, *words, "tool")
            process = self.windows.start(self.windows.helper, *line, stdin=subprocess.PIPE)
            self.assertEqual(first_line(process).strip(), "sleeping")
            # The pipe ends when the last of them has ended, which by itself takes longer than a test waits.
            self.windows.finish(process, b"\n")


class Shells(Test):
    def setUp(self):
        super().setUp()
        self.windows.logged_in()

    def test_the_variables_are_for_the_shell_that_asks(self):
        outcome = self.windows.run_program("cmd", "/c", "qwenauth", "env")
        self.assertEqual((outcome.code, outcome.stderr), (SUCCESS, ""))
        self.assertIn('set "OPENAI_API_KEY=access-1"\n', outcome.stdout)

    def test_the_variables_are_for_git_bash_where_it_says_so(self):
        outcome = self.windows.run("env", variables={"MSYSTEM": "MINGW64"})
        self.assertIn("export OPENAI_API_KEY=access-1;\n", outcome.stdout)

    def test_the_variables_are_for_a_posix_shell_that_is_named(self):
        outcome = self.windows.run("env", variables={"SHELL": "/usr/bin/bash"})
        self.assertIn("export OPENAI_API_KEY=access-1;\n", outcome.stdout)

    @unittest.skipIf(ON_WINDOWS, "a test runner there is started by some shell")
    def test_without_a_known_shell_the_format_has_to_be_named(self):
        error = "qwenauth: error: cannot tell which shell will read the output\n"
        hint = "qwenauth: hint: name it: `--format powershell`, `--format cmd`, `--format sh` …\n"
        self.whole(self.windows.run("env"), code=2, stderr=error + hint)

    def test_what_is_printed_for_cmd_sets_the_variables_there(self):
        printed = self.windows.run("env", "--format", "cmd").stdout
        real = self.windows.content()["access_token"]
        batch(self.windows, "vars.cmd", "@echo off\n" + printed.replace("access-1", real) + "helper env OPENAI_API_KEY OPENAI_MODEL\n")
        outcome = self.windows.run_program("cmd", "/c", "vars.cmd")
        self.assertEqual(outcome.stdout, "OPENAI_API_KEY=access-1\nOPENAI_MODEL=coder-model\n")


class Places(Test):
    def test_profiles_and_configuration_are_where_windows_keeps_them(self):
        variables = {"QWENAUTH_HOME": ""}
        key = "gsk_0123456789abcdef0123456789abcdef"
        words = ("login", "groq", "--api-key-stdin", "--no-verify")
        outcome = self.windows.run(*words, stdin=key + "\n", variables=variables)
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        files = self.windows.files()
        self.assertIn("AppData/Local/qwenauth/credentials/groq.json", files)
        self.assertIn("AppData/Roaming/qwenauth/config.toml", files)

    def test_the_login_of_qwen_code_is_in_the_profile_directory_whatever_home_is(self):
        self.windows.logged_in()
        self.whole(self.windows.run("token", variables={"HOME": "/c/Users/somebody"}), stdout="access-1\n")

    def test_a_tilde_in_qwen_home_is_the_profile_directory(self):
        self.windows.logged_in()
        self.whole(self.windows.run("token", variables={"QWEN_HOME": "~\\.qwen"}), stdout="access-1\n")

    def test_a_relative_place_is_an_error_or_not_used(self):
        outcome = self.windows.run("profiles", variables={"QWENAUTH_HOME": "", "APPDATA": "relative"})
        self.assertFalse((self.windows.home / "relative").exists())
        self.assertIn(outcome.code, (0, 1, 2))


class Setups(Test):
    """Tools that run a command line by `cmd`, and those that have places of their own on Windows."""

    KEY = "sk-0123456789abcdef0123456789abcdef"

    def setUp(self):
        super().setUp()
        self.windows.run("login", "dashscope", "--api-key-stdin", "--no-verify", "--region", "intl", stdin=self.KEY + "\n")

    def test_the_key_command_of_a_tool_prints_the_key_of_a_gateway(self):
        outcome = self.windows.run("setup", "claude-code", "--gateway")
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        settings = json.loads((self.windows.home / ".claude" / "settings.json").read_text())
        [key] = (self.windows.home / "own").rglob("gateway-key*")
        batch(self.windows, "ask.cmd", "@" + settings["apiKeyHelper"] + "\n")
        self.whole(self.windows.run_program("cmd", "/c", "ask"), stdout=key.read_text().strip() + "\n")

    def test_a_program_with_a_space_in_its_path_is_quoted_for_cmd(self):
        directory = self.windows.home / "with space"
        directory.mkdir()
        program = directory / "qwenauth.exe"
        shutil.copy(self.windows.program, program)
        variables = {"PATH": "C:\\windows\\system32;C:\\windows"}
        outcome = self.windows.run_program(program, "setup", "claude-code", variables=variables)
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        settings = json.loads((self.windows.home / ".claude" / "settings.json").read_text())
        batch(self.windows, "ask.cmd", "@" + settings["apiKeyHelper"] + "\n")
        self.whole(self.windows.run_program("cmd", "/c", "ask"), stdout=self.KEY + "\n")

    def test_claude_code_gets_the_key_by_a_command_of_cmd(self):
        shutil.copy(self.windows.helper, self.windows.bin / "claude.exe")
        outcome = self.windows.run("exec", "--", "claude")
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        settings = json.loads(outcome.stdout.splitlines()[1].strip("[]"))
        batch(self.windows, "ask.cmd", "@" + settings["apiKeyHelper"] + "\n")
        variables = {"QWENAUTH_ACCESS_TOKEN": "a-key"}
        self.whole(self.windows.run_program("cmd", "/c", "ask", variables=variables), stdout="a-key\n")

    def test_texts_to_paste_name_the_places_of_windows(self):
        for tool, place in (
            ("crush", "AppData/Local/crush/crush.json"),
            ("llm", "AppData/Roaming/io.datasette.llm/extra-openai-models.yaml"),
            ("zed", "AppData/Roaming/Zed/settings.json"),
        ):
            outcome = self.windows.run("setup", tool)
            self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
            self.assertIn("{home}/" + place, outcome.stderr)

    def test_an_alias_is_a_function_of_powershell(self):
        outcome = self.windows.run("setup", "aider")
        self.assertIn("function aider { qwenauth exec --profile dashscope -- aider @args }\n", outcome.stdout)


class Commands(Test):
    """Programs that the configuration names."""

    KEY = "gsk_0123456789abcdef0123456789abcdef"

    def test_a_backslash_in_a_key_command_is_part_of_a_path(self):
        batch(self.windows, "ask.cmd", f"@if [%1]==[a\\b] echo {self.KEY}\n")
        for quote in ("", '"', "'"):
            path = self.windows.path(self.windows.bin / "ask.cmd")
            command = f"{quote}{path}{quote} a\\b"
            outcome = self.windows.run("login", "groq", "--no-verify", "--api-key-command", command)
            self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
            self.whole(self.windows.run("token"), stdout=self.KEY + "\n")


class Access(Test):
    def test_directories_of_ours_are_for_the_user_alone(self):
        self.windows.run("login", "groq", "--api-key-stdin", "--no-verify", stdin="gsk_0123456789abcdef0123456789\n")
        outcome = self.windows.run("doctor", "--json")
        directories = [check for check in json.loads(outcome.stdout)["checks"] if check["name"] == "directories"]
        self.assertEqual(directories, [])

    def test_a_directory_that_others_may_use_is_found_and_repaired(self):
        self.windows.logged_in()
        directory = self.windows.credential().parent
        if ON_WINDOWS:
            subprocess.run(["icacls", directory, "/grant", "*S-1-1-0:(OI)(CI)F"], check=True, stdout=subprocess.DEVNULL)
        else:
            directory.chmod(0o777)
        checks = json.loads(self.windows.run("doctor", "--json").stdout)["checks"]
        found = [check for check in checks if check["name"] == "directories"]
        self.assertEqual([check["status"] for check in found], ["fail"], checks)
        self.assertIn("everyone", found[0]["message"])
        self.windows.run("doctor", "--fix")
        checks = json.loads(self.windows.run("doctor", "--json").stdout)["checks"]
        self.assertEqual([check for check in checks if check["name"] == "directories"], [])


class CredentialManager(Test):
    """`store = keyring`, and another program that reads what is there."""

    takes_long = one_at_a_time = True

    KEY = "gsk_0123456789abcdef0123456789abcdef"
    LOGGED_IN = "qwenauth: logged in to Groq, not verified, profile `groq` (active)\n"
    FILES = (
        "own/config/.config.qwenauth-lock", "own/config/config.toml", "own/data/credentials/.groq.qwenauth-lock",
        "own/data/credentials/groq.json",
    )  # fmt: skip

    def setUp(self):
        super().setUp()
        self.before = self.credentials()
        self.addCleanup(self.forget)

    def credentials(self):
        """Target, user and length of each."""
        return set(self.helper("credentials").stdout.splitlines())

    def helper(self, *words):
        return self.windows.run_program(self.windows.helper, *words)

    def new(self):
        return sorted(tuple(line.split()) for line in self.credentials() - self.before)

    def forget(self):
        for target, _, _ in self.new():
            self.helper("forget", target)

    def log_in(self, *words, stdin=None, provider="groq"):
        return self.windows.run("login", provider, "--no-verify", *words, stdin=stdin)

    def stored(self):
        outcome = self.log_in("--api-key-stdin", "--store", "keyring", stdin=self.KEY + "\n")
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        [(target, user, size)] = self.new()
        self.assertEqual((user, int(size)), ("groq", len(self.KEY)))
        return target

    def text(self):
        return (self.windows.home / "own" / "data" / "credentials" / "groq.json").read_text()

    def test_a_key_lies_there_and_not_in_a_file(self):
        outcome = self.log_in("--api-key-stdin", "--store", "keyring", stdin=self.KEY + "\n")
        self.whole(outcome, stderr=self.LOGGED_IN, files=self.FILES)
        [(target, user, size)] = self.new()
        self.assertEqual((target.rpartition("/")[0], user, int(size)), ("qwenauth/groq", "groq", len(self.KEY)))
        self.assertNotIn(self.KEY, self.text())
        self.whole(self.windows.run("token"), stdout=self.KEY + "\n", files=self.FILES)

    def test_another_program_reads_it_there(self):
        self.whole(self.helper("secret", self.stored()), stdout=self.KEY)

    def test_a_program_gets_a_key_from_there(self):
        self.stored()
        self.whole(self.windows.run("exec", "--", "helper", "env", "OPENAI_API_KEY"), stdout=f"OPENAI_API_KEY={self.KEY}\n")

    def test_a_long_key_is_split_and_put_together(self):
        long = "gsk_" + "".join(f"{number:08x}" for number in range(500))
        outcome = self.log_in("--api-key-stdin", "--store", "keyring", stdin=long + "\n")
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        self.assertEqual(len(self.new()), 1 + -(-len(long) // 2560))
        self.whole(self.windows.run("token"), stdout=long + "\n")
        self.windows.run("logout")
        self.assertEqual(self.new(), [])

    def test_a_key_is_moved_to_a_file_and_back(self):
        self.stored()
        self.assertEqual(self.log_in("--store", "file").code, SUCCESS)
        self.assertEqual((self.new(), json.loads(self.text())["api_key"]), ([], self.KEY))
        self.whole(self.windows.run("token"), stdout=self.KEY + "\n")
        self.assertEqual(self.log_in("--store", "keyring").code, SUCCESS)
        self.assertEqual((len(self.new()), self.KEY in self.text()), (1, False))
        self.whole(self.windows.run("token"), stdout=self.KEY + "\n", files=self.FILES)

    def test_a_key_that_is_replaced_goes(self):
        old = self.stored()
        other = "gsk_" + self.KEY[:3:-1]
        self.log_in("--api-key-stdin", "--store", "keyring", stdin=other + "\n")
        [(target, _, _)] = self.new()
        self.assertNotEqual(target, old)
        self.whole(self.windows.run("token"), stdout=other + "\n")

    def test_a_logout_removes_it_there(self):
        self.stored()
        outcome = self.windows.run("logout", "--local")
        self.assertEqual((outcome.code, self.new()), (SUCCESS, []))

    def test_a_key_that_was_removed_there_is_a_login_that_is_needed(self):
        self.whole(self.helper("forget", self.stored()))
        outcome = self.windows.run("token")
        self.assertEqual((outcome.code, outcome.stdout), (4, ""), outcome.stderr)
        self.assertIn("login", outcome.stderr)

    def test_a_kill_while_a_key_is_moved_loses_nothing(self):
        self.stored()
        moments = self.moments("login", "groq", "--no-verify", "--store", "file")
        for round_number in range(6):
            self.log_in("--api-key-stdin", "--store", "keyring" if round_number % 2 else "file", stdin=self.KEY + "\n")
            to = "file" if round_number % 2 else "keyring"
            line = ("killafter", next(moments), self.windows.program, "login", "groq", "--no-verify", "--store", to)
            self.helper(*line)
            self.whole(self.windows.run("token"), stdout=self.KEY + "\n")


class Renewals(Test):
    takes_long = True

    def test_six_processes_renew_once(self):
        self.windows.expired()
        self.provider.refresh_gate.close()
        processes = [self.windows.started("token") for _ in range(6)]
        self.hold_renewal(*processes)
        self.provider.refresh_gate.open()
        outcomes = [self.windows.finish(process) for process in processes]
        for outcome in outcomes:
            # A wait of more than 2 s is explained on stderr.
            lock = "`{home}/.qwen/.oauth_creds.qwenauth-lock`"
            waited = f"qwenauth: waiting for another process that holds {lock}\n"
            self.whole(outcome, stdout="access-2\n", stderr=waited if outcome.stderr else "")
        self.assertEqual(len(self.provider.of_kind("refresh")), 1)
        self.assertFalse(self.provider.reuse_seen)

    def test_a_lock_of_a_killed_process_is_free_at_once(self):
        self.windows.expired()
        self.provider.refresh_gate.close()
        line = ("killwhentold", self.windows.program, "token")
        process = self.windows.start(
            self.windows.helper, *line, stdin=subprocess.PIPE, variables={"QWENAUTH_LOG": "debug"}
        )
        self.hold_renewal(process)
        self.windows.finish(process, b"\n")
        self.provider.refresh_gate.open()
        outcome = self.windows.run("token")
        # What the server had answered to the killed process is lost with it. A lock that were still held would be 3.
        self.assertEqual(outcome.code, 4, outcome.stderr)
        self.assertNotIn("waiting for another process", outcome.stderr)

    def test_kills_at_any_moment_of_a_renewal_lose_nothing_that_was_not_being_answered(self):
        self.windows.expired()
        moments = self.moments("token")
        rounds, spent, killed = 15, 0, 0
        for _ in range(rounds):
            self.provider.reuse_seen = False
            self.windows.expired()
            before = len(self.provider.of_kind("refresh"))
            moment = next(moments)
            process = self.windows.start(self.windows.helper, "killafter", moment, self.windows.program, "token")
            code = self.windows.finish(process).code
            killed += code == 9
            asked = len(self.provider.of_kind("refresh")) - before
            json.loads(self.windows.credential().read_text())
            outcome = self.windows.run("token")
            if outcome.code != SUCCESS:
                # The server's log is the judge: only a killed process whose request had arrived may have cost the login.
                self.assertEqual((code, asked, outcome.code), (9, 1, 4), f"killed after {moment} ms: {outcome}")
                spent += 1
            else:
                self.assertFalse(self.provider.reuse_seen, f"killed after {moment} ms")
            self.windows.run("logout", "--local")
            left = [name for name in self.windows.beside() if name.endswith(".tmp")]
            self.assertEqual(left, [], f"killed after {moment} ms")
        self.assertLess(spent, rounds // 2)
        self.assertGreater(killed, 0)

    def test_the_lock_of_qwen_code_is_waited_for_and_left_alone(self):
        self.windows.expired()
        lock = self.windows.credential().with_name("oauth_creds.lock")
        lock.write_text("somebody-else")
        process = self.windows.started("token")
        time.sleep(1.5)
        self.assertEqual((process.poll(), lock.read_text()), (None, "somebody-else"))
        self.assertEqual(self.provider.of_kind("refresh"), [])
        lock.unlink()
        # A wait of more than 2 s is explained on stderr.
        outcome = self.windows.finish(process)
        self.assertEqual((outcome.code, outcome.stdout), (0, "access-2\n"))


class InUse(Test):
    """Another program has the login open, so that nobody can replace it."""

    takes_long = True

    def hold(self):
        process = self.windows.start(self.windows.helper, "hold", self.windows.credential(), stdin=subprocess.PIPE)
        self.assertEqual(first_line(process).strip(), "holding")
        return process

    def let_go(self, holder):
        self.whole(self.windows.finish(holder, b"\n"))

    def test_before_a_token_is_sent_the_program_is_named_and_nothing_is_spent(self):
        self.windows.expired()
        holder = self.hold()
        outcome = self.windows.run("token")
        self.assertEqual((outcome.code, outcome.stdout), (3, ""))
        self.assertIn("another program has `{home}/.qwen/oauth_creds.json` open", outcome.stderr)
        self.assertEqual(self.provider.of_kind("refresh"), [])
        self.let_go(holder)
        self.whole(self.windows.run("token"), stdout="access-2\n")

    def test_a_short_use_is_waited_out(self):
        self.windows.expired()
        self.provider.refresh_gate.close()
        process = self.windows.started("token")
        self.hold_renewal(process)
        holder = self.hold()
        self.provider.refresh_gate.open()
        time.sleep(3)
        self.let_go(holder)
        self.whole(self.windows.finish(process), stdout="access-2\n")

    def test_after_a_token_is_sent_40_seconds_of_use_cost_nothing(self):
        self.windows.expired()
        self.provider.refresh_gate.close()
        process = self.windows.started("token")
        self.hold_renewal(process)
        holder, until = self.hold(), time.monotonic() + 40
        self.provider.refresh_gate.open()
        outcome = self.windows.finish(process)
        self.assertEqual((outcome.code, outcome.stdout), (3, ""))
        self.assertIn("it is kept for the next command", outcome.stderr)
        time.sleep(max(0, until - time.monotonic()))
        self.let_go(holder)
        self.whole(self.windows.run("token"), stdout="access-2\n")
        self.assertEqual(len(self.provider.of_kind("refresh")), 1, "the token is not sent again")
        self.assertFalse(any(name.endswith(".tmp") for name in self.windows.beside()))


class Gateways(Test):
    def start(self, *words):
        process = self.windows.started("gateway", "--json", *words)
        line = first_line(process)
        self.assertTrue(line, f"{self.windows.finish(process)}" if not line else "")
        served = json.loads(line)
        return process, served["base_url"], served["api_key"]

    def ask(self, base_url, key, **body):
        import urllib.request

        asked = {"model": "coder-model", "messages": [{"role": "user", "content": "hello"}]} | body
        request = urllib.request.Request(
            f"{base_url}/chat/completions",
            json.dumps(asked).encode(),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as reply:
            return reply.status, reply.read().decode()

    def test_a_request_is_answered_with_the_stored_login(self):
        self.windows.logged_in()
        _, base_url, key = self.start()
        status, body = self.ask(base_url, key)
        self.assertEqual((status, json.loads(body)["choices"][0]["message"]["content"]), (200, "practice answer to: hello"))
        self.assertEqual([request.token for request in self.provider.of_kind("model")], [self.windows.content()["access_token"]])

    def test_a_stream_arrives_whole(self):
        self.windows.logged_in()
        _, base_url, key = self.start()
        status, body = self.ask(base_url, key, stream=True)
        self.assertEqual(status, 200)
        self.assertTrue(body.endswith("data: [DONE]\n\n"))
        words = [json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in body.split("\n\n")[:-2]]
        self.assertEqual("".join(words), "practice answer to: hello ")

    def test_a_refused_token_is_renewed_once_for_the_request(self):
        self.windows.logged_in()
        self.provider.expire_access_tokens()
        _, base_url, key = self.start()
        self.assertEqual(self.ask(base_url, key)[0], 200)
        self.assertEqual(len(self.provider.of_kind("refresh")), 1)

    def test_a_login_that_is_replaced_meanwhile_is_used(self):
        self.windows.logged_in()
        _, base_url, key = self.start()
        self.ask(base_url, key)
        issued = self.windows.logged_in()
        self.ask(base_url, key)
        self.assertEqual(self.provider.of_kind("model")[-1].token, issued["access_token"])

    def test_a_wrong_key_is_refused_and_not_passed_on(self):
        import urllib.error

        self.windows.logged_in()
        _, base_url, _ = self.start()
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.ask(base_url, "another-key-of-some-length")
        self.assertEqual(refused.exception.code, 401)
        self.assertEqual(self.provider.of_kind("model"), [])

    def test_what_passed_is_counted(self):
        self.windows.logged_in()
        process, base_url, key = self.start()
        self.ask(base_url, key)
        counted = lambda: json.loads(self.windows.run("usage", "--json").stdout)["usage"]  # noqa: E731
        until(counted, "the count")
        self.assertEqual([row["requests"] for row in counted()], [1])
        self.end(process)

    def test_a_hook_is_found_as_a_shell_finds_it(self):
        batch(self.windows, "note.cmd", '@helper cat > "%~dp0new.json"\n@move "%~dp0new.json" "%~dp0noted.json" >nul\n')
        config = self.windows.home / "own" / "config" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text('[hooks]\nrenewed = ["note"]\n')
        self.windows.logged_in()
        self.provider.expire_access_tokens()
        process, base_url, key = self.start()
        self.assertEqual(self.ask(base_url, key)[0], 200)
        noted = self.windows.bin / "noted.json"
        until(noted.exists, "the hook")
        self.assertEqual(json.loads(noted.read_text())["event"], "renewed")
        self.end(process)

    def end(self, process):
        process.kill()
        process.wait()

    def test_a_killed_gateway_leaves_the_next_one_its_port(self):
        self.windows.logged_in()
        process, base_url, key = self.start()
        port = base_url.split(":")[2].split("/")[0]
        process.kill()
        # Its pipe ends with it. Asking the port would leave a connection behind that keeps it taken.
        self.windows.finish(process)
        _, base_url, key = self.start("--listen", f"127.0.0.1:{port}")
        self.assertEqual(self.ask(base_url, key)[0], 200)


@unittest.skipIf(ON_WINDOWS, "typed on a pseudo-terminal, which Python has none of there")
class Console(Test):
    """Ctrl-C typed on a terminal, by way of which wine gives a console its events."""

    def typed(self, *words, until):
        import pty

        self.windows.logged_in()
        master, terminal = pty.openpty()
        line, environment = self.windows.command_line([self.windows.helper, "code", self.windows.program, *words], {})
        # Not by `preexec_fn`: the provider's threads may hold a lock that the new process would wait for.
        process = subprocess.Popen(
            ["setsid", "--ctty", *line], env=environment, cwd=self.windows.home, stdin=terminal,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.windows.processes.append(process)
        os.close(terminal)
        self.assertIn(until, first_line(process))
        os.write(master, b"\x03")
        outcome = self.windows.finish(process)
        os.close(master)
        return outcome

    def test_a_gateway_ends_on_ctrl_c(self):
        outcome = self.typed("gateway", "--json", until="base_url")
        self.assertIn("code 0xC000013A", outcome.stdout, outcome.stderr)

    def test_a_program_of_exec_ends_on_ctrl_c(self):
        started = time.monotonic()
        # A program that lets it pass goes on, and its code is passed on.
        outcome = self.typed("exec", "--", "helper", "with", "--", "helper", "sleep", "3000", until="sleeping")
        self.assertIn("code 0x", outcome.stdout)
        self.assertLess(time.monotonic() - started, 40)

    def test_a_program_beside_a_gateway_ends_on_ctrl_c(self):
        started = time.monotonic()
        self.typed("exec", "--gateway", "--", "helper", "sleep", "60000", until="sleeping")
        self.assertLess(time.monotonic() - started, 40)


class Sandbox(Test):
    def sandboxes(self):
        outcome = self.windows.run_program("cmd", "/c", "dir /b %TEMP%")
        return {name for name in outcome.stdout.split() if name.startswith("qwenauth-sandbox-")}

    def test_the_tour_runs_to_its_end_and_leaves_nothing(self):
        before = self.sandboxes()
        outcome = self.windows.run("sandbox", "--tour")
        self.assertEqual(outcome.code, SUCCESS, outcome.stdout + outcome.stderr)
        self.assertIn("$ qwenauth login", outcome.stdout)
        self.assertIn("$ qwenauth exec -- cmd /c", outcome.stdout)
        self.assertEqual(self.sandboxes() - before, set())

    def test_a_command_inside_uses_the_practice_provider(self):
        words = ("sandbox", "--", "cmd", "/c", "qwenauth login qwen --no-browser --qr never && qwenauth token")
        outcome = self.windows.run(*words)
        self.assertEqual(outcome.code, SUCCESS, outcome.stderr)
        self.assertIn("practice-access-", outcome.stdout)
        self.assertFalse(self.windows.credential().exists())

    def test_a_batch_file_inside_gives_its_code(self):
        batch(self.windows, "tool.cmd", "@exit /b 5\n")
        self.assertEqual(self.windows.run("sandbox", "--", "tool").code, 5)


if __name__ == "__main__":
    unittest.main()
