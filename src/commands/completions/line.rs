//! The values that can complete a command line, from the same description that the parser uses.

use clap::{Arg, Command, ValueHint};

/// What fits at the end of the line.
pub(super) enum Fit {
    /// Each with its description, which may be empty.
    Values(Vec<(String, String)>),
    Files,
    Commands,
}

/// Values that only the running program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Models,
    Profiles,
    Providers,
    Regions,
    Tools,
}

/// Commands whose argument is such a name.
const NAMED: [(&str, Names); 4] =
    [("login", Names::Providers), ("providers", Names::Providers), ("use", Names::Profiles), ("setup", Names::Tools)];

/// Options whose value is such a name.
const VALUED: [(&str, Names); 3] = [("profile", Names::Profiles), ("region", Names::Regions), ("model", Names::Models)];

/// Where a line ends.
struct End<'a> {
    command: &'a Command,
    /// The option before the end, if its value follows.
    option: Option<&'a Arg>,
    /// How many arguments of `command` precede it.
    position: usize,
}

impl<'a> End<'a> {
    /// `root`: built, so that its global options are options of every command.
    fn of(root: &'a Command, words: &[&str]) -> Self {
        let mut end = Self { command: root, option: None, position: 0 };
        for word in words {
            if end.option.take().is_some() {
                continue;
            }
            if let Some(option) = word.strip_prefix('-') {
                end.option = end.option_of(option).filter(|option| needs_value(option));
            } else if let Some(command) = end.command.find_subcommand(word).filter(|_| end.position == 0) {
                end = Self { command, option: None, position: 0 };
            } else {
                end.position += 1;
            }
        }
        end
    }

    /// The option of this name, without its first dash.
    fn option_of(&self, name: &str) -> Option<&'a Arg> {
        self.command.get_arguments().find(|arg| match name.strip_prefix('-') {
            Some(long) => arg.get_long() == Some(long),
            None => arg.get_short().is_some_and(|short| name.ends_with(short)),
        })
    }

    fn options(&self) -> Vec<(String, String)> {
        let shown = self.command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
        let names = shown.flat_map(|arg| {
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            long.into_iter().chain(short).map(|name| (name, described(arg.get_help())))
        });
        names.collect()
    }

    fn subcommands(&self) -> Vec<(String, String)> {
        let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set() && self.position == 0);
        shown.map(|command| (command.get_name().to_owned(), described(command.get_about()))).collect()
    }
}

/// What fits behind `words`, where `current` is typed already. `names` are looked up only if they fit.
pub(super) fn fit(root: &Command, words: &[&str], current: &str, names: impl Fn(Names) -> Vec<String>) -> Fit {
    let end = End::of(root, words);
    let named = |names_of: Names| names(names_of).into_iter().map(|name| (name, String::new())).collect();
    let fits = if let Some(option) = end.option {
        values(option, named)
    } else if let Some((name, _)) = current.split_once('=') {
        let option = name.strip_prefix('-').and_then(|name| end.option_of(name));
        match option.map(|option| values(option, named)) {
            Some(Fit::Values(values)) => {
                Fit::Values(values.into_iter().map(|(value, about)| (format!("{name}={value}"), about)).collect())
            }
            other => other.unwrap_or(Fit::Values(Vec::new())),
        }
    } else if current.starts_with('-') {
        Fit::Values(end.options())
    } else {
        let own = NAMED.iter().find(|(command, _)| *command == end.command.get_name() && end.position == 0);
        match (own, end.command.get_positionals().nth(end.position)) {
            (Some((_, names_of)), _) => Fit::Values(named(*names_of)),
            (None, Some(argument)) => values(argument, named),
            (None, None) => Fit::Values(end.subcommands()),
        }
    };
    match fits {
        Fit::Values(values) => {
            Fit::Values(values.into_iter().filter(|(value, _)| value.starts_with(current)).collect())
        }
        other => other,
    }
}

/// The values of an option or argument.
fn values(arg: &Arg, named: impl Fn(Names) -> Vec<(String, String)>) -> Fit {
    if let Some((_, names_of)) = VALUED.iter().find(|(name, _)| arg.get_long() == Some(*name)) {
        return Fit::Values(named(*names_of));
    }
    match arg.get_value_hint() {
        ValueHint::FilePath => Fit::Files,
        ValueHint::CommandWithArguments => Fit::Commands,
        _ => {
            let values = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set());
            Fit::Values(values.map(|value| (value.get_name().to_owned(), described(value.get_help()))).collect())
        }
    }
}

fn needs_value(option: &Arg) -> bool {
    option.get_action().takes_values() && option.get_num_args().is_none_or(|number| number.min_values() > 0)
}

/// The first line, for a list.
fn described(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}
