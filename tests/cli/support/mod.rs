//! What the test programs share: the fake provider, the real program in a home directory of its own, its runs, and a
//! pseudo-terminal. `tests/chaos_tests.rs` and `tests/team_tests.rs` have it as well.

pub(crate) mod machine;
pub(crate) mod pseudo_terminal;
pub(crate) mod run;
pub(crate) mod server;
