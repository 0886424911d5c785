//! Systems whose keyring is not supported.

use zeroize::Zeroizing;

use super::{Entry, Trouble};

pub(crate) const NAME: &str = "the keyring";

pub(crate) const MAX_VALUE: usize = 0;

fn missing<T>() -> Result<T, Trouble> {
    Err(Trouble::Missing("it is not supported on this system".into()))
}

pub(super) fn read(_entry: Entry) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    missing()
}

pub(super) fn write(_entry: Entry, _secret: &[u8]) -> Result<(), Trouble> {
    missing()
}

pub(super) fn remove(_entry: Entry) -> Result<(), Trouble> {
    missing()
}
