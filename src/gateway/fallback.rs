//! Requests that another of the user's own profiles serves, because the first one's limit, plan or service is over.
//!
//! Hazard: a request is paid for twice, a key reaches another provider's host, a change of cost goes unseen.
//! Rule: only the profiles and models that the user names, in that order; only requests that certainly were not acted
//! upon, whole in memory, before a byte went to the client; every response names the profile that served it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use hyper::{Method, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::Answer;
use super::forward::{Held, Passage, Unserved};
use super::lane::Lane;
use super::meter::RequestModel;
use super::refusal::Refusal;
use super::upload::Upload;
use crate::credentials::Account;
use crate::error::note;
use crate::providers::error::Cause;
use crate::usage::Event;

/// Requests that generate text from what they carry. Vectors of two models cannot be mixed, and files, batches and the
/// like are kept at one provider.
const PATHS: [&str; 4] = ["/chat/completions", "/completions", "/responses", "/messages"];

/// Another profile that serves, with the names that models have there.
pub(crate) struct Target {
    pub(crate) account: Account,
    /// By the name that clients use.
    pub(crate) models: BTreeMap<String, String>,
}

/// Why a request moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    Plan,
    Day,
    Outage,
    Error,
}

impl Reason {
    /// A minute's limit is waited for, and the owner of an unpaid account has to know.
    pub(super) fn of(cause: Cause) -> Option<Self> {
        match cause {
            Cause::Day | Cause::Hour => Some(Self::Day),
            Cause::Outage => Some(Self::Outage),
            _ if cause.is_window() || cause == Cause::FreeTier => Some(Self::Plan),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Day => "day",
            Self::Outage => "outage",
            Self::Error => "error",
        }
    }
}

/// The other profiles of a gateway.
pub(super) struct Fallback {
    /// The profile at `/v1`.
    first: String,
    pub(super) targets: Vec<(Rc<Lane>, BTreeMap<String, String>)>,
    /// The profile that serves a model, where it is not the first, and what began it.
    serving: RefCell<BTreeMap<String, (String, String)>>,
}

impl Fallback {
    pub(super) fn new(first: &str, targets: Vec<(Rc<Lane>, BTreeMap<String, String>)>) -> Self {
        Self { first: first.to_owned(), targets, serving: RefCell::default() }
    }

    /// Whether a request at this profile may move at all; its model and body decide later.
    pub(super) fn may_move(&self, lane: &Lane, method: &Method, rest: &str) -> bool {
        let path = rest.split('?').next().unwrap_or_default();
        lane.profile == self.first && method == Method::POST && PATHS.contains(&path)
    }

    /// The first profile served a request: if another one did before, this is the change back.
    pub(super) fn note_served(&self, passage: &Passage) {
        let Some(model) = &passage.record_model() else { return };
        let returned = self.serving.borrow_mut().remove(model);
        if let Some((from, occurrence)) = returned.filter(|_| passage.lane.profile == self.first) {
            let to = self.first.clone();
            self.change(
                passage,
                &Event::Fallback { from, to, model: model.clone(), target_model: model.clone(), reason: "back" },
                &format!("back/{occurrence}"),
            );
        }
    }

    fn note_moved(&self, passage: &Passage, model: &str, target_model: &str, reason: Reason, occurrence: &str) {
        let to = passage.lane.profile.clone();
        let before = self.serving.borrow_mut().insert(model.to_owned(), (to.clone(), occurrence.to_owned()));
        passage.gateway.events.count_moved(&self.first, &to, reason.name());
        let from = before.map_or_else(|| self.first.clone(), |(from, _)| from);
        if from != to {
            let event = Event::Fallback {
                from,
                to,
                model: model.to_owned(),
                target_model: target_model.to_owned(),
                reason: reason.name(),
            };
            self.change(passage, &event, occurrence);
        }
    }

    fn change(&self, passage: &Passage, event: &Event, occurrence: &str) {
        if let Event::Fallback { from, to, model, target_model, reason } = event {
            note(&format!(
                "fallback: `{model}` is served by `{to}` as `{target_model}`, no longer by `{from}` ({reason})"
            ));
        }
        passage.gateway.events.emit(event, &format!("{}/{occurrence}", self.first));
    }
}

/// Tries the other profiles in turn. `unserved`: what the first one said, which the client gets if none serves.
pub(super) async fn serve_elsewhere(passage: &mut Passage<'_>, unserved: Unserved) -> Response<Answer> {
    let Some((model, body)) = movable(passage).await else { return passage.finish(unserved.held) };
    let (Some(fallback), Some(reason)) = (&passage.gateway.fallback, unserved.reason) else {
        return passage.finish(unserved.held);
    };
    let first = Rc::clone(&passage.lane);
    let upload = passage.upload.clone();
    let headers = passage.headers.clone();
    passage.headers.remove(CONTENT_LENGTH);
    if let Some(ready) = first.last_ready() {
        ready.provider.header_names().for_each(|name| drop(passage.headers.remove(name)));
    }
    let mut first_record = passage.record.split();
    first_record.reason = Some(reason.name());
    passage.may_move = false;
    passage.moved = Some(reason);
    let mut tried = Vec::new();
    for (lane, models) in &fallback.targets {
        let Some(target_model) = models.get(&model) else { continue };
        let Some(body) = RequestModel::replace(&body, target_model) else { continue };
        passage.lane = Rc::clone(lane);
        passage.upload = Upload::whole(body, &passage.gateway.bodies);
        passage.record.model = Some(target_model.clone());
        passage.record.fallback = Some(reason.name());
        match passage.serve().await {
            Ok(response) => {
                fallback.note_moved(passage, &model, target_model, reason, &unserved.occurrence);
                return response;
            }
            Err(other) => tried.push((lane.profile.clone(), other.held.sentence(), other.held.wait())),
        }
        // What was done there is entered there.
        drop(passage.record.split());
    }
    passage.lane = first;
    passage.upload = upload;
    passage.headers = headers;
    passage.moved = None;
    passage.record = first_record.resume(&mut passage.record);
    if tried.is_empty() {
        return passage.finish(unserved.held);
    }
    let refusal = all_refused(passage, unserved.held, &tried);
    passage.refuse(refusal)
}

/// The model of a request and its body, if another profile may serve it.
async fn movable(passage: &mut Passage<'_>) -> Option<(String, Vec<Bytes>)> {
    if passage.headers.contains_key(CONTENT_ENCODING) || !passage.upload.keep_all().await {
        return None;
    }
    let body = passage.upload.kept();
    let model = RequestModel::find(&body)?.name;
    (!names_state(&body.concat())).then_some((model, body))
}

/// Whether a request continues what is kept at the provider.
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

impl Held {
    fn sentence(&self) -> String {
        match self {
            Self::Own(refusal) => refusal.message.clone(),
            Self::Provider { error, .. } => {
                let said = if error.message.is_empty() { String::new() } else { format!(": {}", error.message) };
                format!("{}{said}", error.cause.sentence())
            }
        }
    }

    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Own(refusal) => refusal.retry_after,
            Self::Provider { error, .. } => error.wait,
        }
    }
}

/// The first profile's answer, with what was tried after it.
fn all_refused(passage: &Passage, held: Held, tried: &[(String, String, Option<Duration>)]) -> Refusal {
    let others: Vec<String> = tried.iter().map(|(profile, why, _)| format!("`{profile}`: {why}")).collect();
    let message = format!("{}; tried as well: {}", held.sentence(), others.join("; "));
    let earliest = tried.iter().filter_map(|(_, _, wait)| *wait).chain(held.wait()).min();
    let mut refusal = match held {
        Held::Own(refusal) => refusal,
        Held::Provider { looked, .. } => Refusal::new(looked.status(), "upstream_error", ""),
    };
    log::info!("no profile served a request of `{}` at {:?}", passage.lane.profile, SystemTime::now());
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
