//! Where the body of an answer ends: by its length, in chunks, or with the connection (RFC 9112 §6 and §7).
//!
//! Hazard: a server that frames wrongly, by accident or so that two readers disagree where an answer ends.
//! Rule: each byte is data, framing as the grammar has it, or an error; and what is neither data nor a size is bounded.

use super::Malformed;

/// Bytes of extensions and trailers in one body. Nothing is known to send any; they are dropped.
const MAX_EXTRA: usize = 16 * 1024;

/// Hexadecimal digits of a chunk's size: more are no number of 64 bits.
const MAX_DIGITS: u8 = 16;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Bytes that are still to come.
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// What a piece of a body came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// The data are these first bytes of the piece.
    pub(super) data: usize,
    /// Bytes that belong to this body, framing included.
    pub(super) used: usize,
}

impl Framing {
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == ChunkState::End,
            Self::UntilClose => false,
        }
    }

    /// Bytes that are still to come, where the head told.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Moves the data in `piece` to its beginning.
    pub(super) fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Malformed> {
        match self {
            Self::Length(left) => {
                let data = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= data as u64;
                Ok(Decoded { data, used: data })
            }
            Self::Chunked(chunks) => chunks.decode(piece),
            Self::UntilClose => Ok(Decoded { data: piece.len(), used: piece.len() }),
        }
    }

    /// The server closed the connection.
    pub(super) fn close(&self) -> Result<(), Malformed> {
        if matches!(self, Self::UntilClose) || self.is_end() {
            return Ok(());
        }
        Err(Malformed("the connection closed before the end of the response"))
    }
}

/// What the next byte of a chunked body belongs to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    /// Blanks after the size, which some servers pad.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer, or of the empty line that ends the body.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    state: ChunkState,
    /// Of the size that is being read.
    digits: u8,
    /// Bytes of this chunk that are still to come.
    left: u64,
    /// Bytes of extensions and trailers so far.
    extra: usize,
}

impl Chunks {
    fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Malformed> {
        let (mut data, mut used) = (0, 0);
        while used < piece.len() && self.state != ChunkState::End {
            if self.state == ChunkState::Data {
                let rest = piece.len() - used;
                let length = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                piece.copy_within(used..used + length, data);
                data += length;
                used += length;
                self.left -= length as u64;
                if self.left == 0 {
                    self.state = ChunkState::DataCr;
                }
            } else {
                self.state = self.after(piece[used])?;
                used += 1;
            }
        }
        Ok(Decoded { data, used })
    }

    /// The state after `byte`.
    fn after(&mut self, byte: u8) -> Result<ChunkState, Malformed> {
        Ok(match (self.state, byte) {
            (ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (ChunkState::Size, _) if self.digits == 0 => return Err(Malformed("a chunk has no size")),
            (ChunkState::Size | ChunkState::Blank, b' ' | b'\t') => self.extra(ChunkState::Blank)?,
            (ChunkState::Size | ChunkState::Blank | ChunkState::Extension, b'\r') => ChunkState::SizeLf,
            (ChunkState::SizeLf, b'\n') if self.left == 0 => ChunkState::TrailerStart,
            (ChunkState::SizeLf, b'\n') => ChunkState::Data,
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => {
                self.digits = 0;
                ChunkState::Size
            }
            (ChunkState::TrailerStart, b'\r') => ChunkState::EndLf,
            (ChunkState::Trailer, b'\r') => ChunkState::TrailerLf,
            (ChunkState::TrailerLf, b'\n') => ChunkState::TrailerStart,
            (ChunkState::EndLf, b'\n') => ChunkState::End,
            // A line ends with both, or another reader may see another line.
            (_, b'\n') => return Err(Malformed("a line of the framing ends without a carriage return")),
            (ChunkState::Size | ChunkState::Blank, b';') | (ChunkState::Extension, _) => {
                self.extra(ChunkState::Extension)?
            }
            (ChunkState::TrailerStart | ChunkState::Trailer, _) => self.extra(ChunkState::Trailer)?,
            _ => return Err(Malformed("the framing of a chunk is invalid")),
        })
    }

    fn digit(&mut self, byte: u8) -> Result<ChunkState, Malformed> {
        self.digits += 1;
        if self.digits > MAX_DIGITS {
            return Err(Malformed("the size of a chunk is too large"));
        }
        let value = char::from(byte).to_digit(16).unwrap_or_default();
        self.left = self.left << 4 | u64::from(value);
        Ok(ChunkState::Size)
    }

    fn extra(&mut self, state: ChunkState) -> Result<ChunkState, Malformed> {
        self.extra += 1;
        if self.extra > MAX_EXTRA {
            return Err(Malformed("the framing of the answer is too long"));
        }
        Ok(state)
    }
}
