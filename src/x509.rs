//! What a certificate says of itself: its names and when it expires (RFC 5280 §4.1).
//!
//! Hazard: the bytes may be of a stranger's server. Rule: every length is checked against what is there, what is not
//! understood is nothing, and nothing is decided by it but what a person is told.

use std::net::IpAddr;
use std::time::SystemTime;

use jiff::civil::DateTime;

/// Tags of DER elements.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// What is read of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) expires_at: SystemTime,
    /// Host names and addresses, as a URL has them.
    pub(crate) names: Vec<String>,
}

impl Facts {
    /// `None` if it is not a certificate.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let mut certificate = Reader(der).inside(SEQUENCE)?;
        let mut rest = certificate.inside(SEQUENCE)?;
        rest.skip_if(VERSION);
        rest.content(INTEGER)?;
        rest.content(SEQUENCE)?;
        rest.content(SEQUENCE)?;
        let mut validity = rest.inside(SEQUENCE)?;
        validity.element()?;
        let expires_at = time(validity.element()?)?;
        let mut names = Vec::new();
        while let Some((tag, content)) = rest.element() {
            if tag == EXTENSIONS {
                names = alternative_names(Reader(content)).unwrap_or_default();
            }
        }
        Some(Self { expires_at, names })
    }

    /// The first name that is of one host.
    pub(crate) fn host(&self) -> Option<&str> {
        self.names.iter().map(String::as_str).find(|name| !name.contains('*'))
    }
}

/// The rest of what is read.
struct Reader<'der>(&'der [u8]);

impl<'der> Reader<'der> {
    /// The next element: tag and content.
    fn element(&mut self) -> Option<(u8, &'der [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn content(&mut self, expected: u8) -> Option<&'der [u8]> {
        self.element().filter(|(tag, _)| *tag == expected).map(|(_, content)| content)
    }

    fn inside(&mut self, expected: u8) -> Option<Self> {
        self.content(expected).map(Self)
    }

    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.element();
        }
    }
}

fn alternative_names(mut extensions: Reader<'_>) -> Option<Vec<String>> {
    let mut extensions = extensions.inside(SEQUENCE)?;
    while let Some(mut extension) = extensions.inside(SEQUENCE) {
        if extension.content(OBJECT_IDENTIFIER)? != SUBJECT_ALT_NAME {
            continue;
        }
        let mut value = extension.element()?;
        if value.0 != OCTET_STRING {
            // It is marked as critical.
            value = extension.element()?;
        }
        let mut general_names = Reader(value.1).inside(SEQUENCE)?;
        let mut names = Vec::new();
        while let Some(name) = general_names.element() {
            names.extend(host(name));
        }
        return Some(names);
    }
    None
}

fn host((tag, content): (u8, &[u8])) -> Option<String> {
    match tag {
        DNS_NAME => {
            let name = std::str::from_utf8(content).ok().filter(|name| !name.is_empty())?;
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
            name.bytes().all(is_plain).then(|| name.to_owned())
        }
        IP_ADDRESS => {
            if let Ok(bytes) = <[u8; 4]>::try_from(content) {
                return Some(IpAddr::from(bytes).to_string());
            }
            <[u8; 16]>::try_from(content).ok().map(|bytes| format!("[{}]", IpAddr::from(bytes)))
        }
        _ => None,
    }
}

/// Both kinds end with `Z`; the years of the shorter one are 1950 to 2049 (§4.1.2.5.1).
fn time((tag, content): (u8, &[u8])) -> Option<SystemTime> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let text = match tag {
        UTC_TIME => {
            let century = if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            format!("{century}{text}")
        }
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    Some(SystemTime::from(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn der() -> Vec<u8> {
        CertificateDer::from_pem_slice(include_bytes!("../tests/cli/names.pem")).unwrap().to_vec()
    }

    #[test]
    fn a_certificate_says_its_names_and_when_it_expires() {
        let facts = Facts::of(&der()).unwrap();
        assert_eq!(facts.names, ["*.qwen.corp.example", "qwen.corp.example", "10.0.0.5", "[fd00::5]"]);
        assert_eq!(facts.host(), Some("qwen.corp.example"));
        let expires_at = jiff::Timestamp::try_from(facts.expires_at).unwrap();
        assert_eq!(expires_at.to_string(), "2051-03-04T05:06:07Z");
    }

    #[test]
    fn years_of_two_digits_are_of_this_century_until_2049() {
        let year = |tag, text: &str| {
            let at = jiff::Timestamp::try_from(time((tag, text.as_bytes()))?).ok()?;
            Some(at.to_zoned(jiff::tz::TimeZone::UTC).year())
        };
        assert_eq!(year(UTC_TIME, "491231235959Z"), Some(2049));
        assert_eq!(year(UTC_TIME, "700101000000Z"), Some(1970));
        assert_eq!(year(GENERALIZED_TIME, "20500101000000Z"), Some(2050));
        for bad in ["", "Z", "4912312359Z", "491331235959Z", "491231235959", "é91231235959Z"] {
            assert_eq!(year(UTC_TIME, bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_cut_or_changed_anywhere_is_read_without_harm() {
        let der = der();
        for length in 0..der.len() {
            let _ = Facts::of(&der[..length]);
        }
        for at in 0..der.len() {
            for value in [0, 0x30, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = der.clone();
                changed[at] = value;
                let _ = Facts::of(&changed);
            }
        }
        assert_eq!(Facts::of(&der[..100]), None);
    }
}
