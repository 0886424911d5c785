//! `token`: print a valid access token.

use anyhow::Result;
use serde_json::json;
use zeroize::Zeroizing;

use super::{print, warn_of_refusal};
use crate::cli::{TokenArgs, TokenFormat};
use crate::credentials::{Lifetime, MARGIN, fresh, short_lived};
use crate::epoch;
use crate::error::json_for_terminal;
use crate::session::{Endpoint, Session};

pub(crate) fn run(args: &TokenArgs, session: &Session) -> Result<()> {
    let source = session.source()?;
    let lifetime = Lifetime::new(args.min_ttl, MARGIN);
    let mut credential = fresh(&source, lifetime)?;
    warn_of_refusal(&source, &credential, false);
    if args.short_lived {
        credential = short_lived(&source, &credential, lifetime)?;
    }
    // A token whose API is not a host of the provider is not printed, in whatever format.
    credential.check_base_url(&source.overrides)?;
    let token = credential.access_token.expose();
    let text = match args.format {
        TokenFormat::Raw => format!("{token}\n"),
        TokenFormat::Header => format!("Authorization: Bearer {token}\n"),
        TokenFormat::Json => {
            let endpoint = Endpoint::of(&source, &credential, None)?;
            let value = json!({
                "access_token": token,
                "token_type": credential.token_type,
                "expires_at": credential.expires_at.and_then(epoch::rfc3339),
                "base_url": endpoint.base_url,
                "model": endpoint.model,
                "profile": source.profile,
            });
            json_for_terminal(&format!("{value}\n"))
        }
    };
    print(&Zeroizing::new(text))
}
