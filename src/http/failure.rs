//! Why there is no reply: whether the request may have been read, and a message.

use url::Url;

use crate::error::{Failed, Failure, Reason};
use crate::tls::Rejected;

/// What helps where nothing listens on the local machine.
const START_SERVER: &str = "start the server, or log in with another `--base-url`";

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum TransportError {
    /// No process listens there: the request was certainly not read.
    Refused(String),
    /// There was no connection, for any reason: the request was certainly not read.
    NotConnected(String),
    /// There was none because of the server's certificate.
    Certificate(Rejected),
    /// The request may have been read, and acted upon.
    Unknown(String),
}

impl TransportError {
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Refused(message) | Self::NotConnected(message) | Self::Unknown(message) => message,
            Self::Certificate(rejected) => rejected.why,
        }
    }

    /// The failure to reach `host`, as a message.
    pub(crate) fn sentence(&self, host: &str) -> String {
        let message = self.message();
        if matches!(self, Self::Refused(_)) {
            return format!("cannot reach `{host}`: {message}");
        }
        format!("no usable response from `{host}`: {message}")
    }

    /// The same, with what helps if that is known.
    pub(crate) fn failed(&self, host: &str) -> Failed {
        let failed = Failed::new(Failure::Temporary, self.sentence(host)).because(Reason::Network);
        match self.remedy() {
            Some(remedy) => failed.hint(remedy),
            None => failed,
        }
    }

    /// The same for a server of the local machine, which no proxy is in the way of.
    pub(crate) fn failed_locally(&self, url: &Url) -> Failed {
        let host = url.host_str().unwrap_or_default();
        match (self, url.port()) {
            (Self::Refused(_), Some(port)) => self.failed(&format!("{host}:{port}")).hint(START_SERVER),
            (Self::Refused(_), None) => self.failed(host).hint(START_SERVER),
            _ => self.failed(host),
        }
    }

    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Certificate(rejected) => Some(rejected.remedy),
            Self::Refused(_) | Self::NotConnected(_) | Self::Unknown(_) => None,
        }
    }
}

/// For example `502 Bad Gateway`; only the number if it has no standard name or is not an error status.
pub(crate) fn describe_status(status: u16) -> String {
    let failure = reqwest::StatusCode::from_u16(status).ok().filter(|_| status >= 400);
    match failure.and_then(|status| status.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

/// What reqwest's `error` says about the request.
pub(super) fn transport_error(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    if let Some(rejected) = Rejected::of(&error) {
        return TransportError::Certificate(rejected);
    }
    let message = innermost(&error);
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(current) = cause {
        let refused = current
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused {
            return TransportError::Refused(message);
        }
        cause = current.source();
    }
    if error.is_connect() { TransportError::NotConnected(message) } else { TransportError::Unknown(message) }
}

/// The most specific cause: the last of the chain.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    let text = current.to_string();
    let first = text.chars().next().map(|first| first.to_lowercase().collect::<String>()).unwrap_or_default();
    first + &text.chars().skip(1).collect::<String>()
}
