//! One file per subcommand, each with `run`: translate arguments into calls, print the answer.

pub(crate) mod completions;
pub(crate) mod env;
pub(crate) mod man;
