"""The same commands, files and exit codes as on Unix: each story is told on both, and everything that shows is compared."""

import json
import unittest

from machine import Test

KEY = "sk-0123456789abcdef0123456789abcdef"
GROQ = ("login", "groq", "--api-key-stdin", "--no-verify")


class Logins(Test):
    def test_a_device_login_is_stored_where_qwen_code_looks(self):
        self.same(lambda side: side.run("login", "qwen", "--no-browser", "--qr", "never"))
        self.assertIn("access_token", self.windows.content())

    def test_a_device_login_tells_a_script_what_happens(self):
        self.same(lambda side: side.run("login", "qwen", "--no-browser", "--json"))

    def test_a_second_login_is_not_needed(self):
        def story(side):
            side.logged_in()
            return [side.run("login", "qwen", "--no-browser"), side.run("login", "qwen", "--no-browser", "--json")]

        self.same(story)

    def test_a_forced_login_replaces_the_first(self):
        def story(side):
            side.logged_in()
            return [side.run("login", "qwen", "--force", "--no-browser", "--qr", "never"), side.run("token")]

        self.same(story)

    def test_a_login_that_is_not_approved_in_time_stores_nothing(self):
        self.same(lambda side: side.run("login", "qwen", "--no-browser", "--qr", "never", "--timeout", "0s"))

    def test_a_key_from_stdin_is_stored_in_a_profile(self):
        self.same(lambda side: [side.run(*GROQ, stdin=f"gsk_{KEY}\n"), side.run("profiles"), side.run("status", "--all")])

    def test_a_key_from_stdin_may_end_as_on_windows(self):
        self.same(lambda side: [side.run(*GROQ, stdin=f"gsk_{KEY}\r\n"), side.run("token", "--profile", "groq")])

    def test_a_key_from_a_variable_is_stored(self):
        def story(side):
            variables = {"MY_KEY": f"gsk_{KEY}"}
            return side.run("login", "groq", "--api-key-env", "MY_KEY", "--no-verify", variables=variables)

        self.same(story)

    def test_an_empty_key_is_refused(self):
        self.same(lambda side: side.run(*GROQ, stdin="\n"))

    def test_an_unknown_provider_is_named_with_its_neighbor(self):
        self.same(lambda side: side.run("login", "grok"))

    def test_a_provider_that_cannot_be_reached_stores_nothing(self):
        variables = {"QWENAUTH_QWEN_OAUTH_URL": "http://127.0.0.1:1"}
        outcome = self.windows.run("login", "qwen", "--no-browser", "--timeout", "1s", variables=variables)
        self.assertEqual((outcome.code, outcome.stdout), (3, ""))
        self.assertFalse(self.windows.credential().exists())


class Tokens(Test):
    def test_a_token_that_lasts_is_printed_without_a_question(self):
        def story(side):
            side.logged_in()
            return side.run("token")

        self.same(story)
        self.assertEqual(self.provider.requests, [])

    def test_an_expired_token_is_renewed_and_stored(self):
        def story(side):
            side.expired()
            return [side.run("token"), side.run("token")]

        self.same(story)
        self.assertEqual(len(self.provider.of_kind("refresh")), 2, "one for each side")

    def test_a_renewal_leaves_nothing_beside_the_login(self):
        def story(side):
            side.expired()
            return side.run("refresh")

        self.same(story)
        beside = [".oauth_creds.qwenauth-lock", ".oauth_creds.qwenauth-notes", "oauth_creds.json"]
        self.assertEqual(self.windows.beside(), beside)

    def test_fields_of_other_programs_survive_a_renewal(self):
        def story(side):
            side.logged_in(seconds=-60, theirs={"kept": [1, 2.5, "ü"]})
            return side.run("token")

        self.same(story)

    def test_a_refused_refresh_token_is_marked_and_not_sent_again(self):
        def story(side):
            side.expired()
            content = side.content() | {"refresh_token": "refresh-of-nobody"}
            side.credential().write_text(json.dumps(content))
            return [side.run("token"), side.run("status"), side.run("token")]

        self.same(story)
        self.assertEqual(len(self.provider.of_kind("refresh")), 2, "one for each side")

    def test_a_header_and_json_are_formats_of_a_token(self):
        def story(side):
            side.logged_in()
            return side.run("token", "--format", "header")

        self.same(story)

    def test_a_longer_lifetime_than_there_is_ends_with_5(self):
        def story(side):
            side.logged_in()
            return side.run("token", "--min-ttl", "100h")

        self.same(story)

    def test_a_server_that_is_down_is_temporary_and_loses_nothing(self):
        def story(side):
            side.expired()
            before = side.content()
            outcome = side.run("token", variables={"QWENAUTH_QWEN_OAUTH_URL": "http://127.0.0.1:1"})
            assert side.content() == before
            return [outcome, side.run("token")]

        outcome = self.told(story, self.windows)
        self.assertEqual([code for code, _, _ in outcome["outcomes"]], [3, 0])

    def test_a_file_that_is_not_json_is_kept_and_reported(self):
        def story(side):
            side.credential().parent.mkdir()
            side.credential().parent.chmod(0o700)
            side.credential().write_text("{")
            side.credential().chmod(0o600)
            return [side.run("token"), side.run("status"), side.run("status", "--json")]

        self.same(story)

    def test_a_login_sets_a_damaged_file_aside(self):
        def story(side):
            side.credential().parent.mkdir()
            side.credential().parent.chmod(0o700)
            side.credential().write_text("{")
            side.credential().chmod(0o600)
            return side.run("login", "qwen", "--no-browser", "--qr", "never")

        self.same(story)

    def test_a_byte_order_mark_is_no_damage(self):
        def story(side):
            side.logged_in()
            side.credential().write_text("\ufeff" + side.credential().read_text())
            return side.run("token")

        self.same(story)

    def test_without_a_login_everything_ends_with_4(self):
        self.same(lambda side: [side.run(*words) for words in (["token"], ["refresh"], ["env", "--format", "sh"])])


class Lives(Test):
    """What asks the provider on the way, several commands long."""

    def test_from_login_to_logout(self):
        words = (["login", "qwen", "--no-browser", "--qr", "never"], ["token"], ["refresh"], ["token"], ["status"], ["logout"], ["token"])
        self.same(lambda side: [side.run(*command) for command in words])
        self.assertEqual(len(self.provider.of_kind("refresh")), 2, "one for each side")

    def test_the_api_is_asked_about_a_login(self):
        def story(side):
            side.logged_in()
            return side.run("status", "--check")

        self.same(story)
        self.assertEqual(len(self.provider.of_kind("model")), 2, "one for each side")

    def test_a_renewal_that_is_asked_for_gives_a_new_token(self):
        def story(side):
            side.logged_in()
            return [side.run("token"), side.run("refresh"), side.run("token")]

        self.same(story)

    def test_a_token_that_lasts_too_short_is_renewed(self):
        def story(side):
            side.logged_in(seconds=3600)
            return [side.run("token", "--min-ttl", "30m"), side.run("token", "--min-ttl", "5h")]

        self.same(story)
        self.assertEqual(len(self.provider.of_kind("refresh")), 2, "one for each side")

    def test_an_expired_token_is_renewed_for_a_program(self):
        def story(side):
            side.expired()
            return side.run("exec", "--", "helper", "env", "OPENAI_API_KEY")

        self.same(story)

    def test_an_expired_token_is_renewed_for_a_program_beside_a_gateway(self):
        def story(side):
            side.expired()
            return [side.run("exec", "--gateway", "--", "helper", "exit", "7"), side.run("token")]

        self.same(story)

    def test_a_program_is_not_started_without_a_login_that_works(self):
        def story(side):
            side.expired()
            side.credential().write_text(json.dumps(side.content() | {"refresh_token": "refresh-of-nobody"}))
            return side.run("exec", "--", "helper", "args", "started")

        outcome = self.same(story)
        self.assertEqual(outcome["outcomes"][0][:2], [4, ""])


class Answers(Test):
    def test_the_status_of_a_login(self):
        def story(side):
            side.logged_in()
            return [side.run("status"), side.run("status", "--all")]

        self.same(story)

    def test_the_status_when_nobody_is_logged_in(self):
        self.same(lambda side: [side.run("status"), side.run("status", "--all")])

    def test_a_logout_removes_the_login_and_is_done_once(self):
        def story(side):
            side.logged_in()
            return [side.run("logout"), side.run("logout"), side.run("token")]

        self.same(story)

    def test_a_logout_of_all_profiles(self):
        def story(side):
            side.logged_in()
            side.run(*GROQ, stdin=f"gsk_{KEY}\n")
            return [side.run("logout", "--all", "--local"), side.run("profiles")]

        self.same(story)

    def test_a_profile_is_made_active_and_said_to_be(self):
        def story(side):
            side.logged_in()
            side.run(*GROQ, stdin=f"gsk_{KEY}\n")
            return [side.run("use", "qwen"), side.run("token"), side.run("use", "groq"), side.run("use", "nobody")]

        self.same(story)

    def test_a_config_keeps_comments_and_line_ends(self):
        def story(side):
            side.run(*GROQ, stdin=f"gsk_{KEY}\n")
            config = side.home / "own" / "config" / "config.toml"
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_bytes(b"# mine\r\n[providers.acme]\r\nbase_url = \"https://llm.acme.example/v1\"\r\n")
            config.chmod(0o600)
            outcome = side.run("use", "groq")
            side.kept = config.read_bytes()
            return outcome

        self.same(story)
        self.assertIn(b"# mine\r\n", self.windows.kept)

    def test_the_providers_are_the_same(self):
        self.same(lambda side: [side.run("providers"), side.run("providers", "--json"), side.run("providers", "groq")])

    def test_a_mistyped_command_is_a_usage_error(self):
        self.same(lambda side: [side.run("tokn"), side.run("token", "--nothing"), side.run("login", "--timeout", "x")])

    def test_usage_without_any(self):
        self.same(lambda side: [side.run("usage"), side.run("usage", "--json")])

    def test_completions_are_the_same_for_all_shells(self):
        shells = ("bash", "zsh", "fish", "powershell", "elvish", "nushell")
        self.same(lambda side: [side.run("completions", shell) for shell in shells])

    def test_the_version(self):
        self.same(lambda side: side.run("--version"))


class Variables(Test):
    def story(self, *words, **more):
        def story(side):
            side.logged_in()
            return side.run(*words, **more)

        return self.same(story)

    def test_for_a_posix_shell(self):
        self.story("env", "--format", "sh")

    def test_for_powershell(self):
        outcome = self.story("env", "--format", "powershell")
        self.assertIn("$env:OPENAI_API_KEY = 'access-1'\n", outcome["outcomes"][0][1])

    def test_for_cmd(self):
        outcome = self.story("env", "--format", "cmd")
        self.assertIn('set "OPENAI_API_KEY=access-1"\n', outcome["outcomes"][0][1])

    def test_for_cmd_that_removes(self):
        self.story("env", "--format", "cmd", "--unset")

    def test_for_fish_and_elvish_and_nushell(self):
        def story(side):
            side.logged_in()
            return [side.run("env", "--format", shell) for shell in ("fish", "elvish", "nushell")]

        self.same(story)

    def test_as_dotenv_and_json(self):
        def story(side):
            side.logged_in()
            return [side.run("env", "--format", "dotenv"), side.run("env", "--format", "json")]

        self.same(story)

    def test_with_another_model(self):
        self.story("env", "--format", "powershell", "--model", "qwen3-max")

    def test_an_expired_token_is_renewed_for_the_variables(self):
        def story(side):
            side.expired()
            return side.run("env", "--format", "cmd")

        self.same(story)
        self.assertEqual(len(self.provider.of_kind("refresh")), 2, "one for each side")


class Tools(Test):
    def test_what_can_be_set_up(self):
        def story(side):
            side.logged_in()
            return side.run("setup", "codex", "--print")

        self.same(story)

    def set_up(self, tool, *words):
        if self.windows.home.is_relative_to("/tmp") or self.windows.home.is_relative_to("/var/tmp"):
            self.skipTest("`setup` refuses a program in a temporary directory, where this checkout is")

        def story(side):
            side.run("login", "dashscope", "--api-key-stdin", "--no-verify", "--region", "intl", stdin=f"{KEY}\n")
            made = side.run("setup", tool, *words)
            side.made = side.files()
            return [made, side.run("setup", tool, *words), side.run("setup", tool, "--remove")]

        return self.same(story), self.windows.made

    def test_opencode_is_set_up_where_it_looks_on_both_and_given_back(self):
        _, made = self.set_up("opencode")
        self.assertIn(".config/opencode/opencode.json", made)
        self.assertIn(".config/opencode/plugin/qwenauth.js", made)

    def test_claude_code_is_set_up_and_given_back(self):
        _, made = self.set_up("claude-code")
        self.assertIn('"apiKeyHelper": "qwenauth token --profile dashscope"', made[".claude/settings.json"])

    def test_codex_is_set_up_and_given_back(self):
        _, made = self.set_up("codex", "--model", "qwen3-max")
        self.assertIn(".codex/config.toml", made)

    def test_qwen_code_is_set_up_and_given_back(self):
        _, made = self.set_up("qwen-code")
        self.assertIn(".qwen/settings.json", made)

    def test_an_unknown_tool_is_named(self):
        self.same(lambda side: side.run("setup", "nothing-known"))

    def test_an_old_value_is_replaced_for_a_program_and_said(self):
        def story(side):
            side.logged_in()
            variables = {"OPENAI_API_KEY": "mine", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
            words = ("exec", "--", "helper", "env", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL")
            return [side.run(*words, variables=variables), side.run("exec", "--preserve-env", *words[1:], variables=variables)]

        self.same(story)

    def test_a_program_gets_the_variables_and_its_input(self):
        def story(side):
            side.logged_in()
            return [
                side.run("exec", "--", "helper", "env", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"),
                side.run("exec", "--", "helper", "cat", stdin="one\ntwo\n"),
            ]

        self.same(story)

    def test_arguments_arrive_as_they_were(self):
        words = ["", "a b", 'c"d', "e\\", "f\\\"g", "%PATH%", "^&|<>", "$HOME", "*"]

        def story(side):
            side.logged_in()
            return side.run("exec", "--", "helper", "args", *words)

        self.same(story)

    def test_the_code_of_a_program_is_passed_on(self):
        def story(side):
            side.logged_in()
            return [side.run("exec", "--", "helper", "exit", code) for code in ("0", "1", "42", "255")]

        self.same(story)

    def test_a_program_that_is_not_there_ends_with_127(self):
        def story(side):
            side.logged_in()
            return side.run("exec", "--", "no-such-program", "x")

        self.same(story)

    def test_a_program_beside_a_gateway_gets_the_gateways_key(self):
        def story(side):
            side.logged_in()
            words = ("exec", "--gateway", "--", "helper", "env", "OPENAI_BASE_URL", "NO_PROXY", "no_proxy", "OPENAI_MODEL")
            return side.run(*words)

        self.same(story)

    def test_the_code_of_a_program_beside_a_gateway_is_passed_on(self):
        def story(side):
            side.logged_in()
            return side.run("exec", "--gateway", "--", "helper", "exit", "7")

        self.same(story)

    def test_a_program_beside_a_gateway_that_is_not_there_ends_with_127(self):
        def story(side):
            side.logged_in()
            return side.run("exec", "--gateway", "--", "no-such-program")

        self.same(story)


if __name__ == "__main__":
    unittest.main()
