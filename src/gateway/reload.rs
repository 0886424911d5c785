//! What may be replaced while the gateway runs: certificates, the clients' key, the team secret, and the credentials.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;

use super::Gateway;
use crate::error::note;
use crate::secret::Secret;

/// How often files that may be replaced are checked, with at most four system calls.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Reads what may have been replaced while the gateway ran. What cannot be read stays as it was.
pub(super) async fn reload(gateway: &Gateway) {
    if let Some(identity) = &gateway.identity {
        identity.reload().await;
    }
    if let Some(key_file) = &gateway.key_file {
        use_key(gateway, key_file.stored().await.map(Some));
    }
    if let Err(error) = gateway.upstream.reload_certificates().await {
        note(&format!("warning: still using the old certificates: {error:#}"));
    }
    if let Some(team) = &gateway.team {
        team.reload_secret().await;
    }
    gateway.profiles.all().iter().for_each(|served| served.cache.forget());
    gateway.traffic.reopen();
    match gateway.config_check.as_ref().map_or(Ok(false), |has_changed| has_changed()) {
        Ok(false) => {}
        Ok(true) => note("config.toml has changed since this gateway started; restart it to apply the changes"),
        Err(error) => note(&format!("warning: still using the config.toml of the start: {error:#}")),
    }
    log::info!("reloaded the key, certificates, credentials, team secret and request log after SIGHUP");
}

fn use_key(gateway: &Gateway, read: Result<Option<Secret>>) {
    match read {
        Ok(Some(key)) => {
            gateway.traffic.use_key(&key);
            *gateway.key.borrow_mut() = key;
        }
        Ok(None) => {}
        Err(error) => note(&format!("warning: still using the old key: {error:#}")),
    }
}

/// Reads the gateway's certificate and the clients' key again when their files have changed.
pub(super) async fn watch_files(gateway: Rc<Gateway>) {
    if gateway.identity.is_none() && gateway.key_file.is_none() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(identity) = &gateway.identity {
            identity.look().await;
        }
        if let Some(key_file) = &gateway.key_file {
            use_key(&gateway, key_file.look().await);
        }
    }
}
