//! The state of a credential, as far as it is known without a request.

use super::{Account, Credential, Stored, api_refusal, check_origin, refused};
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
pub(crate) fn state_of(account: &Account, stored: &Stored) -> State {
    let credential = match stored {
        Stored::Missing => return State::Missing,
        Stored::Damaged(_) => return State::Damaged,
        Stored::Present(credential) => credential,
    };
    let place = account.provider(credential).map(|provider| credential.base_url(&provider));
    if api_refusal(account, credential).is_some() || place.is_ok_and(|place| place.is_err()) {
        return State::Refused;
    }
    if credential.is_lasting() {
        return State::Valid;
    }
    if let Some(identity) = &credential.identity {
        return if identity.problem(account).is_none() { State::Refreshable } else { State::Expired };
    }
    match &credential.refresh_token {
        Some(token) if refused::is_marked_for_any(&account.state, token) && is_refused(account, credential, token) => {
            State::Refused
        }
        _ if credential.left((account.clock)()).is_some() => State::Valid,
        Some(_) if check_origin(account, credential).is_err() => State::Expired,
        Some(_) => State::Refreshable,
        None => State::Expired,
    }
}

/// Whether the server that would receive it has rejected `token`.
fn is_refused(account: &Account, credential: &Credential, token: &Secret) -> bool {
    let server = account.provider(credential).and_then(|provider| provider.server(credential.issuer.as_deref()));
    server.is_ok_and(|server| refused::is_marked(&account.state, token, &server.token_endpoint))
}
