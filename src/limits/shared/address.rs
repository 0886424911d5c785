//! The address of Redis or Valkey: the URL of `[team] shared`, and the connection to it.
//!
//! Hazard: a password on a command line, in an error, or sent unencrypted to a server that was not verified. Rule: it
//! is removed from the URL before the URL is shown; TLS trusts the same certificates as the HTTP clients; the URL is
//! never an argument.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use url::{Host, Url};

use super::inspect::failure;
use crate::error::{Failed, Failure, printable, without_user_info};
use crate::names;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::threads;
use crate::secret::Secret;

/// The default port of both servers.
const PORT: u16 = 6379;

/// A server of `[team] shared`.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    host: String,
    port: u16,
    is_encrypted: bool,
    user: Option<String>,
    password: Option<Secret>,
    /// Read for each connection, since the password may be changed while a gateway runs.
    password_file: Option<PathBuf>,
    database: i64,
    /// Timeout of a response.
    timeout: Duration,
}

impl Address {
    /// `text`: `redis://[user@]host[:port][/database]`, or `rediss://` for TLS. What `password_file` contains replaces a
    /// password in it.
    ///
    /// Errors: another kind of URL, with its name.
    pub(crate) fn parse(text: &str, password_file: Option<PathBuf>, timeout: Duration) -> Result<Self> {
        let shown = printable(&without_user_info(text));
        let refused = |what: &str| {
            Failed::new(Failure::Other, format!("`{shown}` {what}"))
                .hint("write it like `rediss://cache.example.org:6379/0`")
        };
        let url = Url::parse(text).map_err(|_| refused("is not the URL of a Redis or Valkey server"))?;
        let is_encrypted = match url.scheme() {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            scheme if scheme.contains("sentinel") => {
                return refused(
                    "names Sentinel, but must name a single server: use a host name that moves to the new primary",
                )
                .err();
            }
            scheme if scheme.contains("cluster") => {
                return refused("names a cluster, but must name a single server: all keys of a team are in one slot")
                    .err();
            }
            _ => return refused("is neither `redis://` nor `rediss://`").err(),
        };
        if url.host_str().is_some_and(|host| host.contains(',')) || url.query().is_some() {
            return refused("names more than one server").err();
        }
        // In a password with a `#`, the part before it would be taken for the host.
        if url.fragment().is_some() {
            return refused("has a fragment (`#`); put the password into `password_file`").err();
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return refused("names no host").err(),
        };
        let database = match url.path().trim_matches('/') {
            "" => 0,
            number => number.parse().map_err(|_| refused("has a path that is not a database number"))?,
        };
        let user = Some(url.username()).filter(|user| !user.is_empty()).map(str::to_owned);
        let password = url.password().and_then(decoded).map(Secret::new);
        let port = url.port().unwrap_or(PORT);
        let address = Self { host, port, is_encrypted, user, password, password_file, database, timeout };
        if names::is_confined() && !address.is_local() {
            let message = format!("`{shown}` rejected: connections from the sandbox must not leave this machine");
            return Failed::new(Failure::Other, message).hint("leave the sandbox first: `exit`").err();
        }
        Ok(address)
    }

    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The name used in messages.
    pub(crate) fn shown(&self) -> String {
        let scheme = if self.is_encrypted { "rediss" } else { "redis" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}", self.port)
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether it is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        names::addresses(&self.host, self.port).is_ok_and(|all| all.iter().all(|address| address.ip().is_loopback()))
    }

    /// Maximum time that a request waits for the server's decision.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects and logs in, within twice the timeout of a response. The connection runs on the thread of the caller.
    pub(super) async fn connect(&self, tls: &Arc<ClientConfig>) -> Result<MultiplexedConnection> {
        let timeout = 2 * self.timeout;
        tokio::time::timeout(timeout, self.connect_in_time(tls))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it did not respond within {} ms", timeout.as_millis())))
    }

    async fn connect_in_time(&self, tls: &Arc<ClientConfig>) -> Result<MultiplexedConnection> {
        let stream = self.dial().await.map_err(|error| anyhow::anyhow!("cannot connect: {error}"))?;
        stream.set_nodelay(true)?;
        let mut info = RedisConnectionInfo::default().set_db(self.database).set_skip_set_lib_name();
        if let Some(user) = &self.user {
            info = info.set_username(user);
        }
        if let Some(password) = self.password()? {
            info = info.set_password(password.expose());
        }
        let failed = |error: RedisError| failure(&error, self.timeout);
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.timeout));
        if self.is_encrypted {
            let name = ServerName::try_from(self.host.clone()).context("its name is not valid in a certificate")?;
            let stream = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
            let (connection, driver) =
                MultiplexedConnection::new_with_config(&info, stream, config).await.map_err(failed)?;
            tokio::task::spawn_local(driver);
            return Ok(connection);
        }
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, stream, config).await.map_err(failed)?;
        tokio::task::spawn_local(driver);
        Ok(connection)
    }

    /// Errors: its file is missing or cannot be read.
    pub(crate) fn password(&self) -> Result<Option<Secret>> {
        self.password_file.as_deref().map_or_else(|| Ok(self.password.clone()), |path| password_in(path).map(Some))
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let (host, port) = (self.host.clone(), self.port);
        let found = threads::finished(move || Ok(names::addresses(&host, port)?)).await;
        dial_first(&found.map_err(io::Error::other)?).await
    }
}

async fn dial_first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name does not resolve to an address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// One line of text in a file that only its owner reads.
fn password_in(path: &Path) -> Result<Secret> {
    let name = "password_file";
    let failed = |what: &str| Failed::new(Failure::Other, format!("`{name}` names `{}`, which {what}", path.display()));
    match files::read(path, Privacy::Secret)? {
        Content::Missing => failed("is missing").err(),
        Content::Unfit(why) => failed(&format!("cannot be read: {why}")).err(),
        Content::Bytes(bytes) => match std::str::from_utf8(&bytes).map(str::trim_end) {
            Ok(text) if !text.is_empty() => Ok(Secret::new(text.to_owned())),
            _ => failed("contains no text").err(),
        },
    }
}

/// The password before it was percent-encoded for a URL.
fn decoded(text: &str) -> Option<String> {
    let form = format!("p={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the test writes what a user would")]

    use std::fs;

    use super::*;

    fn refusal(text: &str) -> String {
        Address::parse(text, None, Duration::ZERO).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn one_server_is_taken_and_everything_else_refused_by_name() {
        let address = Address::parse("rediss://gw:p%40ss+1@cache.example.org/3", None, Duration::ZERO).unwrap();
        assert_eq!(address.shown(), "rediss://cache.example.org:6379");
        assert_eq!((address.user.as_deref(), address.database), (Some("gw"), 3));
        assert_eq!(address.password.as_ref().map(Secret::expose), Some("p@ss+1"));
        assert_eq!(Address::parse("redis://[::1]:7000", None, Duration::ZERO).unwrap().shown(), "redis://[::1]:7000");
        for (text, word) in [
            ("redis+sentinel://a:1", "Sentinel"),
            ("redis-cluster://a:1", "names a cluster"),
            ("redis://a,b", "more than one server"),
            ("redis://a?b", "more than one server"),
            ("redis://a:1,b:2", "URL of a Redis"),
            ("http://a", "neither"),
            ("redis://a/x", "database number"),
            ("redis://a/0#x", "fragment"),
            ("redis://gw:#hunter22@a", "fragment"),
            ("cache:6379", "neither"),
            ("", "not the URL"),
        ] {
            assert!(refusal(text).contains(word), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn a_server_elsewhere_is_told_from_one_on_this_machine_and_commands_wait_longer() {
        for (text, is_encrypted, is_local) in [
            ("redis://127.0.0.1", false, true),
            ("rediss://[::1]", true, true),
            ("redis://192.0.2.1", false, false),
            ("valkeys://192.0.2.1", true, false),
        ] {
            let address = Address::parse(text, None, Duration::ZERO).unwrap();
            assert_eq!((address.is_encrypted(), address.is_local()), (is_encrypted, is_local), "{text}");
            assert_eq!(address.with_timeout(Duration::from_secs(5)).timeout(), Duration::from_secs(5));
        }
    }

    #[test]
    fn no_password_is_shown() {
        for text in [
            "redis://:hunter22@a/x",
            "redis://u:#hunter22@a",
            "redis://u:63#hunter22@a",
            "http://u:hunter22@a",
            "redis+sentinel://u:hunter22@a",
        ] {
            assert!(!refusal(text).contains("hunter22"), "{}", refusal(text));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let address = Address::parse("redis://:hunter22@a", Some(file.path().to_owned()), Duration::ZERO).unwrap();
        assert!(address.password().is_err_and(|error| error.to_string().contains("contains no text")));
        fs::write(file.path(), "of the file\n").unwrap();
        assert_eq!(address.password().unwrap().as_ref().map(Secret::expose), Some("of the file"));
    }
}
