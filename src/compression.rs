//! Compressed bodies, read as far as a bound: gzip, deflate, zstd.
//!
//! Hazard: a kilobyte can decompress to a gigabyte. Rule: at most so much as the caller names, and what a decoder must keep
//! of it besides has a bound of its own.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::StreamingDecoder;

/// The encodings that are read here; no others are requested on behalf of clients.
pub(crate) const KNOWN: [&str; 4] = ["gzip", "x-gzip", "deflate", "zstd"];

/// How far back zstd may refer: a decoder keeps that much before it gives out a byte. HTTP allows no more (RFC 9659).
const MAX_ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// Decodes `body` by its `Content-Encoding`, up to `limit` bytes. A body that cannot be decoded is returned unchanged;
/// of a truncated one the beginning is decoded.
pub(crate) fn decoded<'a>(body: &'a [u8], content_encoding: &str, limit: u64) -> Cow<'a, [u8]> {
    let mut plain = Cow::Borrowed(body);
    // The last one was applied last.
    for encoding in content_encoding.rsplit(',').map(|name| name.trim().to_ascii_lowercase()) {
        let decoded = match encoding.as_str() {
            "gzip" | "x-gzip" => read(MultiGzDecoder::new(&*plain), limit),
            // Some servers send raw deflate without the zlib header that the name `deflate` stands for.
            "deflate" => read(ZlibDecoder::new(&*plain), limit).or_else(|| read(DeflateDecoder::new(&*plain), limit)),
            "zstd" => StreamingDecoder::new_with_max_window_size(&*plain, MAX_ZSTD_WINDOW)
                .ok()
                .and_then(|decoder| read(decoder, limit)),
            _ => None,
        };
        match decoded {
            Some(decoded) => plain = Cow::Owned(decoded),
            None => break,
        }
    }
    plain
}

/// Returns `None` if nothing could be decoded.
fn read(decoder: impl Read, limit: u64) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let outcome = decoder.take(limit).read_to_end(&mut plain);
    (outcome.is_ok() || !plain.is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    #[test]
    fn every_known_encoding_is_read_alone_and_on_top_of_another() {
        let text = br#"{"error":{"message":"no"}}"#;
        assert_eq!(&*decoded(text, "", 100), text);
        assert_eq!(&*decoded(text, "identity", 100), text);
        assert_eq!(&*decoded(&gzip(text), "gzip", 100), text);
        assert_eq!(&*decoded(&gzip(text), "X-GZIP", 100), text);
        assert_eq!(&*decoded(&zlib(text), "deflate", 100), text);
        assert_eq!(&*decoded(&deflate(text), "deflate", 100), text);
        assert_eq!(&*decoded(&zstd(text), "zstd", 100), text);
        assert_eq!(&*decoded(&gzip(&zstd(text)), "zstd, gzip", 100), text);
    }

    #[test]
    fn a_bomb_is_read_as_far_as_the_bound_and_half_a_body_as_far_as_it_goes() {
        let bomb = vec![b'x'; 10_000_000];
        for (body, encoding) in [(gzip(&bomb), "gzip"), (zlib(&bomb), "deflate"), (zstd(&bomb), "zstd")] {
            assert_eq!(decoded(&body, encoding, 1000).len(), 1000, "{encoding}");
        }
        let text: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let whole = gzip(&text);
        let half = decoded(&whole[..whole.len() / 2], "gzip", 1 << 20);
        assert!(!half.is_empty() && half.len() < text.len() && text.starts_with(&half));
    }

    /// A frame of 12 MiB in 400 bytes, whose header names this window (RFC 8878 §3.1.1.1.2).
    fn zstd_bomb(window: u8) -> Vec<u8> {
        const BLOCK: u32 = 128 * 1024;
        let block = |is_last: bool| {
            let header = BLOCK << 3 | 1 << 1 | u32::from(is_last);
            [&header.to_le_bytes()[..3], b"x"].concat()
        };
        let blocks: Vec<u8> = (1..=96).flat_map(|number| block(number == 96)).collect();
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, window][..], &blocks].concat()
    }

    #[test]
    fn zstd_with_a_window_beyond_what_http_allows_is_not_read() {
        let is_read = |window| matches!(decoded(&zstd_bomb(window), "zstd", 1000), Cow::Owned(_));
        // 8, 9 and 120 MiB.
        assert_eq!([0x68, 0x69, 0x87].map(is_read), [true, false, false]);
    }

    #[test]
    fn what_is_not_in_the_encoding_it_names_stays_as_it_is() {
        for encoding in ["gzip", "zstd", "br", "unheard-of"] {
            assert_eq!(&*decoded(b"\x00\xff no", encoding, 100), b"\x00\xff no", "{encoding}");
        }
    }
}
