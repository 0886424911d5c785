//! The server where gateways of several machines count together: each change of a key is published there.
//!
//! Hazard: two machines make keys for one team, and each replaces the keys of the other. Rule: the server says whose keys it
//! has, and where those are of another keys.json, nothing is changed here.

use std::time::SystemTime;

use anyhow::{Error, Result};

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

    /// If the keys of this team are made on another machine: its name.
    pub(super) fn foreign_host(&self, keys: &Keys) -> Result<Option<String>> {
        self.place.foreign_host(self.tls.clone(), keys.source().as_deref())
    }

    /// The same where nothing depends on it: a server that cannot be asked is reported.
    pub(super) fn foreign_host_if_known(&self, keys: &Keys) -> Option<String> {
        let host = self.foreign_host(keys);
        host.unwrap_or_else(|error| {
            let shown = self.place.address.shown();
            note(&format!("warning: cannot read where the keys of this team are managed: `{shown}`: {error:#}"));
            None
        })
    }

    /// Makes keys.json known to all gateways. Returns why the server is not available, if it is not.
    ///
    /// Errors: the keys of this team are made on another machine.
    pub(super) fn publish(&self, places: &Places) -> Result<Option<Error>> {
        let Some(publication) = Keys::read(&places.keys)?.publication() else { return Ok(None) };
        // `keys` needs it for new keys only.
        let check = TeamSecret::read(&places.secret).ok().map(|secret| secret.check());
        match self.place.publish(self.tls.clone(), &publication, check.as_deref(), &last_lines(&places.audit)) {
            Ok(Outcome::Foreign { host }) => foreign(&host).err(),
            Ok(_) => Ok(None),
            Err(error) => Ok(Some(error)),
        }
    }

    /// What each key used, by the counts of all gateways. `None`: the server is not available, for `unavailable` or another
    /// reason, and that was reported.
    pub(super) fn standings(&self, keys: &[&KeyRecord], unavailable: Option<Error>) -> Option<Vec<KeyStanding>> {
        // Its silence is not waited for twice.
        let standings = unavailable.map_or_else(|| self.place.standings(self.tls.clone(), keys), Err);
        standings
            .map_err(|error| {
                let shown = self.place.address.shown();
                note(&format!("warning: cannot read the usage of the keys: `{shown}`: {error:#}"));
            })
            .ok()
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
    let Some(server) = server else { return Keys::change(places, now, change) };
    let unavailable = match server.foreign_host(&Keys::read(&places.keys)?) {
        Ok(Some(host)) => return foreign(&host).err(),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let outcome = Keys::change(places, now, change)?;
    // Its silence is not waited for twice.
    let unavailable = unavailable.map_or_else(|| server.publish(places), |error| Ok(Some(error)))?;
    if let Some(error) = unavailable {
        let shown = server.place.address.shown();
        note(&format!(
            "warning: gateways on other machines do not know about this change yet: `{shown}`: {error:#}; run `qwenauth keys list` to \
             publish it"
        ));
    }
    Ok(outcome)
}
