//! Requests that another of the user's own profiles serves, because the first one's limit or plan is used up or its
//! service fails.
//!
//! Hazard: a request is paid for twice, a key reaches another provider's host, a change of cost is not noticed. Rule:
//! only the profiles and models that the user names, in that order; only requests that certainly were not processed,
//! complete in memory, before a byte was sent to the client; every response names the profile that served it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::CONTENT_ENCODING;
use hyper::{Method, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ProxiedRequest;
use super::rejection::{DeferredResponse, Unserved};
use crate::credentials::CredentialSource;
use crate::error::note;
use crate::gateway::profiles::served_profile::ServedProfile;
use crate::gateway::request::client_request::ClientRequest;
use crate::gateway::response::refusal::Refusal;
use crate::gateway::response::response_body::ResponseBody;
use crate::gateway::telemetry::events::Events;
use crate::gateway::telemetry::meter::RequestModel;
use crate::providers::error::Cause;
use crate::usage::Event;

/// Requests that generate text from their own content. Vectors of two models cannot be mixed, and files, batches and
/// the like are stored at one provider.
pub(in crate::gateway) const GENERATING: [&str; 4] = ["/chat/completions", "/completions", "/responses", "/messages"];

/// Another profile that serves, with the names that models have there.
pub(crate) struct Target {
    pub(crate) source: CredentialSource,
    /// By the name that clients use.
    pub(crate) models: BTreeMap<String, String>,
}

/// Why a request moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::gateway) enum Reason {
    Plan,
    Day,
    Outage,
    Error,
}

impl Reason {
    /// A minute's limit is waited for, and the owner of an unpaid account has to know.
    pub(in crate::gateway) fn of(cause: Cause) -> Option<Self> {
        match cause {
            Cause::Day | Cause::Hour => Some(Self::Day),
            Cause::Outage => Some(Self::Outage),
            _ if cause.is_window() || cause == Cause::FreeTier => Some(Self::Plan),
            _ => None,
        }
    }

    pub(in crate::gateway) fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Day => "day",
            Self::Outage => "outage",
            Self::Error => "error",
        }
    }
}

/// The other profiles of a gateway.
pub(in crate::gateway) struct Fallback {
    /// The profile at `/v1`.
    first: Rc<str>,
    pub(in crate::gateway) targets: Vec<(Rc<ServedProfile>, BTreeMap<String, String>)>,
    /// The profile that serves a model, where it is not the first, and what began it.
    serving: RefCell<BTreeMap<String, (String, String)>>,
}

impl Fallback {
    pub(in crate::gateway) fn new(
        first: &Rc<str>,
        targets: Vec<(Rc<ServedProfile>, BTreeMap<String, String>)>,
    ) -> Self {
        Self { first: Rc::clone(first), targets, serving: RefCell::default() }
    }

    /// Whether a request at this profile may move at all; its model and body decide later.
    pub(super) fn may_move(&self, served: &ServedProfile, request: &ClientRequest) -> bool {
        served.profile == self.first && request.method == Method::POST && GENERATING.contains(&request.path())
    }

    /// A profile served a request: if it is the first one, and another one served before, this is the change back.
    pub(super) fn note_served(&self, proxied: &ProxiedRequest, served: &ServedProfile) {
        let Some(model) = proxied.usage.model.as_ref().filter(|_| served.profile == self.first) else { return };
        let returned = self.serving.borrow_mut().remove(model);
        if let Some((from, occurrence)) = returned {
            let to = self.first.to_string();
            self.change(
                &proxied.gateway.events,
                &Event::Fallback { from, to, model: model.clone(), target_model: model.clone(), reason: "back" },
                &format!("back/{occurrence}"),
            );
        }
    }

    /// Another profile served a request, as `target_model`.
    fn note_moved(&self, events: &Events, to: &str, model: &str, target_model: &str, reason: Reason, occurrence: &str) {
        let before = self.serving.borrow_mut().insert(model.to_owned(), (to.to_owned(), occurrence.to_owned()));
        events.count_moved(&self.first, to, reason.name());
        let from = before.map_or_else(|| self.first.to_string(), |(from, _)| from);
        if from != to {
            let event = Event::Fallback {
                from,
                to: to.to_owned(),
                model: model.to_owned(),
                target_model: target_model.to_owned(),
                reason: reason.name(),
            };
            self.change(events, &event, occurrence);
        }
    }

    fn change(&self, events: &Events, event: &Event, occurrence: &str) {
        if let Event::Fallback { from, to, model, target_model, reason } = event {
            note(&format!(
                "fallback: `{model}` is served by `{to}` as `{target_model}`, no longer by `{from}` ({reason})"
            ));
        }
        events.emit(event, &format!("{}/{occurrence}", self.first));
    }
}

/// Tries the other profiles in turn. `unserved`: the outcome of `first`, which the client gets if none serves.
pub(super) async fn serve_elsewhere(
    proxied: &mut ProxiedRequest<'_>,
    first: &ServedProfile,
    unserved: Unserved,
) -> Response<ResponseBody> {
    let Some((model, body)) = movable(&proxied.request).await else { return proxied.finish(first, unserved.deferred) };
    let (Some(fallback), Some(reason)) = (&proxied.gateway.profiles.fallback, unserved.reason) else {
        return proxied.finish(first, unserved.deferred);
    };
    let mut first_record = proxied.usage.split();
    if let Some(grant) = first_record.grant.take() {
        grant.move_away();
    }
    first_record.reason = Some(reason.name());
    proxied.may_move = false;
    let first_ready = first.last_ready();
    let mut tried = Vec::new();
    for (served, models) in &fallback.targets {
        let Some(target_model) = models.get(&model) else { continue };
        let forbidden = proxied.key.as_ref().and_then(|key| key.forbids(&served.profile, target_model));
        if let Some(reason) = forbidden {
            first_record.reason = Some(reason);
            continue;
        }
        let Some(body) = RequestModel::replace(&body, target_model) else { continue };
        proxied.usage.model = Some(target_model.clone());
        proxied.usage.fallback = Some(reason.name());
        let elsewhere = proxied.request.elsewhere(first_ready.as_deref(), body, &proxied.gateway.bodies);
        let original = std::mem::replace(&mut proxied.request, elsewhere);
        match proxied.serve(served).await {
            Ok(response) => {
                let (events, occurrence) = (&proxied.gateway.events, &unserved.occurrence);
                fallback.note_moved(events, &served.profile, &model, target_model, reason, occurrence);
                return response;
            }
            Err(other) => tried.push((served.profile.to_string(), other.deferred.sentence(), other.deferred.wait())),
        }
        proxied.request = original;
        // What was done there is entered there.
        drop(proxied.usage.split());
    }
    proxied.usage = first_record.resume(&mut proxied.usage);
    if tried.is_empty() {
        return proxied.finish(first, unserved.deferred);
    }
    let refusal = all_refused(&first.profile, unserved.deferred, &tried);
    proxied.refuse(first, refusal)
}

/// The model of a request and its body, if another profile may serve it.
async fn movable(request: &ClientRequest) -> Option<(String, Vec<Bytes>)> {
    if request.headers.contains_key(CONTENT_ENCODING) || !request.body.keep_all().await {
        return None;
    }
    let body = request.body.kept();
    let model = RequestModel::find(&body)?.name;
    (!names_state(&body.concat())).then_some((model, body))
}

/// Whether a request continues what is stored at the provider.
fn names_state(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct State {
        previous_response_id: Option<IgnoredAny>,
        conversation: Option<IgnoredAny>,
        container: Option<IgnoredAny>,
    }
    // What cannot be read does not move.
    serde_json::from_slice::<State>(body).map_or(true, |state| {
        [state.previous_response_id, state.conversation, state.container].iter().any(Option::is_some)
    })
}

/// The first profile's response, with what was tried after it.
fn all_refused(first: &str, deferred: DeferredResponse, tried: &[(String, String, Option<Duration>)]) -> Refusal {
    let others: Vec<String> = tried.iter().map(|(profile, why, _)| format!("`{profile}`: {why}")).collect();
    let message = format!("{}; also tried: {}", deferred.sentence(), others.join("; "));
    let earliest = tried.iter().filter_map(|(_, _, wait)| *wait).chain(deferred.wait()).min();
    let mut refusal = match deferred {
        DeferredResponse::Own(refusal) => refusal,
        DeferredResponse::Provider(rejection) => Refusal::new(rejection.status(), "upstream_error", ""),
    };
    log::info!("no profile served a request of `{first}`");
    refusal.message = message;
    refusal.retry_after = earliest;
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_continues_something_stays() {
        for (body, stays) in [
            (r#"{"model":"m"}"#, false),
            (r#"{"model":"m","previous_response_id":null}"#, false),
            (r#"{"model":"m","input":{"previous_response_id":"r"}}"#, false),
            (r#"{"model":"m","previous_response_id":"r"}"#, true),
            (r#"{"model":"m","conversation":{"id":"c"}}"#, true),
            (r#"{"model":"m","#, true),
        ] {
            assert_eq!(names_state(body.as_bytes()), stays, "{body}");
        }
    }

    #[test]
    fn a_minute_and_an_unpaid_account_move_nothing() {
        for cause in [Cause::Minute, Cause::Busy, Cause::Unpaid, Cause::Credential, Cause::Other, Cause::TooLarge] {
            assert_eq!(Reason::of(cause), None, "{cause:?}");
        }
        for (cause, reason) in [
            (Cause::Day, "day"),
            (Cause::FiveHours, "plan"),
            (Cause::Month, "plan"),
            (Cause::FreeTier, "plan"),
            (Cause::Outage, "outage"),
        ] {
            assert_eq!(Reason::of(cause).map(Reason::name), Some(reason));
        }
    }
}
