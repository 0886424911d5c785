//! The real program against a real home directory.

mod generated;
mod shells;
