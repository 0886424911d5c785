//! Where the path of a request leads: to which profile, and what its provider gets.
//!
//! Hazard: a path that this program and a provider's server read in different ways leads out of the API. Rule: a path in which
//! not every server finds the same segments is rejected.

use hyper::Uri;

/// The profile that a path names, and what follows `/v1` in it. A path that could leave it is rejected.
pub(in crate::gateway) fn route(uri: &Uri) -> Option<(Option<String>, String)> {
    let whole = uri.path_and_query()?.as_str();
    if !is_plain(uri.path()) {
        return None;
    }
    let (profile, rest) = match whole.strip_prefix("/p/") {
        None => (None, whole),
        Some(rest) => {
            let end = rest.find('/')?;
            (Some(rest[..end].to_owned()), &rest[end..])
        }
    };
    let rest = rest.strip_prefix("/v1")?;
    (rest.is_empty() || rest.starts_with(['/', '?'])).then(|| (profile, rest.to_owned()))
}

/// Whether a provider answers with the key or the credit that all keys share: as OpenRouter names these pages, however
/// they are written. `rest`: what follows `/v1`.
pub(super) fn is_of_account(rest: &str) -> bool {
    let path = rest.split('?').next().unwrap_or_default();
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let byte = more.get(..2).filter(|_| first == b'%').and_then(hexadecimal);
        decoded.push(byte.unwrap_or(first).to_ascii_lowercase());
        rest = if byte.is_some() { &more[2..] } else { more };
    }
    let segments = decoded.split(|byte| matches!(byte, b'/' | b'\\')).map(<[u8]>::trim_ascii);
    let named: Vec<&[u8]> = segments.filter(|segment| !matches!(*segment, b"" | b".")).collect();
    matches!(named[..], [b"key" | b"credits"] | [b"auth", b"key"])
}

/// Whether every server finds the same segments in `path`, and none of them goes up. Some cut a segment at `;`, at a NUL
/// or at white space, some decode twice, and some decode bytes that are not UTF-8 to a dot or a slash.
fn is_plain(path: &str) -> bool {
    // As nearly all paths are.
    if !path.bytes().any(|byte| matches!(byte, b'%' | b';' | b'.' | b'\\')) {
        return true;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut percent = None;
    let mut rest = path.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first == b'%' {
            let Some(byte) = more.get(..2).and_then(hexadecimal) else { return false };
            rest = &more[2..];
            // Dots need no encoding, and `%c0` and `%c1` begin no character.
            if byte.is_ascii_control() || matches!(byte, b'.' | b';' | 0xc0 | 0xc1) {
                return false;
            }
            if byte == b'%' {
                percent.get_or_insert(decoded.len());
            }
            decoded.push(byte);
        } else {
            decoded.push(first);
        }
    }
    let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    // A percent sign in a name is one only where nothing can follow it.
    let ambiguous = percent.is_some_and(|at| decoded[at..].iter().any(is_slash))
        || decoded.windows(3).any(|three| three[0] == b'%' && hexadecimal(&three[1..]).is_some());
    let leads_up = |segment: &[u8]| segment.trim_ascii() == b"..";
    !ambiguous && !decoded.contains(&b';') && !decoded.split(is_slash).any(leads_up)
}

/// The byte that two hexadecimal digits encode.
fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(16 * digit(*high)? + digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str) -> Option<(Option<String>, String)> {
        route(&path.parse().unwrap())
    }

    #[test]
    fn a_page_of_the_account_is_known_however_it_is_written() {
        for rest in
            ["/key", "/key/", "//key?a", "/./key", "/%6bey", "/KEY", "/auth/key", "/auth%2Fkey", "/credits", "/key%20"]
        {
            assert!(is_of_account(rest), "{rest}");
        }
        for rest in ["", "/", "/keys", "/models", "/chat/completions", "/files/key", "/models?key", "/auth", "/%6"] {
            assert!(!is_of_account(rest), "{rest}");
        }
    }

    #[test]
    fn everything_below_v1_has_a_way() {
        for (path, rest) in [("/v1", ""), ("/v1/models", "/models"), ("/v1?x=1", "?x=1"), ("/v1/a?b=../c", "/a?b=../c")]
        {
            assert_eq!(routed(path), Some((None, rest.to_owned())), "{path}");
        }
        assert_eq!(routed("/p/work/v1/models"), Some((Some("work".into()), "/models".into())));
    }

    #[test]
    fn nothing_leads_out_of_v1() {
        for path in
            ["/", "/v10", "/v1x/a", "/models", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/%2E./a", "/p/x", "/v1/..%2fa"]
        {
            assert_eq!(routed(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_that_servers_read_in_different_ways_leads_nowhere() {
        for path in [
            "/v1/files/..;v=1/keys",
            "/v1/files/..;/keys",
            "/v1/files/..%3b/keys",
            "/v1/a;b",
            "/v1/files/..%00/keys",
            "/v1/files/..%09/keys",
            "/v1/files/..%20/keys",
            "/v1/files%00",
            "/v1/files/%252e%252e/keys",
            "/v1/files/%252e%252e",
            "/v1/files/..%252fkeys",
            "/v1/files/..%255ckeys",
            "/v1/100%25/keys",
            "/v1/100%25%2fkeys",
            "/v1/100%25/50%25",
            "/v1/files/%c0%ae%C0%AE/keys",
            "/v1/files/%u002e%u002e/keys",
            "/v1/files/%2",
            "/v1/files/%",
            "/v1/a/%2e/b",
            "/v1/files/..\\keys",
            "/v1/files/..%5Ckeys",
            "/p/work/v1/..;/x",
        ] {
            assert!(!path.parse::<Uri>().is_ok_and(|uri| route(&uri).is_some()), "{path}");
        }
        for path in [
            "/v1/models/Qwen/Qwen3.8-27B",
            "/v1/models/Qwen%2FQwen3.8-27B",
            "/v1/models/qwen%3A27b",
            "/v1/files/100%25",
            "/v1/files/a%20b",
            "/v1/files/%E9%80%9A",
            "/v1/a..b/...",
            "/v1/files?x=..;%2e%2e/%00",
        ] {
            assert!(routed(path).is_some(), "{path}");
        }
    }
}
