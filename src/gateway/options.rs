//! What the user asks of a gateway.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::admission::well_known::Members;
use super::forward::fallback::Target;
use super::keys::team::Keyed;
use super::profiles::ProfileLookup;
use super::profiles::fleet::{Fleet, Role};
use super::server::listener::Listener;
use crate::credentials::CredentialSource;
use crate::hooks;
use crate::limits::shared::Where;

/// The user's settings of limits, which replace those of the provider's data.
#[derive(Debug, Clone)]
pub(crate) struct Tuning {
    pub(crate) rpm: Option<u32>,
    pub(crate) rpd: Option<u32>,
    pub(crate) pacing: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct GatewayOptions {
    pub(crate) tuning: Tuning,
    /// Longest body of a request, in bytes.
    pub(crate) max_body: u64,
    /// Bytes of a request that are kept for another try.
    pub(crate) replay_limit: usize,
    /// Longest wait for the first byte of a response, and for the next one.
    pub(crate) timeout: Duration,
    /// Longest `Retry-After` of a provider that is honored.
    pub(crate) max_wait: Duration,
    /// How long requests in flight have to finish once the gateway is to end.
    pub(crate) drain: Duration,
    /// Percent of the day's limit from which on the user is warned.
    pub(crate) warn_at: Option<u8>,
    /// File with a line for each request; `-` is stdout.
    pub(crate) log: Option<PathBuf>,
    pub(crate) metrics: bool,
    pub(crate) allow_hosts: Vec<String>,
    pub(crate) state: PathBuf,
    pub(crate) ca_file: Option<PathBuf>,
    /// `[hooks]`
    pub(crate) hooks: hooks::Commands,
    /// Variables that no hook gets.
    pub(crate) withheld: BTreeSet<OsString>,
    /// The server on which several gateways count limits together.
    pub(crate) shared: Option<Where>,
    /// What this gateway is for the logins of its team.
    pub(crate) fleet: Option<Fleet>,
    pub(crate) serve: Option<Role>,
}

/// Whether config.toml has changed since the start; an error if it is also invalid.
pub(crate) type ConfigCheck = Box<dyn Fn() -> anyhow::Result<bool> + Send>;

/// What is served: one profile at `/v1`, and with `lookup` every one at `/p/NAME/v1`.
pub(crate) struct Served {
    pub(crate) source: CredentialSource,
    pub(crate) lookup: Option<ProfileLookup>,
    /// The file that contains the clients' key, if there is one.
    pub(crate) key_file: Option<PathBuf>,
    /// Profiles that serve when this one's limit or plan is used up or its service is down, in this order.
    pub(crate) fallback: Vec<Target>,
    /// Serves the metrics without the key.
    pub(crate) metrics: Option<Listener>,
    /// The keys of people and jobs, if they have their own.
    pub(crate) keyed: Option<Keyed>,
    /// What members may be told without a key.
    pub(crate) members: Option<Members>,
    /// Asked after SIGHUP.
    pub(crate) config_check: Option<ConfigCheck>,
}
