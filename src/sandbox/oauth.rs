//! Device codes, tokens and grants as Qwen's server handles them, without HTTP.
//!
//! Hazard: a client that sends a used refresh token again, and one whose token was stolen, look the same to a server.
//! Rule: a refresh token works once; a second use ends the whole grant (RFC 9700 section 4.14.2), as real servers do.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(super) const DEVICE_CODE_LIFETIME: Duration = Duration::from_secs(600);
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Letters that cannot be taken for one another or spell words (RFC 8628 section 6.1): 20⁸ codes.
const USER_CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Far beyond practice; they keep a runaway client from filling the memory.
const MAX_DEVICE_CODES: usize = 10_000;
const MAX_TOKENS: usize = 100_000;

/// A status and a JSON body.
pub(super) type Answer = (StatusCode, Value);
pub(super) type Form = HashMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApprovalState {
    Waiting,
    Approved,
    Denied,
    /// Approved, and the client has its tokens: a device code works once.
    Redeemed,
}

/// One device authorization, from the device code to the tokens.
pub(super) struct Login {
    pub(super) user_code: String,
    /// `User-Agent` of the program that logs in; untrusted text.
    pub(super) agent: String,
    pub(super) scope: String,
    pub(super) approval: ApprovalState,
    /// Known to the page alone, so that no other site can submit its form.
    pub(super) form_token: String,
    client_id: String,
    challenge: String,
    expires: Instant,
    polled: Option<Instant>,
}

struct Grant {
    client_id: String,
    scope: String,
    /// The one refresh token that is not used up; `None` once the grant is revoked.
    refresh_token: Option<String>,
}

pub(super) struct Settings {
    pub(super) url: String,
    pub(super) approve: bool,
    pub(super) interval: Duration,
    pub(super) token_lifetime: Duration,
}

/// The authorization server's memory.
pub(super) struct Authority {
    settings: Settings,
    logins: HashMap<String, Login>,
    grants: HashMap<String, Grant>,
    /// Every refresh token ever issued, used ones too, with its grant.
    refresh_tokens: HashMap<String, String>,
    /// With its grant and expiry.
    access_tokens: HashMap<String, (String, Instant)>,
}

impl Authority {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            logins: HashMap::new(),
            grants: HashMap::new(),
            refresh_tokens: HashMap::new(),
            access_tokens: HashMap::new(),
        }
    }

    /// RFC 8628 section 3.1, with PKCE as Qwen demands it.
    pub(super) fn device_code(&mut self, form: &Form, agent: &str, now: Instant) -> Answer {
        let Some(client_id) = field(form, "client_id") else { return missing("client_id") };
        let Some(challenge) = field(form, "code_challenge") else { return missing("code_challenge") };
        if field(form, "code_challenge_method") != Some("S256") {
            return refuse("invalid_request", "`code_challenge_method` must be `S256`");
        }
        if self.logins.len() >= MAX_DEVICE_CODES {
            self.logins.retain(|_, login| login.expires > now && login.approval != ApprovalState::Redeemed);
        }
        if self.logins.len() >= MAX_DEVICE_CODES {
            return full();
        }
        let device_code = random("practice-device");
        let user_code = user_code();
        let page = format!("{}/device", self.settings.url);
        let login = Login {
            user_code: user_code.clone(),
            agent: agent.to_owned(),
            scope: field(form, "scope").unwrap_or_default().to_owned(),
            approval: if self.settings.approve { ApprovalState::Approved } else { ApprovalState::Waiting },
            form_token: random("form"),
            client_id: client_id.to_owned(),
            challenge: challenge.to_owned(),
            expires: now + DEVICE_CODE_LIFETIME,
            polled: None,
        };
        self.logins.insert(device_code.clone(), login);
        let answer = json!({
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": format!("{page}?user_code={user_code}"),
            "expires_in": DEVICE_CODE_LIFETIME.as_secs(),
            "interval": self.settings.interval.as_secs(),
        });
        (StatusCode::OK, answer)
    }

    /// The token endpoint (RFC 6749 section 3.2).
    pub(super) fn token(&mut self, form: &Form, now: Instant) -> Answer {
        if self.is_full(now) {
            return full();
        }
        match field(form, "grant_type") {
            Some(DEVICE_GRANT) => self.redeem(form, now),
            Some("refresh_token") => self.refresh(form, now),
            Some(_) => refuse("unsupported_grant_type", "only the device code and refresh token grants are supported"),
            None => missing("grant_type"),
        }
    }

    fn redeem(&mut self, form: &Form, now: Instant) -> Answer {
        let Some(client_id) = field(form, "client_id") else { return missing("client_id") };
        let Some(device_code) = field(form, "device_code") else { return missing("device_code") };
        let Some(verifier) = field(form, "code_verifier") else { return missing("code_verifier") };
        let Some(login) = self.logins.get_mut(device_code) else {
            return refuse("invalid_grant", "the device code is unknown");
        };
        if login.client_id != client_id || login.challenge != challenge_of(verifier) {
            return refuse(
                "invalid_grant",
                "the device code was issued to another client, or `code_verifier` is wrong",
            );
        }
        if login.expires <= now {
            return refuse("expired_token", "the device code has expired");
        }
        // A little early is not too fast: a client waits exactly one interval, but its requests travel unevenly.
        let too_fast = login.polled.is_some_and(|polled| now - polled < self.settings.interval * 4 / 5);
        login.polled = Some(now);
        match login.approval {
            ApprovalState::Denied => refuse("access_denied", "the login was denied"),
            ApprovalState::Redeemed => refuse("invalid_grant", "the device code has been used"),
            ApprovalState::Waiting if too_fast => {
                (StatusCode::TOO_MANY_REQUESTS, error("slow_down", "polling too fast; wait 5 seconds longer"))
            }
            ApprovalState::Waiting => refuse("authorization_pending", "the login is not approved yet"),
            ApprovalState::Approved => {
                login.approval = ApprovalState::Redeemed;
                let scope = login.scope.clone();
                self.give_tokens(random("grant"), client_id, scope, now)
            }
        }
    }

    fn refresh(&mut self, form: &Form, now: Instant) -> Answer {
        let Some(client_id) = field(form, "client_id") else { return missing("client_id") };
        let Some(token) = field(form, "refresh_token") else { return missing("refresh_token") };
        let refused = || refuse("invalid_grant", "the refresh token is unknown, revoked or already used");
        let Some(id) = self.refresh_tokens.get(token).cloned() else { return refused() };
        let Some(grant) = self.grants.get_mut(&id).filter(|grant| grant.client_id == client_id) else {
            return refused();
        };
        if grant.refresh_token.as_deref() != Some(token) {
            log::warn!("practice provider: a refresh token was used twice, so the whole login is revoked");
            grant.refresh_token = None;
            return refused();
        }
        let scope = grant.scope.clone();
        self.give_tokens(id, client_id, scope, now)
    }

    /// A new pair for a grant; it replaces the grant's earlier refresh token.
    fn give_tokens(&mut self, id: String, client_id: &str, scope: String, now: Instant) -> Answer {
        let (access_token, refresh_token) = (random("practice-access"), random("practice-refresh"));
        let answer = json!({
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "resource_url": self.settings.url,
            "expires_in": self.settings.token_lifetime.as_secs(),
            "scope": scope,
        });
        self.access_tokens.insert(access_token, (id.clone(), now + self.settings.token_lifetime));
        self.refresh_tokens.insert(refresh_token.clone(), id.clone());
        self.grants.insert(id, Grant { client_id: client_id.to_owned(), scope, refresh_token: Some(refresh_token) });
        (StatusCode::OK, answer)
    }

    /// RFC 7009: revoking a refresh token ends its grant; an unknown token is not an error.
    pub(super) fn revoke(&mut self, form: &Form) -> Answer {
        let Some(token) = field(form, "token") else { return missing("token") };
        self.access_tokens.remove(token);
        if let Some(grant) = self.refresh_tokens.get(token).and_then(|id| self.grants.get_mut(id)) {
            grant.refresh_token = None;
        }
        (StatusCode::OK, json!({}))
    }

    /// Whether the API accepts this access token.
    pub(super) fn accepts(&self, access_token: &str, now: Instant) -> bool {
        let Some((id, expires)) = self.access_tokens.get(access_token) else { return false };
        *expires > now && self.grants.get(id).is_some_and(|grant| grant.refresh_token.is_some())
    }

    /// The login a person means by a code, typed with or without its hyphen, in any case.
    pub(super) fn login(&mut self, user_code: &str, now: Instant) -> Option<&mut Login> {
        let wanted = letters(user_code);
        self.logins.values_mut().find(|login| login.expires > now && letters(&login.user_code) == wanted)
    }

    fn is_full(&mut self, now: Instant) -> bool {
        let count = |this: &Self| this.access_tokens.len() + this.refresh_tokens.len();
        if count(self) >= MAX_TOKENS {
            self.access_tokens.retain(|_, (_, expires)| *expires > now);
            self.grants.retain(|_, grant| grant.refresh_token.is_some());
            self.refresh_tokens.retain(|_, id| self.grants.contains_key(id));
        }
        count(self) >= MAX_TOKENS
    }
}

fn field<'form>(form: &'form Form, name: &str) -> Option<&'form str> {
    form.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn error(code: &str, description: &str) -> Value {
    json!({ "error": code, "error_description": description })
}

fn refuse(code: &str, description: &str) -> Answer {
    (StatusCode::BAD_REQUEST, error(code, description))
}

fn missing(name: &str) -> Answer {
    refuse("invalid_request", &format!("`{name}` is missing"))
}

fn full() -> Answer {
    let description = "the practice provider has reached its maximum number of logins";
    (StatusCode::SERVICE_UNAVAILABLE, error("temporarily_unavailable", description))
}

/// RFC 7636 section 4.2.
fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

fn random(kind: &str) -> String {
    format!("{kind}-{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

fn user_code() -> String {
    let letter = || char::from(USER_CODE_LETTERS[rand::random_range(0..USER_CODE_LETTERS.len())]);
    let (first, second): (String, String) = ((0..4).map(|_| letter()).collect(), (0..4).map(|_| letter()).collect());
    format!("{first}-{second}")
}

fn letters(user_code: &str) -> String {
    user_code.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn authority(approve: bool) -> Authority {
        let url = "http://127.0.0.1:1".to_owned();
        Authority::new(Settings { url, approve, interval: SECOND, token_lifetime: 60 * SECOND })
    }

    fn form(fields: &[(&str, &str)]) -> Form {
        fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn text(answer: &Answer, name: &str) -> String {
        answer.1[name].as_str().unwrap_or_default().to_owned()
    }

    fn ask(authority: &mut Authority, now: Instant) -> Answer {
        let challenge = challenge_of("verifier");
        let fields = [("client_id", "c"), ("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")];
        authority.device_code(&form(&fields), "agent", now)
    }

    fn poll(authority: &mut Authority, device_code: &str, verifier: &str, now: Instant) -> Answer {
        let fields = [
            ("grant_type", DEVICE_GRANT),
            ("client_id", "c"),
            ("device_code", device_code),
            ("code_verifier", verifier),
        ];
        authority.token(&form(&fields), now)
    }

    fn refresh(authority: &mut Authority, client_id: &str, token: &str, now: Instant) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("client_id", client_id), ("refresh_token", token)];
        authority.token(&form(&fields), now)
    }

    fn log_in(authority: &mut Authority, now: Instant) -> Answer {
        let device_code = text(&ask(authority, now), "device_code");
        poll(authority, &device_code, "verifier", now)
    }

    #[test]
    fn an_approved_login_gets_tokens_that_the_api_takes_until_they_expire() {
        let (mut authority, now) = (authority(true), Instant::now());
        let tokens = log_in(&mut authority, now);
        assert_eq!(tokens.0, StatusCode::OK);
        assert_eq!(text(&tokens, "token_type"), "Bearer");
        assert_eq!(text(&tokens, "resource_url"), "http://127.0.0.1:1");
        assert_eq!(tokens.1["expires_in"], 60);
        let access_token = text(&tokens, "access_token");
        assert!(authority.accepts(&access_token, now + 59 * SECOND));
        assert!(!authority.accepts(&access_token, now + 60 * SECOND));
        assert!(!authority.accepts("another", now));
    }

    #[test]
    fn a_waiting_login_is_pending_and_fast_polling_is_slowed_down() {
        let (mut authority, now) = (authority(false), Instant::now());
        let device_code = text(&ask(&mut authority, now), "device_code");
        let first = poll(&mut authority, &device_code, "verifier", now);
        assert_eq!((first.0, text(&first, "error").as_str()), (StatusCode::BAD_REQUEST, "authorization_pending"));
        let fast = poll(&mut authority, &device_code, "verifier", now + SECOND / 2);
        assert_eq!((fast.0, text(&fast, "error").as_str()), (StatusCode::TOO_MANY_REQUESTS, "slow_down"));
        let patient = poll(&mut authority, &device_code, "verifier", now + SECOND * 3 / 2);
        assert_eq!(text(&patient, "error"), "authorization_pending");
    }

    #[test]
    fn a_wrong_verifier_gets_nothing_and_costs_the_login_nothing() {
        let (mut authority, now) = (authority(true), Instant::now());
        let device_code = text(&ask(&mut authority, now), "device_code");
        let wrong = poll(&mut authority, &device_code, "another verifier", now);
        assert_eq!((wrong.0, text(&wrong, "error").as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));
        assert_eq!(poll(&mut authority, &device_code, "verifier", now).0, StatusCode::OK);
    }

    #[test]
    fn pkce_is_demanded() {
        let (mut authority, now) = (authority(true), Instant::now());
        let plain = [("client_id", "c"), ("code_challenge", "verifier"), ("code_challenge_method", "plain")];
        for fields in [&plain[..1], &plain[..2], &plain[..]] {
            let answer = authority.device_code(&form(fields), "agent", now);
            assert_eq!(text(&answer, "error"), "invalid_request");
        }
    }

    #[test]
    fn a_device_code_works_once_and_not_for_ever() {
        let (mut authority, now) = (authority(true), Instant::now());
        let device_code = text(&ask(&mut authority, now), "device_code");
        assert_eq!(poll(&mut authority, &device_code, "verifier", now).0, StatusCode::OK);
        let again = poll(&mut authority, &device_code, "verifier", now + 2 * SECOND);
        assert_eq!(text(&again, "error"), "invalid_grant");
        let late = text(&ask(&mut authority, now), "device_code");
        let expired = poll(&mut authority, &late, "verifier", now + DEVICE_CODE_LIFETIME);
        assert_eq!(text(&expired, "error"), "expired_token");
    }

    #[test]
    fn a_denied_login_is_denied() {
        let (mut authority, now) = (authority(false), Instant::now());
        let asked = ask(&mut authority, now);
        authority.login(&text(&asked, "user_code").to_lowercase(), now).expect("known").approval =
            ApprovalState::Denied;
        let answer = poll(&mut authority, &text(&asked, "device_code"), "verifier", now);
        assert_eq!((answer.0, text(&answer, "error").as_str()), (StatusCode::BAD_REQUEST, "access_denied"));
    }

    #[test]
    fn a_refresh_rotates_the_refresh_token() {
        let (mut authority, now) = (authority(true), Instant::now());
        let first = log_in(&mut authority, now);
        let second = refresh(&mut authority, "c", &text(&first, "refresh_token"), now);
        assert_eq!(second.0, StatusCode::OK);
        assert_ne!(text(&first, "refresh_token"), text(&second, "refresh_token"));
        assert_ne!(text(&first, "access_token"), text(&second, "access_token"));
        assert_eq!(refresh(&mut authority, "c", &text(&second, "refresh_token"), now).0, StatusCode::OK);
    }

    #[test]
    fn a_spent_refresh_token_ends_the_whole_grant() {
        let (mut authority, now) = (authority(true), Instant::now());
        let first = log_in(&mut authority, now);
        let second = refresh(&mut authority, "c", &text(&first, "refresh_token"), now);
        let other = log_in(&mut authority, now);
        assert!(authority.accepts(&text(&second, "access_token"), now));

        let reused = refresh(&mut authority, "c", &text(&first, "refresh_token"), now);
        assert_eq!((reused.0, text(&reused, "error").as_str()), (StatusCode::BAD_REQUEST, "invalid_grant"));
        let current = refresh(&mut authority, "c", &text(&second, "refresh_token"), now);
        assert_eq!(text(&current, "error"), "invalid_grant");
        assert!(!authority.accepts(&text(&second, "access_token"), now));
        assert!(authority.accepts(&text(&other, "access_token"), now), "another login is not concerned");
    }

    #[test]
    fn a_refresh_token_of_nobody_or_of_another_client_is_refused_without_harm() {
        let (mut authority, now) = (authority(true), Instant::now());
        let tokens = log_in(&mut authority, now);
        assert_eq!(text(&refresh(&mut authority, "c", "unknown", now), "error"), "invalid_grant");
        let token = text(&tokens, "refresh_token");
        assert_eq!(text(&refresh(&mut authority, "another", &token, now), "error"), "invalid_grant");
        assert_eq!(text(&refresh(&mut authority, "", &token, now), "error"), "invalid_request");
        assert_eq!(refresh(&mut authority, "c", &token, now).0, StatusCode::OK);
    }

    #[test]
    fn a_revoked_token_is_refused() {
        let (mut authority, now) = (authority(true), Instant::now());
        let tokens = log_in(&mut authority, now);
        let (access_token, refresh_token) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
        assert_eq!(authority.revoke(&form(&[("token", &access_token)])).0, StatusCode::OK);
        assert!(!authority.accepts(&access_token, now));
        let renewed = refresh(&mut authority, "c", &refresh_token, now);
        assert_eq!(renewed.0, StatusCode::OK);
        assert_eq!(authority.revoke(&form(&[("token", &text(&renewed, "refresh_token"))])).0, StatusCode::OK);
        assert!(!authority.accepts(&text(&renewed, "access_token"), now));
        assert_eq!(authority.revoke(&form(&[("token", "unknown")])).0, StatusCode::OK);
    }

    #[test]
    fn a_user_code_has_two_groups_of_unmistakable_letters() {
        for _ in 0..50 {
            let code = user_code();
            let (first, second) = code.split_once('-').expect("a hyphen");
            assert_eq!((first.len(), second.len()), (4, 4));
            assert!(letters(&code).bytes().all(|letter| USER_CODE_LETTERS.contains(&letter)));
        }
    }
}
