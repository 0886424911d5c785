//! The local reverse proxy: a credential that stays fresh, paced and hidden for as long as a tool runs.
//!
//! ```text
//! options.rs  what the user asks of a gateway
//! running.rs  runs it until a signal or until it is stopped; `serve` is a blocking function
//! reload.rs   what may be replaced while it runs
//! server/     connections of clients: listened for, accepted, bounded, closed at the end
//! admission/  whether a request is allowed, whose it is, and where it is sent; what the gateway serves of its own
//! keys/       keys of people and jobs: whose key a client has shown, and what its limits allow
//! request/    a request as the client sent it, and its body
//! forward/    the route of one request: credential, slot, attempt, conclusion; then a retry, another profile, or the response
//! profiles/   the profiles that are served: their credentials, accounts and slots, and logins that a team shares
//! upstream/   requests to the provider, over connections that are kept open
//! response/   what the client gets: the provider's response, or what the gateway says itself
//! telemetry/  what is noted of requests: the log, metrics, events, the ledger
//! ```
//!
//! How a request runs: `server` → `admission::answer` → `forward::forward` → `ProxiedRequest::serve`.
//!
//! One thread serves everything: a request costs some twenty microseconds, and nothing has to be shared between threads.
//! What blocks (locks, renewals, the ledger) has threads of its own.

mod admission;
mod forward;
mod keys;
mod options;
mod profiles;
mod reload;
mod request;
mod response;
mod running;
mod server;
mod telemetry;
pub(crate) mod upstream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::Result;

pub(crate) use self::admission::gateway_key;
use self::admission::gateway_key::KeyFile;
pub(crate) use self::admission::well_known::Members;
pub(crate) use self::forward::fallback::Target;
use self::forward::retry::RetryBudget;
pub(crate) use self::keys::team::Keyed;
use self::keys::team::Team;
pub(crate) use self::options::{ConfigCheck, GatewayOptions, Served, Tuning};
pub(crate) use self::profiles::ProfileLookup;
use self::profiles::Profiles;
pub(crate) use self::profiles::credential::is_renewable;
pub(crate) use self::profiles::fleet::{Fleet, Part, Role};
pub(crate) use self::profiles::pacing::{account_id, rule, shared_name};
use self::profiles::served_profile::Common;
pub(crate) use self::profiles::served_profile::check_limits;
use self::request::request_body::BodyBudget;
pub(crate) use self::running::{Background, serve};
pub(crate) use self::server::identity::{Identity, TlsFiles};
pub(crate) use self::server::listener::{ListenAddress, Listener};
use self::telemetry::events::Events;
#[cfg(any(test, feature = "internals"))]
pub(crate) use self::telemetry::meter::Meter;
use self::telemetry::traffic::Traffic;
use self::upstream::Upstream;
use crate::error::Trouble;
use crate::hooks::Hooks;
use crate::limits::shared::Shared;
use crate::secret::Secret;
use crate::tls;

/// Bytes that the bodies of all requests may keep for another try: 16 of the longest, unless `--replay-limit` is changed.
const KEPT_BODIES: usize = 128 * 1024 * 1024;

/// What all requests of a gateway have in common.
struct Gateway {
    options: GatewayOptions,
    key: RefCell<Secret>,
    key_file: Option<KeyFile>,
    traffic: Rc<Traffic>,
    /// Whether requests must name this machine as their host: see [`Listener::can_be_rebound`].
    checks_host: bool,
    identity: Option<Identity>,
    upstream: Upstream,
    retries: RefCell<RetryBudget>,
    events: Rc<Events>,
    bodies: Rc<BodyBudget>,
    profiles: Profiles,
    shared: Option<Rc<Shared>>,
    team: Option<Team>,
    members: Option<Members>,
    config_check: Option<ConfigCheck>,
    /// Of the ledger.
    usage_trouble: Trouble,
    /// Whether it ends as soon as the requests in flight have finished.
    is_draining: Cell<bool>,
}

impl Gateway {
    fn open(
        listener: &mut Listener,
        key: Secret,
        served: Served,
        options: GatewayOptions,
        has_scraper: bool,
    ) -> Result<Self> {
        let Served { source, lookup, key_file, fallback, metrics: _, keyed, members, config_check } = served;
        let traffic = Traffic::new(options.log.as_deref(), options.metrics || has_scraper)?;
        traffic.use_key(&key);
        let events = Rc::new(Events::new(Hooks::new(options.hooks.clone(), &options.state), options.withheld.clone()));
        let shared = match &options.shared {
            Some(place) => Some(Shared::new(place.clone(), tls::client_config(options.ca_file.as_deref())?)),
            None => None,
        };
        let common = Common {
            state: options.state.clone(),
            tuning: options.tuning.clone(),
            events: Rc::clone(&events),
            shared: shared.clone(),
            part: Part { fleet: options.fleet.clone().map(Rc::new), asked: options.serve },
        };
        Ok(Self {
            events,
            checks_host: listener.can_be_rebound(),
            identity: listener.identity.take(),
            upstream: Upstream::new(options.ca_file.clone()),
            retries: RefCell::default(),
            bodies: BodyBudget::new(KEPT_BODIES),
            profiles: Profiles::open(common, source, fallback, lookup)?,
            team: keyed.map(|keyed| Team::open(keyed, shared.as_ref())).transpose()?,
            shared,
            members,
            config_check,
            usage_trouble: Trouble::default(),
            is_draining: Cell::new(false),
            options,
            key: RefCell::new(key),
            key_file: key_file.map(KeyFile::new),
            traffic,
        })
    }
}
