//! The ID token of this job: from a file, from a variable, or requested from GitHub Actions.
//!
//! Hazard: what is not an ID token, such as a key in the wrong file, would be sent to a token endpoint; and the address
//! that GitHub names in a variable gets the job's request token. Rule: only what has the form of a signed JWT is sent;
//! the address is `https` or loopback, and its redirects are not followed.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::CredentialSource;
use super::IdTokenSource;
use crate::epoch;
use crate::error::{Failed, Failure, Report, printable};
use crate::http;
use crate::oauth::REQUEST_TIMEOUT;
use crate::oauth::fields::Fields;
use crate::platform::files::{self, Content, Privacy};
use crate::secret::Secret;

/// Where GitHub Actions issues ID tokens, and what it requires for one.
pub(super) const REQUEST_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
pub(super) const REQUEST_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// Maximum size of an ID token, in bytes; token endpoints accept no longer ones.
const MAX_LENGTH: usize = 16 * 1024;

/// A token that expired this long ago has expired on every clock.
const SKEW: Duration = Duration::from_secs(60);

/// Reads one environment variable.
pub(crate) type Variables = fn(&str) -> Option<OsString>;

/// Why no token was got.
pub(super) struct NoIdToken(pub(super) Failed);

impl NoIdToken {
    pub(super) fn is_temporary(&self) -> bool {
        self.0.failure == Failure::Temporary
    }
}

impl From<NoIdToken> for Failed {
    fn from(error: NoIdToken) -> Self {
        error.0
    }
}

impl From<anyhow::Error> for NoIdToken {
    fn from(error: anyhow::Error) -> Self {
        Self(Report::of(&error).into())
    }
}

/// There is none, or it is not one.
fn none<T>(message: String, hint: &str) -> Result<T, NoIdToken> {
    Err(NoIdToken(Failed::new(Failure::LoginRequired, message).hint(hint)))
}

/// What is known of the source without a request.
pub(super) enum Found {
    IdToken(Secret),
    /// A request to GitHub is required.
    Request {
        url: Secret,
        token: Secret,
    },
}

/// Looks for the ID token here.
pub(super) fn look(id_token_source: IdTokenSource, variable: Variables) -> Result<Found, NoIdToken> {
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok()).map(Secret::new);
    let found = match id_token_source {
        IdTokenSource::File(path) => read(path)?,
        IdTokenSource::Variable(name) => match text(name) {
            Some(text) => text,
            None => {
                return none(
                    format!("there is no ID token: the variable `{}` is not set", printable(name)),
                    "set it in this job: `id_tokens:` in GitLab CI",
                );
            }
        },
        IdTokenSource::GitHub => {
            return match (text(REQUEST_URL), text(REQUEST_TOKEN)) {
                (Some(url), Some(token)) => Ok(Found::Request { url, token }),
                _ if variable("GITHUB_ACTIONS").is_some() => none(
                    "GitHub does not provide an ID token to this job".into(),
                    "add `id-token: write` under `permissions:` of the job; pull requests from forks have none",
                ),
                _ => none(
                    "there is no ID token, and this is not a GitHub Actions job".into(),
                    "pass it with `--id-token-file FILE` or `--id-token-env VAR`",
                ),
            };
        }
    };
    checked(&found, &place(id_token_source)).map(Found::IdToken)
}

fn place(id_token_source: IdTokenSource) -> String {
    match id_token_source {
        IdTokenSource::File(path) => format!("`{}`", path.display()),
        IdTokenSource::Variable(name) => format!("`{}`", printable(name)),
        IdTokenSource::GitHub => "the response of GitHub".into(),
    }
}

/// The ID token of this job.
pub(super) fn get(
    source: &CredentialSource,
    id_token_source: IdTokenSource,
    audience: Option<&str>,
) -> Result<Secret, NoIdToken> {
    match look(id_token_source, source.variable)? {
        Found::IdToken(token) => Ok(token),
        Found::Request { url, token } => ask_github(source, &url, &token, audience),
    }
}

fn read(path: &Path) -> Result<Secret, NoIdToken> {
    let shown = path.display();
    let failed = |why: &str| {
        none(format!("there is no ID token: `{shown}` {why}"), "check the path and what mounts the token there")
    };
    match files::read(path, Privacy::Secret)? {
        Content::Missing => failed("does not exist"),
        Content::Unfit(why) => failed(&format!("cannot be read: {why}")),
        Content::Bytes(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Secret::new(text.to_owned())),
            Err(_) => failed("is not text"),
        },
    }
}

/// Three parts in base64url: a signed JWT (RFC 7515 §7.1), as far as it can be told without its key.
fn checked(text: &Secret, place: &str) -> Result<Secret, NoIdToken> {
    let token = text.expose().trim();
    let parts: Vec<&str> = token.split('.').collect();
    let is_encoded = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if token.len() > MAX_LENGTH || parts.len() != 3 || !parts.iter().all(is_encoded) {
        return none(
            format!("{place} is not an ID token: it does not have the form of a signed JWT"),
            "nothing was sent",
        );
    }
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).ok().and_then(|bytes| Fields::of(&bytes));
    let ends = claims.and_then(|claims| claims.number("exp")).filter(|seconds| (0.0..1e11).contains(seconds));
    let now = epoch::since(SystemTime::now());
    if let Some(over) = ends.and_then(|ends| now.checked_sub(Duration::from_secs_f64(ends)))
        && over > SKEW
    {
        let minutes = over.as_secs().div_ceil(60);
        return none(format!("the ID token in {place} expired {minutes} min ago"), "start a new job");
    }
    Ok(Secret::new(token.into()))
}

fn ask_github(
    source: &CredentialSource,
    url: &Secret,
    token: &Secret,
    audience: Option<&str>,
) -> Result<Secret, NoIdToken> {
    let mut url = http::endpoint(url.expose())
        .map_err(|error| NoIdToken(Failed::new(Failure::Other, format!("`{REQUEST_URL}`: {error:#}"))))?;
    if let Some(audience) = audience {
        url.query_pairs_mut().append_pair("audience", audience);
    }
    let host = url.host_str().unwrap_or_default().to_owned();
    let not_issued = |why: &str| format!("`{host}` did not issue an ID token: {why}");
    let failed = |failure, why: &str| NoIdToken(Failed::new(failure, not_issued(why)));
    let reply = source
        .network
        .connect(&url)?
        .get(&url, Some(token), &[], REQUEST_TIMEOUT)
        .map_err(|trouble| NoIdToken(trouble.failed(&host).reworded(not_issued)))?;
    match reply.status {
        200 => {
            let value = Fields::of(&reply.body).and_then(|fields| fields.secret("value"));
            match value {
                Some(value) => checked(&value, &place(IdTokenSource::GitHub)),
                None => Err(failed(Failure::Temporary, "its response contains none")),
            }
        }
        status @ (400 | 401 | 403 | 404) if !reply.is_html() => {
            let failed = failed(Failure::LoginRequired, &format!("it answered {status}"));
            Err(NoIdToken(failed.0.hint("add `id-token: write` under `permissions:` of the job")))
        }
        status => Err(failed(Failure::Temporary, &format!("it answered {status}"))),
    }
}
