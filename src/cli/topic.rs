//! Help topics that are not commands: `environment` and `exit-codes`, and hints for the command names of other tools.

use std::ffi::OsStr;

use crate::error::HOW_TO_GIVE_A_KEY;

macro_rules! environment {
    () => {
        "\
Environment:
  QWENAUTH_PROFILE         the active profile, unless `--profile` names one
  QWENAUTH_API_KEY         an API key to use before any stored credential
  QWENAUTH_API_KEY_FILE    a file or pipe with that key
  QWENAUTH_PROVIDER        the provider of that key
                           (default: that of `QWENAUTH_PROFILE`)
  QWENAUTH_REGION, QWENAUTH_BASE_URL
                           region or base URL of that key
                           (default: detected once)
  QWENAUTH_HOME            one directory for config, data and state
                           (default: the XDG directories)
  QWENAUTH_SANDBOX         set by `sandbox` inside: its directory, which wins
                           over every other one
  XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_STATE_HOME
                           base directories of config, data and state
                           (default: `~/.config`, `~/.local/share` and
                           `~/.local/state`)
  QWEN_HOME                directory of Qwen Code's `oauth_creds.json`
                           (default: `~/.qwen`)
  QWENAUTH_QWEN_OAUTH_URL  the Qwen OAuth server
                           (default: https://chat.qwen.ai)
  QWENAUTH_SHARED_URL      the Redis or Valkey server of `gateway --shared`,
                           with its password
  QWENAUTH_TEAM_KEY        the key that a tool reads after
                           `setup TOOL --gateway-url URL`
  QWENAUTH_LANG            language of messages: en, zh or ru
                           (default: the terminal's locale)
  QWENAUTH_LOG             log to stderr: off, error, warn, info, debug, trace
  QWENAUTH_CA_FILE         certificates (PEM) to trust in addition to the
                           system's
  SSL_CERT_FILE, SSL_CERT_DIR
                           certificates (PEM) to trust instead of the system's
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
                           proxies; never used for loopback
  BROWSER                  the browser that `login` opens
  OPENCODE_CONFIG, OPENCODE_CONFIG_DIR, CODEX_HOME, CLAUDE_CONFIG_DIR
                           where these tools, and so `setup`, have their files
  CI                       set in a CI job: no browser is opened, and plans
                           that forbid unattended use cause a warning
  GITHUB_ACTIONS           `true` in a job of GitHub Actions, where
                           `env --format github` works
  ACTIONS_ID_TOKEN_REQUEST_URL, ACTIONS_ID_TOKEN_REQUEST_TOKEN
                           set by GitHub Actions for `--workload-identity`
  COLUMNS                  width of the output (default: the terminal's)
  NO_COLOR, CLICOLOR_FORCE
                           disable color, force color"
    };
}

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0  done
  1  other error: no permission, disk full, a rejected URL of a server
  2  invalid usage
  3  temporary: the same command may work later
  4  login required: `qwenauth login`
  5  the requested `--min-ttl` cannot be met
  126, 127  `exec`: the program cannot be run, is not found"
    };
}

/// Behind the list of commands: where to start and where to read on.
pub(super) const SHORT: &str = "\
Start with `qwenauth login`, or without an account: `qwenauth sandbox --tour`.
More: `qwenauth help environment`, `qwenauth help exit-codes`.";

/// Both, behind the list of commands.
pub(super) const LONG: &str = concat!(environment!(), "\n\n", exit_codes!());

/// The names of the topics.
pub(super) const NAMES: [&str; 2] = ["environment", "exit-codes"];

/// The text of a topic.
pub(super) fn text(topic: &OsStr) -> Option<&'static str> {
    match topic.to_str()? {
        "environment" => Some(concat!(environment!(), "\n")),
        "exit-codes" => Some(concat!(exit_codes!(), "\n")),
        _ => None,
    }
}

/// Command names of other tools, and the hint for each.
const ELSEWHERE: [(&[&str], &str); 13] = [
    (&["whoami", "who", "info", "show", "current"], "run `qwenauth status`"),
    (&["run", "shell"], "run `qwenauth exec -- COMMAND`"),
    (&["list", "ls", "accounts"], "run `qwenauth profiles`, or `qwenauth providers` to see what you can log in to"),
    (&["switch", "select", "activate"], "run `qwenauth use NAME`"),
    (&["auth"], "run it without `auth`: `qwenauth login`, `qwenauth status`, `qwenauth token`"),
    (&["signin", "sign-in", "init", "configure", "add"], "run `qwenauth login`"),
    (&["signout", "sign-out", "remove", "revoke"], "run `qwenauth logout`"),
    (&["tour", "demo", "try"], "run `qwenauth sandbox --tour`"),
    (&["models"], "run `qwenauth providers NAME`: it lists the models of one provider"),
    (&["serve", "proxy", "server", "start"], "run `qwenauth gateway`"),
    (&["print-token", "get-token", "access-token"], "run `qwenauth token`"),
    (&["update", "upgrade", "self-update"], "run `qwenauth doctor`: it names the command that upgrades qwenauth"),
    (
        &["config", "settings", "install"],
        "run `qwenauth setup` for tools; qwenauth itself is configured in `config.toml`",
    ),
];

/// A hint for an option that `login` does not have.
pub(super) fn option_of_login(option: &str) -> Option<&'static str> {
    match option {
        "--api-key" | "--api-key-file" | "--key" => Some(HOW_TO_GIVE_A_KEY),
        "--provider" => Some("write the provider without an option: `qwenauth login dashscope`"),
        _ => None,
    }
}

/// Programs that are run with `exec`.
const PROGRAMS: [&str; 10] = ["opencode", "claude", "codex", "qwen", "aider", "llm", "goose", "crush", "cn", "cline"];

/// The same for what follows `keys`.
pub(super) fn command_of_keys(word: &str) -> Option<String> {
    let hint = match word {
        "remove" | "rm" | "delete" | "disable" => "run `qwenauth keys revoke NAME`",
        "add" | "new" | "make" => "run `qwenauth keys create NAME`",
        "ls" | "show" | "info" | "status" => "run `qwenauth keys list`",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// A hint for a word that is not a command here.
pub(super) fn command_for(word: &str) -> Option<String> {
    if PROGRAMS.contains(&word) {
        return Some(format!("run `qwenauth exec -- {word}`, or `qwenauth setup` to configure it permanently"));
    }
    if word == "version" {
        return Some("run `qwenauth --version`".to_owned());
    }
    ELSEWHERE.iter().find(|(words, _)| words.contains(&word)).map(|(_, hint)| (*hint).to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_word_of_other_tools_is_a_command_here_and_every_hint_names_one() {
        let command = crate::cli::Cli::command();
        let commands: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        for (words, hint) in ELSEWHERE {
            assert!(words.iter().all(|word| !commands.contains(word)), "{words:?}");
            let named = hint.split("`qwenauth ").nth(1).and_then(|rest| rest.split([' ', '`']).next()).unwrap();
            assert!(commands.contains(&named), "{hint}");
        }
        assert!(PROGRAMS.iter().all(|program| !commands.contains(program)));
    }
}
