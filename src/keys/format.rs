//! The text of a key: `qa_`, 8 characters of id, 43 of secret, 6 of checksum, all in base 62, so that a double click
//! selects the whole key and secret scanners can match `qa_[0-9A-Za-z]{57}`.

use rand::RngExt;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The prefix of every key.
pub(crate) const PREFIX: &str = "qa_";

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const ID: usize = 8;
/// 62^43 is just above 2^256.
const SECRET: usize = 43;
/// 62^6 is above 2^32.
const CHECKSUM: usize = 6;
const LENGTH: usize = PREFIX.len() + ID + SECRET + CHECKSUM;

/// A text in the format of a key.
#[derive(Clone)]
pub(crate) struct KeyText(Secret);

impl KeyText {
    pub(crate) fn new() -> Self {
        Self::with_id(&letters(ID))
    }

    /// A new key with the id `id`.
    pub(super) fn with_id(id: &str) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(PREFIX);
        text.push_str(id);
        text.push_str(&letters(SECRET));
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self(Secret::new(std::mem::take(&mut *text)))
    }

    /// Returns `None` if it is not a key or has a typing error.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX).filter(|_| text.len() == LENGTH)?;
        let (whole, sum) = text.split_at_checked(LENGTH - CHECKSUM)?;
        // The letters of base 62.
        let is_key = body.bytes().all(|byte| byte.is_ascii_alphanumeric()) && *checksum(whole) == *sum;
        is_key.then(|| Self(Secret::new(text.to_owned())))
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.expose()[PREFIX.len()..PREFIX.len() + ID]
    }

    /// The part that is hashed.
    pub(super) fn secret_part(&self) -> &str {
        &self.0.expose()[PREFIX.len() + ID..LENGTH - CHECKSUM]
    }

    /// The whole key.
    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }
}

fn letters(count: usize) -> Zeroizing<String> {
    let mut random = rand::rng();
    let mut text = Zeroizing::new(String::with_capacity(count));
    for _ in 0..count {
        text.push(char::from(LETTERS[random.random_range(0..LETTERS.len())]));
    }
    text
}

fn checksum(text: &str) -> Zeroizing<String> {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut letters = [b'0'; CHECKSUM];
    for letter in letters.iter_mut().rev() {
        *letter = LETTERS[(rest % 62) as usize];
        rest /= 62;
    }
    Zeroizing::new(letters.iter().copied().map(char::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_parts_and_is_read_back() {
        let key = KeyText::new();
        let text = key.secret().expose();
        assert_eq!(text.len(), 60);
        assert!(text[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let read = KeyText::parse(text).unwrap();
        assert_eq!((read.id(), read.secret_part()), (&text[3..11], &text[11..54]));
        assert_ne!(KeyText::new().secret_part(), key.secret_part());
    }

    #[test]
    fn one_wrong_letter_is_noticed() {
        let text = KeyText::new().secret().expose().to_owned();
        for at in 3..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'x' { b'y' } else { b'x' };
            assert!(KeyText::parse(std::str::from_utf8(&other).unwrap()).is_none(), "{at}");
        }
        for bad in ["", "qa_", &text[..59], &format!("{text}0"), &text.replacen("qa_", "qb_", 1), &"é".repeat(30)] {
            assert!(KeyText::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn other_letters_are_no_key_although_the_checksum_is_right() {
        for id in ["../../ab", "a b-c_d.", "{x}:abcd"] {
            assert!(KeyText::parse(KeyText::with_id(id).secret().expose()).is_none(), "{id}");
        }
    }

    #[test]
    fn the_checksum_is_crc_32_in_base_62() {
        // CRC-32 of `123456789` is 0xcbf43926 by definition.
        let mut number = 0_u64;
        for letter in checksum("123456789").bytes() {
            number = number * 62 + LETTERS.iter().position(|known| *known == letter).unwrap() as u64;
        }
        assert_eq!(number, 0xcbf4_3926);
    }
}
