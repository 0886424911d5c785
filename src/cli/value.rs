//! Values of options: durations, sizes, percentages, addresses, amounts.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::ValueEnum;

/// Where a login is to keep its secret.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StoreChoice {
    /// In a private file
    File,
    /// In the keyring of the system
    Keyring,
}

/// The longest duration, 100 years: no clock shows what some longer ones end at.
const MAX_DURATION: Duration = Duration::from_secs(36525 * 86400);

/// `30s`, `10m`, `1h 30m`, or a bare number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let wrong = |_| "not a duration; write it like `30s`, `10m` or `1h30m`".to_owned();
        let span: jiff::Span = text.parse().map_err(wrong)?;
        let parsed = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(wrong)?;
        Duration::try_from(parsed).map_err(|_| "a duration cannot be negative".to_owned())?
    };
    if duration > MAX_DURATION { Err("too long; the maximum is 100 years".to_owned()) } else { Ok(duration) }
}

/// A [`duration`] above 0.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("not a duration above 0, such as `300s`".to_owned()) } else { Ok(duration) }
}

/// `64MiB`, `8 MB`, `512k`, or a bare number of bytes; each unit is a power of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err("not a size; write it like `64MiB`".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a size; write it like `64MiB`".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// A number of a range.
pub(super) fn number(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("write a number from {} to {}", range.start(), range.end()))
    }
}

/// `80%` or `80`.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    number.filter(|number| (1..=100).contains(number)).ok_or_else(|| "not a percentage; write it like `80%`".to_owned())
}

/// `127.0.0.1:8399`, `[::1]:8399`, `localhost:8399`, `:8399`, `8399` or an address with port 0 left out.
pub(super) fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if let Ok(address) = text.replacen("localhost", "127.0.0.1", 1).parse() {
        return Ok(address);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(SocketAddr::new(loopback, port));
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']').replace("localhost", "127.0.0.1");
    ip.parse().map(|ip| SocketAddr::new(ip, 0)).map_err(|_| "not an address; write it like `127.0.0.1:8399`".to_owned())
}

/// The [`address`] and port of a gateway on this machine, whose clients send it a key unencrypted.
pub(super) fn own_address(text: &str) -> Result<std::net::SocketAddr, String> {
    let address = address(text)?;
    if !address.ip().is_loopback() {
        return Err("not a loopback address; for a gateway elsewhere use `--gateway-url https://HOST`".to_owned());
    }
    if address.port() == 0 {
        Err("the port is missing; write it like `127.0.0.1:7936`".to_owned())
    } else {
        Ok(address)
    }
}

/// Where a gateway listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    Tcp(std::net::SocketAddr),
    /// A socket in the file system.
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// An [`address`], or `unix:` and the path of a socket.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        None => address(text).map(Listen::Tcp),
        Some("") => Err("the path of the socket is missing; write it like `unix:/run/qwenauth.sock`".to_owned()),
        Some(path) => Ok(Listen::Unix(path.into())),
    }
}

/// The `https` or `http` URL by which clients reach a gateway, without a path.
pub(super) fn public_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|_| "not a URL; write it like `https://qwen.example.com`".to_owned())?;
    let is_bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() || !is_bare {
        return Err("not a URL of a server; write it like `https://qwen.example.com`".to_owned());
    }
    let url = url.as_str().trim_end_matches('/');
    Ok(url.strip_suffix("/v1").unwrap_or(url).to_owned())
}

/// The name of an environment variable.
pub(super) fn variable_name(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_valid = text.bytes().all(is_name) && text.starts_with(|first: char| !first.is_ascii_digit());
    if is_valid { Ok(text.to_owned()) } else { Err("not the name of a variable, such as `TEAM_KEY`".to_owned()) }
}

/// A limit: a number above 0, or `none` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound(pub(crate) Option<u64>);

/// `60`, or `none`.
pub(super) fn bound(text: &str) -> Result<Bound, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Bound(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number.map(|number| Bound(Some(number))).ok_or_else(|| "not a number above 0; `none` means no limit".to_owned())
}

/// A positive amount of money.
pub(super) fn amount(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(amount) if amount > 0.0 && amount.is_finite() => Ok(text.to_owned()),
        _ => Err("not an amount above 0, such as `5` or `2.50`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_addresses_and_percentages_are_read() {
        for (text, bytes) in [("7", 7), ("1k", 1024), ("64MiB", 64 << 20), ("8 mb", 8 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("x").is_err() && size("-1").is_err() && size("99999999999G").is_err());
        for text in ["127.0.0.1:80", "localhost:80", ":80", "80"] {
            assert_eq!(address(text).unwrap().to_string(), "127.0.0.1:80", "{text}");
        }
        assert_eq!(address("::1").unwrap().to_string(), "[::1]:0");
        assert_eq!(number(1..=3660)("3660"), Ok(3660));
        for text in ["0", "3661", "-1", "x", ""] {
            assert_eq!(number(1..=3660)(text), Err("write a number from 1 to 3660".to_owned()), "{text}");
        }
        assert!(address("example.com:80").is_err() && address("").is_err());
        for text in ["127.0.0.1:7936", "localhost:7936", "7936"] {
            assert_eq!(own_address(text).unwrap().to_string(), "127.0.0.1:7936", "{text}");
        }
        assert_eq!(own_address("[::1]:7936").unwrap().to_string(), "[::1]:7936");
        for text in ["0.0.0.0:7936", "10.1.2.3:7936", "[::]:7936", "127.0.0.1:0", "127.0.0.1", "q.example:80"] {
            assert!(own_address(text).is_err(), "{text}");
        }
        assert_eq!(listen("unix:/run/q.sock"), Ok(Listen::Unix("/run/q.sock".into())));
        assert_eq!(listen("80").unwrap().to_string(), "127.0.0.1:80");
        assert!(listen("unix:").is_err());
        for text in ["https://q.example", "https://q.example/", "https://q.example/v1/"] {
            assert_eq!(public_url(text).as_deref(), Ok("https://q.example"), "{text}");
        }
        assert_eq!(public_url("https://q.example:8443/qwen").as_deref(), Ok("https://q.example:8443/qwen"));
        for text in ["q.example", "ftp://q.example", "https://me:pw@q.example", "https://q.example/?a=b"] {
            assert!(public_url(text).is_err(), "{text}");
        }
        assert_eq!((percent("80%"), percent("80")), (Ok(80), Ok(80)));
        assert!(percent("0").is_err() && percent("101%").is_err());
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert!(duration("1mo").is_err() && duration("1y").is_err());
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
        assert_eq!(duration("3155760000"), Ok(MAX_DURATION));
        for text in ["3155760001", "18446744073709551615", "900000h", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(positive_duration("1ms"), Ok(Duration::from_millis(1)));
        assert!(
            positive_duration("0").is_err() && positive_duration("0s").is_err() && positive_duration("-1s").is_err()
        );
    }
}
