//! The local reverse proxy: a credential that stays fresh, paced and hidden for as long as a tool runs.
//!
//! ```text
//! options.rs        what the user asks of a gateway
//! running.rs        runs it until a signal or until it is stopped; `serve` is a blocking function
//! reload.rs         what may be replaced while it runs
//! flush.rs          writes what requests used to the ledger
//!
//! listener.rs       TCP, plain or with TLS, or a socket in the file system
//! identity.rs       the gateway's own certificate, read again when it changes
//! server.rs         connections of clients: accepted, bounded, closed at the end
//! key.rs            the key that clients show, kept in a file where asked
//! admission.rs      whether a request is allowed, whose it is, and where it is sent
//! route.rs          where its path leads
//! own_pages.rs      what the gateway serves of its own: health, metrics, the page for members
//! well_known.rs     what sets a member's opencode up for this gateway
//!
//! forward.rs        the route of one request: credential, slot, attempt, conclusion; then a retry, another profile, or the response
//! client_request.rs a request as the client sent it
//! client_body.rs    the body of a request, read to its end even if nobody wants it any more
//! request_body.rs   the body of a request, kept while it may have to be sent again
//! headers.rs        which headers pass
//! anthropic.rs      which requests speak Anthropic's protocol, and where they go
//! slot.rs           whether a request may be sent to an account now: reached limits, the user's quotas, its slot
//! pacing.rs         slots under the provider's limits
//! attempts.rs       the attempts to have one profile serve a request
//! upstream.rs       requests to the provider, over connections that are kept open
//! retry.rs          how often a rejected request is sent again, and after which wait
//! rejection.rs      requests that a profile did not serve
//! fallback.rs       other profiles of the user that serve when the first one's limit or plan is used up or its service is down
//! answer.rs         the provider's response, read as far as necessary before it is forwarded or classified
//! refusal.rs        what the gateway says itself
//! response_body.rs  what the client gets
//! meter.rs          tokens read while an answer passes
//! usage_record.rs   what is noted of one request for the ledger, the log and the metrics
//!
//! profiles.rs       the profiles that are served
//! served_profile.rs one profile: its credential, and the account that this belongs to now
//! served_account.rs one account: its limits, which of them are reached, and its usage
//! credential.rs     a cache in front of the stored credential
//! fleet.rs          whose login is renewed where, and the seal under which its tokens pass
//! home.rs           renews a login for a team and publishes its tokens
//! edge.rs           the tokens of a login that another machine renews
//!
//! team.rs           keys of people and jobs: whose key a client has shown
//! issuers.rs        tokens of CI jobs as keys
//! exchange.rs       `POST /v1/token`: exchanges such a token for a key that is valid for an hour
//! keyed.rs          the key at one request: whether it allows the request, and its slot
//! estimate.rs       the model that a request asks for, and the most that it may use
//! grant.rs          what the limits of a key granted to one request
//! key_limits.rs     what a client is told of the limits of its key: why a request is rejected, what is left
//!
//! traffic.rs        how requests ended: the log of requests, statuses, durations
//! metrics.rs        counters for Prometheus
//! gen_ai.rs         durations and tokens under OpenTelemetry's names
//! events.rs         where events go: log, hooks, metrics
//! ```
//!
//! How a request runs: `server` → `admission::answer` → `forward::forward` → `ProxiedRequest::serve`.
//!
//! One thread serves everything: a request costs some twenty microseconds, and nothing has to be shared between threads.
//! What blocks (locks, renewals, the ledger) has threads of its own.

mod admission;
mod answer;
mod anthropic;
mod attempts;
mod client_body;
mod client_request;
mod credential;
mod edge;
mod estimate;
mod events;
mod exchange;
pub(crate) mod fallback;
pub(crate) mod fleet;
mod flush;
mod forward;
mod gen_ai;
mod grant;
mod headers;
mod home;
mod identity;
mod issuers;
pub(crate) mod key;
mod key_limits;
mod keyed;
mod listener;
pub(crate) mod meter;
mod metrics;
mod options;
mod own_pages;
mod pacing;
mod profiles;
mod refusal;
mod rejection;
mod reload;
mod request_body;
mod response_body;
mod retry;
mod route;
mod running;
mod served_account;
mod served_profile;
mod server;
mod slot;
pub(crate) mod team;
mod traffic;
pub(crate) mod upstream;
mod usage_record;
mod well_known;

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;

pub(crate) use self::credential::is_renewable;
use self::events::Events;
use self::fleet::Part;
pub(crate) use self::identity::{Identity, TlsFiles};
use self::key::KeyFile;
pub(crate) use self::listener::{Listener, Place};
pub(crate) use self::options::{GatewayOptions, Served, Tuning};
pub(crate) use self::pacing::{account_id, rule, shared_name};
pub(crate) use self::profiles::ProfileLookup;
use self::profiles::Profiles;
use self::request_body::Budget;
pub(crate) use self::running::{Background, serve};
use self::served_profile::Common;
use self::team::Team;
use self::traffic::Traffic;
use self::upstream::Upstream;
pub(crate) use self::well_known::Members;
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
    budget: RefCell<retry::Budget>,
    events: Rc<Events>,
    bodies: Rc<Budget>,
    profiles: Profiles,
    shared: Option<Rc<Shared>>,
    team: Option<Team>,
    members: Option<Members>,
    /// Of the ledger.
    usage_trouble: Trouble,
}

impl Gateway {
    fn open(
        listener: &mut Listener,
        key: Secret,
        served: Served,
        options: GatewayOptions,
        has_scraper: bool,
    ) -> Result<Self> {
        let Served { source, lookup, key_file, fallback, metrics: _, keyed, members } = served;
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
            budget: RefCell::default(),
            bodies: Budget::new(KEPT_BODIES),
            profiles: Profiles::open(common, source, fallback, lookup)?,
            team: keyed.map(|keyed| Team::open(keyed, shared.as_ref())).transpose()?,
            shared,
            members,
            usage_trouble: Trouble::default(),
            options,
            key: RefCell::new(key),
            key_file: key_file.map(KeyFile::new),
            traffic,
        })
    }
}
