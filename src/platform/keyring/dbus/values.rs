//! D-Bus values as bytes: writing and reading them.

use zeroize::Zeroizing;

use super::NoAnswer;

/// A buffer with room for a secret of usual length does not move, so that no copy of it stays behind.
const BUFFER_SIZE: usize = 64 * 1024;

pub(super) fn malformed() -> NoAnswer {
    NoAnswer::Broken("a message of the session bus is malformed".into())
}

/// Values as they go over the bus, with their signature.
pub(in crate::platform::keyring) struct Values {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) signature: String,
}

impl Values {
    pub(in crate::platform::keyring) fn new(signature: &str) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(BUFFER_SIZE)), signature: signature.to_owned() }
    }

    pub(in crate::platform::keyring) fn align(&mut self, to: usize) {
        let length = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(length, 0);
    }

    pub(in crate::platform::keyring) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(in crate::platform::keyring) fn number(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(in crate::platform::keyring) fn boolean(&mut self, value: bool) -> &mut Self {
        self.number(u32::from(value));
        self
    }

    /// A string or the path of an object.
    pub(in crate::platform::keyring) fn text(&mut self, text: &str) -> &mut Self {
        self.number(length(text.len()));
        self.bytes.extend_from_slice(text.as_bytes());
        self.byte(0);
        self
    }

    pub(in crate::platform::keyring) fn signature(&mut self, signature: &str) {
        self.byte(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.byte(0);
    }

    pub(in crate::platform::keyring) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(length(bytes.len()));
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An array whose elements `fill` adds. `alignment`: of one element.
    pub(in crate::platform::keyring) fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.number(0);
        let at = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        fill(self);
        let written = length(self.bytes.len() - start);
        self.bytes[at..at + 4].copy_from_slice(&written.to_le_bytes());
        self
    }

    /// A structure or an entry of a dictionary, whose fields are added next.
    pub(in crate::platform::keyring) fn structure(&mut self) -> &mut Self {
        self.align(8);
        self
    }

    /// A value of any type, which is added next.
    pub(in crate::platform::keyring) fn variant(&mut self, signature: &str) -> &mut Self {
        self.signature(signature);
        self
    }

    pub(in crate::platform::keyring) fn dictionary(&mut self, entries: &[(&str, &str)]) -> &mut Self {
        self.array(8, |values| {
            for (name, value) in entries {
                values.structure().text(name).text(value);
            }
        })
    }
}

pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The values of a message, read from front to back.
pub(in crate::platform::keyring) struct Reader {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) at: usize,
    pub(super) is_big_endian: bool,
}

impl Reader {
    pub(in crate::platform::keyring) fn take(&mut self, count: usize) -> Result<&[u8], NoAnswer> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or_else(malformed)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(in crate::platform::keyring) fn align(&mut self, to: usize) -> Result<(), NoAnswer> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    pub(in crate::platform::keyring) fn byte(&mut self) -> Result<u8, NoAnswer> {
        Ok(self.take(1)?[0])
    }

    pub(in crate::platform::keyring) fn number(&mut self) -> Result<u32, NoAnswer> {
        self.align(4)?;
        let is_big_endian = self.is_big_endian;
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    pub(in crate::platform::keyring) fn size(&mut self) -> Result<usize, NoAnswer> {
        usize::try_from(self.number()?).map_err(|_| malformed())
    }

    pub(in crate::platform::keyring) fn boolean(&mut self) -> Result<bool, NoAnswer> {
        Ok(self.number()? != 0)
    }

    pub(in crate::platform::keyring) fn text(&mut self) -> Result<String, NoAnswer> {
        let size = self.size()?;
        let text = String::from_utf8(self.take(size)?.to_vec()).map_err(|_| malformed())?;
        self.byte()?;
        Ok(text)
    }

    pub(in crate::platform::keyring) fn signature(&mut self) -> Result<String, NoAnswer> {
        let size = usize::from(self.byte()?);
        let text = String::from_utf8(self.take(size)?.to_vec()).map_err(|_| malformed())?;
        self.byte()?;
        Ok(text)
    }

    pub(in crate::platform::keyring) fn bytes(&mut self) -> Result<Zeroizing<Vec<u8>>, NoAnswer> {
        let size = self.size()?;
        self.take(size).map(|bytes| Zeroizing::new(bytes.to_vec()))
    }

    pub(in crate::platform::keyring) fn structure(&mut self) -> Result<&mut Self, NoAnswer> {
        self.align(8)?;
        Ok(self)
    }

    pub(in crate::platform::keyring) fn texts(&mut self) -> Result<Vec<String>, NoAnswer> {
        let end = self.size()?.checked_add(self.at).ok_or_else(malformed)?;
        let mut texts = Vec::new();
        while self.at < end {
            texts.push(self.text()?);
        }
        Ok(texts)
    }
}
