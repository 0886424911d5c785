//! An answer read at once, for tests of properties: the parts that read it are the same.

use hyper::{HeaderMap, Method};

use super::head::HeadReader;

/// An answer as far as it came.
#[derive(Debug, PartialEq)]
pub(crate) struct ReadAnswer {
    status: u16,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether all of it came, and whether the connection could be kept.
    is_whole: bool,
    is_kept: bool,
}

/// Reads an answer that comes in `pieces`; `None` if there is none, or it is malformed.
pub(crate) fn read_answer<'piece>(pieces: impl Iterator<Item = &'piece [u8]>, method: &Method) -> Option<ReadAnswer> {
    let mut reader = HeadReader::default();
    let (mut found, mut body, mut is_alone) = (None, Vec::new(), true);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let (framing, rest) = match &mut found {
            None => match reader.read(&mut piece, method).ok()? {
                None => continue,
                Some((head, rest)) => (&mut found.insert(head).framing, rest),
            },
            Some(head) => (&mut head.framing, &mut piece[..]),
        };
        let decoded = framing.decode(rest).ok()?;
        is_alone &= decoded.used == rest.len();
        body.extend_from_slice(&rest[..decoded.data]);
    }
    let head = found?;
    let (is_whole, is_kept) = (head.framing.close().is_ok(), is_alone && head.keeps_open && head.framing.is_end());
    Some(ReadAnswer { status: head.status.as_u16(), headers: head.headers, body, is_whole, is_kept })
}
