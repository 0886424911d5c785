//! What can be typed: clap types, and nothing else.

mod credential;
mod export;
mod keys;
mod manage;
mod topic;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub(crate) use self::credential::{LoginArgs, LogoutArgs, Qr, RefreshArgs, StatusArgs, TokenArgs, TokenFormat};
pub(crate) use self::export::{EnvArgs, EnvFormat, ExecArgs, GatewayArgs, GatewayOptions, Serve, UsageArgs, UsageBy};
pub(crate) use self::keys::{
    CreateKeyArgs, KeyLimitOptions, KeysArgs, KeysCommand, RevokeKeyArgs, RotateKeyArgs, SetKeyArgs,
};
pub(crate) use self::manage::{
    CompletionsArgs, DoctorArgs, GATEWAY_ADDRESS, ProfilesArgs, ProvidersArgs, SandboxArgs, SetupArgs, Shell, TEAM_KEY,
    UseArgs,
};
pub(crate) use self::value::{Bound, Listen, StoreChoice};
use crate::error::{Failed, Failure, nearest, printable};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The output of `--version -v`, for bug reports and measurements.
const BUILD: &str = concat!(
    "qwenauth ",
    env!("CARGO_PKG_VERSION"),
    "\nprofile: ",
    env!("QWENAUTH_BUILD_PROFILE"),
    "\ntarget: ",
    env!("QWENAUTH_BUILD_TARGET"),
    "\nfeatures: ",
    env!("QWENAUTH_BUILD_FEATURES"),
    "\n",
);

/// Log in to Qwen models once and use them from any tool
#[derive(Debug, Parser)]
#[command(name = "qwenauth", version, styles = STYLES, after_help = topic::SHORT, after_long_help = topic::LONG, subcommand_required = true, arg_required_else_help = true, max_term_width = 100, disable_help_subcommand = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// What was typed. What programs run again and again needs no parser in its usual form, and a well-formed `env` or
    /// `exec` with options only a part of it.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        if let Some(command) = usual(std::env::args_os().skip(1)) {
            return Ok(Self { global: Global::default(), command });
        }
        match std::env::args_os().nth(1) {
            Some(first) if first == "env" || first == "exec" => {
                Narrow::try_parse().map(Self::from).or_else(|_| Self::try_parse())
            }
            _ => Self::try_parse(),
        }
    }
}

/// `token`, `env` and `exec -- CMD …` without options, and the texts that are no command's.
fn usual(mut arguments: impl Iterator<Item = OsString>) -> Option<Command> {
    let (first, second, third) = (arguments.next()?, arguments.next(), arguments.next());
    match (first.to_str()?, second, third) {
        ("token", None, _) => Some(Command::Token(TokenArgs::default())),
        ("env", None, _) => Some(Command::Export(Export::Env(EnvArgs::default()))),
        ("exec", Some(end), Some(program)) if end == "--" => {
            let command = std::iter::once(program).chain(arguments).collect();
            Some(Command::Export(Export::Exec(ExecArgs { command, ..ExecArgs::default() })))
        }
        ("help", Some(topic), _) => topic::text(&topic).map(Command::Topic),
        ("--version", Some(option), _) if option == "-v" || option == "--verbose" => Some(Command::Topic(BUILD)),
        _ => None,
    }
}

/// The commands that shells and programs start again and again.
#[derive(Debug, Subcommand)]
pub(crate) enum Export {
    Env(EnvArgs),
    Exec(ExecArgs),
}

/// As much of the command line as these commands need; to build all of it takes longer than they do.
#[derive(Debug, Parser)]
#[command(name = "qwenauth")]
struct Narrow {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Export,
}

impl From<Narrow> for Cli {
    fn from(narrow: Narrow) -> Self {
        Self { global: narrow.global, command: Command::Export(narrow.command) }
    }
}

/// What `help` has a text for.
fn helped() -> Vec<String> {
    let root = Cli::command();
    let commands = root.get_subcommands().filter(|command| !command.is_hide_set());
    commands.map(clap::Command::get_name).chain(topic::NAMES).map(str::to_owned).collect()
}

/// What is wrong with the command line, in the words of every other error; `None` for help and version.
pub(crate) fn usage_error(error: &clap::Error) -> Option<Failed> {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion) {
        return None;
    }
    let text = error.render().to_string();
    let (said, usage) = text.split_once("\n\n").unwrap_or((&text, ""));
    let tips = usage.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let usage = usage.lines().find_map(|line| line.strip_prefix("Usage: "));
    let is_of_keys = usage.is_some_and(|usage| usage.starts_with("qwenauth keys"));
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && let Some(hint) = if is_of_keys { topic::command_of_keys(word) } else { topic::command_for(word) }
    {
        return Some(Failed::new(Failure::Usage, format!("unrecognized subcommand `{}`", printable(word))).hint(hint));
    }
    let is_help = std::env::args_os().nth(1).is_some_and(|first| first == "help");
    let similar = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(similar)) => similar.clone(),
        // The parser suggests nothing for what follows `help`.
        _ if is_help => helped(),
        _ => Vec::new(),
    };
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && let Some(name) = nearest(word, similar.iter().map(String::as_str))
    {
        let message = format!("unrecognized subcommand `{}`", printable(word));
        return Some(Failed::new(Failure::Usage, message).hint(format!("did you mean `{name}`?")));
    }
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && is_help
    {
        let topics = topic::NAMES.map(|name| format!("`qwenauth help {name}`")).join(", ");
        return Some(
            Failed::new(Failure::Usage, format!("unrecognized subcommand `{}`", printable(word)))
                .hint(format!("`qwenauth help` lists the commands; there are also {topics}")),
        );
    }
    let literals = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('\'', "`");
    let missing = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(option)))
            if usage.is_some_and(|usage| usage.starts_with("qwenauth login")) =>
        {
            topic::option_of_login(option).map(str::to_owned)
        }
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => usage
            .and_then(|usage| usage.split(' ').nth(1))
            .and_then(|command| option_meant(command, word))
            .map(|name| format!("did you mean `{name}`?")),
        _ => None,
    };
    // No option is meant as a value, and no command takes one that begins so.
    let mut tips = tips.filter(|tip| !tip.starts_with("to pass")).map(literals);
    let failed = Failed::new(Failure::Usage, literals(said.trim_start_matches("error: ")));
    let hint = missing.or_else(|| shell_meant(error)).or_else(|| tips.next());
    Some(match (hint, usage) {
        (Some(hint), _) => failed.hint(hint),
        (None, Some(usage)) => failed.hint(format!("usage: `{}`; more with `--help`", usage.trim())),
        // The message says what the value has to be.
        (None, None) => failed,
    })
}

/// What to write for a misspelt shell: many have a format that is named after another one.
fn shell_meant(error: &clap::Error) -> Option<String> {
    let (ErrorKind::InvalidValue, Some(ContextValue::String(option)), Some(ContextValue::String(value))) =
        (error.kind(), error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
    else {
        return None;
    };
    let format = EnvFormat::value_variants().iter().filter_map(EnvFormat::to_possible_value);
    let names: Vec<String> =
        format.flat_map(|format| format.get_name_and_aliases().map(str::to_owned).collect::<Vec<_>>()).collect();
    let near = nearest(value, names.iter().map(String::as_str)).filter(|_| option.starts_with("--format"))?;
    Some(format!("a similar value exists: `{near}`"))
}

/// Commands that take no argument but use a profile, which a stray argument names then.
const OF_A_PROFILE: [&str; 9] = ["status", "refresh", "logout", "token", "env", "gateway", "usage", "setup", "doctor"];

/// The option that `word`, an argument that `command` does not take, stands for: by its name, its value, or the profile.
fn option_meant(command: &str, word: &str) -> Option<String> {
    let root = Cli::command();
    let options = root.find_subcommand(command)?.get_arguments();
    for option in options.filter(|option| !option.is_hide_set()) {
        let Some(name) = option.get_long() else { continue };
        if name == word {
            return Some(format!("--{name}"));
        }
        if option.get_possible_values().iter().any(|value| value.matches(word, false)) {
            return Some(format!("--{name} {word}"));
        }
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let is_name = word.starts_with(|first: char| first.is_ascii_lowercase()) && word.bytes().all(is_plain);
    (is_name && OF_A_PROFILE.contains(&command)).then(|| format!("--profile {word}"))
}

/// Options of every command.
#[derive(Debug, Args, Default)]
pub(crate) struct Global {
    /// Use this profile instead of the active one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Login(LoginArgs),
    Status(StatusArgs),
    Refresh(RefreshArgs),
    Logout(LogoutArgs),
    Token(TokenArgs),
    #[command(flatten)]
    Export(Export),
    Gateway(GatewayArgs),
    Usage(UsageArgs),
    Keys(KeysArgs),
    Providers(ProvidersArgs),
    Profiles(ProfilesArgs),
    Use(UseArgs),
    Setup(SetupArgs),
    Doctor(DoctorArgs),
    Sandbox(SandboxArgs),
    Completions(CompletionsArgs),
    /// Print the values that can complete a command line, for a completion script
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The command line so far, without the program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Help about something that is no command, or what the build is
    #[command(skip)]
    Topic(&'static str),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        directory: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::HOW_TO_GIVE_A_KEY;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        Narrow::command().debug_assert();
    }

    /// Clap breaks a longer line at any word, into lines that cannot be pasted and columns that look like entries.
    #[test]
    fn no_example_and_no_row_of_a_table_is_broken_at_80_columns() {
        fn check(command: &mut clap::Command) {
            for is_long in [false, true] {
                let written = command.get_after_long_help().filter(|_| is_long).or(command.get_after_help());
                let written = written.map(ToString::to_string).unwrap_or_default();
                let mut shown = command.clone().term_width(80);
                let shown = if is_long { shown.render_long_help() } else { shown.render_help() }.to_string();
                for line in written.lines().filter(|line| line.starts_with(' ')) {
                    assert!(line.len() <= 78 && shown.lines().any(|shown| shown == line), "{line}\n{shown}");
                }
            }
            command.get_subcommands_mut().for_each(check);
        }
        check(&mut Cli::command());
        for topic in topic::NAMES {
            let text = topic::text(topic.as_ref()).unwrap();
            assert_eq!(text.lines().find(|line| line.len() > 78), None);
        }
    }

    /// Behind two spaces is a remark, which is no part of the command.
    #[test]
    fn every_example_is_a_command_and_its_remark_stands_apart() {
        fn check(command: &clap::Command, count: &mut usize) {
            let help = command.get_after_long_help().or_else(|| command.get_after_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                assert!(!line.split(' ').any(|word| word.starts_with('#')), "a shell may have no comments: {line}");
                let example = line.strip_prefix("  ").and_then(|line| line.split("  ").next()).unwrap_or_default();
                // What needs a shell is tried elsewhere.
                if !example.starts_with("qwenauth ") || example.contains(['|', '>', '$', '"', '\\']) {
                    continue;
                }
                let parts = example.split('\'').enumerate();
                let words = parts.flat_map(|(at, part)| match at % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                });
                let parsed = Cli::try_parse_from(words.collect::<Vec<_>>());
                assert!(parsed.is_ok(), "{example}: {:?}", parsed.err());
                *count += 1;
            }
            for command in command.get_subcommands() {
                check(command, count);
            }
        }
        let mut count = 0;
        check(&Cli::command(), &mut count);
        assert!(count > 50, "{count}");
    }

    #[test]
    fn a_hint_about_an_argument_leads_somewhere() {
        let told = |line: &str| {
            let error = Cli::try_parse_from(std::iter::once("qwenauth").chain(line.split(' '))).unwrap_err();
            usage_error(&error).unwrap().hint.unwrap()
        };
        for line in
            ["login --nope", "login --key k", "login --api-key k", "login x --api-key=k", "login --api-key-file f"]
        {
            assert_eq!(told(line) == HOW_TO_GIVE_A_KEY, !line.contains("nope"), "{line}");
        }
        for (line, hint) in [
            ("login --nope", "usage: `qwenauth login [OPTIONS] [PROVIDER]`; more with `--help`"),
            ("completions bash --install", "usage: `qwenauth completions <SHELL>`; more with `--help`"),
            ("completions bash -o x", "usage: `qwenauth completions <SHELL>`; more with `--help`"),
            ("login --provider dashscope", "write the provider without an option: `qwenauth login dashscope`"),
            ("gateway --api-key k", "a similar argument exists: `--api-key-file`"),
            ("key", "did you mean `keys`?"),
            ("logout work", "did you mean `--profile work`?"),
            ("setup opencode work", "did you mean `--profile work`?"),
            ("env fish", "did you mean `--format fish`?"),
            ("token json", "did you mean `--format json`?"),
            ("status json", "did you mean `--json`?"),
            ("logout all", "did you mean `--all`?"),
            ("gateway 8080", "usage: `qwenauth gateway [OPTIONS]`; more with `--help`"),
            ("logout WORK", "usage: `qwenauth logout [OPTIONS]`; more with `--help`"),
            ("profiles work", "usage: `qwenauth profiles [OPTIONS]`; more with `--help`"),
            ("update", "run `qwenauth doctor`: it names the command that upgrades qwenauth"),
            ("version", "run `qwenauth --version`"),
            ("env --format bsh", "a similar value exists: `bash`"),
            ("env --format powershel", "a similar value exists: `powershell`"),
        ] {
            assert_eq!(told(line), hint, "{line}");
        }
    }

    #[test]
    fn a_message_that_says_what_a_value_has_to_be_needs_no_hint() {
        let error = Cli::try_parse_from(["qwenauth", "token", "--min-ttl", "10x"]).unwrap_err();
        let failed = usage_error(&error).unwrap();
        assert!(
            failed.hint.is_none() && failed.message.ends_with("write it like `30s`, `10m` or `1h30m`"),
            "{failed:?}"
        );
    }

    #[test]
    fn what_needs_no_parser_is_what_the_parser_would_say() {
        let read = |line: &str| usual(line.split(' ').map(OsString::from));
        for line in ["token", "env", "exec -- true", "exec -- sh -c x --profile p", "exec -- -v", "exec -- -- -- x"] {
            let parsed = Cli::try_parse_from(std::iter::once("qwenauth").chain(line.split(' '))).unwrap();
            assert_eq!(format!("{:?}", read(line).unwrap()), format!("{:?}", parsed.command), "{line}");
        }
        for line in
            ["token -h", "env --unset", "exec", "exec --", "exec true", "exec -v -- true", "login", "help token"]
        {
            assert!(read(line).is_none(), "{line}");
        }
    }

    #[test]
    fn an_option_that_would_be_ignored_is_an_error() {
        for line in [
            "exec --rpm 5 -- true",
            "exec --rpd 5 -- true",
            "exec --no-pacing -- true",
            "exec --max-wait 60s true",
            "exec --timeout 300s -- true",
            "exec --max-body 1k -- true",
            "exec --replay-limit 1k -- true",
            "exec --log f -- true",
            "exec --fallback p -- true",
            "exec --warn-at 80% -- true",
            "exec --short-lived --rpm 5 -- true",
            "exec --gateway --short-lived -- true",
            "usage --by day --check",
            "setup opencode --force --print",
            "setup opencode --force --gateway",
            "setup opencode --gateway --key-env K",
            "setup opencode --remove --key-file f",
        ] {
            assert!(Cli::try_parse_from(std::iter::once("qwenauth").chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn a_part_of_the_command_line_understands_what_the_whole_does() {
        for line in [
            "env",
            "env --format fish --profile p",
            "env --format zsh",
            "env --profile p --min-ttl 5m --model m --native --short-lived",
            "exec true",
            "exec --profile p -- true --profile q",
            "exec --profile p true -v",
            "exec -v --gateway --rpm 5 --as claude --allow-env-file ./x",
            "exec --gateway --max-wait 5s --timeout 10s --preserve-env -- sh -c x",
        ] {
            let words = || std::iter::once("qwenauth").chain(line.split(' '));
            let part = Cli::from(Narrow::try_parse_from(words()).unwrap());
            assert_eq!(format!("{part:?}"), format!("{:?}", Cli::try_parse_from(words()).unwrap()), "{line}");
        }
    }
}
