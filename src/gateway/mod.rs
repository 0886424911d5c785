//! The local reverse proxy: a credential that stays fresh, paced and hidden for as long as a tool runs.
//!
//! ```text
//! mod.rs            options, start and end; `serve` is a blocking function
//! well_known.rs     what sets a member's opencode up for this gateway
//! listener.rs       TCP, plain or with TLS, or a socket in the file system
//! identity.rs       the gateway's own certificate, read again when it changes
//! server.rs         connections of clients: accepted, bounded, closed at the end
//! admission.rs      whether a request is allowed, whose it is, and where it is sent
//! forward.rs        the route of one request: credential, slot, attempt, conclusion; then a retry, another profile, or the response
//! client_request.rs a request as the client sent it
//! keyed.rs          the key of a person or job at one request: whether it allows the request, and its slot
//! slot.rs           whether a request may be sent to an account now: reached limits, the user's quotas, its slot
//! attempts.rs       the attempts to have one profile serve a request
//! answer.rs         the provider's response, read as far as necessary before it is forwarded or classified
//! rejection.rs      requests that a profile did not serve
//! key.rs            the key that clients show, kept in a file where asked
//! served_profile.rs one profile: its credential, its rate limit and what it used
//! credential.rs     a cache in front of the stored credential
//! pacing.rs         turns under the provider's limits
//! retry.rs          how often a rejected request is sent again, and after which wait
//! fallback.rs       other profiles of the user that serve when the first one's limit or plan is used up or its service is down
//! events.rs         where events go: log, hooks, metrics
//! headers.rs        which headers pass
//! anthropic.rs      which requests speak Anthropic's protocol, and where they go
//! upstream.rs       requests to the provider, over connections that are kept open
//! request_body.rs   the body of a request, kept while it may have to be sent again
//! refusal.rs        what the gateway says itself
//! response_body.rs  what the client gets
//! meter.rs          tokens read while an answer passes
//! team.rs           keys of people and jobs: whose request it is, what it may use and cost, what is left
//! issuers.rs        tokens of CI jobs as keys
//! exchange.rs       `POST /v1/token`: exchanges such a token for a key that is valid for an hour
//! fleet.rs          whose login is renewed where, and the seal under which its tokens pass
//! home.rs           renews a login for a team and publishes its tokens
//! edge.rs           the tokens of a login that another machine renews
//! metrics.rs        counters for Prometheus
//! gen_ai.rs         durations and tokens under OpenTelemetry's names
//! traffic.rs        how requests ended: the log of requests, statuses, durations
//! ```
//!
//! One thread serves everything: a request costs some twenty microseconds, and nothing has to be shared between threads.
//! What blocks (locks, renewals, the ledger) has threads of its own.

mod admission;
mod answer;
mod anthropic;
mod attempts;
mod client_request;
mod credential;
mod edge;
mod events;
mod exchange;
pub(crate) mod fallback;
pub(crate) mod fleet;
mod forward;
mod gen_ai;
mod headers;
mod home;
mod identity;
mod issuers;
pub(crate) mod key;
mod keyed;
mod listener;
pub(crate) mod meter;
mod metrics;
mod pacing;
mod refusal;
mod rejection;
mod request_body;
mod response_body;
mod retry;
mod served_account;
mod served_profile;
mod server;
mod slot;
pub(crate) mod team;
mod traffic;
pub(crate) mod upstream;
mod usage_record;
mod well_known;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use tokio::sync::{Notify, oneshot};

pub(crate) use self::credential::is_renewable;
use self::events::Events;
use self::fallback::{Fallback, Target};
use self::fleet::{Fleet, Part, Role};
use self::home::Home;
pub(crate) use self::identity::{Identity, TlsFiles};
use self::key::KeyFile;
use self::listener::Accepting;
pub(crate) use self::listener::{Listener, Place};
pub(crate) use self::pacing::{account_id, rule, shared_name};
use self::request_body::Budget;
use self::served_profile::ServedProfile;
use self::team::{Keyed, Team};
use self::traffic::Traffic;
use self::upstream::Upstream;
pub(crate) use self::well_known::Members;
use crate::credentials::Account;
use crate::error::{FEW_DESCRIPTORS, Failed, Failure, Report, note};
use crate::hooks::{self, Hooks};
use crate::limits::shared::{Row, Shared, Where};
use crate::platform::disk;
use crate::platform::signals::{Ending, Endings};
use crate::platform::system;
use crate::secret::Secret;
use crate::tls;
use crate::usage::{self, Counts, Use};

/// Bytes that the bodies of all requests may keep for another try: many of the longest that are kept, and little beside
/// what the tools need that send them.
const KEPT_BODIES: usize = 128 * 1024 * 1024;

/// How often counts go to the ledger at least.
const FLUSH: Duration = Duration::from_secs(1);

/// How often files are looked at that may be replaced: four calls of the kernel at most.
const LOOK: Duration = Duration::from_secs(1);

/// Entries that go there at once, as a request ends, so that `usage` shows it; and how many are regained in a second. More
/// would fill the ledger of a busy day.
const AT_ONCE: f64 = 20.0;
const REGAINED: f64 = 2.0;

/// What the user says about limits, over what the provider's data say.
#[derive(Debug, Clone)]
pub(crate) struct Tuning {
    pub(crate) rpm: Option<u32>,
    pub(crate) rpd: Option<u32>,
    pub(crate) pacing: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct GatewayOptions {
    pub(crate) tuning: Tuning,
    /// Bytes.
    pub(crate) max_body: u64,
    /// Bytes of a request that are kept for another try.
    pub(crate) replay_limit: usize,
    /// To the first byte of an answer, and between two.
    pub(crate) timeout: Duration,
    /// Longest `Retry-After` of a provider that is honored.
    pub(crate) max_wait: Duration,
    pub(crate) drain: Duration,
    /// Percent of the day's limit.
    pub(crate) warn_at: Option<u8>,
    /// Where each request has a line; `-` is stdout.
    pub(crate) log: Option<PathBuf>,
    pub(crate) metrics: bool,
    pub(crate) allow_hosts: Vec<String>,
    pub(crate) state: PathBuf,
    pub(crate) ca_file: Option<PathBuf>,
    /// `[hooks]`
    pub(crate) hooks: hooks::Commands,
    /// Where limits are counted together with other gateways.
    pub(crate) shared: Option<Where>,
    /// What this gateway is for the logins of its team.
    pub(crate) fleet: Option<Fleet>,
    pub(crate) serve: Option<Role>,
}

/// Finds the account of a profile; `None` where there is none.
pub(crate) type ProfileLookup = Box<dyn Fn(&str) -> Option<Account> + Send>;

/// What is served: one profile at `/v1`, and with `accounts` every one at `/p/NAME/v1`.
pub(crate) struct Served {
    pub(crate) account: Account,
    pub(crate) accounts: Option<ProfileLookup>,
    /// Where the clients' key is in a file.
    pub(crate) key_file: Option<PathBuf>,
    /// Profiles that serve when this one's limit or plan is used up or its service is down, in this order.
    pub(crate) fallback: Vec<Target>,
    /// Where the metrics are served without the key.
    pub(crate) metrics: Option<Listener>,
    /// Where people and jobs have keys of their own.
    pub(crate) keyed: Option<Keyed>,
    /// What members may be told without a key.
    pub(crate) members: Option<Members>,
}

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
    fallback: Option<Fallback>,
    bodies: Rc<Budget>,
    served: Rc<ServedProfile>,
    accounts: Option<ProfileLookup>,
    others: RefCell<BTreeMap<String, Rc<ServedProfile>>>,
    shared: Option<Rc<Shared>>,
    part: Part,
    team: Option<Team>,
    members: Option<Members>,
}

impl Gateway {
    /// The way of a profile, or of the one at `/v1`.
    fn served_profile(&self, profile: Option<&str>) -> Result<Rc<ServedProfile>, String> {
        let Some(profile) = profile else { return Ok(Rc::clone(&self.served)) };
        let Some(accounts) = &self.accounts else {
            return Err("this gateway serves one profile, at `/v1`; `--all-profiles` serves every one".into());
        };
        if profile == self.served.profile {
            return Ok(Rc::clone(&self.served));
        }
        if let Some((served, _)) = self.targets().iter().find(|(served, _)| served.profile == profile) {
            return Ok(Rc::clone(served));
        }
        if let Some(served) = self.others.borrow().get(profile) {
            return Ok(Rc::clone(served));
        }
        let account = accounts(profile).ok_or_else(|| "there is no such profile".to_owned())?;
        let tuning = Rc::new(self.options.tuning.clone());
        let served = ServedProfile::open(
            account,
            self.options.state.clone(),
            tuning,
            Rc::clone(&self.events),
            self.shared.clone(),
            &self.part,
        )
        .map_err(|error| Report::of(&error).message)?;
        let served = Rc::new(served);
        self.others.borrow_mut().insert(profile.to_owned(), Rc::clone(&served));
        Ok(served)
    }

    fn served_profiles(&self) -> Vec<Rc<ServedProfile>> {
        let targets = self.targets().iter().map(|(served, _)| Rc::clone(served));
        std::iter::once(Rc::clone(&self.served)).chain(targets).chain(self.others.borrow().values().cloned()).collect()
    }

    fn targets(&self) -> &[(Rc<ServedProfile>, BTreeMap<String, String>)] {
        self.fallback.as_ref().map(|fallback| fallback.targets.as_slice()).unwrap_or_default()
    }

    fn totals(&self) -> Vec<(String, String, Counts)> {
        let served_profiles = self.served_profiles();
        let accounts =
            served_profiles.iter().filter_map(|served| Some((served.profile.clone(), served.last_account()?)));
        accounts
            .flat_map(|(profile, account)| {
                account.totals().into_iter().map(move |(model, counts)| (profile.clone(), model, counts))
            })
            .collect()
    }

    /// Reads what may have been replaced while the gateway ran. What cannot be read stays as it was.
    async fn reload(&self) {
        if let Some(identity) = &self.identity {
            identity.reload().await;
        }
        if let Some(key_file) = &self.key_file {
            self.use_key(key_file.stored().await.map(Some));
        }
        if let Err(error) = self.upstream.reload_certificates() {
            note(&format!("warning: the old certificates stay in force: {error:#}"));
        }
        self.served_profiles().iter().for_each(|served| served.cache.forget());
        self.traffic.reopen();
        log::info!("key, certificates and credential are read again after a hangup signal");
    }

    fn use_key(&self, read: Result<Option<Secret>>) {
        match read {
            Ok(Some(key)) => {
                *self.traffic.key_id.borrow_mut() = key_id(&key);
                *self.key.borrow_mut() = key;
            }
            Ok(None) => {}
            Err(error) => note(&format!("warning: the old key stays in force: {error:#}")),
        }
    }

    /// Writes counts to the ledger, and warns if that is requested.
    async fn flush(&self) {
        if let Some(team) = &self.team {
            team.engine.tend();
        }
        for account in self.served_profiles().iter().flat_map(|served| served.all_accounts()) {
            if let Some(percent) = self.options.warn_at {
                account.warn(percent);
            }
            let Some(mut pending) = account.take_pending() else { continue };
            // The disk may be slow, or away.
            let written = tokio::task::spawn_blocking(move || {
                let written = pending.write();
                (pending, written)
            });
            let Ok((mut pending, written)) = written.await else { continue };
            if let Some(shared) = &self.shared {
                pending.take_written().into_iter().for_each(|(of, counts)| shared.enter(row(of), counts.named()));
            }
            if let Err(error) = written {
                log::warn!("the usage is not written: {error:#}");
                account.put_back(pending);
            }
        }
    }
}

/// Serves until INT, TERM or, unless the terminal is to be outlived, HUP, and says which one it was. `announce` is called
/// once these are watched: whoever reads that it is there may send one at once.
pub(crate) fn serve(
    listener: Listener,
    key: Secret,
    served: Served,
    options: GatewayOptions,
    outlives_terminal: bool,
    announce: impl FnOnce() -> Result<()>,
) -> Result<Ending> {
    let caught = Rc::new(Cell::new(Ending::Terminate));
    let catches = Rc::clone(&caught);
    let begin = || {
        let endings = Endings::watch().context("cannot watch signals")?;
        // Asked now: a terminal that was closed is gone by the time that its hangup arrives.
        let has_terminal = system::has_terminal();
        announce().map(|()| (endings, has_terminal))
    };
    run(listener, key, served, options, begin, |gateway, listener, (endings, has_terminal)| async move {
        let endings = tokio::sync::Mutex::new(endings);
        let ends = || async {
            let mut endings = endings.lock().await;
            loop {
                let ending = endings.next().await;
                if ending == Ending::Hangup && !has_terminal {
                    gateway.reload().await;
                } else if ending != Ending::Hangup || !outlives_terminal {
                    catches.set(ending);
                    break;
                }
            }
        };
        server::serve(Rc::clone(&gateway), listener, ends).await;
        Ok(())
    })?;
    Ok(caught.get())
}

/// A gateway that runs on a thread of its own.
pub(crate) struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Background {
    pub(crate) fn start(listener: Listener, key: Secret, served: Served, options: GatewayOptions) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            let begin = || Ok(());
            run(listener, key, served, options, begin, |gateway, listener, ()| async move {
                let stopped = RefCell::new(Some(stopped));
                let ends = || {
                    let stopped = stopped.borrow_mut().take();
                    async {
                        // The second time no request can arrive any more: the program has ended.
                        if let Some(stopped) = stopped {
                            drop(stopped.await);
                        }
                    }
                };
                server::serve(gateway, listener, ends).await;
                Ok(())
            })
        };
        let thread = std::thread::Builder::new().name("gateway".to_owned()).spawn(serve)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Stops it; a renewal in progress is finished, and the counts are written.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => Ok(()),
        }
    }
}

/// Descriptors that the runtime needs for its event loop and its signals, and one connection.
const RUNTIME_DESCRIPTORS: usize = 8;

fn run<B, F: Future<Output = Result<()>> + 'static>(
    mut listener: Listener,
    key: Secret,
    mut served: Served,
    options: GatewayOptions,
    begin: impl FnOnce() -> Result<B>,
    serve: impl FnOnce(Rc<Gateway>, Accepting, B) -> F,
) -> Result<()> {
    // What watches for signals panics where it gets none.
    disk::check_free_descriptors(RUNTIME_DESCRIPTORS)
        .with_context(|| Failed::new(Failure::Other, "cannot start the gateway").hint(FEW_DESCRIPTORS))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(512 * 1024)
        .build()
        .context("cannot start the gateway")?;
    let local = tokio::task::LocalSet::new();
    let metrics = served.metrics.take();
    let gateway = Rc::new(open(&mut listener, key, served, options, metrics.is_some())?);
    let outcome = local.block_on(&runtime, async {
        let listener = listener.accepting()?;
        let begun = begin()?;
        if let Some(shared) = &gateway.shared {
            shared.begin().await;
            tokio::task::spawn_local(Rc::clone(shared).keep());
            if let Some(fleet) = &gateway.part.fleet {
                let home = Home::new(Rc::clone(shared), Rc::clone(fleet));
                tokio::task::spawn_local(home.keep(Rc::clone(&gateway)));
                tokio::task::spawn_local(look_at_homes(Rc::clone(&gateway)));
            }
        }
        let ending = Rc::new(Notify::new());
        let flushing = tokio::task::spawn_local(flush_regularly(Rc::clone(&gateway), Rc::clone(&ending)));
        let watching = tokio::task::spawn_local(watch_files(Rc::clone(&gateway)));
        if let Some(metrics) = metrics {
            let checks_host = metrics.can_be_rebound();
            let serving = server::serve_metrics(Rc::clone(&gateway), metrics.accepting()?, checks_host);
            drop(tokio::task::spawn_local(serving));
        }
        // In a task of its own, because this one is polled whenever any task was woken.
        let outcome = tokio::task::spawn_local(serve(Rc::clone(&gateway), listener, begun)).await?;
        watching.abort();
        ending.notify_one();
        let _ = flushing.await;
        if let Some(shared) = &gateway.shared {
            shared.settle_all().await;
        }
        outcome
    });
    // Requests that outlived the time to finish go here, and are counted.
    drop(local);
    runtime.block_on(gateway.flush());
    if let Some(shared) = &gateway.shared {
        tokio::task::LocalSet::new().block_on(&runtime, shared.say_the_rest());
    }
    outcome
}

fn open(
    listener: &mut Listener,
    key: Secret,
    served: Served,
    options: GatewayOptions,
    has_scraper: bool,
) -> Result<Gateway> {
    let Served { account, accounts, key_file, fallback, metrics: _, keyed, members } = served;
    let traffic = Traffic::new(options.log.as_deref(), options.metrics || has_scraper)?;
    *traffic.key_id.borrow_mut() = key_id(&key);
    let events = Rc::new(Events::new(Hooks::new(options.hooks.clone(), &options.state)));
    let tuning = Rc::new(options.tuning.clone());
    let shared = match &options.shared {
        Some(place) => Some(Shared::new(place.clone(), tls::client_config(options.ca_file.as_deref())?)),
        None => None,
    };
    let part = Part { fleet: options.fleet.clone().map(Rc::new), asked: options.serve };
    let open = |account: Account| -> Result<Rc<ServedProfile>> {
        let (state, shared) = (options.state.clone(), shared.clone());
        Ok(Rc::new(ServedProfile::open(account, state, Rc::clone(&tuning), Rc::clone(&events), shared, &part)?))
    };
    let served = open(account)?;
    let mut targets = Vec::new();
    for Target { account, models } in fallback {
        targets.push((open(account)?, models));
    }
    Ok(Gateway {
        fallback: (!targets.is_empty()).then(|| Fallback::new(&served.profile, targets)),
        events,
        checks_host: listener.can_be_rebound(),
        identity: listener.identity.take(),
        upstream: Upstream::new(options.ca_file.clone()),
        budget: RefCell::default(),
        bodies: Budget::new(KEPT_BODIES),
        served,
        accounts,
        others: RefCell::default(),
        team: keyed.map(|keyed| Team::open(keyed, shared.as_ref())).transpose()?,
        shared,
        part,
        members,
        options,
        key: RefCell::new(key),
        key_file: key_file.map(KeyFile::new),
        traffic,
    })
}

/// Whose counts they are, for the sums of all gateways.
fn row(of: Use) -> Row {
    let Use { day, profile, provider, model, user } = of;
    let (key, owner) = user.map_or((None, None), |user| (Some(user.key), user.owner));
    Row { day, profile, provider, model, key, owner }
}

/// What tells one key from another in logs, and nothing else of it.
fn key_id(key: &Secret) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(key.expose())[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the files of the gateway's own that may be replaced while it runs again when they have changed.
async fn watch_files(gateway: Rc<Gateway>) {
    if gateway.identity.is_none() && gateway.key_file.is_none() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(identity) = &gateway.identity {
            identity.look().await;
        }
        if let Some(key_file) = &gateway.key_file {
            gateway.use_key(key_file.look().await);
        }
    }
}

/// Looks about once a second what the homes of other machines' logins have published.
async fn look_at_homes(gateway: Rc<Gateway>) {
    loop {
        for served in gateway.served_profiles() {
            served.cache.look().await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes counts as requests end, until `ending`. Never cut short: what is on its way to the disk arrives there.
async fn flush_regularly(gateway: Rc<Gateway>, ending: Rc<Notify>) {
    let state = gateway.options.state.clone();
    let settled = tokio::task::spawn_blocking(move || usage::settle(&state, SystemTime::now()));
    if let Ok(Err(error)) = settled.await {
        log::warn!("old usage is not summed up: {error:#}");
    }
    let mut at_once = AT_ONCE;
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = gateway.events.news.notified() => {}
            () = ending.notified() => return,
            // What others count is warned of as well.
            () = tokio::time::sleep(FLUSH) => {}
        }
        let passed = last.elapsed();
        at_once = (at_once + passed.as_secs_f64() * REGAINED).min(AT_ONCE);
        last = Instant::now();
        if at_once < 1.0 {
            tokio::select! {
                () = tokio::time::sleep(FLUSH) => {}
                () = ending.notified() => return,
            }
        }
        at_once = (at_once - 1.0).max(0.0);
        gateway.flush().await;
    }
}
