//! The server where gateways of several machines count together: each change of a key is published there.
//!
//! Hazard: two machines make keys for one team, and each replaces the keys of the other. Rule: the server says whose keys it
//! has, and where those are of another keys.json, nothing is changed here.

use std::time::SystemTime;

use anyhow::Result;

use crate::error::{Failed, Failure, note};
use crate::keys::{Change, KeyRecord, Keys, Places, TeamSecret, last_lines};
use crate::limits::shared::{KeyStanding, Outcome, Where};
use crate::session::Session;
use crate::tls::ClientConfig;

pub(super) struct Server {
    place: Where,
    tls: ClientConfig,
}

impl Server {
    /// The one that the configuration names, if it does.
    pub(super) fn named(session: &Session) -> Result<Option<Self>> {
        let Some(place) = session.shared_if_named()? else { return Ok(None) };
        let tls = session.shared_tls(&place)?;
        Ok(Some(Self { place, tls }))
    }

    /// Errors: the keys of this team are made on another machine.
    fn check(&self, keys: &Keys) -> Result<()> {
        match self.place.foreign_host(self.tls.clone(), keys.source().as_deref()) {
            Ok(Some(host)) => foreign(&host).err(),
            Ok(None) => Ok(()),
            // It is said when the change is published.
            Err(error) => {
                log::info!("{error:#}");
                Ok(())
            }
        }
    }

    /// Makes keys.json known to all gateways.
    pub(super) fn publish(&self, places: &Places) -> Result<()> {
        let Some(publication) = Keys::read(&places.keys)?.publication() else { return Ok(()) };
        // `keys` needs it for new keys only.
        let check = TeamSecret::read(&places.secret).ok().map(|secret| secret.check());
        match self.place.publish(self.tls.clone(), &publication, check.as_deref(), &last_lines(&places.audit)) {
            Ok(Outcome::Foreign { host }) => return foreign(&host).err(),
            Ok(_) => {}
            Err(error) => {
                let shown = self.place.address.shown();
                note(&format!(
                    "warning: gateways on other machines do not know about this change yet: `{shown}`: {error:#}; run `qwenauth keys \
                     list` to publish it"
                ));
            }
        }
        Ok(())
    }

    /// What each key used, by the counts of all gateways; `None`: the server is away.
    pub(super) fn standings(&self, keys: &[&KeyRecord]) -> Option<Vec<KeyStanding>> {
        match self.place.standings(self.tls.clone(), keys) {
            Ok(standings) => Some(standings),
            Err(error) => {
                let shown = self.place.address.shown();
                note(&format!("warning: cannot read the usage of the keys: `{shown}`: {error:#}"));
                None
            }
        }
    }
}

fn foreign(host: &str) -> Failed {
    Failed::new(Failure::Other, format!("the keys of this team are managed on `{host}`"))
        .hint("run `qwenauth keys` there, or set another `namespace` under `[team]` in config.toml")
}

/// [`Keys::change`], known to all gateways.
pub(super) fn change<T>(
    places: &Places,
    server: Option<&Server>,
    now: SystemTime,
    change: impl FnOnce(&mut Keys) -> Result<(T, Change)>,
) -> Result<T> {
    if let Some(server) = server {
        server.check(&Keys::read(&places.keys)?)?;
    }
    let outcome = Keys::change(places, now, change)?;
    if let Some(server) = server {
        server.publish(places)?;
    }
    Ok(outcome)
}
