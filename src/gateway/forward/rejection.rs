//! Requests that a profile did not serve: the provider's error response, and whether another profile may serve them.

use std::time::Duration;

use hyper::StatusCode;

use super::fallback::{GENERATING, Reason};
use crate::error::note;
use crate::gateway::profiles::credential::ReadyCredential;
use crate::gateway::profiles::served_account::ServedAccount;
use crate::gateway::profiles::served_profile::ServedProfile;
use crate::gateway::response::answer::InspectedResponse;
use crate::gateway::response::refusal::{self, Refusal};
use crate::providers::error::{ApiError, Cause};

/// Whether each valid credential may use this path. At others, such as those for administrators, a 401 says nothing of the
/// credential.
pub(super) fn is_for_every_credential(path: &str) -> bool {
    GENERATING.contains(&path) || ["/embeddings", "/models"].contains(&path)
}

/// An error response of the provider, classified.
pub(in crate::gateway) struct Rejection {
    pub(in crate::gateway) response: InspectedResponse,
    pub(in crate::gateway) error: ApiError,
    /// Attempts made, this one included.
    pub(in crate::gateway) attempts: u32,
}

impl Rejection {
    pub(in crate::gateway) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Records whether the provider rejected this credential or its account, at `path`. A rejected key may become valid again
    /// at the provider, and an account may be paid.
    pub(super) fn note_credential(&self, served: &ServedProfile, ready: &ReadyCredential, path: &str) {
        let status = self.status();
        let what = match self.error.cause {
            Cause::Unpaid => self.error.cause.sentence().to_owned(),
            cause if cause == Cause::Credential || status == StatusCode::UNAUTHORIZED => {
                if !self.error.names_credential && !is_for_every_credential(path) {
                    return;
                }
                format!("it answered {}", status.as_u16())
            }
            _ => return served.cache.note_accepted(),
        };
        served.cache.note_refused();
        ready.mark.refused_unless_known(&format!("{what}{}", self.said()));
    }

    /// Handles a reached limit or an account that has ended. `title`: the provider's.
    pub(in crate::gateway) fn exhausted(self, account: &ServedAccount, title: &str, model: Option<&str>) -> Unserved {
        let (entry, is_news) = account.note_exhausted(&self.error, model);
        let refusal = refusal::exhausted(&account.profile, title, &entry, &self.error.message);
        if is_news {
            note(&refusal.message);
        }
        let reason = Reason::of(self.error.cause);
        let is_limit = self.status() == StatusCode::TOO_MANY_REQUESTS;
        let deferred =
            if is_limit { DeferredResponse::Own(refusal) } else { DeferredResponse::Provider(Box::new(self)) };
        Unserved::movable(deferred, reason, entry.id())
    }

    /// Handles a server error.
    pub(in crate::gateway) fn server_error(self, account: &ServedAccount, model: Option<&str>) -> Unserved {
        let why = format!("it answered {}", self.status().as_u16());
        let occurrence = account.note_outage(model, &why).id();
        Unserved::movable(DeferredResponse::Provider(Box::new(self)), Some(Reason::Error), occurrence)
    }

    /// Leaves the response to the profile that the request moved from, whose response takes precedence.
    pub(in crate::gateway) fn deferred(self) -> Unserved {
        Unserved::movable(DeferredResponse::Provider(Box::new(self)), None, String::new())
    }

    /// The provider's message, after a colon.
    fn said(&self) -> String {
        let message = &self.error.message;
        if message.is_empty() { String::new() } else { format!(": {message}") }
    }
}

/// The response for the client if no other profile serves the request.
pub(in crate::gateway) enum DeferredResponse {
    Own(Refusal),
    Provider(Box<Rejection>),
}

impl DeferredResponse {
    pub(in crate::gateway) fn sentence(&self) -> String {
        match self {
            Self::Own(refusal) => refusal.message.clone(),
            Self::Provider(rejection) => format!("{}{}", rejection.error.cause.sentence(), rejection.said()),
        }
    }

    pub(in crate::gateway) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Own(refusal) => refusal.retry_after,
            Self::Provider(rejection) => rejection.error.wait,
        }
    }
}

/// A request that this profile did not serve.
pub(in crate::gateway) struct Unserved {
    pub(in crate::gateway) deferred: DeferredResponse,
    /// Why another profile may serve it.
    pub(in crate::gateway) reason: Option<Reason>,
    /// Identifies the outage or limit, so that it is reported once.
    pub(in crate::gateway) occurrence: String,
}

impl From<Refusal> for Unserved {
    fn from(refusal: Refusal) -> Self {
        Self { deferred: DeferredResponse::Own(refusal), reason: None, occurrence: String::new() }
    }
}

impl Unserved {
    pub(in crate::gateway) fn movable(deferred: DeferredResponse, reason: Option<Reason>, occurrence: String) -> Self {
        Self { deferred, reason, occurrence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_401_is_about_the_credential_where_each_may_ask() {
        for path in ["/chat/completions", "/messages", "/responses", "/completions", "/embeddings", "/models"] {
            assert!(is_for_every_credential(path), "{path}");
        }
        for path in ["", "/keys", "/admin", "/files", "/chat/completions/1", "/organization/users"] {
            assert!(!is_for_every_credential(path), "{path}");
        }
    }
}
