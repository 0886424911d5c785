//! The state of a credential, as far as it is known without a request.

use super::{Credential, CredentialSource, Stored, api_refusal, check_origin, refused};
use crate::secret::Secret;

/// What a stored credential is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Valid,
    /// Expired, with a refresh token that was not rejected.
    Refreshable,
    Expired,
    Missing,
    Damaged,
    /// By the API, which serves nothing for it; or the refresh token was, and only a new login helps once the access
    /// token expires.
    Refused,
}

/// The state of what is stored, as far as it is known without a request.
pub(crate) fn state_of(source: &CredentialSource, stored: &Stored) -> State {
    let credential = match stored {
        Stored::Missing => return State::Missing,
        Stored::Damaged(_) => return State::Damaged,
        Stored::Present(credential) => credential,
    };
    let place = source.provider(credential).map(|provider| credential.base_url(&provider));
    if api_refusal(source, credential).is_some() || place.is_ok_and(|place| place.is_err()) {
        return State::Refused;
    }
    if credential.is_lasting() {
        return State::Valid;
    }
    if let Some(identity) = &credential.identity {
        return if identity.problem(source).is_none() { State::Refreshable } else { State::Expired };
    }
    match &credential.refresh_token {
        Some(token)
            if refused::is_marked_for_any(&source.paths.state, token) && is_refused(source, credential, token) =>
        {
            State::Refused
        }
        _ if credential.left((source.clock)()).is_some() => State::Valid,
        Some(_) if check_origin(source, credential).is_err() => State::Expired,
        Some(_) => State::Refreshable,
        None => State::Expired,
    }
}

/// Whether the server that would receive it has rejected `token`.
fn is_refused(source: &CredentialSource, credential: &Credential, token: &Secret) -> bool {
    let server = source.provider(credential).and_then(|provider| provider.server(credential.issuer.as_deref()));
    server.is_ok_and(|server| refused::is_marked(&source.paths.state, token, &server.token_endpoint))
}
