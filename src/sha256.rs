//! SHA-256 as text: the name of what must not be named itself.

use sha2::{Digest, Sha256};

/// The SHA-256 of `data` in hexadecimal digits.
pub(crate) fn sha256(data: impl AsRef<[u8]>) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Its first `digits` digits, where fewer are enough to tell the data from all others.
pub(crate) fn short_sha256(data: impl AsRef<[u8]>, digits: usize) -> String {
    let mut text = sha256(data);
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(short_sha256("abc", 8), "ba7816bf");
    }
}
