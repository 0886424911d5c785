//! The practice provider of `qwenauth sandbox`, which serves every provider inside a sandbox.
//!
//! Hazard: a real key typed in a sandbox must not leave the machine, and no environment variable alone may send a real
//! login to a practice provider. Rule: the switch is a file in the sandbox's own state directory that is valid only
//! while the process that wrote it runs; then every URL of every provider is the practice provider's, and requests to
//! any other host are rejected.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use url::Url;

use super::Provider;
use super::description::Anthropic;
use crate::error::{Failed, Failure};
use crate::http;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::processes;
use crate::secret::Secret;

/// Keys that the practice provider accepts begin with this, so that a real one need not be typed.
pub(crate) const KEY_PREFIX: &str = "practice-";

/// What a process inside a sandbox knows of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Practice {
    /// Scheme, host and port of the practice provider.
    pub(crate) url: String,
    /// Lets a login be approved from its own terminal.
    pub(crate) approval: Secret,
    process: u32,
    /// When the process started, in the system's own form: process ids are used again.
    started: String,
}

/// The same, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    url: &'a str,
    approval: &'a str,
    process: u32,
    started: &'a str,
}

impl Practice {
    /// The text of the file that makes processes below `url`'s sandbox practice, for this process.
    pub(crate) fn file(url: &str, approval: &Secret) -> Result<Vec<u8>> {
        let process = std::process::id();
        let started = processes::started(process).context("cannot determine when this process started")?;
        Ok(serde_json::to_vec(&Written { url, approval: approval.expose(), process, started: &started })?)
    }

    /// The sandbox that `file` describes, if there is one; from then on no request of this process leaves the machine.
    ///
    /// Errors: the sandbox has ended, so what is stored there is of no use.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>> {
        let Content::Bytes(bytes) = files::read(file, Privacy::Private)? else { return Ok(None) };
        let practice: Self = serde_json::from_slice(&bytes)
            .ok()
            .filter(|practice: &Self| Url::parse(&practice.url).is_ok_and(|url| http::is_loopback(&url)))
            .with_context(|| format!("cannot read `{}`", file.display()))?;
        if processes::started(practice.process).as_deref() != Some(practice.started.as_str()) {
            return Self::ended();
        }
        http::confine_to_loopback();
        Ok(Some(practice))
    }

    /// The error of a process that is left of a sandbox.
    pub(crate) fn ended<T>() -> Result<T> {
        Failed::new(Failure::Other, "`QWENAUTH_HOME` belongs to a sandbox that has ended")
            .hint(
                "unset `QWENAUTH_HOME`, `QWEN_HOME` and `QWENAUTH_SANDBOX`, or start a new one with `qwenauth sandbox`",
            )
            .err()
    }

    /// The base URL of a provider, and what of it a path of the practice provider begins with.
    pub(super) fn place(&self, provider: &str) -> String {
        format!("{}/practice/{provider}", self.url)
    }
}

impl Provider {
    /// Replaces every URL by the practice provider's.
    pub(super) fn practise(&mut self, practice: &Practice) -> Result<()> {
        let place = practice.place(&self.name);
        if !self.base_url.is_empty() {
            self.base_url = format!("{place}/v1");
        }
        for (name, region) in &mut self.regions {
            // All accept a practice key, so it belongs to whichever region is asked for or tried first.
            let is_default = self.default_region.as_ref() == Some(name);
            region.base_url = if is_default { format!("{place}/v1") } else { format!("{place}.{name}/v1") };
            region.key_page = None;
        }
        if let Some(path) = self.verify.get.split_once("://").and_then(|(_, rest)| rest.split_once('/')) {
            self.verify.get = format!("{place}/{}", path.1);
        }
        if let Some(key) = &mut self.key {
            key.page = Some(format!("{}/keys", practice.url));
            key.delete = None;
            key.prefix = Some(KEY_PREFIX.to_owned());
            key.variables.clear();
        }
        if let Some(authorize) = &mut self.authorize {
            authorize.url = format!("{place}/authorize");
            authorize.exchange = format!("{place}/exchange");
        }
        // A practice provider knows no workload.
        self.token_exchange = None;
        self.note = None;
        self.anthropic = self.anthropic.take().map(|_| Anthropic::Path(place[practice.url.len()..].to_owned()));
        self.move_oauth_to(&practice.url)
    }
}
