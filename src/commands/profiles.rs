//! `profiles`: list the stored profiles.

use anyhow::Result;
use serde_json::json;

use super::{print, print_document};
use crate::cli::ProfilesArgs;
use crate::credentials::{Kind, Stored};
use crate::error::printable;
use crate::session::Session;

pub(crate) fn run(args: &ProfilesArgs, session: &Session) -> Result<()> {
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for profile in session.profiles()? {
        let account = session.account_of(&profile);
        let (provider, kind) = match account.load()? {
            Stored::Present(credential) => {
                let kind = if credential.kind == Kind::ApiKey { "api_key" } else { "oauth" };
                (Some(credential.provider_name().to_owned()), kind)
            }
            Stored::Damaged(_) => (None, "damaged"),
            Stored::Missing => continue,
        };
        let active = profile == session.profile;
        rows.push(json!({
            "profile": profile.as_str(),
            "provider": provider,
            "kind": kind,
            "active": active,
            "path": account.watched().unwrap_or(account.path()).display().to_string(),
        }));
        let provider = printable(provider.as_deref().unwrap_or("?"));
        lines.push(format!("{} {:<20} {provider:<14} {kind}\n", if active { '*' } else { ' ' }, profile.as_str()));
    }
    if args.json {
        return print_document(&json!({ "profiles": rows }));
    }
    if lines.is_empty() {
        return print("no stored profile; log in with `qwenauth login`\n");
    }
    print(&lines.concat())
}
