//! The attempts to have one profile serve a request: what is sent, and what follows from the response.
//!
//! Hazard: a repeated request may be billed or processed twice.
//! Rule: only 401, 429, 503 and failed connections are retried, before any byte has reached the client and while the
//! request's body is still available. Everything else is forwarded unchanged.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::Response;

use super::ProxiedRequest;
use super::fallback::Reason;
use super::rejection::{DeferredResponse, Rejection, Unserved, is_for_every_credential};
use super::retry::{MAX_ATTEMPTS, Next, backoff, next};
use super::slot::{HeldSlot, PendingRequest};
use crate::error::Failed;
use crate::gateway::keys::estimate::Estimate;
use crate::gateway::profiles::credential::ReadyCredential;
use crate::gateway::profiles::edge::NoToken;
use crate::gateway::profiles::pacing::LONG_WAIT;
use crate::gateway::profiles::served_account::ServedAccount;
use crate::gateway::profiles::served_profile::ServedProfile;
use crate::gateway::request::anthropic;
use crate::gateway::request::client_request::ClientRequest;
use crate::gateway::request::request_body::RequestBody;
use crate::gateway::response::answer::{InspectedResponse, NoChunk, begin, inspect, is_error, rest};
use crate::gateway::response::refusal;
use crate::gateway::response::response_body::ResponseBody;
use crate::gateway::upstream::{Answer, SendError};
use crate::providers::error::{Action, Cause};

const UNREACHABLE: &str = "the provider cannot be reached";

pub(in crate::gateway) struct Attempts<'request, 'gateway> {
    proxied: &'request mut ProxiedRequest<'gateway>,
    served: &'request ServedProfile,
    ready: Rc<ReadyCredential>,
    account: Rc<ServedAccount>,
    /// A retry after a renewal does not count.
    made: u32,
    was_renewed: bool,
    /// Whether it waited for a limit that the provider had stated.
    has_waited: bool,
}

impl<'request, 'gateway> Attempts<'request, 'gateway> {
    /// Finds the credential, and the account that it belongs to.
    pub(in crate::gateway) async fn begin(
        proxied: &'request mut ProxiedRequest<'gateway>,
        served: &'request ServedProfile,
    ) -> Result<Self, Unserved> {
        let ready = proxied.request.body.while_reading(served.ready()).await;
        let ready = ready.map_err(|failed| not_ready(served, &failed))?;
        if ready.messages.is_none() && proxied.request.speaks_anthropic() {
            return Err(anthropic::missing(&ready.provider).into());
        }
        let account = served.account(&ready).map_err(|failed| refusal::not_ready(&failed))?;
        proxied.usage.note_account(&account, &ready.origin.host);
        Ok(Self { proxied, served, ready, account, made: 0, was_renewed: false, has_waited: false })
    }

    /// Rejects what the key does not allow, and what a reached limit would reject.
    pub(in crate::gateway) async fn check(&mut self) -> Result<Estimate, Unserved> {
        let is_one_of_several = self.is_one_of_several();
        let ProxiedRequest { request, key, usage, .. } = &mut *self.proxied;
        let mut pending = PendingRequest { request, usage, account: &self.account };
        let estimate = match key {
            Some(key) => Box::pin(key.check(&mut pending)).await?,
            None => Estimate::default(),
        };
        pending.check_exhausted(&self.ready.provider.title, is_one_of_several).await?;
        Ok(estimate)
    }

    pub(in crate::gateway) async fn take_slot(&mut self, estimate: Estimate) -> Result<HeldSlot, Unserved> {
        let ProxiedRequest { request, key, usage, .. } = &mut *self.proxied;
        PendingRequest { request, usage, account: &self.account }.take_slot(key.as_mut(), estimate).await
    }

    /// Whether other profiles may serve such requests.
    fn is_one_of_several(&self) -> bool {
        self.proxied.may_move || self.proxied.usage.has_moved()
    }

    /// `slot`: given back if the request is not sent.
    pub(in crate::gateway) async fn send(&mut self, mut slot: HeldSlot) -> Result<Answer, SendError> {
        self.made += 1;
        let ProxiedRequest { gateway, request, usage, .. } = &mut *self.proxied;
        let upload = request.upload(&self.ready)?;
        usage.attempts += 1;
        let sent_before = usage.counts.tries;
        let limit = gateway.options.timeout;
        let since = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let note_sending = |is_sending| {
            slot.was_sent = is_sending;
            usage.counts.tries = sent_before + u64::from(is_sending);
            usage.grant.iter_mut().for_each(|grant| grant.note_sending(is_sending));
        };
        let sent = gateway.upstream.send(&self.ready.origin, upload, note_sending);
        let sent = unless_silent(limit, || request.body.given_at(), sent);
        let note_model = || {
            if usage.model.is_none() {
                usage.model = request.body.model();
            }
        };
        let sent = request.body.while_reading_and(sent, note_model).await;
        let sent = sent.map_err(|error| match error {
            SendError::Silent(limit) if !slot.was_sent => {
                SendError::NotSent(format!("no connection within {} s", limit.as_secs()))
            }
            error => blame_client(error, &request.body),
        });
        if let Some(since) = since {
            log_attempt(request, &self.ready, &self.account.profile, &sent, since);
        }
        usage.note_sent(&sent);
        sent
    }

    /// Returns the response for the client, or `None` if the request is to be sent again.
    pub(super) async fn conclude(&mut self, response: Answer) -> Result<Option<Response<ResponseBody>>, Unserved> {
        self.account.note_limits(response.headers());
        let status = response.status();
        let may_be_about_profile = match status.as_u16() {
            // 400: some services report an unpaid account with this status.
            400..=403 | 429 | 503 => true,
            500.. => self.is_one_of_several(),
            _ => false,
        };
        if may_be_about_profile {
            // Boxed, as all that is long and seldom needed: each request would have its space.
            return Box::pin(self.conclude_rejected(response)).await;
        }
        self.served.cache.note_accepted();
        if status.is_success() {
            self.ready.mark.served();
            self.account.served(self.proxied.usage.model.as_deref());
        }
        if is_error(status) {
            return Box::pin(self.conclude_error(response)).await;
        }
        Ok(Some(self.forward_once_begun(response).await?))
    }

    /// An error that says nothing of the profile.
    async fn conclude_error(&mut self, response: Answer) -> Result<Option<Response<ResponseBody>>, Unserved> {
        let mut response = inspect(response).await;
        response.hide(&self.ready.credential);
        self.forward(response).map(Some)
    }

    async fn conclude_rejected(&mut self, response: Answer) -> Result<Option<Response<ResponseBody>>, Unserved> {
        let rejection = self.classify(inspect(response).await);
        match rejection.status().as_u16() {
            401 | 403 if self.ready.is_renewable() || self.proxied.may_move => self.renew_or_stop(rejection).await,
            429 | 503 => self.wait_or_stop(rejection).await,
            500.. => Err(rejection.server_error(&self.account, self.proxied.usage.model.as_deref())),
            400 => {
                self.note_credential(&rejection);
                Ok(Some(self.forward(rejection.response)?))
            }
            _ => {
                self.note_credential(&rejection);
                self.forward_or_defer(rejection).map(Some)
            }
        }
    }

    fn classify(&mut self, mut response: InspectedResponse) -> Rejection {
        self.proxied.usage.note_model(&self.proxied.request.body);
        let error = response.error(self.proxied.usage.model.as_deref(), &self.ready);
        response.hide(&self.ready.credential);
        Rejection { response, error, attempts: self.made }
    }

    /// Renews a rejected token, once, if it is the token that was rejected. A token that was renewed just now is not
    /// renewed again: some paths reject each token.
    async fn renew_or_stop(&mut self, rejection: Rejection) -> Result<Option<Response<ResponseBody>>, Unserved> {
        let cause = rejection.error.cause;
        if cause == Cause::FreeTier {
            return Err(self.exhausted(rejection));
        }
        if cause != Cause::Credential || !self.ready.is_renewable() {
            self.note_credential(&rejection);
            return self.forward_or_defer(rejection).map(Some);
        }
        if self.was_renewed && is_for_every_credential(self.proxied.request.path()) {
            self.note_credential(&rejection);
            let is_news = self.served.cache.note_ended();
            return Err(refusal::ended(&self.ready, &rejection.error.message, is_news).into());
        }
        if self.was_renewed || self.served.cache.was_just_renewed(&self.ready) {
            self.note_credential(&rejection);
            return self.forward_or_defer(rejection).map(Some);
        }
        if !self.proxied.request.body.can_be_read_again() {
            return self.forward_or_defer(rejection).map(Some);
        }
        drop(rejection);
        log::info!("`{}` rejected the token; renewing it unless that has already been done", self.served.profile);
        let renewed = self.proxied.request.body.while_reading(self.served.renewed(&self.ready)).await;
        self.ready = renewed.map_err(|failed| not_ready(self.served, &failed))?;
        self.was_renewed = true;
        self.made -= 1;
        Ok(None)
    }

    fn note_credential(&self, rejection: &Rejection) {
        rejection.note_credential(self.served, &self.ready, self.proxied.request.path());
    }

    /// Waits for a limit that will recover, or gives up.
    async fn wait_or_stop(&mut self, rejection: Rejection) -> Result<Option<Response<ResponseBody>>, Unserved> {
        let (profile, error) = (&self.served.profile, &rejection.error);
        let (status, sentence) = (rejection.status().as_u16(), error.cause.sentence());
        let max_wait = self.proxied.gateway.options.max_wait;
        if status == 429 {
            self.proxied.usage.note_rate_limited();
        }
        let model = self.proxied.usage.model.as_deref();
        let in_vain = self.has_waited || self.account.was_in_vain(error, model);
        let next = next(error, status, self.made, in_vain, max_wait);
        log::info!("`{profile}` answered {status}: {sentence}; {next:?}");
        self.proxied.usage.reason = Some(sentence);
        match next {
            Next::After(wait) if self.may_repeat() => {
                // The server did not state a backoff.
                self.has_waited |= error.action(max_wait) != Action::Backoff;
                drop(rejection);
                if wait > LONG_WAIT {
                    let text = format!("request delayed {} s for `{profile}`: {sentence}", wait.as_secs());
                    self.account.pacing.say(&text);
                }
                self.wait(wait, sentence).await;
                return Ok(None);
            }
            Next::Stop => return Err(self.exhausted(rejection)),
            Next::Exhausted => drop(self.account.note_exhausted(error, self.proxied.usage.model.as_deref())),
            Next::After(_) if status != 429 && self.proxied.may_move => {
                return Err(rejection.server_error(&self.account, self.proxied.usage.model.as_deref()));
            }
            Next::After(_) | Next::Forward => {}
        }
        self.forward_or_defer(rejection).map(Some)
    }

    /// Waits before another attempt if the provider cannot be reached, or gives up.
    pub(super) async fn pause_or_stop(&mut self, why: String) -> Result<(), Unserved> {
        self.proxied.request.check_length()?;
        if self.may_repeat() {
            self.wait(backoff(self.made), UNREACHABLE).await;
            return Ok(());
        }
        let ProxiedRequest { request, usage, may_move, .. } = &mut *self.proxied;
        usage.reason = Some(UNREACHABLE);
        usage.note_model(&request.body);
        let note_outage = || self.account.note_outage(usage.model.as_deref(), &why).id();
        let occurrence = may_move.then(note_outage).unwrap_or_default();
        let deferred = DeferredResponse::Own(refusal::no_response(&self.ready, SendError::NotSent(why)));
        Err(Unserved::movable(deferred, Some(Reason::Outage), occurrence))
    }

    /// Whether another attempt is allowed.
    fn may_repeat(&self) -> bool {
        self.made < MAX_ATTEMPTS
            && self.proxied.request.body.can_be_read_again()
            && self.proxied.gateway.retries.borrow_mut().take_repetition()
    }

    async fn wait(&mut self, wait: Duration, reason: &'static str) {
        self.proxied.request.body.while_reading(tokio::time::sleep(wait)).await;
        self.proxied.usage.note_wait(wait, reason);
    }

    fn exhausted(&self, rejection: Rejection) -> Unserved {
        rejection.exhausted(&self.account, &self.ready.provider.title, self.proxied.usage.model.as_deref())
    }

    /// Handles a connection that ended before a response.
    pub(in crate::gateway) fn no_response(&self, error: SendError) -> Unserved {
        let refused = self.proxied.request.check_length().err();
        refused.unwrap_or_else(|| refusal::no_response(&self.ready, error)).into()
    }

    /// Forwards an error response, unless the request moved here from a profile whose response takes precedence.
    fn forward_or_defer(&mut self, rejection: Rejection) -> Result<Response<ResponseBody>, Unserved> {
        if self.proxied.usage.has_moved() {
            return Err(rejection.deferred());
        }
        let is_limit = matches!(rejection.status().as_u16(), 429 | 503);
        let mut response = self.forward(rejection.response)?;
        if is_limit {
            refusal::settle_retry_after(response.headers_mut(), rejection.attempts);
        }
        Ok(response)
    }

    /// Forwards the response to the client once its first chunk is there.
    async fn forward_once_begun(&mut self, response: Answer) -> Result<Response<ResponseBody>, Unserved> {
        let body = &self.proxied.request.body;
        body.stop_keeping();
        match body.while_reading(begin(response, self.proxied.gateway.options.timeout)).await {
            Ok(mut begun) => {
                begun.hide(&self.ready.credential);
                self.forward(begun)
            }
            Err(NoChunk::Late(limit)) => Err(self.no_response(blame_client(SendError::Silent(limit), body))),
            Err(NoChunk::Broken(why)) => Err(self.no_response(SendError::Lost(why))),
        }
    }

    fn forward(&mut self, response: InspectedResponse) -> Result<Response<ResponseBody>, Unserved> {
        match response.is_lost() {
            Some(why) => Err(self.no_response(SendError::Lost(why.to_owned()))),
            None => Ok(self.proxied.forward_response(self.served, response)),
        }
    }
}

/// Nothing came from the provider because nothing came from the client.
fn blame_client(error: SendError, body: &RequestBody) -> SendError {
    match error {
        SendError::Silent(limit) if body.waits_for_client() => SendError::ClientSilent(limit),
        error => error,
    }
}

/// The outcome, unless nothing happens for `limit`. `given_at`: when a part of the request was last sent.
async fn unless_silent<T>(
    limit: Duration,
    given_at: impl Fn() -> Option<Instant>,
    sent: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    let mut sent = pin!(sent);
    let mut left = limit;
    loop {
        if let Ok(sent) = tokio::time::timeout(left, &mut sent).await {
            return sent;
        }
        left = rest(limit, given_at());
        if left.is_zero() {
            return Err(SendError::Silent(limit));
        }
    }
}

fn not_ready(served: &ServedProfile, failed: &Failed) -> Unserved {
    refusal::not_ready(failed).coded(served.cache.trouble().map(NoToken::code)).into()
}

fn log_attempt(
    request: &ClientRequest,
    ready: &ReadyCredential,
    profile: &str,
    sent: &Result<Answer, SendError>,
    since: Instant,
) {
    let outcome = match sent {
        Ok(response) => response.status().as_u16().to_string(),
        Err(error) => format!("{error:?}"),
    };
    let (method, host, path) = (&request.method, ready.origin.host.to_str().unwrap_or_default(), request.path());
    let (base_path, took) = (&ready.base_path, since.elapsed().as_millis());
    log::debug!("{method} {host}{base_path}{path} for `{profile}`: {outcome}, {took} ms");
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    #[test]
    fn the_time_without_a_response_begins_with_the_last_part_of_the_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let limit = Duration::from_millis(5);
        for parts in [0, 1, 3] {
            let looks = Cell::new(0);
            let given_at = || {
                looks.set(looks.get() + 1);
                (looks.get() <= parts).then(Instant::now)
            };
            let sent = runtime.block_on(unless_silent(limit, given_at, pending::<Result<(), _>>()));
            assert!(matches!(sent, Err(SendError::Silent(silent)) if silent == limit), "{sent:?}");
            assert_eq!(looks.get(), parts + 1);
        }
    }
}
